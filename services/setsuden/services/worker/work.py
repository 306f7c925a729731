"""One escalation in the worker's hands, from its delivery until it is settled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from setsuden.energy import MeteredRun
from setsuden.link import Delivery, Incoming
from setsuden.pipelines import codec
from setsuden.schemas import escalation, subjects
from setsuden.schemas.bundle import Observation
from setsuden.schemas.energy import EnergyReading
from setsuden.schemas.result import Problem
from setsuden.schemas.subjects import Place
from setsuden.telemetry import SpanLink, derived_trace_id, parse_traceparent
from setsuden.telemetry.span import Value

from .settle import is_suspect

if TYPE_CHECKING:
    from .teacher import Teacher


@dataclass(slots=True)
class Work:
    """Fields fill up on the way; what is not reached stays at its default."""

    message: Incoming
    delivery: Delivery
    reply: str
    """The newest delivery's acknowledgement subject: an older one may no longer count."""
    place: Place | None = None
    """Where the event's records are; None until the escalation was read."""
    trace_id: str = ""
    parent_id: str | None = None
    """The device's span that waits for the answer."""
    sampled: bool = True
    """False: the device exports no span of this event, and so does nobody else."""
    ttl_ms: int | None = None
    observation: NDArray[Any] | None = None
    arrived_ns: int = 0
    taken_ns: int = 0
    """When a batch took it up."""
    late: bool = False
    copy: bool = False
    """The device may have sent it before."""
    failures: list[Problem] = field(default_factory=list)
    """What went wrong with each failed run, here and now: deliveries are no attempts."""
    not_run: int = 0
    """Times that the teacher was there for nobody."""
    tries: int = 0
    """Times that its result could not be stored."""
    problem: Problem | None = None
    ran: BatchRun | None = None
    teacher: Teacher = field(init=False)
    """Whose answer it is: of its newest run, or in force when it was taken up."""
    stored_ns: int = 0
    """When the result was handed to the link."""
    acked_ns: int = 0
    """When the stream had answered to that."""
    store_error: str | None = None
    """Code of its answer, when it was a refusal."""
    overtaken: bool = False
    """The event was ended by another delivery, or by its device, before this one was done."""
    span_context: tuple[str, str | None, tuple[SpanLink, ...]] | None = None
    """Trace, parent and links of its spans, once it is settled."""

    @property
    def deadline_ns(self) -> int | None:
        """When the device stops waiting, by the cloud's clock; None for never."""
        if self.ttl_ms is None:
            return None
        return self.delivery.stored_at_ns + self.ttl_ms * 1_000_000

    @property
    def key(self) -> tuple[int, int]:
        """Names the message over its deliveries; a stream made anew counts from 1 again."""
        return self.delivery.stream_sequence, self.delivery.stored_at_ns

    @property
    def suspect(self) -> bool:
        """True when it may have been answered, or may have ended a worker."""
        return is_suspect(self.delivery.attempt, self.copy)

    @property
    def event_id(self) -> str | None:
        """The event's id, once it is known to be sound."""
        return None if self.place is None else self.place.event_id

    @property
    def device(self) -> str:
        """The device, as the subject names it."""
        return self.message.subject.rsplit(".", 2)[-2]


@dataclass(slots=True)
class BatchRun:
    """One executed batch, as each of its events sees it."""

    start_ns: int
    end_ns: int
    items: int
    energy_json: str
    """The reading of one event's share, encoded once for the whole batch."""
    energy_attributes: dict[str, str | bool | int | float]
    infer_ms: float
    trace_id: str
    """Of the batch, which is a trace of its own."""
    metered: MeteredRun
    """Has the settled joules once its window has closed."""
    whole: EnergyReading
    """Of the batch, provisional."""
    unsettled: int
    """Deliveries of the batch that are not settled yet: then only its spans know their traces."""
    members: list[SpanLink] = field(default_factory=list)
    """The `infer` spans of those that are, where they are exported."""
    settled: dict[str | None, dict[str, Value]] = field(default_factory=dict)
    """Their span attributes by allocation: the same for all events of the batch."""


def received(message: Incoming) -> Work:
    """A delivery before anything of it is trusted; raises ValueError on what is none."""
    delivery = Delivery.of(message.reply)
    if message.subject.count(".") != 4:
        raise ValueError(f"{message.subject[:200]!r} is not a subject of an escalation")
    work = Work(message, delivery, message.reply)
    work.copy = escalation.COPY_HEADER in message.headers
    context = parse_traceparent(message.headers.get("traceparent"))
    if context is None:
        work.trace_id = derived_trace_id(message.subject)
    else:
        work.trace_id, work.parent_id, work.sampled = context
    return work


def read(work: Work, declared: Observation, max_body_bytes: int) -> None:
    """Fill in identity and observation; raises RejectedError, with the identity if it is sound."""
    message = work.message
    work.place = subjects.place_of(message.subject, "esc")
    escalated = escalation.read(message.headers, message.data, work.place)
    work.ttl_ms = escalated.ttl_ms
    work.observation = codec.decode(escalated, declared, max_body_bytes)
