"""Every subject, built and parsed in this one place.

Documentation, permissions and AsyncAPI come from :data:`SUBJECTS`; who may use which is in
:mod:`.roles`. No personal identifiers.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

from .base import TOKEN_PATTERN
from .errors import InvalidEventError

_TOKEN = re.compile(TOKEN_PATTERN)
_TELEMETRY = re.compile(r"otel\.(?:spans|metrics)\.(edge|cloud)\.([A-Za-z0-9_-]{1,64})")
_EVENT_ID = re.compile(r"^([A-Za-z0-9_-]{1,40})-([0-9a-f]{8})-([0-9]{1,12})$")
MAX_EVENT_ID = 64
"""Characters; an event id is one token of a subject."""


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
        "notify.<device>.<pipeline>", "a stored event with its sequence", "broker", "agent"
    ),
    SubjectTemplate(
        "reply.<application>.<device>.<client>.<token>",
        "provisional, final, superseded",
        "agent",
        "application",
    ),
    SubjectTemplate(
        "esc.<region>.<pipeline>.<device>.<event_id>",
        "an escalation; one copy of an event at a time",
        "agent",
        "worker",
    ),
    SubjectTemplate(
        "res.<region>.<pipeline>.<device>.<event_id>",
        "the one final result, by compare-and-set",
        "worker, agent",
        "agent, application",
    ),
    SubjectTemplate(
        "late.<region>.<pipeline>.<device>.<event_id>",
        "the answer that came second",
        "worker, agent",
        "agent, application",
    ),
    SubjectTemplate(
        "push.res.<region>.<pipeline>.<device>.<event_id>", "a stored result", "broker", "agent"
    ),
    SubjectTemplate(
        "push.late.<region>.<pipeline>.<device>.<event_id>",
        "a stored late answer",
        "broker",
        "agent",
    ),
    SubjectTemplate(
        "dead.<pipeline>.<device>", "dead letters with their reason", "worker, agent", "-"
    ),
    SubjectTemplate("lease.<device>", "who is this device now", "agent", "agent"),
    SubjectTemplate(
        "cloud.<name>.<request>",
        "what a device may not ask of JetStream itself",
        "agent, worker",
        "stream service",
    ),
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
    SubjectTemplate(
        "otel.hops",
        "what the broker did with a message, in its sender's own account",
        "broker",
        "span bridge",
    ),
    SubjectTemplate(
        "otel.hops.<kind>.<name>",
        "the same in the streams' account: of a device (edge), a worker (cloud) or an "
        "application (app)",
        "broker",
        "span bridge",
    ),
)


class Place(NamedTuple):
    """Where everything about one event is: the tokens behind ``esc``, ``res`` and ``late``."""

    region: str
    pipeline: str
    device: str
    event_id: str

    @property
    def escalation(self) -> str:
        """Where an agent publishes the hard case."""
        return f"esc.{self.region}.{self.pipeline}.{self.device}.{self.event_id}"

    @property
    def result(self) -> str:
        """The one record of the event's final result."""
        return f"res.{self.region}.{self.pipeline}.{self.device}.{self.event_id}"

    @property
    def late(self) -> str:
        """The record that came second."""
        return f"late.{self.region}.{self.pipeline}.{self.device}.{self.event_id}"


def place_of(subject: str, kind: str) -> Place:
    """The place in a subject of this kind (``esc``, ``res``, ``late``); raises InvalidEventError.

    The event id's grammar is checked, and that it is the device's own.
    """
    parts = subject.split(".")
    if len(parts) != 5 or parts[0] != kind:
        raise InvalidEventError(f"{subject[:200]!r} is not a subject of {kind}", field="subject")
    place = Place(*parts[1:])
    if device_of(place.event_id) != place.device:
        raise InvalidEventError(
            f"event id {place.event_id!r} is not of device {place.device!r}", field="event_id"
        )
    return place


def token(value: str, field: str) -> str:
    """The value itself when it can stand in a subject, else InvalidEventError."""
    if not is_token(value):
        raise InvalidEventError(
            f"{field} {value[:80]!r} cannot stand in a subject",
            field=field,
            remedy="use 1 to 64 letters, digits, '_' or '-'",
        )
    return value


def is_token(value: str) -> bool:
    """True for what can stand in a subject."""
    return _TOKEN.fullmatch(value) is not None


def event(pipeline: str, device: str) -> str:
    """Where an application publishes events."""
    return f"evt.{pipeline}.{device}"


def events_of(device: str) -> str:
    """All events of one device, over all pipelines."""
    return f"evt.*.{device}"


