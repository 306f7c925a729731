"""One NATS connection from its opening to its loss. The only module that imports ``nats``.

nats-py's own reconnecting is off: it can hang for ever on a half-open link, drop its error
callback and leak what was in flight. A lost connection is thrown away and the link opens a new
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nats.aio.client
import nats.aio.msg
import nats.errors

from setsuden.schemas.errors import ForbiddenError, MessageTooLargeError, UnavailableError

from .messages import Handler, Incoming
from .options import LinkOptions
from .wire import Wire, of_socket

log = logging.getLogger(__name__)
_NO_HEADERS: Mapping[str, str] = {}
_PING = b"PING\r\n"
_HEADERS_START = b"NATS/1.0\r\n"
_HEADERS_ROOM = 16_384
"""Messages that come this near to max_payload have their headers counted."""
_MAX_DENIED = 64
_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"\s]+)')


class _Client(nats.aio.client.Client):
    """nats-py with its one funnel of connection errors opened to us."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = asyncio.Event()

    async def _process_op_err(self, e: Exception) -> None:  # noqa: ARG002  # the library calls it
        # The library would now close or reconnect, and may wait for ever on the old transport.
        self.lost.set()

    async def _select_next_server(self) -> None:
        # The library would try for ever, two seconds apart, and keep the reason to itself.
        server = self._server_pool[0]
        await self._connect_to_server(server)
        self._current_server = server

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # The library's PING overtakes what is queued, so its PONG would prove nothing about it.
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        await self._send_command(_PING)
        await self._flush_pending()

    async def _process_pong(self) -> None:
        # A ping given up leaves its future here, and setting that ends the library's reader.
        if self._pongs and self._pongs[0].done():
            del self._pongs[0]
        else:
            await super()._process_pong()

    async def _send_publish(
        self,
        subject: str,
        reply: str,
        payload: bytes,
        payload_size: int,
        headers: dict[str, str] | None,
    ) -> None:
        # The library takes each header apart: 25 µs for a message of ours, 4 here.
        head = _head(headers) if headers else None
        if head is None:
            await super()._send_publish(subject, reply, payload, payload_size, headers)
            return
        size = len(head) + payload_size
        command = f"HPUB {subject} {reply} {len(head)} {size}\r\n".encode()
        await self._send_command(b"".join((command, head, payload, b"\r\n")))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        # The library looks at each character of each name: 20 µs for a message of ours, 4 here.
        found: dict[str, str] = {}
        for line in raw.decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                found[name] = value.strip()
        return found


