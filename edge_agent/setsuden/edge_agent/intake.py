"""Arrivals until they are judged: at once in the event loop, or in a lane of their pipeline.

A student that is quick is run on whatever has arrived. One that is not, or that runs in a process
of its own, has a lane: its events wait for it, and nobody else's do.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from setsuden.pipelines.pipeline import JudgedBatch
from setsuden.schemas.decision import Reason
from setsuden.schemas.errors import UnavailableError

from .arrival import Arrival, Runs
from .lane import MAX_WAITING, Lane

if TYPE_CHECKING:
    from .engine import Engine


class Intake:
    """Takes arrivals in batches and gives the engine each one with what its student says."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._options = engine.config.intake
        self._queue: asyncio.Queue[Arrival] = asyncio.Queue(self._options.queue_max_events)
        self._lanes: dict[str, Lane] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def put(self, arrival: Arrival) -> Awaitable[None]:
        """Hand over one arrival; waits while the queue is full."""
        return self._queue.put(arrival)

    def takes(self, pipeline: str) -> bool:
        """False while a pipeline's lane is full: its events are safe on the broker."""
        lane = self._lanes.get(pipeline)
        return lane is None or not lane.full

    def drain(self) -> list[Arrival]:
        """Everything that is not judged; nothing is left."""
        rest = self.drain_lanes()
        while not self._queue.empty():
            rest.append(self._queue.get_nowait())
        return rest

    def drain_lanes(self) -> list[Arrival]:
        """Everything that waits for a student that takes its time."""
        return [arrival for lane in self._lanes.values() for arrival in lane.drain()]

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Take arrivals until cancelled; lanes are served by tasks of this group."""
        self._tasks = tasks
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._options.batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            quick = self._quick_of(batch)
            if quick:
                await self._engine.batches.acquire()
                self._process([arrival for arrival in quick if self._engine.is_current(arrival)])

    # -- at once ------------------------------------------------------------------------------

    def _quick_of(self, batch: list[Arrival]) -> list[Arrival]:
        """Those that are judged at once; the others go into their pipelines' lanes."""
        counts = Counter(arrival.submission.event.pipeline for arrival in batch)
        slow = {name for name, count in counts.items() if not self._is_quick(name, count)}
        if not slow:
            return batch
        for arrival in batch:
            if arrival.pipeline in slow:
                self._into_lane(arrival)
        return [arrival for arrival in batch if arrival.pipeline not in slow]

    def _is_quick(self, pipeline: str, count: int) -> bool:
        lane, student = self._lanes.get(pipeline), self._engine.students.get(pipeline)
        if student is None:  # of a pipeline that is not ours: refused, not judged
            return True
        return (lane is None or not lane.busy) and student.quick(count)

    def _process(self, batch: list[Arrival]) -> None:
        fresh = self._engine.without_repeats(batch)
        runs, overrun = self._judge(fresh)
        if overrun:
            left = {id(arrival) for arrival in overrun}
            batch = [arrival for arrival in batch if id(arrival) not in left]
            fresh = [arrival for arrival in fresh if id(arrival) not in left]
            self._postpone(overrun)
        self._engine.decide(batch, fresh, runs)

    def _judge(self, batch: Sequence[Arrival]) -> tuple[Runs, list[Arrival]]:
        """(Run, position in it) of each arrival; and those whose student turned out to be slow."""
        groups: dict[str, list[Arrival]] = defaultdict(list)
        for arrival in batch:
            if arrival.settled is None:
                groups[arrival.submission.event.pipeline].append(arrival)
        runs: Runs = {}
        overrun: list[Arrival] = []
        for pipeline, arrivals in groups.items():
            student = self._engine.students[pipeline]
            for start in range(0, len(arrivals), student.max_batch):
                part = arrivals[start : start + student.max_batch]
                run = student.judge_now(_observations(part))
                if run is None:
                    overrun += arrivals[start:]  # the rest too: their order is the broker's
                    break
                self._note(run, part, runs)
        return runs, overrun

    def _note(self, run: JudgedBatch, part: Sequence[Arrival], runs: Runs) -> None:
        runs.update({id(arrival): (run, place) for place, arrival in enumerate(part)})
        if run.energy is not None:
            self._engine.metrics.student_cpu_seconds += run.energy.cpu_seconds * len(part)

    def _postpone(self, arrivals: Sequence[Arrival]) -> None:
        """Judged now they would hold up others; with them those that wait for the same key."""
        for arrival in arrivals:
            for each in (arrival, *self._engine.forget_key(arrival)):
                self._into_lane(each)

    # -- in a lane ----------------------------------------------------------------------------

    def _into_lane(self, arrival: Arrival) -> None:
        lane = self._lanes.get(arrival.pipeline)
        student = self._engine.students[arrival.pipeline]
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
        engine = self._engine
        share = engine.config.http.max_waiting // (len(engine.students) + 1)
        return max(1, min(MAX_WAITING, share))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        assert self._tasks is not None  # noqa: S101  # arrivals are taken inside run() alone
        self._tasks.create_task(work)

    async def _serve(self, pipeline: str, lane: Lane) -> None:
        """Judge one pipeline's arrivals, batch after batch, until cancelled."""
        while True:
            await lane.arrived()
            student = self._engine.students[pipeline]  # the one in force, for this batch
            await lane.take(min(student.max_batch, self._options.batch))
            lane.judging = [each for each in lane.judging if self._engine.is_current(each)]
            fresh = self._engine.without_repeats(lane.judging)
            runs: Runs = {}
            unsettled = [arrival for arrival in fresh if arrival.settled is None]
            if unsettled:
                run = await student.judge(_observations(unsettled))
                self._note(run, unsettled, runs)
            await self._engine.batches.acquire()
            self._settle(lane, fresh, runs)

    def _settle(self, lane: Lane, fresh: list[Arrival], runs: Runs) -> None:
        """Decide what a lane has judged, but for what is read again or was refused meanwhile."""
        engine = self._engine
        held = {id(arrival) for arrival in lane.judging if engine.is_current(arrival)}
        for arrival in fresh:
            if id(arrival) not in held:
                engine.release(arrival, UnavailableError("is read again from the broker"))
        batch = [arrival for arrival in lane.judging if id(arrival) in held]
        lane.done()
        engine.decide(batch, [arrival for arrival in fresh if id(arrival) in held], runs)
        if lane.emptied():
            engine.on_blocked()

    def _on_overdue(self, lane: Lane, arrival: Arrival) -> None:
        """It came over HTTP and has waited for as long as a run may take."""
        if lane.withdraw(arrival):
            self._start(self._go_without(arrival))

    async def _go_without(self, arrival: Arrival) -> None:
        """Escalate without asking the student, which has enough to do."""
        await self._engine.batches.acquire()
        fresh = self._engine.without_repeats([arrival])
        student = self._engine.students[arrival.pipeline]
        run = student.unjudged(Reason.STUDENT_BUSY, 1)
        self._engine.decide([arrival], fresh, {id(arrival): (run, 0)})


def _observations(arrivals: Sequence[Arrival]) -> list[NDArray[Any]]:
    return [each.observation for each in arrivals if each.observation is not None]
