"""Events from the broker, without a consumer for each device.

The stream sends every stored event on to its device (``notify.<device>.<pipeline>``), with its
sequence and that of the one before it on the same subject. What follows on without a gap is taken
as it comes; after a gap, a reconnection or a pause the agent reads on from its own cursor. The
cursor moves in the transaction that accepts the events, so an event is accepted once, whatever
dies when. Its id follows from its place in the stream: read again by an agent whose state folder
was lost or restored it has the same id, and the results stream is asked before it is judged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import NamedTuple

from setsuden.edge_agent.arrival import Accepted, Deferred, Outcome
from setsuden.edge_agent.core import StreamPlace, encode
from setsuden.edge_agent.record_checks import readable
from setsuden.link import Incoming, JetStream, Link, LinkState
from setsuden.link.jetstream import SEQUENCE, STORED_AT, SUBJECT
from setsuden.link.tasks import Backoff, wait
from setsuden.schemas import subjects
from setsuden.schemas.errors import (
    LinkError,
    PayloadTooLargeError,
    RejectedError,
)
from setsuden.schemas.event import Event
from setsuden.schemas.log import get_logger
from setsuden.schemas.result import Problem, Result
from setsuden.schemas.stream_service import OVERSIZED_HEADER
from setsuden.schemas.streams import EVENTS, RESULTS
from setsuden.schemas.subjects import Place

from . import validation
from .seam import Ingress, Position
from .source import EventSource

log = get_logger(__name__)
SAFETY_POLL_SECONDS = 30.0
"""A notification can be lost with the link; the cursor cannot."""
RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 30.0
"""Pauses between attempts to read a stream that cannot be read double up to it."""
RELEASE_EVERY = 1000
"""Accepted events after which the stream is told that they may go."""
MAX_WAITING = 1024
"""Notifications waiting to be taken; past it events are read from the stream instead."""


class _Stored(NamedTuple):
    """A stored event, as the server's own stamps describe it."""

    pipeline: str
    sequence: int
    previous: int
    """The sequence before it on the same subject; of a notification only."""
    stored_at: datetime
    """By the broker's clock."""
    message: Incoming