def notifications_of(device: str) -> str:
    """Where the broker sends each stored event of this device."""
    return f"notify.{device}.*"


def parse_event(subject: str) -> tuple[str, str]:
    """(pipeline, device) of an event subject; raises InvalidEventError."""
    parts = subject.split(".")
    if len(parts) != 3 or parts[0] != "evt":
        raise InvalidEventError(f"{subject[:200]!r} is not an event subject", field="subject")
    return token(parts[1], "pipeline"), token(parts[2], "device")


def reply_prefix(application: str, device: str, client: str) -> str:
    """What one client subscribes under, followed by one token per event."""
    return f"reply.{application}.{device}.{client}"


def is_reply_of(subject: str, device: str) -> bool:
    """True when an agent may publish an update there: nobody can aim it elsewhere."""
    parts = subject.split(".")
    return (
        len(parts) == 5
        and parts[0] == "reply"
        and parts[2] == device
        and all(_TOKEN.fullmatch(part) for part in parts[1:])
    )


def escalations_of(region: str, pipeline: str) -> str:
    """What one teacher consumes."""
    return f"esc.{region}.{pipeline}.*.*"


def pushes_of(region: str, pipeline: str, device: str) -> tuple[str, str]:
    """What an agent listens to: stored results and stored late answers of one pipeline."""
    tail = f"{region}.{pipeline}.{device}.*"
    return f"push.res.{tail}", f"push.late.{tail}"


def dead(pipeline: str, device: str) -> str:
    """Where dead letters are kept."""
    return f"dead.{pipeline}.{device}"


def lease(device: str) -> str:
    """The record of the agent that is this device now."""
    return f"lease.{device}"


def service(name: str, request: str) -> str:
    """Where the stream service is asked, in the asker's own name."""
    return f"cloud.{name}.{request}"


HOPS = "otel.hops"
"""Where the broker tells of traced messages: ``msg_trace { dest }`` of their sender's account.

In an account of its own a sender has no other subject, and the streams' account hears it under
``otel.hops.<kind>.<name>``: so nobody's message is told of in another's name.
"""
HOPS_OF = "otel.hops.*.*"
"""All of those."""


class TelemetrySource(NamedTuple):
    """Whose telemetry a message holds. A device may be called as a worker is: the tier tells."""

    tier: str
    """``edge`` or ``cloud``, as ``result.Tier`` has them."""
    name: str
    """The device's or the worker's."""


def spans(tier: str, name: str) -> str:
    """Where a device or a worker sends its sealed spans."""
    return f"otel.spans.{tier}.{name}"


def metrics(tier: str, name: str) -> str:
    """Where a device or a worker sends its energy metrics."""
    return f"otel.metrics.{tier}.{name}"


def sender_of(subject: str) -> TelemetrySource:
    """Who may publish to this subject of spans or metrics; raises InvalidEventError."""
    match = _TELEMETRY.fullmatch(subject)
    if match is None:
        raise InvalidEventError(f"{subject[:80]!r} holds no telemetry", field="subject")
    return TelemetrySource(match[1], match[2])


def hop_fits(subject: str, message: str) -> bool:
    """True when whoever the subject of a hop names could have sent to ``message``.

    In an account that everybody shares nothing is known of the sender.
    """
    if subject == HOPS:
        return True
    match [*subject.split(".")[2:], *message.split(".")]:
        case ["edge", device, "esc" | "res" | "late", _, _, named, _]:
            return named == device
        case ["edge", device, "dead", _, named]:
            return named == device
        case ["cloud", _, "res" | "late" | "dead", *_]:
            return True
        case ["app", _, "evt", _, _]:
            return True
    return False


def event_id(device: str, epoch: str, sequence: int) -> str:
    """Device, epoch (8 hex digits), sequence: never a content hash.

    The epoch of an event that came over the broker is its stream's (:func:`stream_epoch`) and the
    sequence its place there, so whoever reads it again gives it the same name. Any other event
    has the epoch of the agent's start and the sequence of its row.
    """
    return f"{device}-{epoch}-{sequence}"


def stream_epoch(created: str) -> str:
    """8 hex digits of a stream's own creation time: a stream made anew has other events."""
    return hashlib.blake2b(created.encode(), digest_size=4).hexdigest()


def device_of(identity: str) -> str:
    """The device inside an event id; raises InvalidEventError."""
    match = _EVENT_ID.fullmatch(identity)
    if match is None or len(identity) > MAX_EVENT_ID:
        raise InvalidEventError(f"{identity[:80]!r} is not an event id", field="event_id")
    return match[1]
