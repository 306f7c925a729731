"""Local HTTP: CloudEvents and the Open Inference Protocol in, health and metrics out.

A plain ASGI application. What a request's head alone decides is decided first (:mod:`.guard`);
a body is refused by its announced length, or as soon as it outgrows the limit, before anything
parses it. Health and metrics take no place among the requests being answered.
"""

from __future__ import annotations

import asyncio
import json
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from setsuden.edge_agent.config import HttpOptions
from setsuden.edge_agent.core import encode
from setsuden.edge_agent.status import AgentStatus
from setsuden.pipelines import codec
from setsuden.schemas import cloudevents as forms
from setsuden.schemas.errors import (
    RejectedError,
    RequestRefusedError,
    SetsudenError,
    UnavailableError,
)
from setsuden.schemas.event import TENSOR_LENGTH_HEADER, Event
from setsuden.schemas.log import get_logger
from setsuden.schemas.result import Result

from . import cloudevents, compression, guard, oip, request, responses, validation
from .request import HttpRequest, Receive, RequestBody, Scope
from .responses import Response, Send
from .seam import Ingress, Receipt

log = get_logger(__name__)
MAX_BUFFERED_BYTES = 64 << 20
"""Bodies held at once: a thousand senders of the largest body would be some gigabytes."""
MAX_DISCARDING = 50
"""Requests whose unread bodies are thrown away at once; the others' senders are cut off."""
_LIVE = frozenset({"/livez", "/v2/health/live"})
_READY = frozenset({"/readyz", "/healthz", "/v2/health/ready"})
_READ = frozenset({*_LIVE, *_READY, "/metrics", "/v2"})
_INDEX = "/v2/repository/index"
_MODEL = re.compile(
    r"/v2/models/([A-Za-z0-9_-]{1,64})(?:/versions/([^/]{1,256}))?(/infer|/ready|/config)?"
)
_EVENT = re.compile(r"/events/([A-Za-z0-9_-]{1,64})")
_ELSEWHERE = (
    (re.compile(r"/v2/models/(.*/)?stats"), "statistics are at /metrics"),
    (re.compile(r"/v2/repository/.*"), "pipelines come from agent.toml"),
    (re.compile(r"/v2/(.*/)?trace/setting"), "tracing is set in agent.toml"),
    (re.compile(r"/v2/logging"), "log_level is set in agent.toml"),
    (re.compile(r"/v2/(system|cuda)sharedmemory/.*"), "send tensors in the request"),
)
"""Extensions of the protocol that its clients know, and what serves their purpose here."""


