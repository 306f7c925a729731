"""One NATS connection from its opening to its loss.

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
from collections.abc import Callable
from typing import Any

from setsuden.schemas.errors import (
    ForbiddenError,
    LinkError,
    MessageTooLargeError,
    UnavailableError,
)

from . import headers as header_blocks
from .address import Address
from .credentials import Login, login_of, tls_context
from .faults import Faults
from .messages import Handler, Incoming
from .opening import opening_error
from .options import LinkOptions
from .protocol import NatsClient, NatsError
from .untrusted import printable
from .wire import Wire, of_socket

_HEADERS_ROOM = 16_384
"""Messages that come this near to max_payload have their headers counted."""
_MAX_DENIED = 64
_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"\s]{1,4096})')


class Connection:
    """A live connection; ``lost`` is set when it no longer is."""

    def __init__(self, options: LinkOptions, faults: Faults | None = None) -> None:
        self._options = options
        self._faults = faults or Faults()
        self._client = NatsClient(self._faults, self._on_denied_text)
        self.lost = self._client.lost
        self.inbox = "_INBOX"
        """Where answers to :meth:`ask` come."""
        self.denied: dict[str, ForbiddenError] = {}
        """What the broker refused to let us do, by subject in lower case."""
        self.on_denied: Callable[[str, ForbiddenError], None] | None = None
        self._wire = Wire()
        self._asking: dict[str, asyncio.Future[Incoming]] = {}
        self._asked = 0

    @classmethod
    async def open(
        cls, options: LinkOptions, url: str, name: str, faults: Faults | None = None
    ) -> Connection:
        """Connect within the timeout; raises UnavailableError or ForbiddenError."""
        address = Address.of(url)
        connection = cls(options, faults)
        login: Login | None = None
        try:
            async with asyncio.timeout(options.connect_timeout_seconds):
                login = await asyncio.to_thread(login_of, options, address)
                await connection._connect(address, name, login)
        except LinkError:
            await connection.discard()
            raise
        except Exception as error:  # what is not a NATS server makes the library raise anything
            await connection.discard()
            raise opening_error(address, options, login, error) from error
        except BaseException:  # cancelled: the library's tasks must not outlive us
            await connection.discard()
            raise
        connection._tune_socket()
        return connection

    async def _connect(self, address: Address, name: str, login: Login) -> None:
        client, options = self._client, self._options
        client.place = address.place
        client.must_encrypt = address.encrypted or options.encrypted
        client.has_certificate = options.tls_cert_file is not None
        if client.must_encrypt:
            client.options["tls"] = await asyncio.to_thread(tls_context, options)
        if login.show_jwt is None:
            client._public_nkey = login.public_key  # nats-py reads it from a file only
        await client.connect(
            f"nats://{address.place}",
            name=name,
            user=login.user,
            password=login.password,
            token=login.token,
            signature_cb=login.sign,
            user_jwt_cb=login.show_jwt,
            tls_handshake_first=options.tls_first,
            allow_reconnect=False,
            connect_timeout=max(1, math.ceil(options.connect_timeout_seconds)),
            flush_timeout=options.publish_timeout_seconds,
            ping_interval=86_400,
            error_cb=self._on_error,
        )
        if not client.is_connected:  # the library takes any line for the server's consent
            raise NatsError("it closed the connection, or answered with something else than PONG")

    async def _on_error(self, error: Exception) -> None:
        if self._client.is_connected:  # else it is raised to whoever opens the connection
            detail = printable(str(error)) or type(error).__name__
            self._faults.log(logging.WARNING, "broker_error", detail=detail)

    def _on_denied_text(self, text: str) -> None:
        match = _DENIED.search(text)
        if match is None:
            self._faults.log(logging.WARNING, "broker_error", detail=printable(text))
            return
        operation, subject = match.groups()
        denied = ForbiddenError(
            f"the broker does not allow this {operation}: {printable(subject)}",
            remedy="grant it in the server's authorization block, or use other credentials",
        )
        self._faults.log(logging.ERROR, "broker_permission_denied", detail=str(denied))
        self.denied[subject] = denied
        if len(self.denied) > _MAX_DENIED:
            del self.denied[next(iter(self.denied))]
        asking = self._asking.get(subject)
        if asking is not None and not asking.done():
            asking.set_exception(denied)
        if self.on_denied is not None:
            self.on_denied(subject, denied)

    def _tune_socket(self) -> None:
        """A dead peer fails the socket in seconds even while data is queued."""
        sock = self._socket()
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(1000 * (self._options.ping_interval_seconds * 3))
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def _socket(self) -> Any:
        writer = self._client.writer
        return writer.get_extra_info("socket") if writer is not None else None

    def wire(self) -> Wire:
        """What the kernel counted of this connection; of a closed one the last that was seen."""
        self._wire = of_socket(self._socket()) or self._wire
        return self._wire

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

    @property
    def last_words(self) -> str:
        """What the server said as it ended the connection, if anything."""
        return self._client.last_words

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Hand one message to the socket; raises UnavailableError, or ForbiddenError for good."""
        if self.lost.is_set():
            raise UnavailableError("the link is down")
        try:
            self._check_size(data, headers)
            await self._client.publish(subject, data, reply=reply, headers=headers)
        except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can smuggle in
            raise ForbiddenError("a subject or header of this message is no text") from error
        except (NatsError, OSError) as error:
            raise UnavailableError(f"the link broke: {error}") from error

    def _check_size(self, data: bytes, headers: dict[str, str] | None) -> None:
        """The server counts the headers too, and drops the whole connection over one message."""
        size = len(data)
        if headers and size + _HEADERS_ROOM > self.max_payload:
            lines = header_blocks.lines(headers).encode()
            size += len(header_blocks.FIRST_LINE) + len(lines) + 2
        if size > self.max_payload:
            raise MessageTooLargeError(
                f"{size} bytes are over the broker's max_payload of {self.max_payload}",
                remedy="raise max_payload on the server or lower limits.max_body_bytes",
            )

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> int:
        """Call ``handler`` with every message of ``subject``; raises UnavailableError."""
        if self.lost.is_set():
            raise UnavailableError("the link is down")
        try:
            return await self._client.listen(subject, handler, queue)
        except (NatsError, OSError) as error:
            raise UnavailableError(f"the link broke: {error}") from error

    async def ask(self, subject: str, data: bytes, timeout_seconds: float) -> Incoming:
        """One request, one answer; raises UnavailableError, or ForbiddenError when not allowed."""
        self._asked += 1
        reply = f"{self.inbox}.ask.{self._asked}"
        answer: asyncio.Future[Incoming] = asyncio.get_running_loop().create_future()
        number = await self.subscribe(
            reply, lambda message: None if answer.done() else answer.set_result(message)
        )
        self._asking[subject.lower()] = answer
        lost = asyncio.ensure_future(self.lost.wait())
        try:
            await self.publish(subject, data, reply=reply)
            await asyncio.wait(
                (answer, lost), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not answer.done():
                raise UnavailableError(f"no answer on {subject}")
            if answer.result().status == "503":
                raise UnavailableError(f"nobody answers {subject}")
            return answer.result()
        finally:
            lost.cancel()
            answer.cancel()
            del self._asking[subject.lower()]
            if not self.lost.is_set():
                await self._client.unlisten(number)

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
        await self._client.drop()
        await asyncio.sleep(0)  # the loop lets go of the socket now
