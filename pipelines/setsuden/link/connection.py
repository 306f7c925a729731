"""One NATS connection from its opening to its loss. The only module that imports ``nats``.

nats-py's own reconnecting is off: it can hang for ever on a half-open link, drop its error
callback and leak (research N1 to N8). A lost connection is thrown away and the link opens a new
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nats.aio.client
import nats.aio.msg
import nats.errors

from setsuden.schemas.errors import ForbiddenError, UnavailableError

from .messages import Handler, Incoming
from .options import LinkOptions

log = logging.getLogger(__name__)
_NO_HEADERS: Mapping[str, str] = {}


class _Client(nats.aio.client.Client):
    """nats-py with its one funnel of connection errors opened to us."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = asyncio.Event()

    async def _process_op_err(self, e: Exception) -> None:  # noqa: ARG002  # the library calls it
        # The library would now close or reconnect, and may wait for ever on the old transport.
        self.lost.set()

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        # The library looks at each character of each name: 20 µs for a message of ours, 4 here.
        found: dict[str, str] = {}
        for line in raw.decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                found[name] = value.strip()
        return found


class Connection:
    """A live connection; ``lost`` is set when it no longer is."""

    def __init__(self, client: _Client, options: LinkOptions) -> None:
        self._client = client
        self._options = options
        self.lost = client.lost
        self.denied: str | None = None

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
        except (OSError, TimeoutError, nats.errors.Error, ValueError) as error:
            await connection.discard()
            raise _opening_error(url, error) from error
        connection._tune_socket()
        return connection

    async def _on_error(self, error: Exception) -> None:
        text = str(error).lower()
        if "permissions violation" in text:
            self.denied = str(error)
            log.error("broker_permission_denied", extra={"detail": self.denied})

    async def _on_closed(self) -> None:
        self.lost.set()

    def _tune_socket(self) -> None:
        """A dead peer fails the socket in seconds even while data is queued (N1)."""
        writer = self._writer()
        sock = writer.get_extra_info("socket") if writer is not None else None
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(1000 * (self._options.ping_interval_seconds * 3))
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

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
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers)
        except nats.errors.MaxPayloadError as error:
            raise ForbiddenError(
                f"{len(data)} bytes are over the broker's max_payload of {self.max_payload}",
                remedy="raise max_payload on the server or lower limits.max_body_bytes",
            ) from error
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the link broke: {error}") from error

    async def subscribe(self, subject: str, handler: Handler) -> None:
        """Call ``handler`` with every message of ``subject``."""

        async def deliver(msg: nats.aio.msg.Msg) -> None:
            handler(Incoming(msg.subject, msg.reply, msg.headers or _NO_HEADERS, msg.data))

        await self._client.subscribe(subject, cb=deliver)

    async def flush(self, timeout_seconds: float) -> bool:
        """True when the server answered everything sent so far in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._client.rtt(timeout=max(1, round(timeout_seconds)))
        except (TimeoutError, nats.errors.Error, OSError):
            return False
        return True

    async def discard(self) -> None:
        """Throw the connection away; never waits for the peer."""
        self.lost.set()
        writer = self._writer()
        if writer is not None:
            writer.transport.abort()
        with contextlib.suppress(Exception):  # whatever a dying client says is of no use
            async with asyncio.timeout(1.0):
                await self._client.close()


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
