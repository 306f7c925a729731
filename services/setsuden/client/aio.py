"""The client for asyncio."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Self
from weakref import WeakValueDictionary

from setsuden.link import Incoming, JetStream, Link, LinkOptions, LinkState
from setsuden.link.tasks import Backoff, end, wait
from setsuden.schemas import subjects
from setsuden.schemas.errors import LinkError, SetsudenError, UnavailableError
from setsuden.schemas.event import Event
from setsuden.schemas.log import get_logger
from setsuden.schemas.result import Result, Status

from . import questions, updates
from .follower import Follower
from .handle import AsyncHandle, Seconds, seconds_of
from .inquiry import Inquiry
from .observation import OCTETS, Data, body_of
from .options import MAX_OPEN_HANDLES, SUBMIT_TIMEOUT_SECONDS, link_options

log = get_logger(__name__)
FIRST_RETRY_SECONDS = 0.05
LONGEST_RETRY_SECONDS = 1.0


class AsyncClient:
    """Submits events and follows each to its final result.

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
        self._link = Link(link_options(urls, options), name)
        self._jetstream = JetStream(self._link)
        self._open: dict[str, Inquiry] = {}
        self._expired: WeakValueDictionary[str, Inquiry] = WeakValueDictionary()
        self._places = asyncio.Semaphore(max_open_handles)
        self._submitted = 0
        self._devices: set[str] = set()
        self._follower = Follower(self._jetstream, self._open, self._ask_again)
        self._tasks: list[asyncio.Task[None]] = []
        self._link_changed = asyncio.Event()

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect; never waits for the network. ``async with`` does it."""
        await self._jetstream.start()
        self._link.listen(self._on_link)
        self._link.start()
        self._tasks.append(asyncio.get_running_loop().create_task(self._follower.run()))

    async def close(self) -> None:
        """Drop the link. Whoever still waits for a result is told so; the events live on."""
        while self._tasks:
            await end(self._tasks.pop())
        await self._link.close()
        for inquiry in list(self._open.values()):
            inquiry.fail(UnavailableError("the client was closed before the final result"))

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
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
        """A handle on the event, once the broker stored it.

        ``data`` are bytes as they travel, or an array, whose shape and type the agent checks.
        The final result is there ``deadline`` seconds from now at the latest, if need be the
        student's. Submitting again under one ``idempotency_key`` returns the first event's
        result and makes no second event.

        Raises, always with the trace id: InvalidEventError or InvalidTensorError for what cannot
        be sent, and StreamFullError; at once ForbiddenError or NotDurableError when the broker
        refuses us, and UnavailableError when none stored it within ``submit_timeout_seconds``.
        """
        trace_id, told = questions.trace_ids(traceparent)
        token = self._next_token()
        try:
            self._check_started()
            body = body_of(data, content_type)
            event = Event.of(
                id=f"{self._nonce}-{token}",
                source=self._source,
                pipeline=subjects.token(pipeline, "pipeline"),
                device=questions.device_of(device, self._device),
                content_type=content_type,
                tensor_header_bytes=body.tensor_header_bytes,
                ttl_ms=questions.ttl_ms(seconds_of(deadline)),
                priority=priority,
                idempotency_key=questions.key_of(idempotency_key),
                trace_id=told,
                traceparent=traceparent,
                data=body.data,
            )
            inquiry = await self._begin(Inquiry(token, event, trace_id, self._ended))
        except LinkError as error:
            raise _traced(error, trace_id) from error
        except SetsudenError as error:
            error.trace_id = trace_id
            raise
        return AsyncHandle(inquiry)

    def _check_started(self) -> None:
        if not self._tasks:
            raise UnavailableError(
                "the client is not started", remedy="use it in an `async with` block"
            )

    def _next_token(self) -> str:
        self._submitted += 1
        return format(self._submitted, "x")

    async def _begin(self, inquiry: Inquiry) -> Inquiry:
        """Store the event within the submit timeout, listening for its answer already."""
        try:
            async with asyncio.timeout(self._submit_timeout):
                await self._places.acquire()
                self._open[inquiry.token] = inquiry
                await self._listen(inquiry.device)
                await self._store(inquiry)
        except BaseException as error:
            inquiry.fail(SetsudenError("it was not submitted"))
            if isinstance(error, TimeoutError):
                raise self._not_stored(inquiry) from error
            raise
        self._follower.follow(inquiry)
        return inquiry

    async def _store(self, inquiry: Inquiry) -> None:
        """Hand the event to the broker until it is acknowledged: its message id is one only."""
        pauses = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while True:
            try:
                await self._send(inquiry, 0)
                return
            except UnavailableError as error:
                inquiry.problem = str(error)
            self._link_changed.clear()
            await wait(self._link_changed, pauses.next())

    async def _send(self, inquiry: Inquiry, copy: int) -> None:
        event = inquiry.question
        if event is None:  # answered meanwhile
            return
        headers = questions.message_headers(event, self._name, self._nonce, inquiry.token, copy)
        subject = subjects.event(event.pipeline, event.device)
        stored = await self._link.store(subject, event.data, headers)
        inquiry.sequences[copy] = stored.sequence

    def _not_stored(self, inquiry: Inquiry) -> UnavailableError:
        if self._places.locked() and not inquiry.problem:
            return UnavailableError(
                f"{len(self._open)} events are open and none ended in {self._submit_timeout} s",
                remedy="close handles that nobody waits for, or raise max_open_handles",
            )
        return UnavailableError(
            f"no broker stored the event within {self._submit_timeout} s"
            f" ({inquiry.problem or 'the link did not come up'})",
            remedy=f"submit it again with idempotency_key={inquiry.idempotency_key!r}",
        )

    # -- following ----------------------------------------------------------------------------

    async def _listen(self, device: str) -> None:
        if device not in self._devices:
            self._devices.add(device)
            prefix = subjects.reply_prefix(self._name, device, self._nonce)
            await self._link.subscribe(f"{prefix}.*", self._on_reply)

    async def _ask_again(self, inquiry: Inquiry) -> None:
        inquiry.copies += 1
        try:
            await self._send(inquiry, inquiry.copies)
        except LinkError as error:  # asked once more at its next check
            log.debug("question_not_sent", detail=str(error))

    def _on_link(self, state: LinkState) -> None:
        self._link_changed.set()
        if state is LinkState.UP:
            self._follower.wake()

    def _on_reply(self, message: Incoming) -> None:
        token, copy = questions.inquiry_of(message.subject)
        inquiry = self._open.get(token) or self._expired.get(token)
        update = None if inquiry is None else updates.read(message.data)
        if inquiry is None or update is None or isinstance(update, UnavailableError):
            return  # an agent that is stopping reads the event again in its next life
        if isinstance(update, Result) and not inquiry.concerns(update):
            log.warning("update_not_believed", event_id=update.event_id)
            return
        self._follower.heard(inquiry, copy)
        if isinstance(update, Result):
            inquiry.tell(update)
        else:
            inquiry.fail(update)

    def _ended(self, inquiry: Inquiry) -> None:
        if self._open.pop(inquiry.token, None) is None:
            return
        self._places.release()
        outcome = inquiry.outcome
        if isinstance(outcome, Result) and outcome.status is Status.EXPIRED:
            self._expired[inquiry.token] = inquiry  # the cloud's late answer is still welcome


def _traced(error: LinkError, trace_id: str) -> LinkError:
    """The same error for this event alone: the link gives one to everybody who waits."""
    return type(error)(error.message, remedy=error.remedy, trace_id=trace_id)
