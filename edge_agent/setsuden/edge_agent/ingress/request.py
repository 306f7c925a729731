"""One HTTP request, bounded: its head as text, its body within bytes and seconds."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from setsuden.pipelines import codec
from setsuden.schemas.errors import InvalidEventError, RequestRefusedError
from setsuden.schemas.event import TENSOR_LENGTH_HEADER

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
MAX_TARGET_CHARACTERS = 2048
"""Path and query: the longest that is served has some hundred."""
MAX_HEADERS = 100
MAX_WAIT_SECONDS = 300.0
BODY_SECONDS = 30.0
"""From the head of a request to the end of its body: 1 MB at 35 kB/s."""
DISCARDED_BYTES = 8 << 20
"""Of a body that nobody reads; its sender is cut off past them."""
DISCARD_SECONDS = 2.0
_ONCE = frozenset({
    "host", "origin", "authorization", "content-type", "content-encoding", "sec-fetch-site",
    TENSOR_LENGTH_HEADER,
})  # fmt: skip
"""Headers that mean nothing when there are two, as every ``ce-`` header."""


class HttpRequest(NamedTuple):
    """The head of a request."""

    method: str
    """``GET`` for ``HEAD`` too: the server leaves the body out."""
    path: str
    query: str
    headers: dict[str, str]
    """Lower-case names; a header given several times is joined with commas."""
    client: str
    """The address of the other end."""
    server: str
    """The address of ours that it reached."""

    @property
    def content_type(self) -> str:
        """As it was sent, or empty."""
        return self.headers.get("content-type", "")

    @property
    def encoding(self) -> str:
        """The Content-Encoding, lower-case, or empty."""
        return self.headers.get("content-encoding", "").strip().lower()


def read(scope: Scope) -> HttpRequest:
    """The request in an ASGI scope; raises RequestRefusedError or InvalidEventError."""
    target = len(scope["raw_path"]) + len(scope["query_string"])
    if target > MAX_TARGET_CHARACTERS:
        raise RequestRefusedError(
            f"path and query have {target} characters",
            http_status=414,
            field="path",
            remedy="send fewer",
        )
    if len(scope["headers"]) > MAX_HEADERS:
        raise RequestRefusedError(
            f"{len(scope['headers'])} headers",
            http_status=431,
            field="headers",
            remedy="send fewer",
        )
    return HttpRequest(
        "GET" if scope["method"] == "HEAD" else scope["method"],
        scope["path"],
        scope["query_string"].decode("latin-1"),
        _headers(scope["headers"]),
        (scope.get("client") or ("",))[0],
        (scope.get("server") or ("",))[0],
    )


def _headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in raw:
        # Raw UTF-8 is read where the binding wants it percent-encoded; the rest fits nothing.
        name, value = name_bytes.decode("ascii"), value_bytes.decode("utf-8", "surrogateescape")
        if name not in headers:
            headers[name] = value
        elif name.startswith("ce-"):
            raise InvalidEventError(f"{name} is given twice", field=name[3:])
        elif name in _ONCE:
            raise RequestRefusedError(f"{name} is given twice", http_status=400, field=name)
        else:
            headers[name] += f", {value}"
    return headers


def wait_seconds(request: HttpRequest, default: float) -> float:
    """``?wait=5`` or ``Prefer: wait=5``, at most MAX_WAIT_SECONDS; raises InvalidEventError.

    A preference that cannot be understood is ignored, as RFC 7240 asks.
    """
    asked = parse_qs(request.query, keep_blank_values=True, max_num_fields=32).get("wait")
    if asked is not None:
        with suppress(ValueError):
            seconds = float(asked[-1])
            if math.isfinite(seconds) and seconds >= 0:
                return min(seconds, MAX_WAIT_SECONDS)
        raise InvalidEventError("wait is no number of seconds", field="wait", remedy="?wait=5")
    preferred = re.search(
        r"(?:^|[,;])\s*wait=([0-9]{1,6}(?:\.[0-9]{1,3})?)", request.headers.get("prefer", "")
    )
    return min(float(preferred[1]), MAX_WAIT_SECONDS) if preferred else default


class RequestBody:
    """The body of a request: read once, or thrown away."""

    def __init__(self, request: HttpRequest, receive: Receive) -> None:
        self._receive = receive
        announced = request.headers.get("content-length")
        if announced is not None and not (announced.isascii() and announced.isdigit()):
            raise InvalidEventError("content-length is no number", field="content-length")
        self.announced = int(announced) if announced is not None else None
        """Bytes; None for a chunked body or none."""
        self._ended = not self.announced and "transfer-encoding" not in request.headers
        self._waits = "expect" in request.headers
        self._gone: asyncio.Future[None] | None = None

    async def read(self, limit: int) -> bytes:
        """Every byte; raises PayloadTooLargeError, RequestRefusedError or InvalidEventError."""
        codec.check_size(self.announced or 0, limit)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read(limit)
        except TimeoutError as error:
            raise RequestRefusedError(
                f"the body took over {BODY_SECONDS:g} s",
                http_status=408,
                field="body",
                remedy="send it again",
            ) from error

    async def _read(self, limit: int) -> bytes:
        parts, size = [], 0
        while not self._ended:
            part = await self._part()
            size += len(part)
            codec.check_size(size, limit)
            parts.append(part)
        return b"".join(parts)

    async def _part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._ended = True
            raise InvalidEventError("the body ended early", field="body")
        self._ended = not message.get("more_body")
        part: bytes = message.get("body", b"")
        return part

    async def discard(self) -> None:
        """Let the sender finish: one cut off in the middle hears a broken pipe, not the reason.

        One that waits for ``100 Continue`` has sent nothing and is not asked to.
        """
        left = 0 if self._waits else DISCARDED_BYTES
        with suppress(TimeoutError, InvalidEventError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while left > 0 and not self._ended:
                    left -= len(await self._part())

    def gone(self) -> asyncio.Future[None]:
        """Done when the client has hung up; for after the body was read."""
        if self._gone is None:
            self._gone = asyncio.ensure_future(self._disconnected())
        return self._gone

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        """Nobody waits for the client any more."""
        if self._gone is not None:
            self._gone.cancel()
