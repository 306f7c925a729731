"""What the gate says, and why, in closed sets."""

from __future__ import annotations

from pydantic import Field

from .base import WireModel, Word


class Action(Word):
    """What happens to the event."""

    ANSWER = "answer"
    ESCALATE = "escalate"


class Reason(Word):
    """Why the gate decided so. A gate that cannot be evaluated always escalates."""

    CONFIDENT = "confident"
    LOW_CONFIDENCE = "low_confidence"
    NO_STUDENT = "no_student"
    STUDENT_RAISED = "student_raised"
    STUDENT_NOT_FINITE = "student_not_finite"
    STUDENT_WRONG_SHAPE = "student_wrong_shape"
    NO_CONFIDENCE = "no_confidence"
    STUDENT_CRASHED = "student_crashed"
    """It ended the process it ran in."""
    STUDENT_TIMED_OUT = "student_timed_out"
    """It ran longer than ``limits.run_seconds``."""
    STUDENT_OUT_OF_MEMORY = "student_out_of_memory"
    """It wanted more than ``limits.run_memory_bytes``."""
    STUDENT_UNFIT_INPUT = "student_unfit_input"
    """The observation, prepared, does not fit the element type of the student's input."""
    STUDENT_SUSPENDED = "student_suspended"
    """It was not run: it failed so often just now that it rests a while."""
    STUDENT_BUSY = "student_busy"
    """It was not run: it is slower than its events come, and others should not wait for it."""
    STUDENT_UNUSABLE = "student_unusable"
    """It was not run: its trial at load showed that its manifest cannot be meant."""


class Decision(WireModel):
    """The gate's word on one event."""

    action: Action
    reason: Reason
    confidence: float | None = Field(default=None, ge=0, le=1)
    threshold: float | None = Field(default=None, ge=0, le=1)
    budget_left: float | None = None

    @property
    def escalates(self) -> bool:
        """True when the teacher must answer."""
        return self.action is Action.ESCALATE
