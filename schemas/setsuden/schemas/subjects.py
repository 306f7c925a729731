"""Every subject, built and parsed in this one place.

Documentation, permissions and AsyncAPI come from :data:`SUBJECTS`. No personal identifiers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from .base import TOKEN_PATTERN
from .errors import InvalidEventError
from .result import Tier

_TOKEN = re.compile(TOKEN_PATTERN)
_TELEMETRY = re.compile(r"otel\.(?:spans|metrics)\.(edge|cloud)\.([A-Za-z0-9_-]{1,64})")
_EVENT_ID = re.compile(r"^([A-Za-z0-9_-]{1,40})-([0-9a-f]{8})-([0-9]{1,12})$")


@dataclass(frozen=True, slots=True)
class SubjectTemplate:
    """One row of the subject table."""

    pattern: str
    purpose: str
    publisher: str
    reader: str


SUBJECTS = (
    SubjectTemplate("evt.<pipeline>.<device>", "events in, durable", "application", "agent"),
    SubjectTemplate(
        "bell.<device>.<pipeline>", "a stored event with its sequence", "broker", "agent"
    ),
    SubjectTemplate(
        "reply.<device>.<client>.<token>", "provisional, final, superseded", "agent", "application"
    ),
    SubjectTemplate("esc.<region>.<pipeline>.<device>", "escalations", "agent", "worker"),
    SubjectTemplate(
        "res.<device>.<event_id>", "the one final result, by compare-and-set", "worker, agent", "-"
    ),
    SubjectTemplate(
        "late.<device>.<event_id>", "the answer that came second", "worker, agent", "-"
    ),
    SubjectTemplate("push.res.<device>.<event_id>", "a stored result", "broker", "agent"),
    SubjectTemplate("push.late.<device>.<event_id>", "a stored late answer", "broker", "agent"),
    SubjectTemplate("dead.<pipeline>.<device>", "dead letters with their reason", "worker", "-"),
    SubjectTemplate(
        "otel.spans.edge.<device>", "sealed spans, gzip OTLP protobuf", "agent", "span bridge"
    ),
    SubjectTemplate(
        "otel.spans.cloud.<worker>", "sealed spans, gzip OTLP protobuf", "worker", "span bridge"
    ),
    SubjectTemplate(
        "otel.metrics.edge.<device>",
        "cumulative energy metrics, gzip OTLP protobuf",
        "agent",
        "span bridge",
    ),
    SubjectTemplate(
        "otel.metrics.cloud.<worker>",
        "cumulative energy metrics, gzip OTLP protobuf",
        "worker",
        "span bridge",
    ),
    SubjectTemplate("otel.hops", "what the broker did with a message", "broker", "span bridge"),
)


def token(value: str, field: str) -> str:
    """The value itself when it can stand in a subject, else InvalidEventError."""
    if not _TOKEN.fullmatch(value):
        raise InvalidEventError(
            f"{field} {value[:80]!r} cannot stand in a subject",
            field=field,
            remedy="use 1 to 64 letters, digits, '_' or '-'",
        )
    return value


def event(pipeline: str, device: str) -> str:
    """Where an application publishes events."""
    return f"evt.{pipeline}.{device}"


def events_of(device: str) -> str:
    """All events of one device, over all pipelines."""
    return f"evt.*.{device}"


def bells_of(device: str) -> str:
    """Told when an event of this device was stored."""
    return f"bell.{device}.*"


def parse_event(subject: str) -> tuple[str, str]:
    """(pipeline, device) of an event subject; raises InvalidEventError."""
    parts = subject.split(".")
    if len(parts) != 3 or parts[0] != "evt":
        raise InvalidEventError(f"{subject!r} is no event subject", field="subject")
    return token(parts[1], "pipeline"), token(parts[2], "device")


def reply_prefix(device: str, client: str) -> str:
    """What one client subscribes under, followed by one token per event."""
    return f"reply.{device}.{client}"


def is_reply_of(subject: str, device: str) -> bool:
    """True when an agent may publish an update there: nobody can aim it elsewhere."""
    parts = subject.split(".")
    return (
        len(parts) == 4
        and parts[0] == "reply"
        and parts[1] == device
        and all(_TOKEN.fullmatch(part) for part in parts[2:])
    )


def escalation(region: str, pipeline: str, device: str) -> str:
    """Where an agent publishes hard cases."""
    return f"esc.{region}.{pipeline}.{device}"


def escalations_of(region: str, pipeline: str) -> str:
    """What one teacher consumes."""
    return f"esc.{region}.{pipeline}.*"


def result(device: str, event_id: str) -> str:
    """The one record of an event's final result."""
    return f"res.{device}.{event_id}"


def late(device: str, event_id: str) -> str:
    """The record that came second."""
    return f"late.{device}.{event_id}"


def pushes_of(device: str) -> tuple[str, str]:
    """What an agent listens to: stored results and stored late answers."""
    return f"push.res.{device}.*", f"push.late.{device}.*"


def dead(pipeline: str, device: str) -> str:
    """Where dead letters lie."""
    return f"dead.{pipeline}.{device}"


HOPS = "otel.hops"
"""Where the broker tells of traced messages: ``msg_trace { dest }`` of its account."""


class Sender(NamedTuple):
    """Whose telemetry a message holds. A device may be called as a worker is: the tier tells."""

    tier: Tier
    name: str
    """The device's or the worker's."""


def spans(tier: Tier, name: str) -> str:
    """Where a device or a worker sends its sealed spans."""
    return f"otel.spans.{tier.value}.{name}"


def metrics(tier: Tier, name: str) -> str:
    """Where a device or a worker sends its energy metrics."""
    return f"otel.metrics.{tier.value}.{name}"


def sender_of(subject: str) -> Sender:
    """Who may publish to this subject of spans or metrics; raises InvalidEventError."""
    match = _TELEMETRY.fullmatch(subject)
    if match is None:
        raise InvalidEventError(f"{subject[:80]!r} holds no telemetry", field="subject")
    return Sender(Tier(match[1]), match[2])


def event_id(device: str, epoch: str, sequence: int) -> str:
    """Device, outbox epoch (8 hex digits), outbox sequence: never a content hash."""
    return f"{device}-{epoch}-{sequence}"


def device_of(identity: str) -> str:
    """The device inside an event id; raises InvalidEventError."""
    match = _EVENT_ID.fullmatch(identity)
    if match is None:
        raise InvalidEventError(f"{identity[:80]!r} is no event id", field="event_id")
    return match[1]
