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
    Reply,
    Send,
    Write,
)
from .machine import AgentCore
from .positions import Cursor, Positions, StreamPlace
from .records import EncodedResult, Now, Pending, Policy, Row, StageTimes, Submission, encode
from .repeats import Repeats
from .results import EdgeVerdict

__all__ = [
    "AgentCore",
    "Clocks",
    "Cursor",
    "Deadline",
    "EdgeVerdict",
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
    "Positions",
    "PublishFinal",
    "Rebind",
    "Repeats",
    "Reply",
    "Row",
    "Send",
    "StageTimes",
    "StreamPlace",
    "Submission",
    "Write",
    "at_moment",
    "encode",
    "in_time",
]
