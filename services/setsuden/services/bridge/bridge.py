"""Takes spans, hops and metrics off the OTEL stream; acknowledges what every sink has taken."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from setsuden.link import JetStream, Link
from setsuden.schemas import streams
from setsuden.services.config import CloudConfig
from setsuden.services.topology import apply_bridge, apply_streams

from . import payload
from .forwarder import Forwarder
from .sinks import Sink


class Bridge:
    """Two consumers of the OTEL stream; any number of bridges share the work."""

    def __init__(
        self,
        config: CloudConfig,
        link: Link,
        jetstream: JetStream,
        sinks: Sequence[Sink],
        metrics_sinks: Sequence[Sink] = (),
    ) -> None:
        self._config, self._jetstream = config, jetstream
        repair = self._repair
        self._spans = Forwarder(link, payload.SPANS, streams.BRIDGE, sinks, repair)
        self._metrics = Forwarder(
            link, payload.METRICS, streams.BRIDGE_METRICS, metrics_sinks, repair
        )
        self.spans, self.metrics = self._spans.counters, self._metrics.counters

    async def run(self) -> None:
        """Pass on until cancelled; what was not acknowledged comes again."""
        async with asyncio.TaskGroup() as tasks:
            for forwarder in (self._spans, self._metrics):
                tasks.create_task(forwarder.run(), name=f"forward-{forwarder.signal.name}")

    def counts(self) -> dict[str, object]:
        """For the log."""
        spans, metrics = self.spans, self.metrics
        return {
            "messages": spans.messages + metrics.messages,
            "spans": spans.forwarded,
            "hops": spans.hops,
            "foreign": spans.foreign,
            "dropped": spans.dropped,
            "refused": dict(spans.refused + metrics.refused),
            "rejected": spans.rejected,
            "later": spans.later,
            "metrics": metrics.forwarded,
            "metrics_unwanted": metrics.unwanted,
            "metrics_dropped": metrics.dropped,
            "metrics_rejected": metrics.rejected,
            "metrics_later": metrics.later,
        }

    async def _repair(self) -> None:
        if self._config.nats.anonymous:  # else `setsuden cloud streams` does it
            await apply_streams(self._jetstream, self._config)
            await apply_bridge(self._jetstream, self._config)
