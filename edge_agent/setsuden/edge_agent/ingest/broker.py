"""Events from the broker, without a consumer for each device.

The stream rings a bell (``bell.<device>.<pipeline>``, headers only) after it stored an event;
the agent then reads on from its own cursor by direct get. The cursor moves in the transaction
that accepts the events, so an event is accepted once, whatever dies when.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from setsuden.edge_agent.core import Now, Submission, state
from setsuden.edge_agent.engine import Arrival, Engine, Tell, now
from setsuden.edge_agent.outbox import Cursor
from setsuden.link import Incoming, JetStream, Link, LinkState
from setsuden.schemas import subjects
from setsuden.schemas.errors import LinkError, RejectedError, SetsudenError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Result
from setsuden.schemas.streams import EVENTS

from . import door

log = logging.getLogger(__name__)
READ_BATCH = 256
READ_MAX_BYTES = 4 << 20
SAFETY_POLL_SECONDS = 30.0
"""A bell can be lost with the link; the cursor cannot."""
RECLAIM_EVERY = 1000
"""Accepted events after which the stream is told to forget them."""


class BrokerDoor:
    """Reads this device's events into the engine, in the order they were stored."""

    def __init__(self, engine: Engine, link: Link, jetstream: JetStream) -> None:
        self._engine = engine
        self._link = link
        self._jetstream = jetstream
        self._device = engine.config.device
        self._rung = asyncio.Event()
        self._read = engine.outbox.cursor() or Cursor("", 0)
        self._born: str | None = None
        self._generation = engine.generation
        self._reclaimed = self._read.sequence

    async def start(self) -> None:
        """Listen for bells; before the link starts."""
        await self._link.subscribe(subjects.bells_of(self._device), self._on_bell)
        self._link.listen(self._on_link)

    def _on_bell(self, message: Incoming) -> None:
        if int(message.headers.get("Nats-Sequence", "0")) > self._read.sequence:
            self._rung.set()

    def _on_link(self, state: LinkState) -> None:
        self._born = None  # another server may hold another stream
        if state is LinkState.UP:
            self._rung.set()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                async with asyncio.timeout(SAFETY_POLL_SECONDS):
                    await self._rung.wait()
            except TimeoutError:
                pass
            self._rung.clear()
            if self._link.state is LinkState.UP:
                try:
                    await self._drain()
                except LinkError as error:
                    log.warning("events_not_read", extra={"detail": str(error)})
                    if self._link.state is LinkState.UP:
                        asyncio.get_running_loop().call_later(1.0, self._rung.set)

    async def _drain(self) -> None:
        if self._born is None:
            await self._meet_stream()
        while True:
            await self._engine.room.wait()
            self._rewind_if_told()
            messages = await self._jetstream.read(
                EVENTS,
                {
                    "next_by_subj": subjects.events_of(self._device),
                    "seq": self._read.sequence + 1,
                    "batch": READ_BATCH,
                    "max_bytes": READ_MAX_BYTES,
                },
            )
            for message in messages:
                await self._take(message)
            await self._reclaim()
            if not messages:
                return

    async def _meet_stream(self) -> None:
        """A stream of another birth starts again at its first event."""
        info = await self._jetstream.api(f"STREAM.INFO.{EVENTS}")
        born = str(info["created"])
        if born != self._read.created:
            self._read = Cursor(born, 0)
            self._reclaimed = 0
        self._born = born

    def _rewind_if_told(self) -> None:
        if self._generation != self._engine.generation:
            self._generation = self._engine.generation
            self._read = self._engine.outbox.cursor() or Cursor(self._read.created, 0)

    async def _take(self, message: Incoming) -> None:
        sequence = int(message.headers["Nats-Sequence"])
        received = now()
        self._read = Cursor(self._read.created, sequence)
        try:
            arrival = self._arrival(message, received)
        except RejectedError as error:
            self._engine.metrics.refused[error.code] += 1
            reply, source = message.headers.get("ce-reply"), message.headers.get("ce-id")
            self._tell(reply, door.refusal(error, source, message.headers.get("ce-traceid")))
            return
        await self._engine.put(arrival)

    def _arrival(self, message: Incoming, received: Now) -> Arrival:
        pipeline, device = subjects.parse_event(message.headers["Nats-Subject"])
        event = Event.from_headers(message.headers, message.data, pipeline=pipeline, device=device)
        observation = door.check(event, self._engine.students)
        submission = Submission(event, over_nats=True, received=received)
        answered = partial(self._answered, event)
        return Arrival(submission, observation, answered, self._read, self._generation)

    def _answered(self, event: Event, outcome: Result | SetsudenError, repeated: bool) -> None:
        # What is accepted now is told by the core; refusals and repetitions are told here.
        if isinstance(outcome, SetsudenError):
            self._tell(event.reply, door.refusal(outcome, event.id, event.trace_id))
        elif repeated:
            self._tell(event.reply, state(outcome).text.encode())

    def _tell(self, reply: str | None, body: bytes) -> None:
        if reply is not None:
            self._engine.send(Tell(reply, body))

    async def _reclaim(self) -> None:
        """Free the stream's space of what the outbox holds durably."""
        cursor = self._engine.outbox.cursor()
        if cursor is None or cursor.created != self._born:
            return
        if cursor.sequence - self._reclaimed < RECLAIM_EVERY:
            return
        body: dict[str, object] = {
            "filter": subjects.events_of(self._device),
            "seq": cursor.sequence + 1,
        }
        await self._jetstream.api(f"STREAM.PURGE.{EVENTS}", body)
        self._reclaimed = cursor.sequence
