"""An event on its way from a door to the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from setsuden.pipelines.pipeline import JudgedBatch
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.result import Problem, Result

from .core import Submission
from .outbox import StreamPlace

Answered = Callable[[Result | SetsudenError, bool], None]
"""Told (outcome, whether the event had been accepted before)."""


class Arrival(NamedTuple):
    """A checked event on its way to student, gate and outbox."""

    submission: Submission
    observation: NDArray[Any] | None
    answered: Answered
    """Told once: the accepted result when it is durable, or why the event was refused."""
    place: StreamPlace | None = None
    """Where the event lay in the broker's stream."""
    generation: int = 0
    settled: Result | Problem | None = None
    """It needs no judging: its final result is known, or why it can have no other than none."""

    @property
    def pipeline(self) -> str:
        """Whose event it is."""
        return self.submission.event.pipeline


Placed = tuple[JudgedBatch, int]
"""A run and an observation's position in it."""
Runs = dict[int, Placed]
"""By the identity of the arrival."""
