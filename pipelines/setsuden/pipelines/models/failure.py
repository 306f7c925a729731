"""Why a run of a model gave no scores: a closed set that both tiers translate."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from setsuden.schemas.errors import BundleError


class FailureKind(StrEnum):
    """``student_<kind>`` is the gate's reason, ``teacher_<kind>`` the code of a dead letter."""

    RAISED = "raised"
    WRONG_SHAPE = "wrong_shape"
    NOT_FINITE = "not_finite"
    UNFIT_INPUT = "unfit_input"
    """The observation, prepared, does not fit the element type of the model's input."""
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    """It ended the process it ran in."""
    SUSPENDED = "suspended"
    """It was not run: its process died too often just now."""
    UNUSABLE = "unusable"
    """It was not run: its trial at load showed that its manifest cannot be meant."""


HARMFUL = frozenset({FailureKind.TIMED_OUT, FailureKind.OUT_OF_MEMORY, FailureKind.CRASHED})
"""What harms more than the run itself, wherever it happens."""


class Failure(NamedTuple):
    """Kind and, for people, one line."""

    kind: FailureKind
    message: str


class RunFailedError(Exception):
    """A run in a model's own process gave nothing."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(kind, message)


class TrialError(BundleError):
    """A model that can be opened and not be used: its trial at load says why."""

    code = "model_unusable"

    def __init__(self, kind: FailureKind, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind
