"""The NATS protocol by nats-py, hardened. The only module that imports ``nats``.

nats-py trusts its server: a message of any size, a header block of eight bytes, an ``INFO`` that
is a list, and an exception of a handler each end its reader in silence or its process in memory.
Here the reader ends in one way, ``lost``, everything has a bound, and messages go straight to
their handlers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import nats.aio.client
import nats.errors
from nats.protocol import parser

from setsuden.schemas.errors import ForbiddenError

from . import headers as header_blocks
from .faults import Faults
from .messages import Handler, Incoming
from .tasks import end
from .untrusted import printable

NatsError = nats.errors.Error
MAX_MESSAGE_BYTES = (64 << 20) + header_blocks.MAX_BYTES
"""nats-server refuses a ``max_payload`` above 64 MiB."""
MAX_LINE_BYTES = 1 << 16
"""A line of the protocol; nats-server's own limit is 4 KiB, its INFO may be longer."""
_READ_BYTES = 1 << 15
_PING = b"PING\r\n"


class _Parser(parser.Parser):
    """nats-py's parser with an end to what it collects."""

    async def parse(self, data: bytes = b"") -> None:
        await super().parse(data)
        if self.state == parser.AWAITING_MSG_PAYLOAD:
            if self.needed > MAX_MESSAGE_BYTES or self.header_needed > self.needed:
                raise nats.errors.ProtocolError
        elif len(self.buf) > MAX_LINE_BYTES:
            raise nats.errors.ProtocolError