def _lines(headers: dict[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


def _head(headers: dict[str, str]) -> bytes | None:
    """The header block, or None when a value holds a line end, which must not reach the wire."""
    text = _lines(headers)
    if text.count("\r") != len(headers) or text.count("\n") != len(headers):
        return None
    return b"%s%s\r\n" % (_HEADERS_START, text.encode())


class Connection:
    """A live connection; ``lost`` is set when it no longer is."""

    def __init__(self, client: _Client, options: LinkOptions) -> None:
        self._client = client
        self._options = options
        self.lost = client.lost
        self.denied: dict[str, ForbiddenError] = {}
        """What the broker refused to let us do, by subject in lower case."""
        self.on_denied: Callable[[str, ForbiddenError], None] | None = None
        self._wire = Wire()

    @classmethod
    async def open(cls, options: LinkOptions, url: str, name: str) -> Connection:
        """Connect within the timeout; raises UnavailableError or ForbiddenError."""
        client = _Client()
        connection = cls(client, options)
        try:
            async with asyncio.timeout(options.connect_timeout_seconds):
                await client.connect(
                    url,
                    name=name,
                    allow_reconnect=False,
                    connect_timeout=max(1, round(options.connect_timeout_seconds)),
                    flush_timeout=options.publish_timeout_seconds,
                    ping_interval=86_400,
                    error_cb=connection._on_error,
                    closed_cb=connection._on_closed,
                    **_credentials(options),
                )
        except Exception as error:  # a server that is none makes the library raise anything
            await connection.discard()
            raise _opening_error(url, error) from error
        except BaseException:  # cancelled: the library's tasks must not outlive us
            await connection.discard()
            raise
        connection._tune_socket()
        return connection

    async def _on_error(self, error: Exception) -> None:
        match = _DENIED.search(str(error).lower())
        if match is None:
            log.warning("broker_error", extra={"detail": str(error) or type(error).__name__})
            return
        operation, subject = match.groups()
        denied = ForbiddenError(
            f"the broker does not allow this {operation}: {subject}",
            remedy="grant it in the server's authorization block, or use other credentials",
        )
        log.error("broker_permission_denied", extra={"detail": str(denied)})
        self._deny(subject, denied)

    def _deny(self, subject: str, error: ForbiddenError) -> None:
        self.denied[subject] = error
        if len(self.denied) > _MAX_DENIED:
            del self.denied[next(iter(self.denied))]
        if self.on_denied is not None:
            self.on_denied(subject, error)

    async def _on_closed(self) -> None:
        self.lost.set()

    def _tune_socket(self) -> None:
        """A dead peer fails the socket in seconds even while data is queued."""
        sock = self._socket()
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(1000 * (self._options.ping_interval_seconds * 3))
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def _socket(self) -> Any:
        writer = self._writer()
        return writer.get_extra_info("socket") if writer is not None else None

    def wire(self) -> Wire:
        """What the kernel counted of this connection; of a closed one the last that was seen."""
        self._wire = of_socket(self._socket()) or self._wire
        return self._wire

    def _writer(self) -> asyncio.StreamWriter | None:
        # nats-py has no public way to its socket.
        return getattr(self._client._transport, "_io_writer", None)

    @property
    def server_version(self) -> str:
        """The server's version as it says it."""
        return str(self._client._server_info.get("version", "0.0"))

    @property
    def max_payload(self) -> int:
        """Largest message the server takes, headers included, bytes."""
        return self._client.max_payload

    @property
    def pending_bytes(self) -> int:
        """Bytes handed to the connection and not yet to the socket."""
        return self._client.pending_data_size

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Hand one message to the socket; raises UnavailableError."""
        if self.lost.is_set():
            raise UnavailableError("the link is down")
        self._check_size(data, headers)
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the link broke: {error}") from error

    def _check_size(self, data: bytes, headers: dict[str, str] | None) -> None:
        """The server counts the headers too, and drops the whole connection over one message."""
        size = len(data)
        if headers and size + _HEADERS_ROOM > self.max_payload:
            size += len(_HEADERS_START) + len(_lines(headers).encode()) + 2
        if size > self.max_payload:
            raise MessageTooLargeError(
                f"{size} bytes are over the broker's max_payload of {self.max_payload}",
                remedy="raise max_payload on the server or lower limits.max_body_bytes",
            )

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> None:
        """Call ``handler`` with every message of ``subject``; raises UnavailableError."""

        async def deliver(msg: nats.aio.msg.Msg) -> None:
            handler(Incoming(msg.subject, msg.reply, msg.headers or _NO_HEADERS, msg.data))

        try:
            await self._client.subscribe(subject, queue=queue, cb=deliver)
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the link broke: {error}") from error

    async def flush(self, timeout_seconds: float) -> bool:
        """True when the server answered everything sent so far in time; False at once if lost."""
        if self.lost.is_set():
            return False
        answered = asyncio.ensure_future(self._client.rtt(timeout=math.ceil(timeout_seconds)))
        lost = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait(
                (answered, lost), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            return answered.done() and answered.exception() is None
        finally:
            answered.cancel()
            lost.cancel()
            await asyncio.gather(answered, lost, return_exceptions=True)

    async def discard(self) -> None:
        """Throw the connection away; never waits for the peer."""
        self.lost.set()
        writer = self._writer()
        if writer is not None:
            writer.transport.abort()
        with contextlib.suppress(Exception):  # whatever a dying client says is of no use
            async with asyncio.timeout(1.0):
                await self._client.close()
        await asyncio.sleep(0)  # the tasks it cancelled end now


def _credentials(options: LinkOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.credentials_file is not None:
        found["user_credentials"] = options.credentials_file
    if options.user is not None:
        found["user"] = options.user
    if options.password_file is not None:
        found["password"] = Path(options.password_file).read_text(encoding="utf-8").strip()
    if options.tls_ca_file is not None:
        found["tls"] = ssl.create_default_context(cafile=options.tls_ca_file)
    return found


def _opening_error(url: str, error: BaseException) -> UnavailableError | ForbiddenError:
    text = str(error) or type(error).__name__
    place = url.rsplit("@", 1)[-1]  # never a password in a message
    if "authorization" in text.lower() or "authentication" in text.lower():
        return ForbiddenError(f"{place} refused the credentials", remedy="check the [nats] table")
    return UnavailableError(f"cannot reach {place}: {text}", remedy="is nats-server running there?")
