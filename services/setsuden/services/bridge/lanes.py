"""The bridge's two lanes: spans, which must arrive, and metrics, of which the next say as much."""

from __future__ import annotations

import logging
import time

from setsuden.link import Incoming
from setsuden.link.jetstream import Delivery
from setsuden.pipelines.tracing import metrics_protobuf, protobuf
from setsuden.schemas import subjects
from setsuden.schemas.errors import TraceDataError

from . import hops
from .lane import ACK, TERM, Lane, Load

log = logging.getLogger(__name__)
_SPANS_AGAIN_SECONDS = 1
_METRICS_AGAIN_SECONDS = 15
METRICS_KEEP_SECONDS = 900.0
"""Metrics that nobody took for so long are dropped: a dead endpoint must not fill the stream, past
whose bound no spans come in. What they counted, the next message counts too."""


class SpanLane(Lane):
    """Spans and hops. One that no sink takes now waits without limit."""

    async def read(self, message: Incoming) -> Load | None:
        """The message's spans; one that has none is ended here."""
        hop = message.subject == subjects.HOPS
        try:
            if not hop:
                data = protobuf.decompress(message.data)
                return Load(message, data, protobuf.count(data))
            found = hops.spans_of(message.data)
            data = b"" if found is None else protobuf.encode(found.resource, found.spans)
        except (TraceDataError, ValueError) as error:  # encode: a time before 1970, half a pair
            log.warning("spans_unreadable", extra={"detail": str(error), "from": message.subject})
            self.counters.dropped += 1
            await self.say(message, TERM)
            return None
        if found is None:
            self.counters.foreign += 1
            await self.say(message, ACK)
            return None
        return Load(message, data, len(found.spans), hop)

    def taken(self, load: Load) -> None:
        """Count its spans."""
        self.counters.spans += load.items
        self.counters.hops += load.items if load.hop else 0

    def refused(self, load: Load) -> None:
        """Count its spans as lost."""
        self.counters.dropped += load.items
        log.error("spans_refused", extra={"count": load.items, "from": load.message.subject})

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
        if _age_seconds(message) <= METRICS_KEEP_SECONDS:
            try:
                data = protobuf.decompress(message.data)
                return Load(message, data, metrics_protobuf.count(data))
            except TraceDataError as error:
                extra = {"detail": str(error), "from": message.subject}
                log.warning("metrics_unreadable", extra=extra)
        self.counters.metrics_dropped += 1
        await self.say(message, TERM)
        return None

    def taken(self, load: Load) -> None:
        """Count its points."""
        self.counters.metrics += load.items

    def refused(self, load: Load) -> None:
        """Count its message as lost."""
        self.counters.metrics_dropped += 1
        log.error("metrics_refused", extra={"from": load.message.subject})

    def later(self) -> int:
        """Without haste: the next message says as much."""
        self.counters.metrics_later += 1
        return _METRICS_AGAIN_SECONDS

    def rejected(self, count: int) -> None:
        """Of points."""
        self.counters.metrics_rejected = count


def _age_seconds(message: Incoming) -> float:
    """Since the broker stored it, by our clock."""
    return (time.time_ns() - Delivery.of(message.reply).stored_at_ns) / 1e9