class NatsIngress:
    """Brings this device's events in, each subject in the order it was stored."""

    def __init__(
        self, ingress: Ingress, link: Link, jetstream: JetStream, source: EventSource
    ) -> None:
        self._ingress = ingress
        self._link = link
        self._jetstream = jetstream
        self._device = ingress.device
        self._source = source
        self._notified: deque[_Stored] = deque()
        self._something = asyncio.Event()
        self._caught_up = False
        self._created = ingress.cursor.created
        self._met = False
        self._read = dict(ingress.cursor.positions)
        self._newest: dict[str, datetime] = {}
        """When the last event read of each pipeline was stored."""
        self._released = dict(self._read)
        self._behind: set[str] = set()
        """Pipelines that had no room: they are read on when there is some."""
        self._tasks: asyncio.TaskGroup | None = None
        self._earlier: int | None = None
        """Events up to this sequence may have been accepted by an earlier start of this device;
        None until the stream was first met."""
        self._pauses = Backoff(RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        self.problem: str | None = None
        """Why events cannot be read now."""

    async def start(self) -> None:
        """Listen for notifications; before the link starts."""
        await self._link.subscribe(subjects.notifications_of(self._device), self._on_notification)
        self._link.listen(self._on_link)

    def _on_notification(self, message: Incoming) -> None:
        stored = _stored(message, self._device)
        if stored is None:
            self._ingress.metrics.refused["notification_invalid"] += 1
            return
        if self._caught_up and len(self._notified) < MAX_WAITING:
            self._notified.append(stored)
        else:
            self._caught_up = False
        self._something.set()

    def _on_link(self, state: LinkState) -> None:
        self._caught_up = self._met = False  # another server may hold another stream
        if state is LinkState.UP:
            self._something.set()

    async def run(self) -> None:
        """Take events until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            await self._take_events()

    async def _take_events(self) -> None:
        while True:
            if not await wait(self._something, SAFETY_POLL_SECONDS):
                self._caught_up = self._met = False
            self._something.clear()
            if self._link.state is LinkState.UP:
                await self._try_to_advance()

    async def _try_to_advance(self) -> None:
        try:
            await self._advance()
        except LinkError as error:
            self._caught_up = False
            if self.problem != str(error):  # said once, not at each try
                log.warning("events_not_read", detail=str(error))
            self.problem = str(error)
            if self._link.state is LinkState.UP:
                pause = self._pauses.next()
                asyncio.get_running_loop().call_later(pause, self._something.set)
        else:
            self.problem = None
            self._pauses.reset()

    async def _advance(self) -> None:
        if self._ingress.deferring:
            self._read = dict((await self._ingress.resume()).positions)
            self._newest.clear()  # what was read past the cursor was deferred, and is read again
            self._caught_up = self._met = False  # a pipeline without a position is read from 1
        while self._caught_up and self._notified:
            stored = self._notified.popleft()
            if stored.pipeline not in self._behind and self._follows(stored):
                await self._take(stored, None)
        if not self._caught_up:
            await self._catch_up()
        for pipeline in sorted(filter(self._ingress.takes, self._behind)):
            await self._read_on(pipeline)
        if self._ingress.deferring:
            self._something.set()
        await self._release()

    def _follows(self, stored: _Stored) -> bool:
        """True when nothing lies between what was read of this subject and this message.

        A later event with an earlier place, or one that does not know of those before it, may be
        of a stream made anew while the link was up: the stream is met again. (Freed space looks
        like the latter, once for each time it is freed.)
        """
        read = self._read.get(stored.pipeline, 0)
        newest = self._newest.get(stored.pipeline, stored.stored_at)
        if stored.sequence <= read and stored.stored_at <= newest:
            return False
        if stored.sequence <= read or stored.previous < read:
            self._met = False
        self._caught_up = stored.previous == read and stored.sequence > read
        return self._caught_up

    async def _catch_up(self) -> None:
        """Read every subject of this device from the cursor on, until there is no more."""
        self._notified.clear()
        # Notifications from here on are of events that the reads below may miss.
        self._caught_up = True
        if not self._met:
            await self._meet_stream()
        for pipeline in sorted(self._read):
            await self._read_on(pipeline)

    async def _read_on(self, pipeline: str) -> None:
        """Read one subject to its end, or until the agent has no room."""
        self._behind.discard(pipeline)
        while not self._ingress.deferring:
            before = self._read.setdefault(pipeline, 0)
            messages = await self._source.read(pipeline, before + 1)
            stored = [one for m in messages if (one := _stored(m, self._device)) is not None]
            known = await self._known_results([one for one in stored if self._may_be_known(one)])
            for one in stored:
                await self._take(one, known.get(self._event_id(one)))
            if self._read[pipeline] == before or pipeline in self._behind:
                return

    async def _meet_stream(self) -> None:
        """Learn which subjects hold events; a stream made anew starts at its beginning."""
        info = await self._source.info()
        if info.created != self._created:
            if self._created:
                log.warning(
                    "events_stream_is_new",
                    detail="events that nobody had read from the one before are lost",
                )
                self._ingress.metrics.streams_replaced += 1
            # What it stored before it was met has been accepted, and is not accepted again.
            born = _moment(info.created)
            ours = {name for name, at in self._newest.items() if born is None or at >= born}
            self._read = {name: self._read[name] for name in ours}
            self._created, self._released = info.created, {}
            self._earlier = 0 if self._earlier is not None else None
        if self._earlier is None:
            self._earlier = info.last_seq
        for pipeline in [*self._ingress.students, *info.pipelines]:
            self._read.setdefault(pipeline, 0)
        self._met = True

    # -- events accepted by an earlier start ----------------------------------------------------

    def _may_be_known(self, stored: _Stored) -> bool:
        return self._earlier is not None and stored.sequence <= self._earlier

    def _event_id(self, stored: _Stored) -> str:
        epoch = subjects.stream_epoch(self._created)
        return subjects.event_id(self._device, epoch, stored.sequence)

    async def _known_results(self, suspects: list[_Stored]) -> Mapping[str, Result]:
        """Final results that these events have already, here or in the results stream."""
        names = [self._event_id(stored) for stored in suspects]
        known = dict(self._ingress.accepted(names))
        region = self._ingress.region
        places = {
            Place(region, stored.pipeline, self._device, name).result: name
            for stored, name in zip(suspects, names, strict=True)
            if name not in known
        }
        stored_records = await self._jetstream.last_of(RESULTS, list(places)) if places else {}
        for subject, message in stored_records.items():
            result = readable(message)
            if result is not None and result.is_final and result.event_id == places[subject]:
                known[result.event_id] = result
        return known

    # -- one event ------------------------------------------------------------------------------

    async def _take(self, stored: _Stored, known: Result | None) -> None:
        if stored.sequence <= self._read.get(stored.pipeline, 0):
            return  # an answer that came twice
        if stored.pipeline in self._behind or not self._ingress.takes(stored.pipeline):
            self._fall_behind(stored.pipeline)
            return
        self._read[stored.pipeline] = stored.sequence
        self._newest[stored.pipeline] = stored.stored_at
        try:
            await self._offer(stored, known)
        except RejectedError as error:
            await self._reject(stored, error)

    def _fall_behind(self, pipeline: str) -> None:
        if pipeline not in self._behind and self._tasks is not None:
            self._behind.add(pipeline)
            self._tasks.create_task(self._catch_up_later(pipeline))

    async def _catch_up_later(self, pipeline: str) -> None:
        await self._ingress.room(pipeline)
        self._something.set()

    async def _offer(self, stored: _Stored, known: Result | None) -> None:
        """Offer a stored event; raises RejectedError, and nothing was offered then."""
        message = stored.message
        try:
            if OVERSIZED_HEADER in message.headers:
                raise PayloadTooLargeError("the event is over the broker's own bound", field="body")
            event = Event.from_headers(
                message.headers, message.data, pipeline=stored.pipeline, device=self._device
            )
        except RejectedError as error:
            self._ingress.count_refusal(error)
            raise
        observation = None
        if known is None:
            event, observation = self._ingress.check(event)
        answered, position = partial(self._answered, event), self._position(stored)
        await self._ingress.offer(event, observation, answered, position=position, settled=known)

    async def _reject(self, stored: _Stored, error: RejectedError) -> None:
        """Tell whoever sent it; where nobody can be told, a dead letter keeps the reason."""
        headers = stored.message.headers
        reply, source_id = headers.get("ce-reply"), validation.source_id(headers)
        if reply is not None and subjects.is_reply_of(reply, self._device):
            trace_id = headers.get("ce-traceid")
            self._ingress.reply(reply, validation.refusal(error, source_id, trace_id))
            return
        position = self._position(stored)
        event = Event(
            id=source_id or "unreadable",
            source=f"unreadable/{position.event_id}",  # its own, so that no two are the same event
            pipeline=stored.pipeline,
            device=self._device,
            data=b"",
        )
        problem = Problem(code=error.code, message=error.message[:1024])
        answered = partial(self._answered, event)
        await self._ingress.offer(event, None, answered, position=position, settled=problem)

    def _position(self, stored: _Stored) -> Position:
        place = StreamPlace(self._created, stored.pipeline, stored.sequence)
        stored_ns = int(stored.stored_at.timestamp() * 1e9)
        return Position(place, self._event_id(stored), stored_ns)

    def _answered(self, event: Event, outcome: Outcome) -> None:
        # What is accepted now is told by the core; refusals and repetitions are told here.
        match outcome:
            case Accepted(result, repeated):
                if repeated and event.reply is not None:
                    self._ingress.reply(event.reply, encode(result).text.encode())
            case Deferred():
                self._something.set()
            case error if event.reply is not None:
                self._ingress.reply(
                    event.reply, validation.refusal(error, event.id, event.trace_id)
                )

    async def _release(self) -> None:
        """Free the stream's space of what the outbox holds durably."""
        behind = self._read.items() - self._released.items()
        if all(read - self._released.get(name, 0) < RELEASE_EVERY for name, read in behind):
            return
        durable = self._ingress.durable_cursor
        if durable is None or durable.created != self._created:
            return
        for pipeline, sequence in durable.positions.items():
            await self._source.release(pipeline, sequence)
            self._released[pipeline] = sequence


def _stored(message: Incoming, device: str) -> _Stored | None:
    """An event of this device by the server's stamps; None for anything else that came."""
    headers = message.headers
    try:
        pipeline, owner = subjects.parse_event(headers.get(SUBJECT, ""))
        sequence = int(headers[SEQUENCE])
        previous = int(headers.get("Nats-Last-Sequence", "0"))
    except (RejectedError, KeyError, ValueError):
        return None
    stored_at = _moment(headers.get(STORED_AT, ""))
    if stored_at is None:
        return None
    if owner != device or headers.get("Nats-Stream") != EVENTS or not 0 < sequence < 10**12:
        return None
    return _Stored(pipeline, sequence, previous, stored_at, message)


def _moment(text: str) -> datetime | None:
    """A time of the broker's, or None for what is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
