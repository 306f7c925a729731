"""Streams and consumers applied as declared, as often as one likes."""

from __future__ import annotations

import asyncio

from setsuden.link import JetStream, Link
from setsuden.schemas import streams
from setsuden.schemas.log import get_logger

from .config import CloudConfig

log = get_logger(__name__)


Applied = dict[str, bool]
"""Stream and consumer names in the order they were applied; True for what had to change."""


async def apply_streams(jetstream: JetStream, config: CloudConfig) -> Applied:
    """Every stream."""
    wanted = streams.all_streams(config.streams)
    return {str(stream["name"]): await jetstream.apply_stream(stream) for stream in wanted}


async def apply_consumer(jetstream: JetStream, config: CloudConfig, pipeline: str) -> Applied:
    """The durable that all workers of this pipeline share."""
    consumer = streams.teacher_consumer(
        config.region,
        pipeline,
        ack_wait_seconds=config.worker.ack_wait_seconds,
        max_ack_pending=config.worker.max_ack_pending,
    )
    changed = await jetstream.apply_consumer(streams.ESCALATIONS, consumer)
    return {str(consumer["durable_name"]): changed}


async def apply_bridge(jetstream: JetStream, config: CloudConfig) -> Applied:
    """The consumers that all span bridges share."""
    applied = {}
    for make in (streams.bridge_consumer, streams.metrics_consumer):
        wanted = make(
            ack_wait_seconds=config.bridge.ack_wait_seconds,
            max_ack_pending=config.bridge.max_ack_pending,
        )
        changed = await jetstream.apply_consumer(streams.SPANS, wanted)
        applied[str(wanted["durable_name"])] = changed
    return applied


async def apply_all(jetstream: JetStream, config: CloudConfig) -> Applied:
    """Every stream and every consumer."""
    applied = await apply_streams(jetstream, config) | await apply_bridge(jetstream, config)
    for spec in config.pipelines:
        applied |= await apply_consumer(jetstream, config, spec.name)
    for name, changed in applied.items():
        if changed:
            log.info("topology_applied", name_applied=name)
    return applied


async def apply_if_allowed(jetstream: JetStream, config: CloudConfig) -> None:
    """What a worker does at its start and when something is missing. Raises LinkError.

    Where everybody may do everything it makes streams and consumers. A worker that logs in has no
    leave for that: `setsuden cloud streams` does it with the operator's credentials.
    """
    if config.nats.anonymous:
        await apply_all(jetstream, config)


def apply(config: CloudConfig) -> Applied:
    """Apply streams and consumers once. Raises LinkError."""
    return asyncio.run(_apply(config, 2 * config.nats.connect_timeout_seconds))


async def apply_when_up(config: CloudConfig) -> Applied:
    """As :func:`apply`, waiting without limit for a broker that cannot be reached."""
    return await _apply(config, None)


async def _apply(config: CloudConfig, timeout_seconds: float | None) -> Applied:
    link = Link(config.nats, "streams")
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    try:
        await link.wait_up(timeout_seconds, refused_ends=True)
        return await apply_all(jetstream, config)
    finally:
        await link.close()
