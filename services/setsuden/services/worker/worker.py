"""The worker: pulls escalations, runs the teacher, stores the result, then acknowledges."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from setsuden.energy import Meter
from setsuden.link import Incoming, JetStream, Link, LinkState
from setsuden.link.tasks import end
from setsuden.pipelines.models.model_process import LOAD_SECONDS
from setsuden.pipelines.pipeline import Pipeline
from setsuden.pipelines.registry import Registry
from setsuden.schemas import streams
from setsuden.schemas.errors import RejectedError, SetsudenError
from setsuden.schemas.log import get_logger
from setsuden.schemas.result import Problem
from setsuden.services import topology
from setsuden.services.config import CloudConfig
from setsuden.services.pull import Puller
from setsuden.telemetry import Recorder
from setsuden.telemetry.clock import WallClock
from setsuden.telemetry.span import energy_attributes
from setsuden.telemetry.supervise import Supervisor

from . import settle
from .counters import Counters
from .hand import Hand
from .records import problem
from .settle import SettleStep
from .settler import Settler
from .teacher import Choice, Teacher, TeacherAnswers, TeacherRaisedError
from .traces import batch_trace_id
from .work import BatchRun, Work, read

log = get_logger(__name__)
_PREFETCHED_BATCHES = 2
"""Events asked for ahead, in batches."""
_PULL_SECONDS = 30.0
"""How long the broker keeps one pull request open."""
_UNSETTLED_FACTOR = 8


class StalledError(SetsudenError):
    """The worker has work and makes no progress: it should be replaced."""

    code = "worker_stalled"


class Worker:
    """One pipeline's teacher on one link. Knows no workload: the bundle's manifest says all."""

    def __init__(
        self,
        config: CloudConfig,
        pipeline: str,
        *,
        pipelines: Registry,
        meter: Meter,
        link: Link,
        jetstream: JetStream,
        recorder: Recorder | None = None,
        telemetry: Supervisor | None = None,
    ) -> None:
        self.counters = Counters()
        self._config, self._options, self._pipeline = config, config.worker, pipeline
        self._pipelines, self._meter, self._link = pipelines, meter, link
        self._newest = self._teacher_of(pipelines[pipeline])
        self._clock = WallClock()
        self.jetstream = jetstream
        self._hand = Hand(link, self.counters, self._clock)
        self._recorder = recorder if config.traces.enabled else None
        self._telemetry = telemetry
        self._settler = Settler(
            link=link,
            jetstream=jetstream,
            hand=self._hand,
            recorder=self._recorder,
            clock=self._clock,
            counters=self.counters,
        )
        self._pulling: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._running_since: float | None = None
        self._running_limit = 0.0
        """How long the batch that runs may take."""
        self._unusable = ""
        """Why this life's teacher answers nobody any more."""

    # -- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to work as soon as the link is up; never waits for the network."""
        self._puller = Puller(
            self._link,
            streams.ESCALATIONS,
            streams.consumer_name(self._config.region, self._pipeline),
            prefetch=_PREFETCHED_BATCHES * self._newest.batch,
            expires_seconds=_PULL_SECONDS,
            take=self._take,
            repair=self._repair,
        )
        self._link.listen(lambda _: self._hand.changed.set())
        self._pulling = _task(self._puller.run(), "pull")
        self._tasks = [
            _task(self._run(), "work"),
            _task(self._run_suspects(), "suspects"),
            _task(self._hand.run_acks(), "acks"),
            _task(self._hand.run_heartbeats(self._options.ack_wait_seconds / 3), "heartbeats"),
        ]

    def _take(self, message: Incoming) -> None:
        if not self._hand.take(message):
            self._puller.consumed(1)  # its place in the queue is free again

    async def stop(self) -> None:
        """Finish what runs, acknowledge it, give the rest back at once."""
        self._stopping, self._hand.accepting = True, False
        self._settler.stop()
        if self._pulling is not None:
            self._pulling.cancel()
        self._hand.changed.set()
        try:
            async with asyncio.timeout(self._options.drain_seconds):
                await asyncio.wait(self._tasks[:2])
                self._hand.give_back_queued()
                while len(self._hand):
                    self._hand.changed.clear()
                    await self._hand.changed.wait()
        except TimeoutError:
            log.warning("drain_incomplete", in_hand=len(self._hand))
            self._hand.give_back_all()
        await self._farewell()

    async def _farewell(self) -> None:
        await self._hand.flush()
        if not await self._link.flush():
            log.warning("last_acknowledgements_unheard")
        tasks = [*self._tasks, *([self._pulling] if self._pulling else [])]
        for task in tasks:
            await end(task)
        self._pipelines.close()

    def health(self) -> None:
        """Raises StalledError when it is stuck or has died with work to do."""
        for task in [*self._tasks, *([self._pulling] if self._pulling else [])]:
            if task.done() and not self._stopping:
                raise StalledError(f"the {task.get_name()} loop ended: {_reason(task)}")
        if self._unusable:
            raise StalledError(f"the teacher cannot be used any more: {self._unusable}")
        since = self._running_since
        running = 0.0 if since is None else asyncio.get_running_loop().time() - since
        longest = self._running_limit + LOAD_SECONDS
        if running > max(longest, self._options.stall_seconds):
            raise StalledError(f"the teacher has run for {running:.0f} s")

    def status(self) -> dict[str, int | float]:
        """Everything counted, in numbers, its link's faults included."""
        return self.counters.as_dict() | {
            "ready": int(self.ready),
            "link_handler_errors": self._link.handler_errors,
            "link_unreadable_messages": self._link.unreadable_messages,
            "telemetry_failures": 0 if self._telemetry is None else self._telemetry.failures,
        }

    @property
    def ready(self) -> bool:
        """True while the link is up and the consumer is there."""
        return self._link.state is LinkState.UP and self._puller.pulling

    async def _repair(self) -> None:
        await topology.apply_if_allowed(self.jetstream, self._config)

    # -- work -------------------------------------------------------------------------------

    def _teacher(self) -> Teacher:
        """The one in force; whoever takes it keeps it for one batch."""
        pipeline = self._pipelines[self._pipeline]
        if pipeline is not self._newest.pipeline:
            self._newest = self._teacher_of(pipeline)
            self._unusable = ""
        return self._newest

    def _teacher_of(self, pipeline: Pipeline) -> Teacher:
        return Teacher(pipeline, self._config.region, self._options.max_batch)

    async def _run(self) -> None:
        """Events that were never delivered before, in batches of what is queued."""
        while not self._stopping:
            batch = await self._next()
            if batch:
                self._clock.anchor()
                await self._handle(batch)
            await asyncio.sleep(0)  # let arrivals in and acknowledgements out

    async def _next(self) -> list[Work]:
        """What is queued, up to a batch, at once; waits only for the first event."""
        while not self._stopping:
            self._hand.changed.clear()
            if self._hand.fresh and self._may_take():
                batch = self._hand.pick_fresh(self._teacher().batch)
                self._puller.consumed(len(batch))
                return batch
            await self._hand.changed.wait()
        return []

    def _may_take(self) -> bool:
        room = _UNSETTLED_FACTOR * self._newest.batch
        unsettled = len(self._hand) - self._hand.queued
        return unsettled < room and self._link.state is LinkState.UP

    async def _handle(self, batch: list[Work]) -> None:
        now, teacher = self._clock.now_ns(), self._teacher()
        ready = [work for work in batch if self._prepared(work, now, teacher)]
        if ready:
            with teacher.pipeline.held():
                await self._run_batch(ready, teacher)

    def _prepared(self, work: Work, now_ns: int, teacher: Teacher) -> bool:
        """True when the event can be run; else it is on its way to a dead letter."""
        work.taken_ns, work.teacher = now_ns, teacher
        try:
            read(work, teacher.observation, teacher.spec.limits.max_body_bytes)
        except RejectedError as error:
            self._settler.bury(work, problem(error.code, error.message))
            return False
        work.late = settle.is_late(work.taken_ns - work.delivery.stored_at_ns, work.ttl_ms)
        return True

    async def _run_batch(self, batch: list[Work], teacher: Teacher) -> bool:
        """True when the model answered."""
        start = self._clock.now_ns()
        self._running_limit = teacher.spec.limits.run_seconds
        self._running_since = asyncio.get_running_loop().time()
        try:
            answers = await teacher.run([_observation(work) for work in batch])
        except TeacherRaisedError as error:
            self._running_since = None
            await self._isolate_failure(batch, error, teacher)
            return False
        finally:
            self._running_since = None
        self.counters.batches += 1
        await self._settle_batch(batch, answers, start, teacher)
        return True

    async def _isolate_failure(
        self, batch: list[Work], error: TeacherRaisedError, teacher: Teacher
    ) -> None:
        """A batch failed: find out whose fault it is, so that the others are answered."""
        if len(batch) == 1:
            self._failed(batch[0], error.problem, teacher, apart=teacher.is_apart)
            return
        if error.problem.code in settle.HARMFUL | settle.NOT_RUN:
            for work in batch:
                self._hand.run_alone(work)
            return
        outcomes = [await self._run_batch([work], teacher) for work in batch]
        if all(outcomes):
            teacher.batch = 1
            log.warning("batch_refused_by_model", detail=error.problem.message)

    # -- events that are run alone ----------------------------------------------------------

    async def _run_suspects(self) -> None:
        """Events delivered before, and those whose run failed, beside all others.

        One that ended a worker ends a child process here, and nothing else.
        """
        while not self._stopping:
            self._hand.changed.clear()
            work = self._hand.pick_suspect() if self._link.state is LinkState.UP else None
            if work is None:
                await self._hand.changed.wait()
            elif work.taken_ns:
                await self._run_alone(work)
            else:
                self._puller.consumed(1)
                now, teacher = self._clock.now_ns(), self._teacher()
                if self._prepared(work, now, teacher) and not await self._answered(work):
                    await self._run_alone(work)

    async def _answered(self, work: Work) -> bool:
        return await self._settler.is_answered(work)

    async def _run_alone(self, work: Work) -> None:
        start, teacher = self._clock.now_ns(), self._teacher()
        self.counters.isolated += 1
        try:
            answers = await teacher.run_alone(_observation(work))
        except TeacherRaisedError as error:
            self._failed(work, error.problem, teacher, apart=True)
        else:
            await self._settle_batch([work], answers, start, teacher)

    def _failed(
        self, work: Work, failure: Problem, teacher: Teacher, *, apart: bool = False
    ) -> None:
        """Run the event once more, alone and later, unless its runs have failed often enough."""
        if failure.code in settle.NOT_RUN:
            self._not_run(work, failure, teacher)
            return
        self.counters.failed_runs += 1
        work.failures.append(failure)
        attempts = teacher.spec.max_attempts
        if settle.after_failures(work.failures, attempts, apart=apart) is SettleStep.DEAD:
            self._settler.bury(work, failure)
            return
        log.info("event_failed", event_id=work.event_id, trace_id=work.trace_id, code=failure.code)
        self._later(work, len(work.failures) - 1)

    def _not_run(self, work: Work, why: Problem, teacher: Teacher) -> None:
        """No attempt: the event waits here, or for the next life if this one's model is gone."""
        if not work.not_run:
            log.error("teacher_not_run", code=why.code, detail=why.message)
        if why.code == settle.TEACHER_UNUSABLE and teacher is self._teacher():
            self._unusable = why.message
        self._later(work, work.not_run)
        work.not_run += 1

    def _later(self, work: Work, times: int) -> None:
        pause = settle.pause_seconds(times)
        asyncio.get_running_loop().call_later(pause, self._hand.run_alone, work)

    async def _settle_batch(
        self, batch: list[Work], answers: TeacherAnswers, start_ns: int, teacher: Teacher
    ) -> None:
        ran = self._ran(answers, batch, start_ns)
        self.counters.cpu_seconds += answers.run.cpu_seconds
        for work, row in zip(batch, answers.rows, strict=True):
            self._settler.runs_in(work, ran, teacher)
            if isinstance(row, Choice):
                self.counters.answered += 1
                await self._settler.answer(work, row)
            else:
                self._failed(work, row, teacher)

    def _ran(self, answers: TeacherAnswers, batch: list[Work], start_ns: int) -> BatchRun:
        items = len(batch)
        metered = answers.metered
        reading = self._meter.provisional(metered)
        whole = reading if self._recorder is None else self._meter.provisional(metered, 1)
        attributes = energy_attributes(reading)
        attributes |= {"setsuden.batch.size": items, "setsuden.batch.share": 1 / items}
        return BatchRun(
            start_ns,
            self._clock.now_ns(),
            items,
            reading.model_dump_json(),
            attributes,
            answers.run.wall_seconds * 1000,
            batch_trace_id(batch),
            metered,
            whole,
            items,
        )


def _observation(work: Work) -> Any:
    return work.observation


def _task(coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(coroutine, name=name)


def _reason(task: asyncio.Task[None]) -> str:
    return "cancelled" if task.cancelled() else repr(task.exception())
