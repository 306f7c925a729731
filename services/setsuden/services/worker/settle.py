"""What to do with an escalation at each turn, decided without touching anything."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from setsuden.schemas.errors import AlreadyStoredError
from setsuden.schemas.result import Status

ATTEMPTS_EXHAUSTED: Final = "attempts_exhausted"
TEACHER_RAISED: Final = "teacher_raised"
TEACHER_NOT_FINITE: Final = "teacher_not_finite"
TEACHER_WRONG_SHAPE: Final = "teacher_wrong_shape"
TEACHER_CRASHED: Final = "teacher_crashed"
TEACHER_TIMED_OUT: Final = "teacher_timed_out"
TEACHER_OUT_OF_MEMORY: Final = "teacher_out_of_memory"
TEACHER_NO_DISTRIBUTION: Final = "teacher_no_distribution"
TEACHER_UNFIT_INPUT: Final = "teacher_unfit_input"
HARMFUL: Final = frozenset({TEACHER_CRASHED, TEACHER_TIMED_OUT, TEACHER_OUT_OF_MEMORY})


class Route(StrEnum):
    """How an escalation is taken up."""

    RUN = "run"
    ISOLATE = "isolate"
    """It was delivered before and nobody lived to settle it: run it where it can do no harm."""
    DEAD = "dead"
    """Out of attempts without anybody having lived to say why."""


class Step(StrEnum):
    """What follows an outcome."""

    ACK = "ack"
    LOOK = "look"
    """A record is there: read it before deciding."""
    STORE_LATE = "store_late"
    """The device's own ``expired`` came first: ours is the late answer."""
    RETRY = "retry"
    """Nothing was stored: give it back."""
    DEAD = "dead"


def route(attempt: int, max_attempts: int, isolate_from: int) -> Route:
    """Where a delivery of this attempt (1 is the first) is run, if at all."""
    if attempt > max_attempts:
        return Route.DEAD
    return Route.ISOLATE if attempt >= isolate_from else Route.RUN


def is_late(age_ns: int, ttl_ms: int | None) -> bool:
    """True when the deadline had passed before a worker took it, by the cloud's clocks alone."""
    return ttl_ms is not None and age_ns > ttl_ms * 1_000_000


def after_store(outcome: object, *, late: bool) -> Step:
    """The step after a compare-and-set; never an ack without a stored record."""
    if isinstance(outcome, AlreadyStoredError):
        # On late.* only a worker's answer to the same event can be first: a duplicate delivery.
        return Step.ACK if late else Step.LOOK
    return Step.RETRY if isinstance(outcome, Exception) else Step.ACK


def after_look(found: Status | None) -> Step:
    """The step once the record that was first is known; ``None``: it is gone again."""
    if found is Status.EXPIRED:
        return Step.STORE_LATE
    return Step.RETRY if found is None else Step.ACK


def after_failure(attempt: int, max_attempts: int, *, hopeless: bool) -> Step:
    """The step when the teacher could not answer; ``hopeless`` input is not tried again."""
    return Step.DEAD if hopeless or attempt >= max_attempts else Step.RETRY


def retry_delay_ns(attempt: int, base_seconds: float) -> int:
    """How long the broker shall keep a failed event back."""
    return round(base_seconds * max(1, attempt) * 1_000_000_000)
