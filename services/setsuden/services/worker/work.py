"""One escalation in the worker's hands, from its delivery until it is settled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from setsuden.link import Delivery, Incoming
from setsuden.pipelines import codec
from setsuden.pipelines.energy import MeteredRun
from setsuden.pipelines.tracing import Link as SpanLink
from setsuden.pipelines.tracing import derived_trace_id, parse_traceparent
from setsuden.pipelines.tracing.span import Value
from setsuden.schemas import escalation, subjects
from setsuden.schemas.bundle import Observation
from setsuden.schemas.energy import EnergyReading
from setsuden.schemas.errors import InvalidEventError
from setsuden.schemas.result import Problem


@dataclass(slots=True)
class Work:
    """Fields fill up on the way; what is not reached stays at its default."""

    message: Incoming
    delivery: Delivery
    reply: str
    """The newest delivery's acknowledgement subject: an older one may no longer count."""
    device: str
    event_id: str | None = None
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
    problem: Problem | None = None
    ran: Ran | None = None
    stored_ns: int = 0
    """When the result was handed to the link."""
    acked_ns: int = 0
    """When the stream had answered to that."""
    store_error: str | None = None
    """Code of its answer, when it was a refusal."""
    span_context: tuple[str, str | None, tuple[SpanLink, ...]] | None = None
    """Trace, parent and links of its spans, once it is settled."""

    @property
    def deadline_ns(self) -> int | None:
        """When the device stops waiting, by the cloud's clock; None for never."""
        if self.ttl_ms is None:
            return None
        return self.delivery.stored_at_ns + self.ttl_ms * 1_000_000


@dataclass(slots=True)
class Ran:
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
    device = message.subject.rsplit(".", 1)[-1]
    work = Work(message, delivery, message.reply, device)
    context = parse_traceparent(message.headers.get("traceparent"))
    named = message.headers.get(escalation.EVENT_ID_HEADER, "")
    if context is None:
        work.trace_id = derived_trace_id(named or str(delivery.stream_sequence))
    else:
        work.trace_id, work.parent_id, work.sampled = context
    return work


def read(work: Work, declared: Observation, max_body_bytes: int) -> None:
    """Fill in identity and observation; raises RejectedError, with the identity if it is sound."""
    message = work.message
    work.event_id = _identity(work, message.headers.get(escalation.EVENT_ID_HEADER, ""))
    found = escalation.carried(message.headers, message.data, message.subject)
    work.ttl_ms = found.ttl_ms
    work.observation = codec.decode(found, declared, max_body_bytes)


def _identity(work: Work, event_id: str) -> str:
    """The event id, when it is this device's: nobody may write another device's results."""
    if subjects.device_of(event_id) != work.device:
        raise InvalidEventError(
            f"event id {event_id!r} is not of device {work.device}",
            field=escalation.EVENT_ID_HEADER,
        )
    return event_id
