"""Streams and consumers applied as declared, as often as one likes."""

from __future__ import annotations

import asyncio

from setsuden.link import JetStream, Link, LinkState
from setsuden.schemas import streams
from setsuden.schemas.errors import UnavailableError

from .config import CloudConfig


async def apply_streams(jetstream: JetStream, config: CloudConfig) -> list[str]:
    """Every stream; the names of those that changed."""
    wanted = streams.all_streams(config.streams)
    return [str(stream["name"]) for stream in wanted if await jetstream.apply_stream(stream)]


async def apply_consumer(jetstream: JetStream, config: CloudConfig, pipeline: str) -> bool:
    """The durable that all workers of this pipeline share; True when something changed."""
    consumer = streams.teacher_consumer(
        config.region,
        pipeline,
        ack_wait_seconds=config.worker.ack_wait_seconds,
        max_ack_pending=config.worker.max_ack_pending,
    )
    return await jetstream.apply_consumer(streams.ESCALATIONS, consumer)


async def apply_bridge(jetstream: JetStream, config: CloudConfig) -> list[str]:
    """The consumers that all span bridges share; the names of those that changed."""
    changed = []
    for make in (streams.bridge_consumer, streams.metrics_consumer):
        wanted = make(
            ack_wait_seconds=config.bridge.ack_wait_seconds,
            max_ack_pending=config.bridge.max_ack_pending,
        )
        if await jetstream.apply_consumer(streams.SPANS, wanted):
            changed.append(str(wanted["durable_name"]))
    return changed


async def apply_all(
    jetstream: JetStream, config: CloudConfig, pipeline: str | None = None
) -> list[str]:
    """Every stream and the consumers, or one pipeline's; the names of what changed."""
    changed = await apply_streams(jetstream, config)
    if pipeline is None:
        changed += await apply_bridge(jetstream, config)
    for name in [pipeline] if pipeline else [found.name for found in config.pipelines]:
        if await apply_consumer(jetstream, config, name):
            changed.append(streams.consumer_name(config.region, name))
    return changed


async def apply_if_allowed(jetstream: JetStream, config: CloudConfig, pipeline: str) -> list[str]:
    """What a worker does at its start; the names of what changed. Raises LinkError.

    Where everybody may do everything it makes streams and consumer. A worker that logs in has no
    leave for that: `setsuden cloud streams` does it with the operator's credentials.
    """
    return await apply_all(jetstream, config, pipeline) if config.nats.anonymous else []


def apply(config: CloudConfig) -> list[str]:
    """Apply streams and consumers once; the names of what changed. Raises LinkError."""
    return asyncio.run(_apply(config, 2 * config.nats.connect_timeout_seconds))


async def apply_when_up(config: CloudConfig) -> list[str]:
    """As :func:`apply`, waiting without limit for a broker that cannot be reached."""
    return await _apply(config, None)


async def _apply(config: CloudConfig, timeout_seconds: float | None) -> list[str]:
    link = Link(config.nats, "streams")
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    try:
        await up_or_refused(link, timeout_seconds)
        return await apply_all(jetstream, config)
    finally:
        await link.close()


async def up_or_refused(link: Link, timeout_seconds: float | None) -> None:
    """Return once the link is up; raises at once what a retry would not mend."""
    changed = asyncio.Event()
    link.listen(lambda _: changed.set())
    try:
        async with asyncio.timeout(timeout_seconds):
            while link.state is not LinkState.UP:
                if link.state is LinkState.REFUSED and link.problem is not None:
                    raise link.problem
                await changed.wait()
                changed.clear()
    except TimeoutError as error:
        raise link.problem or UnavailableError("the link did not come up in time") from error