class HttpIngress:
    """The agent's HTTP application."""

    def __init__(
        self, ingress: Ingress, status: AgentStatus, options: HttpOptions, token: bytes | None
    ) -> None:
        self._ingress = ingress
        self._status = status
        self._options = options
        self._guard = guard.RequestGuard(options, token)
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._max_asking = self._options.max_waiting
        self._asking = 0
        self._discarding = 0
        self._buffered = 0

    def stop(self) -> None:
        """Answer those who wait for the cloud with what is known."""
        if not self._stopping.done():
            self._stopping.set_result(None)

    def fit(self, connections: int) -> None:
        """Answer fewer requests at once than there can be connections: health needs one too."""
        spare = max(2, min(connections // 4, 2 * MAX_DISCARDING))
        self._max_asking = max(1, min(self._options.max_waiting, connections - spare))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI request."""
        if scope["type"] != "http":
            return
        asked = body = None
        try:
            asked = request.read(scope)
            body = RequestBody(asked, receive)
            response = await self._answer(asked, body)
        except Exception as error:  # whatever it was, the caller is told, and nothing else ends
            response = self._refused(error, asked)
        if body is not None:
            await self._discard(body)
            body.close()
        await responses.respond(send, response)

    async def _discard(self, body: RequestBody) -> None:
        if self._discarding < MAX_DISCARDING:
            self._discarding += 1
            try:
                await body.discard()
            finally:
                self._discarding -= 1

    def _refused(self, error: Exception, asked: HttpRequest | None) -> Response:
        if not isinstance(error, SetsudenError):
            place = traceback.extract_tb(error.__traceback__)[-1]
            # The message may hold a payload.
            detail = f"{type(error).__name__} in {place.name}, line {place.lineno}"
            log.error("http_failed", detail=detail)
            error = RequestRefusedError(
                "the agent failed on this request", http_status=500, field=""
            )
        headers = asked.headers if asked is not None else {}
        self._ingress.metrics.http_refused[error.code] += 1
        refusal = responses.refusal_of(error, headers)
        inference = asked is not None and asked.path.startswith("/v2")
        return responses.of_refusal(error, refusal, inference=inference)

    # -- routes -------------------------------------------------------------------------------

    async def _answer(self, asked: HttpRequest, body: RequestBody) -> Response:
        path = asked.path.rstrip("/")
        self._guard.check(asked, health=path in _LIVE or path in _READY)
        method = method_of(path)
        if asked.method != method:
            raise RequestRefusedError(
                f"{asked.method[:16]} is not served at {path[:100]}",
                http_status=405,
                field="method",
                remedy=f"use {method}",
                headers=(("allow", "GET, HEAD" if method == "GET" else method),),
            )
        if method == "POST":
            guard.check_content_type(asked, required=path == "/events")
            return await self._post(path, asked, body)
        return await self._get(path, asked, body)

    async def _get(self, path: str, asked: HttpRequest, body: RequestBody) -> Response:
        if path in _LIVE:
            return responses.document(200, {"status": "ok"})
        if path in _READY:
            return self._ready(asked)
        if path == "/metrics":
            return Response(200, self._status.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        if path == "/v2":
            return responses.document(200, oip.server())
        if match := _EVENT.fullmatch(path):
            return await self._result(match[1], asked, body)
        return self._model(path)

    def _ready(self, asked: HttpRequest) -> Response:
        report = self._status.report()
        status = 200 if report["ready"] else 503
        if not self._guard.knows_token(asked):
            report.pop("checks")
        return responses.document(status, report)

    def _model(self, path: str) -> Response:
        match = _MODEL.fullmatch(path)
        assert match is not None  # noqa: S101  # method_of has found it
        student = validation.pipeline(match[1], self._ingress.students)
        oip.check_version(student, match[2])
        if match[3] == "/ready":
            return responses.document(200, {"name": student.spec.name, "ready": True})
        about = oip.config if match[3] == "/config" else oip.metadata
        return responses.document(200, about(student))

    async def _result(self, event_id: str, asked: HttpRequest, body: RequestBody) -> Response:
        receipt = self._ingress.result(event_id)
        if receipt is None:
            raise RequestRefusedError(f"no event {event_id}", http_status=404, field="path")
        seconds = request.wait_seconds(asked, 0.0)
        if receipt.result.is_final or not seconds:
            return responses.of_result(receipt.result)
        with self._place(asked, 0):
            return responses.of_result(await self._final(receipt, seconds, body))

    # -- events -------------------------------------------------------------------------------

    async def _post(self, path: str, asked: HttpRequest, body: RequestBody) -> Response:
        compression.check(asked.encoding)
        if path == _INDEX:
            return responses.document(200, oip.index(self._ingress.students))
        limit = self._limit()
        bounded = body.announced is not None and not asked.encoding
        with self._place(asked, body.announced or 0 if bounded else limit):
            data = compression.inflated(await body.read(limit), asked.encoding, limit)
            if path == "/events":
                return await self._events(asked, data, body)
            return await self._infer(path, asked, data, body)

    @contextmanager
    def _place(self, asked: HttpRequest, size: int) -> Iterator[None]:
        """One of the places for requests being answered, and room for the body."""
        full = self._buffered and self._buffered + size > MAX_BUFFERED_BYTES
        if full or self._asking >= self._max_asking:
            raise UnavailableError(
                "too many requests at once", remedy="try again, or raise http.max_waiting"
            )
        with self._guard.place(asked.client):
            self._asking += 1
            self._buffered += size
            try:
                yield
            finally:
                self._asking -= 1
                self._buffered -= size

    def _limit(self) -> int:
        """The largest body any pipeline takes, with room for base64 and an envelope."""
        largest = max(s.spec.limits.max_body_bytes for s in self._ingress.students.values())
        return largest * 4 // 3 + codec.MAX_TENSOR_HEADER_BYTES

    async def _events(self, asked: HttpRequest, data: bytes, body: RequestBody) -> Response:
        seconds = request.wait_seconds(asked, 0.0)
        device, pipelines = self._ingress.device, list(self._ingress.students)
        if not cloudevents.is_batch(asked):
            with self._counted():
                event = cloudevents.read(asked, data, device, pipelines)
            return responses.of_result(await self._outcome(event, seconds, body))
        documents = cloudevents.documents(data)
        outcomes = [self._one_of_batch(asked, document, seconds, body) for document in documents]
        return _batch(await asyncio.gather(*outcomes))

    async def _one_of_batch(
        self, asked: HttpRequest, document: object, seconds: float, body: RequestBody
    ) -> dict[str, Any]:
        device, pipelines = self._ingress.device, list(self._ingress.students)
        try:
            with self._counted():
                event = cloudevents.of_document(asked, document, device, pipelines)
            result = await self._outcome(event, seconds, body)
        except SetsudenError as error:
            given = document.get("id") if isinstance(document, dict) else None
            names = {"ce-id": given} if isinstance(given, str) else {}
            refusal = responses.refusal_of(error, names).model_dump(mode="json")
            return {"status": responses.refusal_status(error), **refusal}
        return {"status": responses.status_of(result), "result": json.loads(encode(result).text)}

    async def _infer(
        self, path: str, asked: HttpRequest, data: bytes, body: RequestBody
    ) -> Response:
        match = _MODEL.fullmatch(path)
        assert match is not None  # noqa: S101  # method_of has found it
        student = validation.pipeline(match[1], self._ingress.students)
        oip.check_version(student, match[2])
        with self._counted():
            inference = oip.read(asked.headers, data, student, self._ingress.device)
        seconds = request.wait_seconds(asked, self._options.wait_seconds)
        result = await self._outcome(inference.event, seconds, body)
        text, json_length = oip.answer(result, student, inference)
        response = Response(200, text)
        if json_length is not None:
            length = (TENSOR_LENGTH_HEADER, str(json_length))
            response = Response(200, text, forms.OCTETS, (length,))
        return responses.compressed(response, asked.headers.get("accept-encoding", ""))

    async def _outcome(self, event: Event, seconds: float, body: RequestBody) -> Result:
        return await self._final(await self._ingress.submit(event), seconds, body)

    async def _final(self, receipt: Receipt, seconds: float, body: RequestBody) -> Result:
        """Nobody waits for a client that has hung up: its place is another's."""
        return await receipt.final(seconds, body.gone(), self._stopping)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count an event that cannot be read."""
        try:
            yield
        except RejectedError as error:
            self._ingress.count_refusal(error)
            raise


def method_of(path: str) -> str:
    """The method of a path; raises RequestRefusedError where nothing is."""
    model = _MODEL.fullmatch(path)
    if path in {"/events", _INDEX} or (model is not None and model[3] == "/infer"):
        return "POST"
    if path in _READ or _EVENT.fullmatch(path) is not None:
        return "GET"
    for pattern, instead in _ELSEWHERE:
        if pattern.fullmatch(path):
            raise RequestRefusedError(
                f"{path[:100]} is not served", http_status=501, field="path", remedy=instead
            )
    if model is not None:
        return "GET"
    raise RequestRefusedError(f"nothing at {path[:100]!r}", http_status=404, field="path")


def _batch(outcomes: list[dict[str, Any]]) -> Response:
    """200 when every event is final, 202 when some are not, 207 when some were refused."""
    statuses = {int(outcome["status"]) for outcome in outcomes}
    refused = any(status >= 400 for status in statuses)
    return responses.document(207 if refused else max(statuses, default=200), outcomes)
