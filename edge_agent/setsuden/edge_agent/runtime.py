"""An event's way through the agent: judged, decided, committed, answered; then it may be sent.

What a quick student can judge goes through in batches of whatever has arrived. A student that
takes its time, or runs in a process of its own, has a lane: its events wait for it, and nobody
else's do.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from setsuden.pipelines.pipeline import JudgedBatch, Pipeline
from setsuden.schemas.decision import Reason
from setsuden.schemas.errors import OutboxFullError, SetsudenError, UnavailableError
from setsuden.schemas.result import Result
from setsuden.telemetry import SpanClock

from .arrival import Accepted, Arrival, Deferred, JudgedArrival, Outcome
from .config import AgentConfig
from .core import Cursor, Effects, Now, Positions, Repeats
from .durable import DurableCore, now
from .lane import MAX_WAITING, Lane
from .metrics import Metrics
from .outbox import Known, OutboxBrokenError, OutboxUnwritableError
from .tracer import EventTracer
from .verdicts import verdict

MAX_UNCOMMITTED_BATCHES = 2
"""One is judged while the other is written."""
DISK_RETRY_SECONDS = 2.0
"""Pause before stored events are read again that a full disk did not take."""

READ_AGAIN = "an event before it was deferred: it is read again"


class DecidedBatch(NamedTuple):
    """A batch that the core has decided, on its way to the disk."""

    effects: Effects
    accepted: list[tuple[Arrival, Result]]
    cursor: Cursor | None
    durable: Awaitable[None]


class Runtime:
    """Takes arrivals until cancelled. Whoever brought one is told its outcome, once."""

    def __init__(
        self,
        config: AgentConfig,
        students: Mapping[str, Pipeline],
        durable: DurableCore,
        *,
        metrics: Metrics,
        tracer: EventTracer,
        clock: SpanClock,
        disk_retry_seconds: float = DISK_RETRY_SECONDS,
    ) -> None:
        self.config, self.students, self.durable = config, students, durable
        self.metrics = metrics
        self.positions = Positions(durable.outbox.cursor())
        """How far stored events were taken; durable with the events themselves."""
        self._core, self._tracer, self._clock = durable.core, tracer, clock
        self._queue: asyncio.Queue[Arrival] = asyncio.Queue(config.intake.queue_max_events)
        self._turn = asyncio.Lock()
        self._repeats: Repeats[Arrival] = Repeats()
        self._lanes: dict[str, Lane] = {}
        self._uncommitted = asyncio.Semaphore(MAX_UNCOMMITTED_BATCHES)
        """Batches of the lanes, whose students go on while they are written."""
        self._tasks: asyncio.TaskGroup | None = None
        self._moving = 0
        """Decisions under way that move the cursor."""
        self._cursor_settled = asyncio.Event()
        self._cursor_settled.set()
        self._full_at: int | None = None
        """Bytes waiting for the cloud when an event was deferred because there was no room."""
        self._disk_retry_seconds, self._disk_retry_at = disk_retry_seconds, 0.0

    # -- for the ingress ----------------------------------------------------------------------

    def put(self, arrival: Arrival) -> Awaitable[None]:
        """Hand over one arrival; waits while the queue is full."""
        return self._queue.put(arrival)

    def takes(self, pipeline: str) -> bool:
        """False while a pipeline's lane is full: its stored events should stay where they are."""
        lane = self._lanes.get(pipeline)
        return lane is None or lane.room.is_set()

    async def room(self, pipeline: str) -> None:
        """Wait until :meth:`takes` is true."""
        lane = self._lanes.get(pipeline)
        if lane is not None:
            await lane.room.wait()

    async def resume(self) -> Cursor:
        """Wait until deferred events can be taken; where to read on from.

        First what was read before is durable or refused: the next reading begins at its end.
        """
        await self._cursor_settled.wait()
        await asyncio.sleep(max(0.0, self._disk_retry_at - asyncio.get_running_loop().time()))
        if self._full_at is not None:
            await self.durable.until_below(self._full_at)
            self._full_at = None
        return self.positions.resume()

    # -- a batch ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take batch after batch until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            for _ in range(MAX_UNCOMMITTED_BATCHES):
                self._tasks.create_task(self._take_batches())

    async def _take_batches(self) -> None:
        """Judge, decide, commit, answer, send. While one batch commits, another is judged."""
        while True:
            async with self._turn:  # batches are decided in the order in which they came
                batch = await self._next_batch()
                fresh = self._without_repeats(batch)
                judged, stops = self._judge_now(fresh)
                decision = self._decide(batch, judged, stops)
            await self._complete(decision)

    async def _next_batch(self) -> list[Arrival]:
        """Whatever has arrived and can be judged at once; the rest goes into the lanes."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self.config.intake.batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            quick = self._without_stale(self._without_slow(batch))
            if quick:
                return quick

    def _decide(
        self, batch: Sequence[Arrival], judged: Sequence[JudgedArrival], stops: dict[str, int]
    ) -> DecidedBatch:
        """Let the core admit what was judged, and queue it for the disk; nothing waits here.

        The cursor moves past the batch, short of ``stops``: places of events that are decided
        later, or are deferred here.
        """
        out, at, accepted = Effects(), now(), list[tuple[Arrival, Result]]()
        reading = self.positions.reading
        for one in judged:
            arrival = one.arrival
            if self._is_stale(arrival):
                self._defer(arrival, UnavailableError(READ_AGAIN))
            elif one.run is None:
                self._keep(arrival, out, accepted)
            else:
                self._admit(at, one, one.run, out, accepted)
            if arrival.place is not None and arrival.reading != self.positions.reading:
                stops.setdefault(arrival.pipeline, arrival.place.sequence)
        places = [a.place for a in batch if a.place is not None and a.reading == reading]
        cursor = self.positions.move(places, stops)
        if cursor is not None:
            self._moving += 1
            self._cursor_settled.clear()
        return DecidedBatch(out, accepted, cursor, self.durable.commit(out, cursor, reading))

    async def _complete(self, decision: DecidedBatch) -> None:
        """Once the batch is durable: answer who waits, and let the rest be sent."""
        try:
            await decision.durable
        except OutboxUnwritableError as error:
            self._take_back(decision, error)
            return
        except OutboxBrokenError:
            return  # what is not on disk must not be answered for; the process ends
        finally:
            self._settle_cursor(decision)
        for arrival, result in decision.accepted:
            if arrival.settled is None:
                self.metrics.accepted[result.pipeline] += 1
                self.metrics.escalated += result.decision is not None and result.decision.escalates
            outcome = Accepted(result, arrival.settled is not None)
            arrival.answered(outcome)
            self._settle_repeats(arrival, outcome)
        self.durable.release(decision.effects)

    def _settle_cursor(self, decision: DecidedBatch) -> None:
        if decision.cursor is not None:
            self._moving -= 1
            if not self._moving:
                self._cursor_settled.set()

    # -- repeats ------------------------------------------------------------------------------

    def _without_repeats(self, batch: Sequence[Arrival]) -> list[Arrival]:
        """Those that were never sent before; the others are told what is known already."""
        keys = [arrival.key for arrival in batch]
        fresh, repeats = self._repeats.sort(batch, keys, self.durable.outbox.known(keys))
        for arrival, known in repeats:
            if isinstance(known, Known):
                self._repeat(arrival, known.result)
            else:
                self._refuse(arrival, known)
        return fresh

    def _settle_repeats(self, arrival: Arrival, outcome: Outcome) -> None:
        """Answer those who sent the same key while the first was being decided."""
        for repeat in self._repeats.settle(arrival, arrival.key):
            if isinstance(outcome, Accepted):
                self._repeat(repeat, outcome.result)
            elif isinstance(outcome, SetsudenError):
                self._refuse(repeat, outcome)
            elif repeat.place is None:
                self._refuse(repeat, outcome.reason)
            else:
                repeat.answered(outcome)

    def _repeat(self, arrival: Arrival, result: Result) -> None:
        self.metrics.repeated += 1
        reply = arrival.submission.event.reply
        if reply is not None:
            self.durable.apply(self._core.rebind(result.event_id, reply))
        arrival.answered(Accepted(result, repeated=True))

    # -- judging at once ----------------------------------------------------------------------

    def _without_slow(self, batch: list[Arrival]) -> list[Arrival]:
        """Those that are judged at once; the others go into their pipelines' lanes."""
        counts = Counter(arrival.pipeline for arrival in batch)
        slow = {name for name, count in counts.items() if not self._is_quick(name, count)}
        if not slow:
            return batch
        for arrival in batch:
            if arrival.pipeline in slow:
                self._into_lane(arrival)
        return [arrival for arrival in batch if arrival.pipeline not in slow]

    def _is_quick(self, pipeline: str, count: int) -> bool:
        lane, student = self._lanes.get(pipeline), self.students.get(pipeline)
        if student is None:  # an event for an unknown pipeline is kept as dead, not judged
            return True
        return (lane is None or not lane.busy) and student.quick(count)

    def _is_stale(self, arrival: Arrival) -> bool:
        return self.positions.is_stale(arrival.place, arrival.reading)

    def _without_stale(self, batch: list[Arrival]) -> list[Arrival]:
        """Without stored events of a reading that is over."""
        if not any(self._is_stale(each) for each in batch):
            return batch
        current = []
        for arrival in batch:
            if self._is_stale(arrival):
                arrival.answered(Deferred(UnavailableError(READ_AGAIN)))
            else:
                current.append(arrival)
        return current

    def _judge_now(self, fresh: Sequence[Arrival]) -> tuple[list[JudgedArrival], dict[str, int]]:
        """What is judged; and by pipeline the place of the first event whose student is too slow.

        Those go into the lane from there on: their order is the broker's.
        """
        groups: dict[str, list[Arrival]] = defaultdict(list)
        for arrival in fresh:
            if arrival.settled is None:
                groups[arrival.pipeline].append(arrival)
        stops: dict[str, int] = {}
        judged: dict[str, Iterator[JudgedArrival]] = {}
        for pipeline, arrivals in groups.items():
            student, ready = self.students[pipeline], list[JudgedArrival]()
            for start in range(0, len(arrivals), student.max_batch):
                part = arrivals[start : start + student.max_batch]
                run = student.judge_now(_observations(part))
                if run is None:
                    self._postpone(arrivals[start:], stops)
                    break
                ready += self._placed(run, part)
            judged[pipeline] = iter(ready)
        return _in_order(fresh, judged), stops

    def _placed(self, run: JudgedBatch, part: Sequence[Arrival]) -> list[JudgedArrival]:
        if run.energy is not None:
            self.metrics.student_cpu_seconds += run.energy.cpu_seconds * len(part)
        return [JudgedArrival(arrival, run, place) for place, arrival in enumerate(part)]

    def _postpone(self, arrivals: Sequence[Arrival], stops: dict[str, int]) -> None:
        """Judged now they would hold up others; with them those that wait for the same key."""
        for arrival in arrivals:
            if arrival.place is not None:
                stops.setdefault(arrival.pipeline, arrival.place.sequence)
            for each in (arrival, *self._repeats.settle(arrival, arrival.key)):
                self._into_lane(each)

    # -- judging in a lane --------------------------------------------------------------------

    def _into_lane(self, arrival: Arrival) -> None:
        lane = self._lanes.get(arrival.pipeline)
        student = self.students[arrival.pipeline]
        if lane is None:
            lane = self._lanes[arrival.pipeline] = Lane(self._lane_room())
            self._start(self._serve(arrival.pipeline, lane))
        if arrival.place is None and lane.full:
            self._start(self._go_without(arrival))
            return
        lane.put(arrival)
        if arrival.place is None:
            loop = asyncio.get_running_loop()
            loop.call_later(student.patience_seconds, self._on_overdue, lane, arrival)

    def _lane_room(self) -> int:
        """No lane may hold all the requests that the HTTP server answers at once."""
        share = self.config.http.max_waiting // (len(self.students) + 1)
        return max(1, min(MAX_WAITING, share))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        assert self._tasks is not None  # noqa: S101  # arrivals are taken inside run() alone
        self._tasks.create_task(work)

    async def _serve(self, pipeline: str, lane: Lane) -> None:
        """Judge one pipeline's arrivals, batch after batch, until cancelled."""
        while True:
            await lane.arrived()
            student = self.students[pipeline]  # the one in force, for this whole batch
            batch = await lane.take(min(student.max_batch, self.config.intake.batch))
            batch = self._without_stale(batch)
            lane.judging = fresh = self._without_repeats(batch)
            unsettled, placed = [each for each in fresh if each.settled is None], []
            if unsettled:
                run = await student.judge(_observations(unsettled))
                placed = self._placed(run, unsettled)
            await self._uncommitted.acquire()
            left = lane.done()
            judged = _in_order(fresh, {pipeline: iter(placed)})
            if not left:  # all of it was given back meanwhile, or there was nothing to judge
                batch, judged = batch if not fresh else [], []
            current = [one for one in judged if not self._is_stale(one.arrival)]
            self._start(self._complete_lane(self._decide(batch, current, {})))

    async def _complete_lane(self, decision: DecidedBatch) -> None:
        try:
            await self._complete(decision)
        finally:
            self._uncommitted.release()

    def _on_overdue(self, lane: Lane, arrival: Arrival) -> None:
        """It has waited for as long as a run may take, and somebody waits for its answer."""
        if lane.withdraw(arrival):
            self._start(self._go_without(arrival))

    async def _go_without(self, arrival: Arrival) -> None:
        """Escalate without asking the student, which has enough to do."""
        run = self.students[arrival.pipeline].unjudged(Reason.STUDENT_BUSY, 1)
        fresh = self._without_repeats([arrival])
        judged = [JudgedArrival(each, run) for each in fresh]
        await self._complete(self._decide([arrival], judged, {}))

    # -- one event ----------------------------------------------------------------------------

    def _keep(self, arrival: Arrival, out: Effects, accepted: list[tuple[Arrival, Result]]) -> None:
        """Keep an event whose outcome is known before anybody judged it."""
        submission, settled = arrival.submission, arrival.settled
        if isinstance(settled, Result):
            self._core.adopt(submission, settled, out)
            accepted.append((arrival, settled))
        elif settled is not None and submission.event_id is not None:
            dead = self._core.bury(now(), submission.event, submission.event_id, settled, out)
            accepted.append((arrival, dead))

    def _admit(
        self,
        at: Now,
        judged: JudgedArrival,
        run: JudgedBatch,
        out: Effects,
        accepted: list[tuple[Arrival, Result]],
    ) -> None:
        """Admit one event; without room it is refused, or deferred where it is stored."""
        arrival, submission = judged.arrival, judged.arrival.submission
        student = self.students[arrival.pipeline]
        said = verdict(submission, student, run, judged.place, self._clock.at)
        self.metrics.decisions[arrival.pipeline, said.judged.decision.reason] += 1
        try:
            result = self._core.admit(at, submission, said, out)
        except OutboxFullError as error:
            never_fits = len(submission.event.data) > error.quota_bytes
            if arrival.place is None or never_fits:
                self._refuse(arrival, error)
                self._settle_repeats(arrival, error)
                return
            # Stored events are safe: they wait, in order, until there is room.
            self.positions.defer()
            self._full_at = self._core.pending_bytes
            self._defer_lanes()
            self._defer(arrival, error)
            return
        accepted.append((arrival, result))
        if run.metered is not None:
            self._tracer.accepted(result.event_id, run.metered)

    def _defer_lanes(self) -> None:
        """Stored events in the lanes are read again: nobody with their key waits for these."""
        for lane in self._lanes.values():
            for arrival in lane.remove(self._is_stale):
                self._defer(arrival, UnavailableError(READ_AGAIN))

    def _defer(self, arrival: Arrival, reason: SetsudenError) -> None:
        outcome = Deferred(reason)
        arrival.answered(outcome)
        self._settle_repeats(arrival, outcome)

    def _refuse(self, arrival: Arrival, error: SetsudenError) -> None:
        """Nothing has changed."""
        self.metrics.refused[error.code] += 1
        arrival.answered(error)

    def _take_back(self, decision: DecidedBatch, error: OutboxUnwritableError) -> None:
        """Nothing of the batch is on disk: refuse it, or let it wait where it is stored."""
        rest = self._core.withdraw(now(), decision.effects)
        self.positions.go_back(self.durable.outbox.cursor())
        self._disk_retry_at = asyncio.get_running_loop().time() + self._disk_retry_seconds
        self._defer_lanes()
        for arrival, result in decision.accepted:
            self._tracer.withdrawn(result.event_id)
            if arrival.place is not None:
                self._defer(arrival, error)
                continue
            self._settle_repeats(arrival, Deferred(error))
            if result.is_final and self.config.outbox.answer_when_full:
                self.metrics.undurable += 1
                undurable = result.model_copy(update={"durable": False})
                arrival.answered(Accepted(undurable, repeated=False))
            else:
                self._refuse(arrival, error)
        self.durable.release(rest)

    # -- stopping -----------------------------------------------------------------------------

    def refuse_queued(self) -> None:
        """Refuse what is not judged: the application may send it again.

        Stored events are deferred: the next start reads them again.
        """
        self.refuse_lanes()
        while not self._queue.empty():
            self._give_back(self._queue.get_nowait())

    def refuse_lanes(self) -> None:
        """As :meth:`refuse_queued`, of what waits for students that take their time."""
        for lane in self._lanes.values():
            for arrival in lane.drain():
                self._give_back(arrival)

    def _give_back(self, arrival: Arrival) -> None:
        error = UnavailableError("the agent is stopping")
        if arrival.place is None:
            self._refuse(arrival, error)
            self._settle_repeats(arrival, error)
        else:
            self._defer(arrival, error)


def _in_order(
    fresh: Sequence[Arrival], judged: Mapping[str, Iterator[JudgedArrival]]
) -> list[JudgedArrival]:
    """What is judged, by pipeline, and what needs no judging, in the order of arrival."""
    ordered = []
    for arrival in fresh:
        if arrival.settled is not None:
            ordered.append(JudgedArrival(arrival, None))
        elif (one := next(judged[arrival.pipeline], None)) is not None:
            ordered.append(one)
    return ordered


def _observations(arrivals: Sequence[Arrival]) -> list[NDArray[Any]]:
    return [each.observation for each in arrivals if each.observation is not None]
