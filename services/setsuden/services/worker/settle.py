"""What to do with an escalation at each turn, decided without touching anything."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from setsuden.schemas.errors import AlreadyStoredError, MessageTooLargeError
from setsuden.schemas.result import Problem, Status

TEACHER_RAISED: Final = "teacher_raised"
TEACHER_NOT_FINITE: Final = "teacher_not_finite"
TEACHER_WRONG_SHAPE: Final = "teacher_wrong_shape"
TEACHER_CRASHED: Final = "teacher_crashed"
TEACHER_TIMED_OUT: Final = "teacher_timed_out"
TEACHER_OUT_OF_MEMORY: Final = "teacher_out_of_memory"
TEACHER_NO_DISTRIBUTION: Final = "teacher_no_distribution"
TEACHER_UNFIT_INPUT: Final = "teacher_unfit_input"
TEACHER_SUSPENDED: Final = "teacher_suspended"
TEACHER_UNUSABLE: Final = "teacher_unusable"
HARMFUL: Final = frozenset({TEACHER_CRASHED, TEACHER_TIMED_OUT, TEACHER_OUT_OF_MEMORY})
"""What became of a batch that only runs of its events alone can be asked again."""
RESULT_TOO_LARGE: Final = "result_too_large"
LETTER_TRIES = 4
"""So often a dead letter may hold up its event's final result."""
NOT_RUN: Final = frozenset({TEACHER_SUSPENDED, TEACHER_UNUSABLE})
"""There was no run: no process was to be had, or its file is another one now. No event's fault."""
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
"""Pauses between two tries double from the first to the longest."""


class SettleStep(StrEnum):
    """What follows an outcome."""

    ACK = "ack"
    LOOK = "look"
    """A record is there: read it before deciding."""
    STORE_LATE = "store_late"
    """The device's own ``expired`` came first: ours is the late answer."""
    RUN = "run"
    """Nothing is stored: the teacher is asked."""
    STORE_AGAIN = "store_again"
    """Nothing was stored, through no fault of the event: the answer is kept and stored later."""
    DEAD = "dead"


def is_suspect(delivery_attempt: int, copy: bool) -> bool:
    """True for a delivery that may have been answered, or may have ended a worker.

    Its result is looked up before the teacher runs, and it runs alone in a child process.
    """
    return copy or delivery_attempt > 1


def is_late(age_ns: int, ttl_ms: int | None) -> bool:
    """True when the deadline had passed before a worker took it, by the cloud's clocks alone."""
    return ttl_ms is not None and age_ns > ttl_ms * 1_000_000


def after_store(outcome: object, *, late: bool) -> SettleStep:
    """The step after a compare-and-set; never an ack without a stored record."""
    if isinstance(outcome, AlreadyStoredError):
        # On late.* only a worker's answer to the same event can be first: a duplicate delivery.
        return SettleStep.ACK if late else SettleStep.LOOK
    if isinstance(outcome, MessageTooLargeError):  # no later try is smaller
        return SettleStep.DEAD
    return SettleStep.STORE_AGAIN if isinstance(outcome, Exception) else SettleStep.ACK


def after_look(final: Status | None, *, late_is_stored: bool = False) -> SettleStep:
    """The step once the event's records are known; ``None``: there is no final one."""
    if final is None:
        return SettleStep.RUN
    if final is Status.EXPIRED and not late_is_stored:
        return SettleStep.STORE_LATE
    return SettleStep.ACK


def after_failures(
    problems: list[Problem], max_attempts: int, *, apart: bool = False
) -> SettleStep:
    """The step after these failed runs of one event. Only runs count, never deliveries.

    A run alone, ``apart`` in a child process, that did not end in time would not end the next
    time either.
    """
    timed_out = [problem.code == TEACHER_TIMED_OUT for problem in problems]
    if len(problems) >= max_attempts or sum(timed_out) > 1 or (apart and timed_out[-1]):
        return SettleStep.DEAD
    return SettleStep.RUN


def pause_seconds(tries: int) -> float:
    """How long to wait before the next try, after so many."""
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(tries, 10), LONGEST_PAUSE_SECONDS))
