"""The span bridge as a process: signals and exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from setsuden.link import JetStream, Link
from setsuden.link.tasks import end
from setsuden.process import logs
from setsuden.process.reload import Reloader
from setsuden.process.service import notifying, stop_signal
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.log import get_logger
from setsuden.services.config import CloudConfig
from setsuden.services.platform_meter import side_meter
from setsuden.telemetry import metrics_protobuf

from .bridge import Bridge
from .sinks import METRICS_PATH, LinesFile, OtlpEndpoint, Sink, read_headers

log = get_logger(__name__)
NAME = "bridge"


def run_bridge(
    config: CloudConfig, base: Path, load: Callable[[], CloudConfig] | None = None
) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop. Raises ConfigError without a sink.

    ``load`` reads the configuration again at SIGHUP.
    """
    logs.configure(config.log_level)
    sinks = sinks_of(config, base), metrics_sinks_of(config, base)
    return asyncio.run(_run(config, base, load, *sinks))


def sinks_of(config: CloudConfig, base: Path) -> list[Sink]:
    """Where ``[bridge]`` wants spans; raises ConfigError when nowhere."""
    options = config.bridge
    sinks: list[Sink] = []
    if options.endpoint is not None:
        headers = _headers(base, options.headers_file)
        sinks.append(OtlpEndpoint(options.endpoint, headers, options.timeout_seconds))
    if options.file is not None:
        sinks.append(LinesFile(base / options.file))
    if not sinks:
        raise ConfigError(
            "the span bridge has nowhere to put spans",
            remedy="set bridge.endpoint = 'http://127.0.0.1:4318', bridge.file, or both",
        )
    return sinks


def metrics_sinks_of(config: CloudConfig, base: Path) -> list[Sink]:
    """Where ``[bridge]`` wants metrics; nowhere is an answer."""
    options = config.bridge
    sinks: list[Sink] = []
    if options.metrics_endpoint is not None:
        headers = _headers(base, options.metrics_headers_file)
        endpoint = options.metrics_endpoint
        sinks.append(OtlpEndpoint(endpoint, headers, options.timeout_seconds, METRICS_PATH))
    if options.metrics_file is not None:
        sinks.append(LinesFile(base / options.metrics_file, metrics_protobuf.line))
    return sinks


def _headers(base: Path, file: str | None) -> dict[str, str]:
    return read_headers(None if file is None else base / file)


async def _run(
    config: CloudConfig,
    base: Path,
    load: Callable[[], CloudConfig] | None,
    sinks: list[Sink],
    metrics_sinks: list[Sink],
) -> int:
    stop = stop_signal()
    meter = side_meter(config, base, NAME)
    meter.start()
    link = Link(config.nats, NAME)
    jetstream = JetStream(link)
    await jetstream.start()
    bridge = Bridge(config, link, jetstream, sinks, metrics_sinks)
    running = asyncio.create_task(bridge.run(), name="bridge")
    link.start()
    log.info("bridge_started", sinks=_kinds(sinks), metrics_sinks=_kinds(metrics_sinks))
    try:
        async with notifying(lambda: f"link {link.state.value}", link) as manager:
            Reloader(config, load, link, manager).install()
            manager.ready()
            await asyncio.wait([running, stop], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        await end(running)
        await link.close()
        await asyncio.to_thread(meter.close)
        log.info("bridge_stopped", **bridge.counts())
    return 0


def _kinds(sinks: list[Sink]) -> list[str]:
    return [type(sink).__name__ for sink in sinks]
