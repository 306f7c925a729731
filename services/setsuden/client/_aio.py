"""The client for asyncio."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Self
from weakref import WeakValueDictionary

from pydantic import ValidationError

from setsuden.link import Incoming, JetStream, Link, LinkOptions, LinkState
from setsuden.link.tasks import Backoff, end, wait
from setsuden.schemas import subjects
from setsuden.schemas.errors import ConfigError, LinkError, SetsudenError, UnavailableError
from setsuden.schemas.event import Event
from setsuden.schemas.log import get_logger
from setsuden.schemas.result import Result, Status

from . import _messages, _tracing
from ._follower import Follower
from ._messages import OCTETS, Data
from ._pending import AsyncHandle, PendingSubmission, Seconds, seconds_of

log = get_logger(__name__)
SUBMIT_TIMEOUT_SECONDS = 5.0
"""``submit`` raises UnavailableError when no broker stored the event by then. A broker that
restarts is back sooner."""
MAX_OPEN_HANDLES = 10_000
"""Events submitted and without an outcome; above it ``submit`` waits."""
FIRST_RETRY_SECONDS = 0.05
LONGEST_RETRY_SECONDS = 1.0


class AsyncClient:
    """Submits events and follows each to its final result.

    ``urls`` are broker addresses (``nats://host:4222``), ``options`` everything else about the
    connection; ``device`` is the default of ``submit``. ``name`` is the application's name in
    subjects and trace sources; at a broker with accounts, the one that its login allows. At most
    ``max_open_handles`` events are followed at a time.

    ::

        async with AsyncClient("nats://127.0.0.1:4222", device="meter-7") as client:
            handle = await client.submit("digits", pixels, deadline=5.0)
            result = await handle.result(timeout=10)
            print(result.answer.label, result.tier, result.trace_id)
    """

    def __init__(
        self,
        urls: str | Sequence[str] | None = None,
        *,
        device: str | None = None,
        options: LinkOptions | None = None,
        name: str = "client",
        submit_timeout_seconds: float = SUBMIT_TIMEOUT_SECONDS,
        max_open_handles: int = MAX_OPEN_HANDLES,
    ) -> None:
        self._device = device
        self._name = subjects.token(name, "name")
        self._source = f"setsuden-client/{name}"
        self._submit_timeout = submit_timeout_seconds
        self._nonce = secrets.token_hex(8)
        self._link = Link(_link_options(urls, options), name)
        self._jetstream = JetStream(self._link)
        self._open: dict[str, PendingSubmission] = {}
        self._expired: WeakValueDictionary[str, PendingSubmission] = WeakValueDictionary()
        self._free_handles = asyncio.Semaphore(max_open_handles)
        self._submitted = 0
        self._devices: set[str] = set()
        self._follower = Follower(self._jetstream, self._open, self._submit_again)
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False
        self._link_changed = asyncio.Event()

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect, without waiting for the network; ``async with`` calls it."""
        await self._connect()
        self._started = True

    async def close(self) -> None:
        """Disconnect; ``result`` calls that wait raise UnavailableError.

        Agents process the submitted events all the same.
        """
        self._started = False
        await self._disconnect()
        for pending in list(self._open.values()):
            pending.fail(UnavailableError("the client was closed before the final result"))

    async def __aenter__(self) -> Self:
        """The client itself, started."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnects, as ``close`` does."""
        await self.close()

    # -- submitting ---------------------------------------------------------------------------

    async def submit(
        self,
        pipeline: str,
        data: Data,
        *,
        device: str | None = None,
        content_type: str = OCTETS,
        deadline: Seconds | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
        traceparent: str | None = None,
    ) -> AsyncHandle:
        """A handle on the event, once the broker has stored it.

        ``data`` is sent unchanged when it is bytes; of an array the agent checks shape and type.
        The final result exists ``deadline`` seconds from now at the latest, if need be with the
        student's answer. Submitting again under one ``idempotency_key`` returns the first event's
        result and makes no second event. The event belongs to the trace of ``traceparent``, else
        to that of the application's current OpenTelemetry span, else to a new one.

        Raises, always with the trace id: InvalidEventError or InvalidTensorError for what cannot
        be sent; ForbiddenError or NotDurableError when the broker refuses the connection or the
        event; StreamFullError; UnavailableError when no broker stored the event within
        ``submit_timeout_seconds``.
        """
        with _tracing.submit_span(pipeline, device or self._device, traceparent) as headers:
            trace_id, chosen_id = _messages.trace_ids(headers.traceparent)
            token = self._next_token()
            try:
                self._check_started()
                body = _messages.body_of(data, content_type)
                event = Event.of(
                    id=f"{self._nonce}-{token}",
                    source=self._source,
                    pipeline=subjects.token(pipeline, "pipeline"),
                    device=_messages.device_of(device, self._device),
                    content_type=content_type,
                    tensor_header_bytes=body.tensor_header_bytes,
                    ttl_ms=_messages.ttl_ms(seconds_of(deadline)),
                    priority=priority,
                    idempotency_key=(
                        _messages.random_id() if idempotency_key is None else idempotency_key
                    ),
                    trace_id=chosen_id,
                    traceparent=headers.traceparent,
                    tracestate=headers.tracestate,
                    data=body.data,
                )
                pending = PendingSubmission(token, event, trace_id, self._on_outcome)
                await self._begin(pending)
            except LinkError as error:
                raise _with_trace(error, trace_id) from error
            except SetsudenError as error:
                error.trace_id = trace_id
                raise
            return AsyncHandle(pending)

    def _check_started(self) -> None:
        if not self._started:
            raise UnavailableError(
                "the client is not started", remedy="use it in an `async with` block"
            )

    def _next_token(self) -> str:
        self._submitted += 1
        return format(self._submitted, "x")

    async def _begin(self, pending: PendingSubmission) -> None:
        """Deliver the event within the submit timeout, waiting for a free handle if need be."""
        try:
            async with asyncio.timeout(self._submit_timeout):
                await self._free_handles.acquire()
                self._open[pending.token] = pending
                await self._deliver(pending)
        except BaseException as error:
            pending.fail(SetsudenError("it was not submitted"))
            if isinstance(error, TimeoutError):
                raise self._not_stored(pending) from error
            raise

    def _not_stored(self, pending: PendingSubmission) -> UnavailableError:
        if self._free_handles.locked() and not pending.problem:
            return UnavailableError(
                f"{len(self._open)} events are open and none ended in {self._submit_timeout} s",
                remedy="close handles that nobody waits for, or raise max_open_handles",
            )
        return UnavailableError(
            f"no broker stored the event within {self._submit_timeout} s"
            f" ({pending.problem or 'the link did not come up'})",
            remedy=f"submit it again with idempotency_key={pending.idempotency_key!r}",
        )

    # -- the transport: setsuden.testing has another implementation of these three ------------

    async def _connect(self) -> None:
        await self._jetstream.start()
        self._link.listen(self._on_link)
        self._link.start()
        self._tasks.append(asyncio.get_running_loop().create_task(self._follower.run()))

    async def _disconnect(self) -> None:
        while self._tasks:
            await end(self._tasks.pop())
        await self._link.close()

    async def _deliver(self, pending: PendingSubmission) -> None:
        """Subscribe to the event's updates, then have the broker store the event.

        Tried until the broker has acknowledged it: all tries have one message id, so it is stored
        once.
        """
        await self._subscribe(pending.device)
        pauses = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while True:
            try:
                await self._send(pending, 0)
                break
            except UnavailableError as error:
                pending.problem = str(error)
            self._link_changed.clear()
            await wait(self._link_changed, pauses.next())
        self._follower.follow(pending)

    async def _send(self, pending: PendingSubmission, copy: int) -> None:
        event = pending.event
        if event is None:  # answered meanwhile
            return
        headers = _messages.message_headers(event, self._name, self._nonce, pending.token, copy)
        subject = subjects.event(event.pipeline, event.device)
        stored = await self._link.store(subject, event.data, headers)
        pending.sequences[copy] = stored.sequence

    async def _subscribe(self, device: str) -> None:
        if device not in self._devices:
            self._devices.add(device)
            prefix = subjects.reply_prefix(self._name, device, self._nonce)
            await self._link.subscribe(f"{prefix}.*", self._on_reply)

    # -- following ----------------------------------------------------------------------------

    async def _submit_again(self, pending: PendingSubmission) -> None:
        pending.copies += 1
        try:
            await self._send(pending, pending.copies)
        except LinkError as error:  # tried again at its next check
            log.debug("resubmit_failed", detail=str(error))

    def _on_link(self, state: LinkState) -> None:
        self._link_changed.set()
        if state is LinkState.UP:
            self._follower.wake()

    def _on_reply(self, message: Incoming) -> None:
        token, copy = _messages.token_and_copy(message.subject)
        pending = self._open.get(token) or self._expired.get(token)
        update = None if pending is None else _messages.read_update(message.data)
        if pending is None or update is None or isinstance(update, UnavailableError):
            return  # an agent that is stopping reads the event again in its next life
        if isinstance(update, Result) and not pending.matches(update):
            log.warning("update_of_another_event", event_id=update.event_id)
            return
        self._follower.on_answer(pending, copy)
        if isinstance(update, Result):
            pending.on_update(update)
        else:
            pending.fail(update)

    def _on_outcome(self, pending: PendingSubmission) -> None:
        if self._open.pop(pending.token, None) is None:
            return
        self._free_handles.release()
        outcome = pending.outcome
        if isinstance(outcome, Result) and outcome.status is Status.EXPIRED:
            self._expired[pending.token] = pending  # the cloud's late answer may follow


def _with_trace(error: LinkError, trace_id: str) -> LinkError:
    """A copy for this event alone: the link raises one error object to all callers that wait."""
    return type(error)(error.message, remedy=error.remedy, trace_id=trace_id)


def _link_options(urls: str | Sequence[str] | None, options: LinkOptions | None) -> LinkOptions:
    """The given options, with the given addresses; raises ConfigError.

    Without options the client does not ask whether the broker is durable: its monitoring port is
    seldom open to applications, and an event is accepted by the agent's outbox, not by the broker.
    """
    if urls is None:
        return options or LinkOptions(durability="relaxed")
    fields = options.model_dump() if options else {"durability": "relaxed"}
    addresses = (urls,) if isinstance(urls, str) else tuple(urls)
    try:
        return LinkOptions.model_validate(fields | {"urls": addresses})
    except ValidationError as error:
        raise ConfigError(
            f"the client's address cannot be used: {error.errors()[0]['msg']}",
            remedy="give nats://host:4222",
        ) from error