class NatsClient(nats.aio.client.Client):
    """nats-py from one connection's opening to its loss, without its reconnecting."""

    def __init__(self, faults: Faults, on_denied: Callable[[str], None]) -> None:
        super().__init__()
        self.lost = asyncio.Event()
        self.last_words = ""
        """What the server said as it ended the connection, or how it broke the protocol."""
        self.place = ""
        self.must_encrypt = False
        self.has_certificate = False
        self._faults = faults
        self._on_denied = on_denied
        self._ps = _Parser(self)
        self._handlers: dict[int, Handler] = {}

    # -- opening ------------------------------------------------------------------------------

    async def _select_next_server(self) -> None:
        # The library would try for ever, two seconds apart, and keep the reason to itself.
        server = self._server_pool[0]
        await self._connect_to_server(server)
        self._current_server = server

    async def _process_info(self, info: object, initial_connection: bool = False) -> None:
        """Take from the server's greeting what we use. Other servers it names are not followed."""
        if not initial_connection:
            return
        greeting = _greeting(info)
        offered = greeting["tls_required"] or greeting.pop("tls_available")
        if self.must_encrypt and not offered and not self.options["tls_handshake_first"]:
            raise ForbiddenError(
                f"{self.place} offers no encryption, and tls:// or a tls_ option asks for it",
                remedy="give the server a tls block, or find out who answers in its place",
            )
        if greeting.pop("tls_verify") and not self.has_certificate:
            raise ForbiddenError(
                f"{self.place} demands a client certificate",
                remedy="set nats.tls_cert_file and nats.tls_key_file",
            )
        greeting["tls_required"] = greeting["tls_required"] or (self.must_encrypt and offered)
        self._server_info.clear()
        self._server_info.update(greeting)

    async def drop(self) -> None:
        """Abort the connection and end the library's tasks; never waits for the peer."""
        # The library's own close waits for the end of a TLS handshake that may never come.
        self.lost.set()
        self._status = self.CLOSED
        if self.writer is not None:
            self.writer.transport.abort()
        for task in (self._reading_task, self._flusher_task, self._ping_interval_task):
            if task is not None:
                await end(task)

    @property
    def writer(self) -> asyncio.StreamWriter | None:
        """The socket's side of the connection, for which the library has no public way."""
        return getattr(self._transport, "_io_writer", None)

    # -- sending ------------------------------------------------------------------------------

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # The library's PING overtakes what is queued, so its PONG would prove nothing about it.
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        await self._send_command(_PING)
        await self._flush_pending()

    async def _send_publish(
        self,
        subject: str,
        reply: str,
        payload: bytes,
        payload_size: int,
        headers: dict[str, str] | None,
    ) -> None:
        head = header_blocks.block(headers) if headers else None
        if head is None:
            await super()._send_publish(subject, reply, payload, payload_size, headers)
            return
        size = len(head) + payload_size
        command = f"HPUB {subject} {reply} {len(head)} {size}\r\n".encode()
        await self._send_command(b"".join((command, head, payload, b"\r\n")))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def listen(self, subject: str, handler: Handler, queue: str = "") -> int:
        """Call ``handler`` with each message of the subject; the number that ends it."""
        nats.aio.client._validate_subject(subject, strict=True)
        self._sid += 1
        self._handlers[self._sid] = handler
        await self._send_command(f"SUB {subject} {queue} {self._sid}\r\n".encode())
        await self._flush_pending()
        return int(self._sid)

    async def unlisten(self, number: int) -> None:
        """No more messages of that subscription."""
        self._handlers.pop(number, None)
        await self._send_command(f"UNSUB {number}\r\n".encode())
        await self._flush_pending()

    # -- reading ------------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        # The library's own ends in silence on what it does not expect, and logs it whole.
        try:
            while not self.lost.is_set() and self._transport is not None:
                data = await self._transport.read(_READ_BYTES)
                if not data:
                    break
                await self._ps.parse(data)
        except OSError as error:
            self.last_words = self.last_words or str(error.strerror or error)
        except Exception:
            self.last_words = self.last_words or "it sent what is not the NATS protocol"
        finally:
            self.lost.set()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        # The library queues each message for a task of its subscription: 4 µs more.
        handler = self._handlers.get(sid)
        if handler is None:
            return
        try:
            head = header_blocks.read(headers) if headers else _NO_HEAD
        except ValueError:
            self._faults.dropped()
            return
        message = Incoming(
            subject.decode("utf-8", "replace"),
            reply.decode("utf-8", "replace"),
            head.headers,
            data,
            head.status,
            head.description,
        )
        try:
            handler(message)
        except Exception as error:
            self._faults.raised("handler", error)

    async def _process_pong(self) -> None:
        # A ping given up leaves its future here, and setting that ends the library's reader.
        if self._pongs and self._pongs[0].done():
            del self._pongs[0]
        else:
            await super()._process_pong()

    async def _process_err(self, err_msg: str) -> None:
        # Everything but a refused subject ends the connection on the server's side, too.
        if parser.PERMISSIONS_ERR in err_msg:
            self._on_denied(err_msg)
            return
        self.last_words = printable(err_msg.strip("'"))
        raise nats.errors.ProtocolError

    async def _process_op_err(self, e: Exception) -> None:  # noqa: ARG002  # the library calls it
        # The library would now close or reconnect, and may wait for ever on the old transport.
        self.lost.set()


_NO_HEAD = header_blocks.Head("", "", header_blocks.NO_HEADERS)


def _greeting(info: object) -> dict[str, Any]:
    """What we use of a server's INFO, each with the type it must have; raises NatsError."""
    if not isinstance(info, dict):
        raise NatsError("its INFO is no object")
    max_payload = info.get("max_payload", 1 << 20)
    if type(max_payload) is not int or max_payload < 1:
        raise NatsError("its INFO names no max_payload")
    texts = {name: info[name] for name in ("version", "nonce") if name in info}
    if not all(isinstance(text, str) for text in texts.values()):
        raise NatsError("its INFO has a version or nonce that is no text")
    flags = ("auth_required", "headers", "tls_required", "tls_available", "tls_verify")
    return {
        **texts,
        "max_payload": min(max_payload, MAX_MESSAGE_BYTES),
        **{name: info.get(name) is True for name in flags},
    }
