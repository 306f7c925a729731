"""Results as the device states them: provisional, final, expired, dead, merged with the cloud's."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from setsuden.pipelines.gate import Judged
from setsuden.schemas.base import trusted
from setsuden.schemas.energy import EnergyReading
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Energy, ModelRef, Problem, Result, Status, Tier, Timing

from .deadline import NS_PER_MS
from .records import Now, Pending, StageTimes, Submission


class EdgeVerdict(NamedTuple):
    """What the student and the gate said of one submission."""

    judged: Judged
    model: ModelRef | None
    energy: EnergyReading | None
    times: StageTimes
    trace_id: str
    deadline_seconds: float | None
    """What the pipeline gives to events without a deadline of their own."""


def of_edge(
    now: Now,
    submission: Submission,
    verdict: EdgeVerdict,
    event_id: str,
    *,
    region: str,
    status: Status,
) -> Result:
    """The student's answer. Built without validation: every part was validated before."""
    event, times = submission.event, verdict.times
    answer = verdict.judged.answer
    return trusted(
        Result,
        event_id=event_id,
        pipeline=event.pipeline,
        device=event.device,
        region=region,
        status=status,
        tier=None if answer is None else Tier.EDGE,
        answer=answer,
        decision=verdict.judged.decision,
        model=verdict.model,
        error=None,
        energy=trusted(Energy, edge=verdict.energy, cloud=None),
        timing=trusted(
            Timing,
            edge_infer_ms=(times.infer_end_ns - times.infer_start_ns) / NS_PER_MS,
            queue_ms=None,
            cloud_infer_ms=None,
            total_ms=(now.mono_ns - submission.received.mono_ns) / NS_PER_MS,
        ),
        source_id=event.id,
        idempotency_key=event.idempotency_key,
        trace_id=verdict.trace_id,
        durable=True,
        at=_at(now),
    )


def refused(now: Now, event: Event, event_id: str, region: str, problem: Problem) -> Result:
    """The final result of an event from the broker that cannot be judged at all."""
    return Result(
        event_id=event_id,
        pipeline=event.pipeline,
        device=event.device,
        region=region,
        status=Status.DEAD,
        error=problem,
        source_id=event.id,
        trace_id=event.trace_id or "",
        at=_at(now),
    )


def settled(now: Now, pending: Pending, status: Status, problem: Problem | None = None) -> Result:
    """The student's provisional answer, made final without the cloud."""
    provisional = pending.provisional
    timing = provisional.timing.model_copy(update={"total_ms": _age_ms(now, pending)})
    return provisional.model_copy(
        update={"status": status, "timing": timing, "at": _at(now), "error": problem}
    )


def problem(error: SetsudenError) -> Problem:
    """An error as a result tells it."""
    return Problem(code=error.code, message=str(error)[:1024])


def fits(pending: Pending, record: Result) -> bool:
    """True when a record is of exactly this event: nobody guesses a trace id."""
    ours = pending.provisional
    return (
        record.trace_id == ours.trace_id
        and record.pipeline == ours.pipeline
        and record.device == ours.device
    )


def merged(now: Now, pending: Pending, cloud: Result) -> Result:
    """The cloud's final result as the device states it."""
    result = pending.provisional.merged_with(cloud)
    timing = result.timing.model_copy(update={"total_ms": _age_ms(now, pending)})
    return result.model_copy(update={"timing": timing})


def _age_ms(now: Now, pending: Pending) -> float:
    return (now.mono_ns - pending.accepted_mono_ns) / NS_PER_MS


@lru_cache(maxsize=1)  # a batch is accepted at one moment
def _at(now: Now) -> datetime:
    return datetime.fromtimestamp(now.wall_ns / 1e9, UTC)
