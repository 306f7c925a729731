"""The shell around the core: judges what arrived, makes writes durable, then sends."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import Random, SystemRandom
from typing import NamedTuple

from setsuden.energy import MeteredRun
from setsuden.pipelines.pipeline import JudgedBatch, Pipeline
from setsuden.schemas.errors import OutboxFullError, SetsudenError, UnavailableError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Problem, Result
from setsuden.telemetry import SpanClock, TraceContext, new_trace_id, parse_traceparent

from .arrival import Arrival as Arrival  # noqa: PLC0414  # doors take it from here
from .arrival import Placed, Runs
from .config import AgentConfig
from .core import (
    AgentCore,
    Deadline,
    Effects,
    Now,
    Send,
    Submission,
    Trail,
    Verdict,
    at_moment,
    in_time,
)
from .intake import Intake
from .metrics import Metrics
from .outbox import (
    Cursor,
    Known,
    Outbox,
    OutboxBrokenError,
    OutboxUnwritableError,
    RowDamagedError,
)

log = logging.getLogger(__name__)
MAX_UNCOMMITTED_BATCHES = 2
DISK_RETRY_SECONDS = 2.0
"""Pause before events on the broker are read again that a full disk did not take."""
NS_PER_MS = 1_000_000

_RANDOM = Random(SystemRandom().getrandbits(128))  # noqa: S311  # ids, no secrets


class Tell(NamedTuple):
    """A word on a reply subject, best effort."""

    reply: str
    body: bytes


Perform = Callable[[Send | Tell], Awaitable[None] | None]
"""None where there is nothing to wait for: a coroutine for each easy event is dear."""


class Engine:
    """Takes arrivals in batches; all that the core decides goes through here."""

    def __init__(
        self,
        config: AgentConfig,
        students: Mapping[str, Pipeline],
        outbox: Outbox,
        core: AgentCore,
        metrics: Metrics,
        *,
        clock: SpanClock,
    ) -> None:
        self.config = config
        self.clock = clock
        self.students = students
        self.outbox = outbox
        self.core = core
        self.metrics = metrics
        self.cursor = outbox.cursor() or Cursor("", {})
        """How far the broker's events were taken; durable with the events themselves."""
        self.runs: dict[str, MeteredRun] = {}
        """Of events that are not final: their joules settle when the window has closed."""
        self.generation = 1
        """Raised when arrivals from the broker must be read again."""
        self.on_blocked: Callable[[], None] = lambda: None
        """Called then."""
        self.room = asyncio.Event()
        self.room.set()
        self._full_at: int | None = None
        self.broken: asyncio.Future[SetsudenError] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._uncommitted: dict[str, list[Arrival]] = defaultdict(list)
        self.batches = asyncio.Semaphore(MAX_UNCOMMITTED_BATCHES)
        self._sends: deque[Send | Tell] = deque()
        self._sends_waiting = asyncio.Event()
        self._wakeup: asyncio.TimerHandle | None = None
        self._wakeup_ns: int | None = None
        self.intake = Intake(self)

    # -- arrivals -----------------------------------------------------------------------------

    def put(self, arrival: Arrival) -> Awaitable[None]:
        """Hand over one arrival; waits while the queue is full."""
        return self.intake.put(arrival)

    async def run(self, perform: Perform) -> None:
        """Judge and commit until cancelled; ``perform`` does each send, in order."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.intake.run(tasks))
            tasks.create_task(self._send(perform))

    def is_current(self, arrival: Arrival) -> bool:
        """False for an event of the broker that is being read again."""
        return arrival.generation in {0, self.generation}

    def decide(self, batch: list[Arrival], fresh: list[Arrival], runs: Runs) -> None:
        """Admit what was judged and commit it; nothing here waits.

        Called with one of ``batches`` acquired, which the commit releases.
        """
        out, at = Effects(), now()
        accepted: list[tuple[Arrival, Result]] = []
        waiting: set[int] = set()
        for arrival in fresh:
            if waiting and arrival.place is not None:
                self.release(arrival, UnavailableError("waits on the broker for room"))
                waiting.add(id(arrival))
            elif arrival.settled is not None:
                self._keep(arrival, arrival.settled, out, accepted)
            elif not self._admit(at, arrival, runs[id(arrival)], out, accepted):
                waiting.add(id(arrival))
        self._commit(out, accepted, self._moved(batch, waiting))

    def _moved(self, batch: list[Arrival], waiting: set[int]) -> Cursor | None:
        """The cursor past this batch, short of the first event of each pipeline that waits."""
        before, stopped = self.cursor, set[str]()
        for arrival in batch:
            place = arrival.place
            if place is None:
                continue
            if id(arrival) in waiting:
                stopped.add(place.pipeline)
            elif place.pipeline not in stopped:
                self.cursor = self.cursor.past(place)
        return None if self.cursor is before else self.cursor

    def without_repeats(self, batch: list[Arrival]) -> list[Arrival]:
        """Those that were never sent before; the others are told what is known already."""
        keys = [arrival.submission.event.key for arrival in batch]
        known = self.outbox.known(keys)
        fresh = []
        for arrival, key in zip(batch, keys, strict=True):
            before = known.get(key)
            if isinstance(before, Known):
                self._repeat(arrival, before.result)
            elif before is not None:
                self.refuse(arrival, before)
            elif key in self._uncommitted:
                self._uncommitted[key].append(arrival)
            else:
                self._uncommitted[key] = []
                fresh.append(arrival)
        return fresh

    def forget_key(self, arrival: Arrival) -> list[Arrival]:
        """It is not being committed after all; those that waited for its key are returned."""
        return self._uncommitted.pop(arrival.submission.event.key, [])

    def _repeat(self, arrival: Arrival, result: Result) -> None:
        self.metrics.repeated += 1
        reply = arrival.submission.event.reply
        if reply is not None:
            self.apply(self.core.rebind(result.event_id, reply))
        arrival.answered(result, True)

    def _keep(
        self,
        arrival: Arrival,
        settled: Result | Problem,
        out: Effects,
        accepted: list[tuple[Arrival, Result]],
    ) -> None:
        """Keep an event whose outcome is known before anybody judged it."""
        submission = arrival.submission
        if isinstance(settled, Result):
            self.core.adopt(submission, settled, out)
            accepted.append((arrival, settled))
        elif submission.event_id is not None:
            self.core.bury(now(), submission.event, submission.event_id, settled, out)

    def _admit(
        self,
        at: Now,
        arrival: Arrival,
        placed: Placed,
        out: Effects,
        accepted: list[tuple[Arrival, Result]],
    ) -> bool:
        """Admit one event; False when it came from the broker and must wait there for room."""
        verdict = self._verdict(arrival.submission, *placed)
        try:
            result = self.core.admit(at, arrival.submission, verdict, out)
        except OutboxFullError as error:
            self.release(arrival, error)
            never_fits = len(arrival.submission.event.data) > self.config.outbox.max_bytes
            if arrival.place is None or never_fits:
                self.refuse(arrival, error)
                return True
            # Events on the broker are safe there: they wait, in order, until there is room.
            self.generation += 1
            self._full_at = self.core.pending_bytes
            self.room.clear()
            self.on_blocked()
            return False
        accepted.append((arrival, result))
        run = placed[0].metered
        if run is not None:
            self.runs[result.event_id] = run
        return True

    def refuse(self, arrival: Arrival, error: SetsudenError) -> None:
        """Tell the application; nothing changed."""
        self.metrics.refused[error.code] += 1
        arrival.answered(error, False)

    def _verdict(self, submission: Submission, run: JudgedBatch, place: int) -> Verdict:
        event = submission.event
        judged = run.judged[place]
        context = parse_traceparent(event.traceparent)
        self.metrics.decisions[event.pipeline, judged.decision.reason] += 1
        at = self.clock.at
        trail = Trail(
            None if context is None else context.span_id,
            at(submission.received.mono_ns),
            at(run.start_ns),
            at(run.end_ns),
            len(run.judged),
            at(run.prepare_ns) if run.prepare_ns < run.start_ns else 0,
            None if context is None else context.sampled,
        )
        return Verdict(
            judged,
            run.model,
            run.energy,
            trail,
            _trace_id(submission, context),
            self._deadline(submission) if judged.decision.escalates else None,
        )

    def _deadline(self, submission: Submission) -> Deadline | None:
        """The event's own, the sooner of two; else what the pipeline gives to all."""
        event, clocks = submission.event, self.core.clocks(submission.received)
        own = []
        if event.ttl_ms is not None:
            own.append(in_time(clocks, event.ttl_ms * NS_PER_MS - submission.waited_ns))
        if event.deadline is not None:
            own.append(at_moment(clocks, int(event.deadline.timestamp() * 1e9)))
        seconds = self.students[event.pipeline].spec.deadline_seconds
        if not own and seconds is not None:
            own.append(in_time(clocks, int(seconds * 1e9)))
        return min(own, key=lambda deadline: deadline.mono_ns, default=None)

    # -- writes, then sends -------------------------------------------------------------------

    def _commit(
        self, out: Effects, accepted: list[tuple[Arrival, Result]], cursor: Cursor | None
    ) -> None:
        def committed(error: Exception | None) -> None:
            self._loop.call_soon_threadsafe(self._committed, out, accepted, error)

        self.outbox.submit(
            out.writes, committed, cursor, refusable=True, generation=self.generation
        )

    def _committed(
        self, out: Effects, accepted: list[tuple[Arrival, Result]], error: Exception | None
    ) -> None:
        self.batches.release()
        if isinstance(error, OutboxUnwritableError):
            self._take_back(out, accepted, error)
            return
        if error is not None:
            self._break(error)
            return
        for arrival, result in accepted:
            if arrival.settled is None:
                self.metrics.accepted[result.pipeline] += 1
                self.metrics.escalated += result.decision is not None and result.decision.escalates
            arrival.answered(result, arrival.settled is not None)
            self.release(arrival, result)
        self._queue_sends(out)

    def _take_back(
        self, out: Effects, accepted: list[tuple[Arrival, Result]], error: OutboxUnwritableError
    ) -> None:
        """Nothing of the batch is on disk: refuse it, or let it wait on the broker."""
        for arrival, result in accepted:
            self.runs.pop(result.event_id, None)
            self.release(arrival, error)
            if arrival.place is None and result.is_final and self.config.outbox.answer_when_full:
                self.metrics.undurable += 1
                arrival.answered(result.model_copy(update={"durable": False}), False)
            elif arrival.place is None:
                self.refuse(arrival, error)
        rest = self.core.withdraw(now(), out)
        self.generation += 1
        self.cursor = self.outbox.cursor() or Cursor("", {})
        self.room.clear()
        self.on_blocked()
        self._loop.call_later(DISK_RETRY_SECONDS, self.room.set)
        self._queue_sends(rest)

    def bury_damaged(self) -> None:
        """Give rows that were damaged on disk their final result: a dead letter with the reason."""
        for damaged in self.outbox.damaged:
            self.metrics.rows_damaged += 1
            if damaged.was is None:
                continue
            problem = Problem(code=RowDamagedError.code, message=damaged.reason)
            out = Effects()
            self.core.bury(now(), _event_of(damaged.was), damaged.was.event_id, problem, out)
            self.apply(out)

    def release(self, arrival: Arrival, outcome: Result | SetsudenError) -> None:
        """Answer those who sent the same key while the first was being committed."""
        for repeat in self._uncommitted.pop(arrival.submission.event.key, ()):
            if isinstance(outcome, Result):
                self._repeat(repeat, outcome)
            elif repeat.place is None:
                self.refuse(repeat, outcome)

    def apply(self, out: Effects) -> None:
        """Do what the core wants: writes first, sends when they are durable."""
        if out.writes:
            self.outbox.submit(out.writes, partial(self._applied, out))
        else:
            self._queue_sends(out)

    def _applied(self, out: Effects, error: Exception | None) -> None:
        self._loop.call_soon_threadsafe(self._after, out, error)

    def _after(self, out: Effects, error: Exception | None) -> None:
        if error is not None:
            self._break(error)
        else:
            self._queue_sends(out)

    def _queue_sends(self, out: Effects) -> None:
        if out.sends:
            self._sends.extend(out.sends)
            self._sends_waiting.set()
        if self._full_at is not None and self.core.pending_bytes < self._full_at:
            self._full_at = None
            self.room.set()
        self._schedule()

    def send(self, send: Send | Tell) -> None:
        """Queue one send that needs no write first."""
        self._sends.append(send)
        self._sends_waiting.set()

    async def _send(self, perform: Perform) -> None:
        while True:
            await self._sends_waiting.wait()
            self._sends_waiting.clear()
            while self._sends:
                waiting = perform(self._sends.popleft())
                if waiting is not None:
                    await waiting

    def _schedule(self) -> None:
        due = self.core.next_wakeup_ns()
        if due == self._wakeup_ns:
            return
        if self._wakeup is not None:
            self._wakeup.cancel()
        self._wakeup_ns = due
        if due is not None:
            delay = max(0, due - time.monotonic_ns()) / 1e9
            self._wakeup = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        self._wakeup_ns = None
        self.apply(self.core.tick(now()))
        self._schedule()

    def _break(self, error: Exception) -> None:
        """Crash-only: what is not on disk must not be answered for."""
        if not self.broken.done():
            problem = OutboxBrokenError(
                f"the outbox cannot be written: {error}",
                remedy="free disk space or replace the disk, then start the agent again",
            )
            self.broken.set_result(problem)

    def refuse_queued(self) -> None:
        """Arrivals still queued are refused: the application may send them again.

        The broker still holds those that came from there, and the next life reads them.
        """
        self._refuse_all(self.intake.drain())

    def refuse_lanes(self) -> None:
        """As :meth:`refuse_queued`, of what waits for students that take their time."""
        self._refuse_all(self.intake.drain_lanes())

    def _refuse_all(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            if arrival.place is None:
                self.refuse(arrival, UnavailableError("the agent is stopping"))


def now() -> Now:
    """The present on both clocks."""
    return Now(time.time_ns(), time.monotonic_ns())


def _event_of(result: Result) -> Event:
    """As much of an event as its result tells."""
    return Event(
        id=result.source_id or result.event_id,
        source="outbox",
        pipeline=result.pipeline,
        device=result.device,
        idempotency_key=result.idempotency_key,
        trace_id=result.trace_id or None,
        data=b"",
    )


def _trace_id(submission: Submission, context: TraceContext | None) -> str:
    """The caller's; else one that an event read again from the broker has again.

    It is how an event's result is known to be its own, so it must not be guessed either: the
    event's bytes are in it.
    """
    event = submission.event
    if context is not None:
        return context.trace_id
    if event.trace_id is not None and int(event.trace_id, 16):
        return event.trace_id
    if submission.event_id is not None:
        name = f"{submission.event_id}/{event.identity}".encode()
        return hashlib.blake2b(name, digest_size=16).hexdigest()
    return new_trace_id(_RANDOM)
