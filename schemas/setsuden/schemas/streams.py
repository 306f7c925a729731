"""Streams and consumers as data, applied idempotently by the link.

Six streams however many devices there are, one consumer for each teacher and two for the span
bridge: devices read their events and results without consumers of their own
(``docs/decisions.md``).
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from . import subjects
from .base import Model

EVENTS, ESCALATIONS, RESULTS, DEAD, SPANS = "EVT", "ESC", "RES", "DEAD", "OTEL"
LEASES = "LEASE"
BRIDGE = "bridge"
"""The durable that all span bridges share."""
BRIDGE_METRICS = "bridge-metrics"
"""Theirs for metrics: what its endpoint does not take must not stand before spans."""
_SPANS, _METRICS = ("otel.spans.*.*", subjects.HOPS, subjects.HOPS_OF), "otel.metrics.*.*"
SPANS_MAX_MESSAGE_BYTES = 256 << 10
"""Of one message of spans, metrics or hops, headers included. Past it the broker refuses: a span
bridge holds some hundred messages at once, whoever sent them."""
DUPLICATE_WINDOW_SECONDS = 600.0
"""Longer than any burst of retries of one publish; memory cost per message id."""


LEASE_MAX_MESSAGE_BYTES = 4096
"""A larger record holds nothing, and a few hundred of them must not keep everybody else out."""
LEASES_MAX_BYTES = 1 << 28
"""A record has some 500 bytes: half a million devices."""


class StreamBounds(Model):
    """Bytes and age of each stream. Past a byte bound publishers are refused, nothing dropped."""

    events_max_bytes: int = Field(default=1 << 30, ge=1 << 16)
    """Events that agents have not read yet."""
    events_max_age_seconds: float = Field(default=7 * 86400.0, gt=0)
    """An event no agent read by then is gone."""
    escalations_max_bytes: int = Field(default=1 << 30, ge=1 << 16)
    """Hard cases that no worker has settled; they have no age."""
    results_max_bytes: int = Field(default=1 << 30, ge=1 << 16)
    """Final results and late answers."""
    results_max_age_seconds: float = Field(default=7 * 86400.0, gt=0)
    """How long a final result keeps a second one out."""
    dead_max_bytes: int = Field(default=1 << 28, ge=1 << 16)
    """Dead letters."""
    dead_max_age_seconds: float = Field(default=90 * 86400.0, gt=0)
    """How long a dead letter waits for a person."""
    spans_max_bytes: int = Field(default=1 << 28, ge=1 << 16)
    """Spans that no bridge has passed on; past it they wait in the spools they come from. Metrics
    count too; past it new ones are lost, and the next ones say as much."""
    replicas: int = Field(default=1, ge=1, le=5)
    """Copies of each stream in a NATS cluster."""


class Rates(NamedTuple):
    """What a site does, from which its streams' bounds follow."""

    events: float
    """Events a second over all devices."""
    escalated: float = 0.2
    """Share of them that the teachers answer."""
    event_bytes: int = 1000
    """Of one observation."""


class PlannedStream(NamedTuple):
    """One bound that follows from rates."""

    stream: str
    option: str
    max_bytes: int
    reason: str


RECORD_BYTES = 1100
"""Of a stored result with ten classes: `setsuden demo`, 1,072 bytes an event in the stream."""
ENVELOPE_BYTES = 500
"""Headers and subject of an event or an escalation in its stream."""
OUTAGE_SECONDS = 86_400.0
"""So long escalations, spans and dead letters may wait for somebody to come."""
_DEAD_SHARE, _SPAN_BYTES = 0.001, 1200
MOST_BYTES = float(1 << 62)
"""Of a stream, as far as the server counts; no disk holds so much."""
_HEADROOM = 1.25
"""The service that watches the streams warns at four fifths of a bound."""


def plan(rates: Rates, bounds: StreamBounds) -> list[PlannedStream]:
    """The bytes that each stream needs to keep what it holds for as long as it is meant to."""
    hard = rates.events * rates.escalated
    event = rates.event_bytes + ENVELOPE_BYTES
    results, dead = bounds.results_max_age_seconds, bounds.dead_max_age_seconds
    rows = (
        (EVENTS, "events_max_bytes", rates.events * event, OUTAGE_SECONDS, "no agent reads"),
        (ESCALATIONS, "escalations_max_bytes", hard * event, OUTAGE_SECONDS, "no worker runs"),
        (RESULTS, "results_max_bytes", rates.events * RECORD_BYTES, results, "results are kept"),
        (DEAD, "dead_max_bytes", rates.events * _DEAD_SHARE * 1000, dead, "1 in 1,000 is dead"),
        (SPANS, "spans_max_bytes", hard * _SPAN_BYTES, OUTAGE_SECONDS, "no bridge runs"),
    )
    return [
        PlannedStream(
            name,
            option,
            max(1 << 20, int(min(rate * seconds * _HEADROOM, MOST_BYTES))),
            f"{seconds / 86_400:g} d at {rates.events:g} events/s: {why}",
        )
        for name, option, rate, seconds, why in rows
    ]


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)


