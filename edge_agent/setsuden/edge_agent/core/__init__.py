"""The agent's core: a state machine without I/O, clock, randomness or threads of its own."""

from .deadline import Clocks, Deadline, at_moment, in_time
from .effects import (
    Effects,
    Escalate,
    Finish,
    Forward,
    Insert,
    Lookup,
    MarkPublished,
    Notify,
    PublishFinal,
    Rebind,
    Send,
    Write,
)
from .machine import AgentCore
from .records import Now, Pending, Policy, Row, Stated, Submission, Trail, state
from .results import Verdict

__all__ = [
    "AgentCore",
    "Clocks",
    "Deadline",
    "Effects",
    "Escalate",
    "Finish",
    "Forward",
    "Insert",
    "Lookup",
    "MarkPublished",
    "Notify",
    "Now",
    "Pending",
    "Policy",
    "PublishFinal",
    "Rebind",
    "Row",
    "Send",
    "Stated",
    "Submission",
    "Trail",
    "Verdict",
    "Write",
    "at_moment",
    "in_time",
    "state",
]
