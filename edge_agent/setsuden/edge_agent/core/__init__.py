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
from .records import EncodedResult, Now, Pending, Policy, Row, StageTimes, Submission, encode
from .results import Verdict

__all__ = [
    "AgentCore",
    "Clocks",
    "Deadline",
    "Effects",
    "EncodedResult",
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
    "StageTimes",
    "Submission",
    "Verdict",
    "Write",
    "at_moment",
    "encode",
    "in_time",
]
