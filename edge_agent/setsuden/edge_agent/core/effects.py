"""What the core wants done: first the writes, and only when they are durable the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from setsuden.schemas.result import Result
from setsuden.schemas.subjects import Place

from .records import EncodedResult, Pending, Row, StageTimes


class Insert(NamedTuple):
    """Write: accept an event."""

    row: Row


class Finish(NamedTuple):
    """Write: the event has its final result; its observation may go."""

    sequence: int
    event_id: str
    reply: str | None
    encoded: EncodedResult
    published: bool


class MarkPublished(NamedTuple):
    """Write: the results stream holds what it should."""

    sequence: int


class Rebind(NamedTuple):
    """Write: the application asked again; the final result goes to its new reply subject."""

    sequence: int
    event_id: str
    reply: str
    encoded: EncodedResult


class Escalate(NamedTuple):
    """Send: hand the observation to the broker."""

    pending: Pending
    message_id: str
    ttl_ms: int | None


class Lookup(NamedTuple):
    """Send: ask the results stream for a record that may have been pushed past us."""

    place: Place


class PublishFinal(NamedTuple):
    """Send: store a final result, by compare-and-set, or beside it as the one that came second."""

    sequence: int
    encoded: EncodedResult
    second: bool = False

    @property
    def result(self) -> Result:
        """The final result."""
        return self.encoded.result


class Notify(NamedTuple):
    """Send: tell whoever submitted the event."""

    event_id: str
    reply: str | None
    encoded: EncodedResult
    times: StageTimes | None = None
    """Set with a final result: the event's spans can be made."""
    over_nats: bool = False
    finished: Pending | None = None
    """Set with the final result of an escalated event."""
    publishes: bool = False
    """A PublishFinal of the same event follows."""

    @property
    def result(self) -> Result:
        """What is told."""
        return self.encoded.result


class Forward(NamedTuple):
    """Send: a late answer for an event the core no longer knows; the outbox knows its reply."""

    result: Result


class Reply(NamedTuple):
    """Send: a message to an application's reply subject, best effort."""

    subject: str
    body: bytes


Write = Insert | Finish | MarkPublished | Rebind
Send = Escalate | Lookup | PublishFinal | Notify | Forward | Reply


@dataclass(slots=True)
class Effects:
    """One step's consequences, in order."""

    writes: list[Write] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)


def concerns(send: Send, sequences: set[int], names: set[str]) -> bool:
    """True when the send is about one of these events."""
    match send:
        case Escalate(pending):
            return pending.sequence in sequences
        case PublishFinal(sequence):
            return sequence in sequences
        case Notify(event_id):
            return event_id in names
    return False
