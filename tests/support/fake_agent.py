"""A small agent that speaks our wire protocol, with a memory instead of an outbox."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from setsuden.link import Incoming, JetStream, Link, LinkState
from setsuden.schemas import subjects
from setsuden.schemas.errors import AlreadyStoredError, LinkError, RejectedError
from setsuden.schemas.escalation import EXPECTED_SUBJECT_SEQUENCE
from setsuden.schemas.event import Event
from setsuden.schemas.refusal import Refusal
from setsuden.schemas.result import Answer, Result, Status, Tier
from setsuden.schemas.streams import EVENTS
from setsuden.schemas.trace_context import parse_traceparent

Judge = Callable[[Event], Iterable[Status]]
"""The statuses told of one event, in order; raises RejectedError to refuse it."""


def easy(event: Event) -> Iterable[Status]:
    """The student is sure."""
    return (Status.FINAL,)


def hard(event: Event) -> Iterable[Status]:
    """The teacher is asked."""
    return (Status.PROVISIONAL, Status.FINAL)


class FakeAgent:
    """Reads its device's events as an agent does, and answers on their reply subjects."""

    def __init__(self, link: Link, jetstream: JetStream, device: str, judge: Judge = easy) -> None:
        self.judge = judge
        self.device = device
        self.results: dict[str, Result] = {}
        """The newest result of each event, by idempotency key."""
        self.events: list[Event] = []
        """Every copy that was read."""
        self.told = 0
        self.deaf = False
        """True: nothing is told, as if every word were lost."""
        self._link, self._jetstream = link, jetstream
        self._epoch = secrets.token_hex(4)
        self._read = 0
        self._rung = asyncio.Event()
        self._seen = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read from the first event on."""
        await self._link.subscribe(
            subjects.notifications_of(self.device), lambda _: self._rung.set()
        )
        self._link.listen(self._on_link)
        self._rung.set()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def seen(self, copies: int) -> None:
        """Return once so many copies of events were read."""
        async with self._seen:
            await self._seen.wait_for(lambda: len(self.events) >= copies)

    def _on_link(self, state: LinkState) -> None:
        if state is LinkState.UP:
            self._rung.set()

    async def _run(self) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                while await self._drain():
                    pass
            except LinkError:
                if self._link.state is LinkState.UP:
                    asyncio.get_running_loop().call_later(0.1, self._rung.set)

    async def _drain(self) -> int:
        wanted = {
            "next_by_subj": subjects.events_of(self.device),
            "seq": self._read + 1,
            "batch": 256,
        }
        messages = await self._jetstream.read(EVENTS, wanted)
        for message in messages:
            await self._take(message)
        return len(messages)

    async def _take(self, message: Incoming) -> None:
        pipeline, device = subjects.parse_event(message.headers["Nats-Subject"])
        event = Event.from_headers(message.headers, message.data, pipeline=pipeline, device=device)
        key = event.idempotency_key or event.id
        if key in self.results:
            await self._tell(event.reply, self.results[key].model_dump_json().encode())
        else:
            await self._accept(event, key)
        self._read = int(message.headers["Nats-Sequence"])
        self.events.append(event)
        async with self._seen:
            self._seen.notify_all()

    async def _accept(self, event: Event, key: str) -> None:
        try:
            statuses = tuple(self.judge(event))
        except RejectedError as error:
            refusal = Refusal.of(error, source_id=event.id, trace_id=event.trace_id)
            await self._tell(event.reply, refusal.model_dump_json().encode())
            return
        identity = subjects.event_id(self.device, self._epoch, len(self.results) + 1)
        for status in statuses:
            result = result_of(event, identity, status)
            if result.is_final:
                await self.store(result)
            self.results[key] = result
            await self._tell(event.reply, result.model_dump_json().encode())

    async def store(self, result: Result) -> None:
        """Make it the one final result of its event."""
        subject = result.place.result
        headers = {EXPECTED_SUBJECT_SEQUENCE: "0"}
        while True:
            try:
                await self._link.store(subject, result.model_dump_json().encode(), headers)
            except AlreadyStoredError:
                return
            except LinkError:
                await self._link.wait_up(30)
            else:
                return

    async def _tell(self, reply: str | None, body: bytes) -> None:
        if reply is None or self.deaf:
            return
        self.told += 1
        try:
            await self._link.send(reply, body)
        except LinkError:
            return  # a lost word, as with the real agent


def result_of(event: Event, event_id: str, status: Status) -> Result:
    """What the wire carries of one event."""
    context = parse_traceparent(event.traceparent)
    return Result(
        event_id=event_id,
        pipeline=event.pipeline,
        device=event.device,
        status=status,
        tier=Tier.EDGE,
        answer=Answer(label=str(len(event.data)), index=len(event.data), confidence=0.9),
        source_id=event.id,
        idempotency_key=event.idempotency_key,
        trace_id=context[0] if context else event.trace_id or secrets.token_hex(16),
        at=datetime.now(UTC),
    )
