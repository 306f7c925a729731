"""The two signals of the OTEL stream: spans, which must arrive, and metrics, which may be late."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from setsuden.link import Delivery, Incoming
from setsuden.schemas import subjects
from setsuden.schemas.errors import TraceDataError
from setsuden.telemetry import protobuf

from . import hops, rules
from .rules import RefusalReason


class Payload(NamedTuple):
    """One message's spans or metrics, ready to go."""

    message: Incoming
    data: bytes
    items: int
    """Spans or points in it."""
    refused: Mapping[RefusalReason, int] = {}
    """Spans or points that were taken out of it; counted once, when it is gone."""
    hop: bool = False
    """True for a broker's trace event."""
    loss: int = 1
    """What the counter of dropped ones grows by when this is given up."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What distinguishes spans from metrics on their way through the bridge."""

    name: str
    unit: str
    parse: Callable[[Incoming], Payload]
    """Raises TraceDataError, RejectedError or ValueError for what cannot be read."""
    retry_seconds: int
    """Pause before a message comes again that a sink could not take."""
    keep_seconds: float = float("inf")
    """A message older than this is dropped."""

    def is_too_old(self, message: Incoming) -> bool:
        """True for a message that nobody took for too long."""
        return (time.time_ns() - _stored_ns(message)) / 1e9 > self.keep_seconds


def parse_spans(message: Incoming) -> Payload:
    """Spans of a peer, or spans made of a broker's trace event."""
    if message.subject.startswith(subjects.HOPS):
        return _parse_hop(message)
    data = protobuf.decompress(message.data)
    verdict = rules.spans(data, subjects.sender_of(message.subject), _stored_ns(message))
    return Payload(message, verdict.data, verdict.items, verdict.refused, loss=verdict.items)


def parse_metrics(message: Incoming) -> Payload:
    """Points of a peer's energy metrics."""
    data = protobuf.decompress(message.data)
    verdict = rules.metrics(data, subjects.sender_of(message.subject), _stored_ns(message))
    return Payload(message, verdict.data, verdict.items, verdict.refused)


def _parse_hop(message: Incoming) -> Payload:
    event = hops.spans_of(message.data, message.subject)
    if event is None:
        return Payload(message, b"", 0, hop=True)
    stored_ns = _stored_ns(message)
    if not all(rules.hop_is_timely(s.start_ns, s.end_ns, stored_ns) for s in event.spans):
        raise TraceDataError("a hop of another time than its message's")
    data, count = protobuf.encode(event.resource, event.spans), len(event.spans)
    return Payload(message, data, count, hop=True, loss=count)


def _stored_ns(message: Incoming) -> int:
    """When the broker stored it."""
    return Delivery.of(message.reply).stored_at_ns


# Jaeger is back in seconds, and spans wait for it without limit.
SPANS = Signal("spans", "spans", parse_spans, retry_seconds=1)
# The next message counts what this one counted. A dead endpoint must not fill the stream: past its
# bound no spans come in.
METRICS = Signal("metrics", "points", parse_metrics, retry_seconds=15, keep_seconds=900.0)
