"""What the core is told by configuration, and what it remembers of an event."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from setsuden.schemas.event import Event
from setsuden.schemas.result import Result

from .deadline import Deadline


class Policy(NamedTuple):
    """What the configuration decides; durations in nanoseconds."""

    device: str
    region: str
    epoch: str
    """Of the ids of events that did not come over the broker; another one at each start."""
    boot: str
    """Names the boot of the device that the monotonic clock counts from."""
    window: int
    live_share: float
    lookup_ns: int
    redrive_ns: int
    max_bytes: int
    max_events: int
    publish_nats: bool
    publish_all: bool


class Now(NamedTuple):
    """One moment on both clocks. Durations use ``mono`` only; ``wall`` may jump."""

    wall_ns: int
    mono_ns: int


class StageTimes(NamedTuple):
    """Moments of an event that its spans are made from, nanoseconds on the span timeline."""

    parent_span_id: str | None
    accepted_ns: int
    infer_start_ns: int
    infer_end_ns: int
    infer_items: int
    """Observations that shared the student's run."""
    prepare_start_ns: int = 0
    """When the observation was begun to be made the student's tensor; 0 when it was not."""
    sampled: bool | None = None
    """The caller's sampled flag; None when there is no caller's trace, and we decide alone."""


class Submission(NamedTuple):
    """A valid event that nobody has judged yet."""

    event: Event
    over_nats: bool
    received: Now
    event_id: str | None = None
    """Of an event that came over the broker: it follows from its place in the stream."""
    stored_ns: int | None = None
    """When the broker stored it, by the cloud's clock."""


class EncodedResult(NamedTuple):
    """A result and its JSON: stored, published and told as the same words, encoded once."""

    result: Result
    text: str


def encode(result: Result) -> EncodedResult:
    """The result with its JSON, without what is not there."""
    return EncodedResult(result, result.model_dump_json(exclude_none=True, warnings=False))


class Row(NamedTuple):
    """One event as the outbox keeps it."""

    sequence: int
    event_id: str
    event: Event
    """Its data is dropped once the event is final."""
    times: StageTimes
    over_nats: bool
    deadline: Deadline | None
    encoded: EncodedResult
    """Provisional while the cloud is asked, else final."""
    published: bool
    """Nothing is left to store in the results stream."""

    @property
    def result(self) -> Result:
        """The newest result."""
        return self.encoded.result


@dataclass(slots=True)
class Sent:
    """One try to hand an escalation to the broker, on the monotonic clock."""

    start_mono_ns: int
    message_id: str
    end_mono_ns: int | None = None
    error: str | None = None
    sequence: int | None = None


@dataclass(slots=True)
class Pending:
    """An event the cloud was asked about, without its observation."""

    sequence: int
    event_id: str
    pipeline: str
    provisional: Result
    times: StageTimes
    accepted_mono_ns: int
    deadline: Deadline | None
    deadline_mono_ns: int | None
    """When it comes due on the monotonic clock, as well as it is known."""
    reply: str | None
    over_nats: bool
    restored: bool = False
    """An earlier start of the agent accepted it."""
    unsure: bool = False
    """Restored and not yet looked up: its result may be there already."""
    failures: int = 0
    """Sends in a row that the broker did not acknowledge."""
    redrives: int = 0
    stored_mono_ns: int | None = None
    """When the broker acknowledged the escalation; None until then."""
    lookups: int = 0
    tries: int = 0
    """Sends in all."""
    sends: list[Sent] = field(default_factory=list)
    """The newest of them."""
