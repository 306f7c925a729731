"""The page of a trace over HTTP: where the links in Jaeger's UI lead.

A plain ASGI application of three addresses. It reads one source, writes nothing, serves no file.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from setsuden.insight.render import trace as pages
from setsuden.insight.render.environment import CONTENT_SECURITY_POLICY
from setsuden.schemas.errors import ConfigError, LinkError, SetsudenError

from .lookup import seek
from .read import Damage, is_url

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
HTML, JSON = "text/html; charset=utf-8", "application/json"
MAX_CONNECTIONS = 64
TRACE_PATH = "/trace/"
_TRACE = re.compile(r"/trace/((?!0{32})[0-9a-fA-F]{32})/?")
_SAFE = (
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
)


class HttpAnswer(NamedTuple):
    """What goes back."""

    status: int
    body: str
    content_type: str = HTML


class TracePages:
    """The application. One trace is read at a time: a file may be large."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._reading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's door."""
        if scope["type"] != "http":
            return
        del receive  # nothing is read of a request but its first line and headers
        answer = await self._answer(scope)
        body = answer.body.encode()
        headers = [("content-type", answer.content_type), ("content-length", str(len(body)))]
        coded = [(name.encode(), value.encode()) for name, value in (*headers, *_SAFE)]
        await send({"type": "http.response.start", "status": answer.status, "headers": coded})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    async def _answer(self, scope: Scope) -> HttpAnswer:
        if scope["method"] not in {"GET", "HEAD"}:
            return _refused(scope, 405, "method_not_allowed", "only GET is answered")
        path = scope["path"]
        if path == "/livez":
            return HttpAnswer(200, '{"status":"ok"}', JSON)
        if path == "/":
            text = f"One trace's page is at {TRACE_PATH}<id>."
            return HttpAnswer(200, pages.notice("Setsuden traces", text))
        match = _TRACE.fullmatch(path)
        if match is not None:
            return await self._trace(scope, match[1].lower())
        if path.startswith(TRACE_PATH):
            return _refused(scope, 400, "trace_id_invalid", "a trace id has 32 hexadecimal digits")
        return _refused(scope, 404, "not_found", f"a trace's page is at {TRACE_PATH}<id>")

    async def _trace(self, scope: Scope, trace_id: str) -> HttpAnswer:
        damage = Damage()
        async with self._reading:
            try:
                page = await asyncio.to_thread(_page, self._source, trace_id, damage)
            except SetsudenError as error:
                code = "source_unavailable" if isinstance(error, LinkError) else "source_invalid"
                return _refused(scope, 502, code, error.message)
        if page is None:
            why = f"no trace {trace_id} in {self._source}" + (f"; {damage}" if damage.count else "")
            return _refused(scope, 404, "trace_not_found", why)
        return HttpAnswer(200, page)


def _page(source: str, trace_id: str, damage: Damage) -> str | None:
    """The trace's page; None when the source does not have it."""
    traces, found = seek([source], trace_id, others=True, damage=damage)
    return None if found is None else pages.page(traces, found, base=TRACE_PATH)


def _refused(scope: Scope, status: int, code: str, message: str) -> HttpAnswer:
    """A typed error: a page for a browser, JSON for everybody else."""
    accepts = dict(scope["headers"]).get(b"accept", b"")
    if b"text/html" in accepts:
        return HttpAnswer(status, pages.notice(code.replace("_", " "), message))
    return HttpAnswer(status, json.dumps({"error": {"code": code, "message": message}}), JSON)


def serve(source: str, host: str, port: int, told: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; ``told`` hears the address once it answers.

    Raises ConfigError when the address cannot be listened on.
    """
    try:
        listening = socket.create_server((host, port), backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            remedy="choose another --port, or 0 for a free one",
        ) from error
    with listening:
        asyncio.run(_serve(source, listening, told))


async def _serve(source: str, listening: socket.socket, told: Callable[[str], None]) -> None:
    import uvicorn  # noqa: PLC0415  # of the edge extra; pages in files do not need it

    config = uvicorn.Config(
        TracePages(source),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        ws="none",
        http="h11",
        loop="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=5,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.startup(sockets=[listening])
    host, port = listening.getsockname()[:2]
    told(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    await stop.wait()
    await server.shutdown(sockets=[listening])


def speaks_of(source: str) -> str:
    """What is served, in words."""
    return f"traces of the Jaeger at {source}" if is_url(source) else f"traces in {source}"
