"""The supervised link: opens, proves, watches and reopens the connection.

States: ``down`` (trying), ``refused`` (reached, but not durable or not allowed), ``up``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from enum import StrEnum

from setsuden.schemas.errors import (
    ForbiddenError,
    LinkError,
    NotDurableError,
    UnavailableError,
)

from .connection import Connection
from .durability import check_strict
from .messages import Done, Handler, Incoming, Outcome, Stored
from .options import LinkOptions
from .tasks import end
from .window import Window, parse_ack
from .wire import Wire

log = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS = 0.05
_REFUSED_PAUSE_SECONDS = 5.0
_SWEEP_SECONDS = 0.5


class LinkState(StrEnum):
    """What the link is good for now."""

    DOWN = "down"
    REFUSED = "refused"
    UP = "up"


class Link:
    """One process's way to the broker. ``start`` never waits for the network."""

    def __init__(self, options: LinkOptions, name: str) -> None:
        self.options = options
        self.name = name
        self.state = LinkState.DOWN
        self.problem: LinkError | None = None
        self.connections = 0
        self.inbox = f"_INBOX.{name}.{random.getrandbits(64):016x}"  # a name, no secret
        self._window = Window(options.publish_timeout_seconds)
        self._subscriptions: dict[str, tuple[Handler, str]] = {
            f"{self.inbox}.ack.*": (self._on_ack, "")
        }
        self._listeners: list[Callable[[LinkState], None]] = []
        self.admission: Callable[[], Awaitable[None]] | None = None
        """Asked over each new connection before the link is up; raises LinkError to refuse it."""
        self._connection: Connection | None = None
        self._past = Wire()
        """Of connections that are gone."""
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect in the background."""
        self._task = asyncio.get_running_loop().create_task(self._supervise())

    async def close(self) -> None:
        """Stop trying, fail what is in flight, drop the connection."""
        if self._task is not None:
            await end(self._task)
        if self._connection is not None:
            await self._lose(self._connection)

    async def wait_up(self, timeout_seconds: float) -> None:
        """Return once the link is up; raises the reason why not in time."""
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(self._works)
        except TimeoutError as error:
            raise self.problem or UnavailableError("the link did not come up in time") from error

    def _works(self) -> bool:
        # Between the loss and the supervisor's word on it, waiting must not turn into spinning.
        connection = self._connection
        return (
            self.state is LinkState.UP and connection is not None and not connection.lost.is_set()
        )

    def listen(self, callback: Callable[[LinkState], None]) -> None:
        """Call ``callback`` at every change of state."""
        self._listeners.append(callback)

    async def _supervise(self) -> None:
        pause, turn = _FIRST_PAUSE_SECONDS, 0
        while True:
            url = self.options.urls[turn % len(self.options.urls)]
            turn += 1
            try:
                connection = await self._open(url)
            except LinkError as error:
                refused = isinstance(error, NotDurableError | ForbiddenError)
                await self._become(LinkState.REFUSED if refused else LinkState.DOWN, error)
                longest = _REFUSED_PAUSE_SECONDS if refused else pause
                await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                pause = min(pause * 2, self.options.reconnect_max_seconds)
                continue
            pause = _FIRST_PAUSE_SECONDS
            await self._become(LinkState.UP, None)
            await self._watch(connection)
            await self._lose(connection)

    async def _open(self, url: str) -> Connection:
        connection = await Connection.open(self.options, url, self.name)
        try:
            if self.options.durability == "strict":
                await asyncio.to_thread(
                    check_strict,
                    connection.server_version,
                    self.options.monitor_url,
                    self.options.connect_timeout_seconds,
                )
            await self._subscribe_all(connection)
            connection.on_denied = self._window.refuse
            self._connection = connection
            await self._admit()
        except BaseException:  # cancelled, too: the connection must not outlive us
            self._connection = None
            self._window.fail_all(UnavailableError("the link to the broker is down"))
            await connection.discard()
            raise
        self.connections += 1
        return connection

    async def _admit(self) -> None:
        if self.admission is None:
            return
        try:
            async with asyncio.timeout(self.options.connect_timeout_seconds):
                await self.admission()
        except TimeoutError as error:
            raise UnavailableError("the broker does not answer") from error

    async def _subscribe_all(self, connection: Connection) -> None:
        """Return when the server has them all, those that came meanwhile included."""
        done: set[str] = set()
        while missing := self._subscriptions.keys() - done:
            for subject in missing:
                await connection.subscribe(subject, *self._subscriptions[subject])
            if not await connection.flush(self.options.ping_timeout_seconds):
                raise UnavailableError("the broker does not answer")
            done |= missing
        for subject in done:
            if subject.lower() in connection.denied:
                raise connection.denied[subject.lower()]

    async def _watch(self, connection: Connection) -> None:
        """Return when the connection is lost or no longer answers."""
        loop = asyncio.get_running_loop()
        next_ping = loop.time() + self.options.ping_interval_seconds
        while not connection.lost.is_set():
            pause = _SWEEP_SECONDS if len(self._window) else next_ping - loop.time()
            try:
                async with asyncio.timeout(max(pause, 0.0)):
                    await connection.lost.wait()
            except TimeoutError:
                self._window.expire(loop.time())
            if loop.time() >= next_ping:
                if not await connection.flush(self.options.ping_timeout_seconds):
                    return
                next_ping = loop.time() + self.options.ping_interval_seconds

    async def _lose(self, connection: Connection) -> None:
        self._connection = None
        self._past = self._past.plus(connection.wire())
        error = UnavailableError("the link to the broker is down")
        self._window.fail_all(error)
        await self._become(LinkState.DOWN, error)
        await connection.discard()

    async def _become(self, state: LinkState, problem: LinkError | None) -> None:
        changed = state is not self.state or str(problem) != str(self.problem)
        self.state, self.problem = state, problem
        if not changed:
            return
        level = logging.INFO if state is LinkState.UP else logging.WARNING
        log.log(level, "link_%s", state.value, extra={"detail": str(problem or "")})
        for callback in self._listeners:
            callback(state)
        async with self._changed:
            self._changed.notify_all()

    async def flush(self) -> bool:
        """True when the broker answered after everything sent so far."""
        connection = self._connection
        return connection is not None and await connection.flush(self.options.ping_timeout_seconds)

    def drop(self) -> None:
        """Give the present connection up; another one is opened at once."""
        if self._connection is not None:
            self._connection.lost.set()

    # -- work -------------------------------------------------------------------------------

    def wire(self) -> Wire:
        """Bytes and packets of all connections so far; from any thread."""
        connection = self._connection
        return self._past if connection is None else self._past.plus(connection.wire())

    @property
    def server_version(self) -> str:
        """The present server's version, as it says it; empty without a connection."""
        return "" if self._connection is None else self._connection.server_version

    def denial(self, subject: str) -> ForbiddenError | None:
        """Why the broker refused a message to this subject, if it said so."""
        connection = self._connection
        return connection.denied.get(subject.lower()) if connection is not None else None

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> None:
        """Deliver every message of ``subject`` now and after each reconnection.

        Of all subscribers that name one ``queue`` each message has one.
        """
        self._subscriptions[subject] = handler, queue
        if self._connection is not None:
            await self._connection.subscribe(subject, handler, queue)

    async def send(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Publish without acknowledgement; raises UnavailableError when the link is down."""
        await self._publish(subject, data, reply, headers)

    async def post(
        self, subject: str, data: bytes, headers: dict[str, str] | None, done: Done
    ) -> None:
        """Store one message in its stream; ``done`` is told the outcome exactly once.

        Returns as soon as the message is on its way, so many can be in flight.
        """
        token = self._window.open(done, asyncio.get_running_loop().time(), subject)
        try:
            await self._publish(subject, data, f"{self.inbox}.ack.{token}", headers)
        except LinkError as error:
            self._window.settle(token, error)

    async def store(
        self, subject: str, data: bytes, headers: dict[str, str] | None = None
    ) -> Stored:
        """Store one message and wait for the stream's word; raises LinkError."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        await self.post(subject, data, headers, lambda outcome: _resolve(future, outcome))
        outcome = await future
        if isinstance(outcome, LinkError):
            raise outcome
        return outcome

    async def _publish(
        self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None
    ) -> None:
        connection = self._connection
        if connection is None:
            raise self.problem or UnavailableError("the link to the broker is down")
        full = connection.pending_bytes > self.options.max_pending_bytes
        if full and not await connection.flush(self.options.publish_timeout_seconds):
            raise UnavailableError("the broker takes no more bytes now")
        await connection.publish(subject, data, reply=reply, headers=headers)

    def _on_ack(self, message: Incoming) -> None:
        token = message.subject.rsplit(".", 1)[-1]
        self._window.settle(token, parse_ack(message.data, message.headers.get("Status")))


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
