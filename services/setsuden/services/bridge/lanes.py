"""The bridge's two lanes: spans, which must arrive, and metrics, of which the next say as much."""

from __future__ import annotations

import time

from setsuden.link import Delivery, Incoming
from setsuden.link.messages import ACK, TERM
from setsuden.schemas import subjects
from setsuden.schemas.errors import RejectedError, TraceDataError
from setsuden.telemetry import protobuf

from . import hops, rules
from .lane import Lane, Load

_SPANS_AGAIN_SECONDS = 1
_METRICS_AGAIN_SECONDS = 15
METRICS_KEEP_SECONDS = 900.0
"""Metrics that nobody took for so long are dropped: a dead endpoint must not fill the stream, past
whose bound no spans come in. What they counted, the next message counts too."""


class SpanLane(Lane):
    """Spans and hops. One that no sink takes now waits without limit."""

    async def read(self, message: Incoming) -> Load | None:
        """The message's spans; one that has none is ended here."""
        try:
            told = message.subject.startswith(subjects.HOPS)
            load = _hop(message) if told else _spans(message)
        except (TraceDataError, RejectedError, ValueError) as error:
            self.warnings.tell("spans_unreadable", message.subject, str(error))
            self.counters.dropped += 1
            await self.say(message, TERM)
            return None
        if load.refused:
            self.warnings.tell("spans_not_passed_on", message.subject, _words(load))
        if load.items:
            return load
        self.counters.refuse(load.refused)
        self.counters.foreign += load.hop
        await self.say(message, ACK)
        return None

    def taken(self, load: Load) -> None:
        """Count its spans."""
        self.counters.spans += load.items
        self.counters.hops += load.items if load.hop else 0

    def refused(self, load: Load) -> None:
        """Count its spans as lost."""
        self.counters.dropped += load.items
        self.warnings.tell("spans_refused", load.message.subject, f"{load.items} spans")

    def later(self) -> int:
        """Soon: Jaeger is back in seconds."""
        self.counters.later += 1
        return _SPANS_AGAIN_SECONDS

    def rejected(self, count: int) -> None:
        """Of spans."""
        self.counters.rejected = count


class MetricsLane(Lane):
    """Energy metrics. Without a sink they are dropped on purpose."""

    async def read(self, message: Incoming) -> Load | None:
        """The message's metrics; unwanted, old and damaged ones are ended here."""
        if not self.sinks:
            self.counters.metrics_unwanted += 1
            await self.say(message, ACK)
            return None
        load = self._load(message)
        if load is None:
            self.counters.metrics_dropped += 1
            await self.say(message, TERM)
            return None
        if load.refused:
            self.warnings.tell("metrics_not_passed_on", message.subject, _words(load))
        if load.items:
            return load
        self.counters.refuse(load.refused)
        await self.say(message, ACK)
        return None

    def _load(self, message: Incoming) -> Load | None:
        """None for what is too old, or cannot be read."""
        if (time.time_ns() - _stored_ns(message)) / 1e9 > METRICS_KEEP_SECONDS:
            return None
        try:
            data = protobuf.decompress(message.data)
            found = rules.metrics(data, subjects.sender_of(message.subject), _stored_ns(message))
        except (TraceDataError, RejectedError) as error:
            self.warnings.tell("metrics_unreadable", message.subject, str(error))
            return None
        return Load(message, found.data, found.items, refused=found.refused)

    def taken(self, load: Load) -> None:
        """Count its points."""
        self.counters.metrics += load.items

    def refused(self, load: Load) -> None:
        """Count its message as lost."""
        self.counters.metrics_dropped += 1
        self.warnings.tell("metrics_refused", load.message.subject, f"{load.items} points")

    def later(self) -> int:
        """Without haste: the next message says as much."""
        self.counters.metrics_later += 1
        return _METRICS_AGAIN_SECONDS

    def rejected(self, count: int) -> None:
        """Of points."""
        self.counters.metrics_rejected = count


def _spans(message: Incoming) -> Load:
    """Raises TraceDataError for what cannot be read."""
    data = protobuf.decompress(message.data)
    found = rules.spans(data, subjects.sender_of(message.subject), _stored_ns(message))
    return Load(message, found.data, found.items, refused=found.refused)


def _hop(message: Incoming) -> Load:
    """Raises TraceDataError, and ValueError for a time that protobuf cannot hold."""
    found = hops.spans_of(message.data, message.subject)
    if found is None:
        return Load(message, b"", 0, hop=True)
    stored_ns = _stored_ns(message)
    if not all(rules.hop_is_timely(s.start_ns, s.end_ns, stored_ns) for s in found.spans):
        raise TraceDataError("a hop of another time than its message's")
    data = protobuf.encode(found.resource, found.spans)
    return Load(message, data, len(found.spans), hop=True)


def _stored_ns(message: Incoming) -> int:
    """When the broker stored it."""
    return Delivery.of(message.reply).stored_at_ns


def _words(load: Load) -> str:
    return ", ".join(f"{reason.value}: {count}" for reason, count in load.refused.items())
