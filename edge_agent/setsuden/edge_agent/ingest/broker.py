"""Events from the broker, without a consumer for each device.

The stream rings every stored event at its device's bell (``bell.<device>.<pipeline>``), with its
sequence and that of the one before it on the same subject. What follows on without a gap is taken
as it is rung; after a gap, a reconnection or a pause the agent reads on from its own cursor by
direct get. The cursor moves in the transaction that accepts the events, so an event is accepted
once, whatever dies when.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial

from setsuden.edge_agent.core import Now, Submission, state
from setsuden.edge_agent.engine import Arrival, Engine, Tell, now
from setsuden.edge_agent.outbox import Place
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
MAX_RUNG = 1024
"""Rung events waiting to be taken; past it they are read from the stream instead."""


class BrokerDoor:
    """Takes this device's events into the engine, each subject in the order it was stored."""

    def __init__(self, engine: Engine, link: Link, jetstream: JetStream) -> None:
        self._engine = engine
        self._link = link
        self._jetstream = jetstream
        self._device = engine.config.device
        self._rung: deque[Incoming] = deque()
        self._something = asyncio.Event()
        self._caught_up = False
        self._generation = engine.generation
        self._born = engine.cursor.created
        self._met = False
        self._read = dict(engine.cursor.positions)
        self._reclaimed = dict(self._read)
        self._behind: set[str] = set()
        """Pipelines whose lanes were full: they are read on when there is room."""

    async def start(self) -> None:
        """Listen for bells; before the link starts."""
        await self._link.subscribe(subjects.bells_of(self._device), self._on_bell)
        self._link.listen(self._on_link)
        self._engine.on_blocked = self._something.set

    def _on_bell(self, message: Incoming) -> None:
        if self._caught_up and len(self._rung) < MAX_RUNG:
            self._rung.append(message)
        else:
            self._caught_up = False
        self._something.set()

    def _on_link(self, state: LinkState) -> None:
        self._caught_up = self._met = False  # another server may hold another stream
        if state is LinkState.UP:
            self._something.set()

    async def run(self) -> None:
        """Take events until cancelled."""
        while True:
            try:
                async with asyncio.timeout(SAFETY_POLL_SECONDS):
                    await self._something.wait()
            except TimeoutError:
                self._caught_up = False
            self._something.clear()
            if self._link.state is LinkState.UP:
                try:
                    await self._advance()
                except LinkError as error:
                    self._caught_up = False
                    log.warning("events_not_read", extra={"detail": str(error)})
                    if self._link.state is LinkState.UP:
                        asyncio.get_running_loop().call_later(1.0, self._something.set)

    async def _advance(self) -> None:
        await self._engine.room.wait()
        if self._generation != self._engine.generation:
            self._generation = self._engine.generation
            self._read = dict(self._engine.cursor.positions)
            self._caught_up = self._met = False  # a pipeline without a position is read from 1
        while self._caught_up and self._rung:
            message = self._rung.popleft()
            if _pipeline(message) not in self._behind and self._follows(message):
                await self._take(message)
        if not self._caught_up:
            await self._catch_up()
        for pipeline in sorted(filter(self._engine.intake.takes, self._behind)):
            await self._read_on(pipeline)
        if self._generation != self._engine.generation:
            self._something.set()
        await self._reclaim()

    def _follows(self, message: Incoming) -> bool:
        """True when nothing lies between what was read of this subject and this message."""
        read = self._read.get(_pipeline(message), 0)
        if int(message.headers["Nats-Sequence"]) <= read:
            return False
        self._caught_up = int(message.headers["Nats-Last-Sequence"]) <= read
        return self._caught_up

    async def _catch_up(self) -> None:
        """Read every subject of this device from the cursor on, until there is no more."""
        self._rung.clear()
        # Bells that ring from here on are of events that the reads below may miss.
        self._caught_up = True
        if not self._met:
            await self._meet_stream()
        for pipeline in sorted(self._read):
            await self._read_on(pipeline)

    async def _read_on(self, pipeline: str) -> None:
        """Read one subject to its end, or until its pipeline's lane is full."""
        self._behind.discard(pipeline)
        while self._generation == self._engine.generation and pipeline not in self._behind:
            request: dict[str, object] = {
                "next_by_subj": subjects.event(pipeline, self._device),
                "seq": self._read.get(pipeline, 0) + 1,
                "batch": READ_BATCH,
                "max_bytes": READ_MAX_BYTES,
            }
            messages = await self._jetstream.read(EVENTS, request)
            for message in messages:
                if pipeline not in self._behind:
                    await self._take(message)
            if not messages:
                return

    async def _meet_stream(self) -> None:
        """Learn which subjects hold events; a stream of another birth starts at its beginning."""
        mine: dict[str, object] = {"subjects_filter": subjects.events_of(self._device)}
        info = await self._jetstream.api(f"STREAM.INFO.{EVENTS}", mine)
        born = str(info["created"])
        if born != self._born:
            self._born, self._read, self._reclaimed = born, {}, {}
        held = info["state"].get("subjects") or {}
        for pipeline in [*self._engine.students, *(subject.split(".")[1] for subject in held)]:
            self._read.setdefault(pipeline, 0)
        self._met = True

    async def _take(self, message: Incoming) -> None:
        if not self._engine.intake.takes(_pipeline(message)):
            self._behind.add(_pipeline(message))
            return
        received = now()
        place = Place(self._born, _pipeline(message), int(message.headers["Nats-Sequence"]))
        self._read[place.pipeline] = place.sequence
        try:
            subjects.parse_event(message.headers["Nats-Subject"])
            arrival = self._arrival(message, received, place)
        except RejectedError as error:
            self._engine.metrics.refused[error.code] += 1
            reply, source = message.headers.get("ce-reply"), message.headers.get("ce-id")
            self._tell(reply, door.refusal(error, source, message.headers.get("ce-traceid")))
            return
        await self._engine.put(arrival)

    def _arrival(self, message: Incoming, received: Now, place: Place) -> Arrival:
        event = Event.from_headers(
            message.headers, message.data, pipeline=place.pipeline, device=self._device
        )
        observation = door.check(event, self._engine.students)
        submission = Submission(event, over_nats=True, received=received)
        answered = partial(self._answered, event)
        return Arrival(submission, observation, answered, place, self._generation)

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
        behind = self._read.items() - self._reclaimed.items()
        if all(read - self._reclaimed.get(name, 0) < RECLAIM_EVERY for name, read in behind):
            return
        durable = self._engine.outbox.cursor()
        if durable is None or durable.created != self._born:
            return
        for pipeline, sequence in durable.positions.items():
            body: dict[str, object] = {
                "filter": subjects.event(pipeline, self._device),
                "seq": sequence + 1,
            }
            await self._jetstream.api(f"STREAM.PURGE.{EVENTS}", body)
            self._reclaimed[pipeline] = sequence


def _pipeline(message: Incoming) -> str:
    return message.headers["Nats-Subject"].split(".")[1]
