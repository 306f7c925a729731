"""The worker as a plain process: signals, exit code, a watchdog. Needs no Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from setsuden.link import Link
from setsuden.process import logs
from setsuden.process.reload import PreparedChange, Reloader
from setsuden.process.service import notifying, stop_signal
from setsuden.schemas.log import get_logger
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.services import topology
from setsuden.services.config import CloudConfig
from setsuden.services.heartbeat import heartbeat
from setsuden.services.stream_service import serving_beside

from .assembly import STALLED_EXIT, assembled
from .worker import StalledError, Worker

log = get_logger(__name__)
_WATCH_SECONDS = 1.0


Load = Callable[[], CloudConfig]


def run_worker(
    config: CloudConfig, base: Path, pipeline: str | None = None, load: Load | None = None
) -> int:
    """Run one pipeline's teacher until SIGTERM or SIGINT; 0 after a clean stop.

    ``load`` reads the configuration again at SIGHUP.
    Raises SetsudenError for what makes a start impossible: configuration, bundle, a broker that
    cannot prove its durability. A stalled worker ends with code 70, for whoever restarts it.
    """
    spec = config.pipeline(pipeline)
    logs.configure(config.log_level, pipeline=spec.name)
    return asyncio.run(run(config, base, spec, load))


async def run(
    config: CloudConfig, base: Path, pipeline: PipelineSpec, load: Load | None = None
) -> int:
    """As :func:`run_worker`, inside a loop."""
    stop = stop_signal()
    async with (
        assembled(config, pipeline, base / pipeline.bundle, base) as parts,
        heartbeat(config.worker.stall_seconds, _on_silence),
        notifying(lambda: f"link {parts.link.state.value}, {pipeline.name}", parts.link) as manager,
    ):
        worker, link = parts.worker, parts.link

        async def reload_pipelines(changed: CloudConfig) -> PreparedChange:
            return await parts.pipelines.prepare(changed.pipelines)

        Reloader(config, load, link, manager, pipelines=reload_pipelines).install()
        manager.ready()  # it waits for a broker as long as it takes
        starting = asyncio.create_task(_start(config, worker, link))
        await first_of(starting, stop)
        if not starting.done():
            starting.cancel()
            return 0
        await starting
        log.info("worker_ready", pipeline=pipeline.name, pid=os.getpid())
        async with serving_beside(config, worker.jetstream, link):
            await _until_stopped(worker, stop)
        await worker.stop()
        log.info("worker_stopped", **worker.status())
        return 0


async def _start(config: CloudConfig, worker: Worker, link: Link) -> None:
    """Wait for the broker without limit, refuse it at once when it is unfit, apply, start."""
    await link.wait_up(None, refused_ends=True)
    await topology.apply_if_allowed(worker.jetstream, config)
    await worker.start()


def _on_silence() -> None:
    """Called outside the loop, which is stuck: no other exit would come about."""
    log.critical("worker_silent")
    os._exit(STALLED_EXIT)


async def _until_stopped(worker: Worker, stop: asyncio.Future[None]) -> None:
    while not stop.done():
        await asyncio.wait([stop], timeout=_WATCH_SECONDS)
        try:
            worker.health()
        except StalledError as error:
            log.error("worker_stalled", detail=str(error))  # noqa: TRY400  # it says all
            os._exit(STALLED_EXIT)  # a model that hangs in native code would hold up any other exit


async def first_of(*futures: asyncio.Future[Any]) -> None:
    """Return when one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
