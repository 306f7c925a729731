"""The supervised link: opens, proves, watches and reopens the connection.

States: ``down`` (trying), ``refused`` (reached, but not durable or not allowed), ``up``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import StrEnum

from setsuden.schemas.errors import (
    ForbiddenError,
    LinkError,
    NotDurableError,
    UnavailableError,
)
from setsuden.schemas.log import get_logger

from .connection import Connection
from .durability import Proof, check_strict, told_by_stream_service
from .faults import Faults
from .messages import Done, Handler, Incoming, Outcome, Stored
from .options import LinkOptions
from .tasks import Backoff, end, jittered, wait
from .window import AckWindow, parse_ack
from .wire import Wire

log = get_logger(__name__)
MAX_PENDING_BYTES = 1 << 20
"""Unsent bytes past which a publisher waits."""
_FIRST_PAUSE_SECONDS = 0.05
_REFUSED_PAUSE_SECONDS = 5.0
_STABLE_SECONDS = 5.0
"""A connection that lasted so long ends the growth of pauses: shorter ones may be the rule."""
_SWEEP_SECONDS = 0.5


class LinkState(StrEnum):
    """What the link is good for now."""

    DOWN = "down"
    REFUSED = "refused"
    UP = "up"


class Link:
    """One process's way to the broker. ``start`` never waits for the network.

    ``proof`` proves strict durability where ``options.monitor_url`` is not set; without it the
    stream service is asked, in the name of the user who logs in.
    """

    def __init__(self, options: LinkOptions, name: str, proof: Proof | None = None) -> None:
        self.options = options
        self.name = name
        self.state = LinkState.DOWN
        self.problem: LinkError | None = None
        self.connections = 0
        self.inbox = f"_INBOX.{name}.{secrets.token_hex(8)}"  # nobody can guess where answers go
        self._faults = Faults()
        self._proof = proof
        self._window = AckWindow(options.publish_timeout_seconds, self._faults)
        self._subscriptions: dict[str, tuple[Handler, str]] = {
            f"{self.inbox}.ack.*": (self._on_ack, "")
        }
        self._listeners: list[Callable[[LinkState], None]] = []
        self._denial_listeners: list[Callable[[str, ForbiddenError], None]] = []
        self.admission: Callable[[], Awaitable[None]] | None = None
        """Asked over each new connection before the link is up; raises LinkError to refuse it."""
        self._connection: Connection | None = None
        self._past = Wire()
        """Of connections that are gone."""
        self._turn = 0
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

    def reopen(self, changes: Mapping[str, object]) -> None:
        """Drop the connection and open another one, with these options changed.

        It reads credentials and certificates again; what was in flight fails as in any loss.
        """
        self.options = self.options.model_copy(update=dict(changes))
        if self._connection is not None:
            self._connection.lost.set()

    async def wait_up(self, timeout_seconds: float | None, *, refused_ends: bool = False) -> None:
        """Return once the link is up; raises the reason why not in time.

        ``refused_ends``: raise at once what a broker refuses (credentials, certificates,
        durability), which another attempt mends only when somebody changes something.
        """
        ends = (lambda: self._works() or self._refused()) if refused_ends else self._works
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(ends)
        except TimeoutError as error:
            problem = self.problem or UnavailableError("the link did not come up in time")
            raise _copy(problem) from error
        if not self._works():
            raise _copy(self.problem or UnavailableError("the link was refused"))

    def _refused(self) -> bool:
        return self.state is LinkState.REFUSED

    def _works(self) -> bool:
        # Between the loss and the supervisor's word on it, waiting must not turn into spinning.
        connection = self._connection
        return (
            self.state is LinkState.UP and connection is not None and not connection.lost.is_set()
        )

    def listen(self, callback: Callable[[LinkState], None]) -> None:
        """Call ``callback`` at every change of state."""
        self._listeners.append(callback)

    def listen_denied(self, callback: Callable[[str, ForbiddenError], None]) -> None:
        """Call ``callback`` with each subject, in lower case, that the broker refuses us."""
        self._denial_listeners.append(callback)

    async def _supervise(self) -> None:
        pauses = Backoff(_FIRST_PAUSE_SECONDS, self.options.reconnect_max_seconds)
        while True:
            refused = False
            try:
                if await self._live_once() > _STABLE_SECONDS:
                    pauses.reset()
            except LinkError as error:
                refused = _is_refusal(error)
                await self._become(LinkState.REFUSED if refused else LinkState.DOWN, error)
            except Exception as error:  # the process has no other way to the broker than this task
                await self._stumble(error)
            await asyncio.sleep(jittered(_REFUSED_PAUSE_SECONDS) if refused else pauses.next())

    async def _live_once(self) -> float:
        """One connection from opening to loss; how many seconds it lasted. Raises LinkError."""
        connection = await self._open_any()
        opened = asyncio.get_running_loop().time()
        await self._become(LinkState.UP, None)
        await self._watch(connection)
        await self._lose(connection)
        return asyncio.get_running_loop().time() - opened

    async def _stumble(self, error: Exception) -> None:
        self._faults.raised("link", error)
        if self._connection is not None:
            await self._lose(self._connection)
        problem = UnavailableError(f"the link failed ({type(error).__name__})")
        await self._become(LinkState.DOWN, problem)

    async def _open_any(self) -> Connection:
        """The first address that lets us in; a refusal is raised when all of them refuse."""
        problems: list[LinkError] = []
        for _ in self.options.urls:
            url = self.options.urls[self._turn % len(self.options.urls)]
            self._turn += 1
            try:
                return await self._open(url)
            except LinkError as error:
                problems.append(error)
        others = [problem for problem in problems if not _is_refusal(problem)]
        if len(problems) == 1 or not others:
            raise problems[0]
        reasons = "; ".join(problem.message for problem in problems)
        raise UnavailableError(reasons, remedy=others[0].remedy)

    async def _open(self, url: str) -> Connection:
        connection = await Connection.open(self.options, url, self.name, self._faults)
        connection.inbox = self.inbox
        try:
            if self.options.durability == "strict":
                proof = self._proof or told_by_stream_service(self.options, self.name)
                await check_strict(connection, self.options, proof)
            await self._subscribe_all(connection)
            connection.on_denied = self._on_denied
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

    def _on_denied(self, subject: str, error: ForbiddenError) -> None:
        self._window.refuse(subject, error)
        for callback in self._denial_listeners:
            try:
                callback(subject, error)
            except Exception as fault:
                self._faults.raised("listener", fault)

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
            if not await wait(connection.lost, max(pause, 0.0)):
                self._window.expire(loop.time())
            if loop.time() >= next_ping:
                if not await connection.flush(self.options.ping_timeout_seconds):
                    return
                next_ping = loop.time() + self.options.ping_interval_seconds

    async def _lose(self, connection: Connection) -> None:
        self._connection = None
        self._past = self._past.plus(connection.wire())
        reason = f" ({connection.last_words})" if connection.last_words else ""
        error = UnavailableError(f"the link to the broker is down{reason}")
        self._window.fail_all(error)
        await self._become(LinkState.DOWN, error)
        await connection.discard()

    async def _become(self, state: LinkState, problem: LinkError | None) -> None:
        changed = state is not self.state or str(problem) != str(self.problem)
        self.state, self.problem = state, problem
        if not changed:
            return
        level = logging.INFO if state is LinkState.UP else logging.WARNING
        event = f"link_{state.value}"
        log.log(level, event, detail=str(problem or ""))
        for callback in self._listeners:
            try:
                callback(state)
            except Exception as error:
                self._faults.raised("listener", error)
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

    @property
    def handler_errors(self) -> int:
        """Exceptions of handlers, listeners and ``done`` callbacks: each is a fault of ours."""
        return self._faults.handler_errors

    @property
    def unreadable_messages(self) -> int:
        """Messages dropped because nobody could read their headers."""
        return self._faults.unreadable

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
            with suppress(UnavailableError):  # lost meanwhile: the next connection has it
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
            raise _copy(outcome)
        return outcome

    async def _publish(
        self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None
    ) -> None:
        connection = self._connection
        if connection is None:
            raise _copy(self.problem or UnavailableError("the link to the broker is down"))
        full = connection.pending_bytes > MAX_PENDING_BYTES
        if full and not await connection.flush(self.options.publish_timeout_seconds):
            raise UnavailableError("the broker takes no more bytes now")
        await connection.publish(subject, data, reply=reply, headers=headers)

    def _on_ack(self, message: Incoming) -> None:
        token = message.subject.rsplit(".", 1)[-1]
        self._window.settle(token, parse_ack(message.data, message.status))


def _is_refusal(error: LinkError) -> bool:
    """True for what the broker will not let us do, however often it is tried."""
    return isinstance(error, NotDurableError | ForbiddenError)


def _copy(error: LinkError) -> LinkError:
    """The same for one caller: each ``raise`` of one instance makes its traceback longer."""
    return type(error)(error.message, remedy=error.remedy)


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