def _stream(
    name: str, patterns: list[str], max_bytes: int, bounds: StreamBounds
) -> dict[str, object]:
    return {
        "name": name,
        "subjects": patterns,
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_bytes": max_bytes,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "num_replicas": bounds.replicas,
        "duplicate_window": _nanoseconds(DUPLICATE_WINDOW_SECONDS),
        "allow_direct": True,
    }


def events(bounds: StreamBounds) -> dict[str, object]:
    """Events in; each stored one is sent on to its device."""
    return _stream(EVENTS, ["evt.*.*"], bounds.events_max_bytes, bounds) | {
        "max_age": _nanoseconds(bounds.events_max_age_seconds),
        "republish": {
            "src": "evt.*.*",
            "dest": "notify.{{wildcard(2)}}.{{wildcard(1)}}",
        },
    }


def escalations(bounds: StreamBounds) -> dict[str, object]:
    """Hard cases; a message lives until a worker acked it.

    One message per subject, so an event that waits already is not queued a second time.
    """
    return _stream(ESCALATIONS, ["esc.*.*.*.*"], bounds.escalations_max_bytes, bounds) | {
        "retention": "workqueue",
        "max_msgs_per_subject": 1,
        "discard_new_per_subject": True,
    }


def results(bounds: StreamBounds) -> dict[str, object]:
    """One message per subject while it is kept: an event's second final result is refused."""
    patterns = ["res.*.*.*.*", "late.*.*.*.*"]
    return _stream(RESULTS, patterns, bounds.results_max_bytes, bounds) | {
        "max_age": _nanoseconds(bounds.results_max_age_seconds),
        "max_msgs_per_subject": 1,
        "discard_new_per_subject": True,
        "republish": {"src": ">", "dest": "push.>"},
    }


def dead(bounds: StreamBounds) -> dict[str, object]:
    """Dead letters, kept for people."""
    return _stream(DEAD, ["dead.*.*"], bounds.dead_max_bytes, bounds) | {
        "max_age": _nanoseconds(bounds.dead_max_age_seconds)
    }


def spans(bounds: StreamBounds) -> dict[str, object]:
    """Spans, metrics, the broker's tale of its hops; a message lives until a bridge acked it."""
    patterns = [*_SPANS, _METRICS]
    return _stream(SPANS, patterns, bounds.spans_max_bytes, bounds) | {
        "retention": "workqueue",
        "max_msg_size": SPANS_MAX_MESSAGE_BYTES,
    }


def leases(bounds: StreamBounds) -> dict[str, object]:
    """The newest record of each device: which agent it is."""
    return _stream(LEASES, ["lease.*"], LEASES_MAX_BYTES, bounds) | {
        "max_msgs_per_subject": 1,
        "max_msg_size": LEASE_MAX_MESSAGE_BYTES,
    }


def all_streams(bounds: StreamBounds) -> list[dict[str, object]]:
    """Every stream's configuration, as the JetStream API takes it."""
    made = (events, escalations, results, dead, spans, leases)
    return [one(bounds) for one in made]


def consumer_name(region: str, pipeline: str) -> str:
    """The durable that all workers of one teacher share."""
    # Both names may hold a hyphen: joined by one, two pipelines could share a consumer.
    return f"teacher={region}={pipeline}"


def teacher_consumer(
    region: str, pipeline: str, *, ack_wait_seconds: float, max_ack_pending: int
) -> dict[str, object]:
    """The shared pull consumer of one teacher.

    ``max_deliver`` is without limit on purpose: the worker itself writes the dead letter, a
    message past the server's limit would sit in the stream invisibly.
    """
    return _consumer(consumer_name(region, pipeline), ack_wait_seconds, max_ack_pending) | {
        "filter_subject": subjects.escalations_of(region, pipeline)
    }


def bridge_consumer(*, ack_wait_seconds: float, max_ack_pending: int) -> dict[str, object]:
    """The shared pull consumer of the span bridges."""
    return _consumer(BRIDGE, ack_wait_seconds, max_ack_pending) | {"filter_subjects": [*_SPANS]}


def metrics_consumer(*, ack_wait_seconds: float, max_ack_pending: int) -> dict[str, object]:
    """The span bridges' other one, for metrics.

    A work queue wants consumers that do not overlap: apply :func:`bridge_consumer` first.
    """
    return _consumer(BRIDGE_METRICS, ack_wait_seconds, max_ack_pending) | {
        "filter_subject": _METRICS
    }


def _consumer(name: str, ack_wait_seconds: float, max_ack_pending: int) -> dict[str, object]:
    return {
        "durable_name": name,
        "ack_policy": "explicit",
        "ack_wait": _nanoseconds(ack_wait_seconds),
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_ack_pending": max_ack_pending,
        "max_waiting": 512,
    }
