"""Takes spans, hops and metrics off the OTEL stream; acknowledges what every sink has taken."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from setsuden.link import JetStream, Link
from setsuden.schemas import streams
from setsuden.services.config import CloudConfig
from setsuden.services.topology import apply_bridge, apply_streams

from .lane import BridgeCounters, Lane
from .lanes import MetricsLane, SpanLane
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
        self.counters = BridgeCounters()
        self._config, self._options, self._jetstream = config, config.bridge, jetstream
        self._lanes = (
            self._lane(SpanLane, link, streams.BRIDGE, sinks),
            self._lane(MetricsLane, link, streams.BRIDGE_METRICS, metrics_sinks),
        )

    def _lane(self, kind: type[Lane], link: Link, consumer: str, sinks: Sequence[Sink]) -> Lane:
        counters, repair = self.counters, self._repair
        return kind(link, self._options, consumer, sinks, counters=counters, repair=repair)

    async def run(self) -> None:
        """Pass on until cancelled; what was not acknowledged comes again."""
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(lane.run(), name=type(lane).__name__)

    async def _repair(self) -> None:
        if self._config.nats.anonymous:  # else `setsuden cloud streams` does it
            await apply_streams(self._jetstream, self._config)
            await apply_bridge(self._jetstream, self._config)
