"""Local HTTP: CloudEvents and the Open Inference Protocol in, health and metrics out.

A plain ASGI application, served by uvicorn. A body is refused by its announced length, or as
soon as it outgrows the limit, before anything parses it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from setsuden.edge_agent.core import Submission, state
from setsuden.edge_agent.engine import Arrival, Engine, now
from setsuden.edge_agent.status import AgentStatus
from setsuden.edge_agent.uplink import Uplink
from setsuden.pipelines import codec
from setsuden.schemas.errors import (
    InvalidEventError,
    RejectedError,
    SetsudenError,
    UnavailableError,
)
from setsuden.schemas.event import Event
from setsuden.schemas.result import Result

from . import cloudevents, door, oip

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
SendFunction = Callable[[dict[str, Any]], Awaitable[None]]
JSON = "application/json"
MAX_WAIT_SECONDS = 300.0
DISCARDED_BYTES = 8 << 20
"""Of a body that is too large; its sender is cut off past them."""
_LIVE = frozenset({"/livez", "/v2/health/live"})
_READY = frozenset({"/readyz", "/healthz", "/v2/health/ready"})
_MODEL = re.compile(r"^/v2/models/([A-Za-z0-9_-]{1,64})(/infer|/ready)?$")
_EVENT = re.compile(r"^/events/([A-Za-z0-9_-]{1,64})$")


class Response(NamedTuple):
    """What goes back."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Request(NamedTuple):
    """What came, without its body."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


class HttpDoor:
    """The agent's HTTP application."""

    def __init__(self, engine: Engine, uplink: Uplink, status: AgentStatus) -> None:
        self._engine = engine
        self._uplink = uplink
        self._status = status
        self._options = engine.config.http
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: SendFunction) -> None:
        """One ASGI request."""
        if scope["type"] != "http":
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        request = Request(
            scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers
        )
        try:
            response = await self._answer(request, receive)
        except SetsudenError as error:
            response = _refused(error)
        await _respond(send, response)

    async def _answer(self, request: Request, receive: Receive) -> Response:
        if request.method == "GET":
            return await self._get(request)
        if request.method != "POST":
            return _message(405, "only GET and POST are served")
        found = _MODEL.match(request.path)
        if request.path != "/events" and (found is None or found[2] != "/infer"):
            return _message(404, f"nothing at {request.path[:100]}")
        if self._waiting >= self._options.max_waiting:
            raise UnavailableError(
                "too many requests at once", remedy="try again, or raise http.max_waiting"
            )
        self._waiting += 1
        try:
            body = await _body(request, receive, self._limit())
            if found is not None:
                return await self._infer(request, body, found[1])
            return await self._event(request, body)
        finally:
            self._waiting -= 1

    def _limit(self) -> int:
        """The largest body any pipeline takes, with room for base64 and an envelope."""
        largest = max(s.spec.limits.max_body_bytes for s in self._engine.students.values())
        return largest * 4 // 3 + codec.MAX_TENSOR_HEADER_BYTES

    # -- reading ------------------------------------------------------------------------------

    async def _get(self, request: Request) -> Response:
        path = request.path
        if path in _LIVE:
            return _json(200, {"status": "ok"})
        if path in _READY:
            report = self._status.report()
            return _json(200 if report["ready"] else 503, report)
        if path == "/metrics":
            return Response(200, self._status.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        if found := _EVENT.match(path):
            return await self._result(found[1], _wait(request, 0.0))
        return self._about(path)

    def _about(self, path: str) -> Response:
        if path == "/v2":
            return _json(200, oip.server())
        if found := _MODEL.match(path):
            student = door.pipeline(found[1], self._engine.students)
            return _json(200, {"ready": True} if found[2] else oip.metadata(student))
        return _message(404, f"nothing at {path[:100]}")

    async def _result(self, event_id: str, wait: float) -> Response:
        known = self._engine.outbox.result(event_id)
        if known is None:
            return _message(404, f"no event {event_id}")
        result = await self._finally(known.result, wait)
        return _answered(result)

    # -- events -------------------------------------------------------------------------------

    async def _event(self, request: Request, body: bytes) -> Response:
        device = self._engine.config.device
        event = cloudevents.read(request.headers, body, device, list(self._engine.students))
        result = await self._submit(event)
        return _answered(await self._finally(result, _wait(request, 0.0)))

    async def _infer(self, request: Request, body: bytes, pipeline: str) -> Response:
        student = door.pipeline(pipeline, self._engine.students)
        event = oip.read(request.headers, body, student, self._engine.config.device)
        result = await self._submit(event)
        result = await self._finally(result, _wait(request, self._options.wait_seconds))
        return _json(200, oip.answer(result, student))

    async def _submit(self, event: Event) -> Result:
        received = now()
        observation = self._checked(event)
        future: asyncio.Future[Result | SetsudenError]
        future = asyncio.get_running_loop().create_future()

        def answered(outcome: Result | SetsudenError, _repeated: bool) -> None:
            if not future.done():
                future.set_result(outcome)

        submission = Submission(event, over_nats=False, received=received)
        await self._engine.put(Arrival(submission, observation, answered))
        outcome = await future
        if isinstance(outcome, SetsudenError):
            raise outcome
        return outcome

    def _checked(self, event: Event) -> Any:
        try:
            return door.check(event, self._engine.students)
        except RejectedError as error:
            self._engine.metrics.refused[error.code] += 1
            raise

    async def _finally(self, result: Result, seconds: float) -> Result:
        """The final result when it comes in time, else the newest one."""
        if result.is_final or seconds <= 0:
            return result
        waiter = self._uplink.wait_for(result.event_id)
        known = self._engine.outbox.result(result.event_id)
        if known is not None and known.result.is_final:
            waiter.cancel()
            return known.result
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            return result


async def _body(request: Request, receive: Receive, limit: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit():
        raise InvalidEventError("content-length is no number", field="content-length")
    if int(announced) > limit:
        await _discard(receive)
    codec.check_size(int(announced), limit)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidEventError("the body ended early", field="body")
        part = message.get("body", b"")
        size += len(part)
        more = message.get("more_body")
        if size > limit and more:
            await _discard(receive)
        codec.check_size(size, limit)
        parts.append(part)
        if not more:
            return b"".join(parts)


async def _discard(receive: Receive) -> None:
    """Let the sender finish: one cut off in the middle hears a broken pipe and not the reason."""
    left = DISCARDED_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


def _wait(request: Request, default: float) -> float:
    """``Prefer: wait=5`` or ``?wait=5``, seconds, bounded."""
    found = re.search(r"\bwait=([0-9]{1,3}(?:\.[0-9]{1,3})?)", request.headers.get("prefer", ""))
    found = found or re.search(r"(?:^|&)wait=([0-9]{1,3}(?:\.[0-9]{1,3})?)", request.query)
    return min(float(found[1]), MAX_WAIT_SECONDS) if found else default


def _answered(result: Result) -> Response:
    location = ("location", f"/events/{result.event_id}")
    return Response(
        200 if result.is_final else 202, state(result).text.encode(), headers=(location,)
    )


def _refused(error: SetsudenError) -> Response:
    status = error.http_status if isinstance(error, RejectedError) else 503
    headers = (("retry-after", "5"),) if status in {503, 507} else ()
    return Response(status, door.refusal(error, trace_id=error.trace_id), headers=headers)


def _message(status: int, text: str) -> Response:
    return _json(status, {"error": {"code": "http", "message": text}})


def _json(status: int, body: object) -> Response:
    return Response(status, json.dumps(body).encode())


async def _respond(send: SendFunction, response: Response) -> None:
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        *((name.encode(), value.encode()) for name, value in response.headers),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
