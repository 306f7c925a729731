"""The span bridge as a process: signals and exit code."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from setsuden.link import JetStream, Link
from setsuden.link.tasks import end
from setsuden.pipelines import logs
from setsuden.schemas.errors import ConfigError
from setsuden.services.config import CloudConfig
from setsuden.services.signals import stop_signal

from .bridge import Bridge
from .sinks import Endpoint, LinesFile, Sink, read_headers

log = logging.getLogger(__name__)


def run_bridge(config: CloudConfig, base: Path) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop. Raises ConfigError without a sink."""
    logs.configure(config.log_level)
    return asyncio.run(_run(config, sinks_of(config, base)))


def sinks_of(config: CloudConfig, base: Path) -> list[Sink]:
    """Where ``[bridge]`` wants spans; raises ConfigError when nowhere."""
    options = config.bridge
    found: list[Sink] = []
    if options.endpoint is not None:
        headers = read_headers(base / options.headers_file if options.headers_file else None)
        found.append(Endpoint(options.endpoint, headers, options.timeout_seconds))
    if options.file is not None:
        found.append(LinesFile(base / options.file))
    if not found:
        raise ConfigError(
            "the span bridge has nowhere to put spans",
            remedy="set bridge.endpoint = 'http://127.0.0.1:4318', bridge.file, or both",
        )
    return found


async def _run(config: CloudConfig, sinks: list[Sink]) -> int:
    stop = stop_signal()
    link = Link(config.nats, "bridge")
    jetstream = JetStream(link)
    await jetstream.start()
    bridge = Bridge(config, link, jetstream, sinks)
    running = asyncio.create_task(bridge.run(), name="bridge")
    link.start()
    log.info("bridge_started", extra={"sinks": [type(sink).__name__ for sink in sinks]})
    try:
        await asyncio.wait([running, stop], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        await end(running)
        await link.close()
        log.info("bridge_stopped", extra=bridge.counters.as_dict())
    return 0
