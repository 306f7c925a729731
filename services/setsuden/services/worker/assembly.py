"""A worker put together from configuration: the same in a process and in a replica."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from setsuden.energy import Meter
from setsuden.energy.open import Identity, fingerprint, open_meter, resolved
from setsuden.link import JetStream, Link
from setsuden.pipelines.models import forked_trial
from setsuden.pipelines.models.apart import RestartPolicy
from setsuden.pipelines.models.run_record import RunRecord
from setsuden.pipelines.models.runner import ModelTier
from setsuden.pipelines.models.watchdog import Watchdog
from setsuden.pipelines.registry import Opener, PipelineReload, Registry
from setsuden.schemas import spans, subjects
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.log import get_logger
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Tier
from setsuden.schemas.windows import Component, Counts
from setsuden.services.config import CloudConfig
from setsuden.telemetry import Recorder
from setsuden.telemetry.metrics_ship import MetricsShipper
from setsuden.telemetry.resource import host_id
from setsuden.telemetry.ship import Shipper
from setsuden.telemetry.supervise import Supervisor

from .worker import Worker

log = get_logger(__name__)
STALLED_EXIT = 70
MAX_SLOTS = 1024
START_SECONDS = 3600.0
"""A worker has nothing else to do than wait until its model is tried."""
FAREWELL_SECONDS = 2.0
"""How long a stopping worker sends spans; the next one of its slot sends the rest."""


class TraceSlot:
    """A spool of our own among the workers that share a state folder.

    Slots are taken by file lock, so a worker that starts again finds its old spool free, and
    sends what its last life left there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(MAX_SLOTS):
            handle = os.open(folder / f"worker-{number}.lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            self.number, self._handle = number, handle
            return
        raise SetsudenError(f"{MAX_SLOTS} workers share {folder}", remedy="give them other folders")

    @property
    def name(self) -> str:
        """The worker's name among those of its state folder."""
        return f"worker-{self.number}"

    def close(self) -> None:
        """Let the slot go."""
        os.close(self._handle)


class Assembled(NamedTuple):
    """A worker, and the parts that its process uses itself."""

    worker: Worker
    link: Link
    pipelines: PipelineReload


@asynccontextmanager
async def assembled(
    config: CloudConfig,
    pipeline: PipelineSpec,
    folder: Path,
    base: Path,
    reserved_cpus: float | None = None,
) -> AsyncIterator[Assembled]:
    """A worker on a link that begins to connect; the caller starts and stops the worker.

    ``base`` is the configuration's folder.
    ``reserved_cpus`` is what a scheduler keeps free for it, whose idle power it answers for.
    Raises BundleError when the bundle in ``folder`` cannot be used.
    """
    state = base / config.state
    slot = TraceSlot(state)
    meter = _meter(config, slot.name, base, reserved_cpus)
    (state / slot.name).mkdir(parents=True, exist_ok=True)
    watchdog = Watchdog(RunRecord(state / slot.name), _give_up)
    # A replica's folder is where it has unpacked the bundle; a reload reads the declared one.
    opener = Opener(
        Tier.CLOUD,
        model_tier(config),
        lambda spec: folder if spec is pipeline else base / spec.bundle,
        meter=meter,
        watchdog=watchdog,
    )
    try:
        registry = await _opened(partial(open_teacher, opener, pipeline))
    except BaseException:
        watchdog.close()
        slot.close()
        raise
    link = Link(config.nats, f"worker-{pipeline.name}")
    recorder = Recorder(config.traces, state / slot.name, spans.SERVICE_WORKER, {})
    sender = subjects.TelemetrySource(Tier.CLOUD, slot.name)
    shipper = Shipper(link, recorder, sender)
    meter.start()
    seconds = config.traces.metrics_seconds
    metrics_shipper = MetricsShipper(link, meter, recorder.resource, sender, seconds)
    telemetry = Supervisor()
    if config.traces.ship:
        telemetry.start("spans", shipper.run)
        telemetry.start("metrics", metrics_shipper.run)
    try:
        jetstream = JetStream(link)
        await jetstream.start()
        link.start()
        worker = Worker(
            config,
            pipeline.name,
            pipelines=registry,
            meter=meter,
            link=link,
            jetstream=jetstream,
            recorder=recorder,
            telemetry=telemetry,
        )
        meter.counts = lambda: _counts(worker, link)
        yield Assembled(worker, link, PipelineReload(registry, opener, config.pipelines))
    finally:
        meter.close()
        recorder.close()  # after the meter: the last spans get their settled joules
        await telemetry.stop()
        if config.traces.ship:
            await shipper.finish(FAREWELL_SECONDS)
            await metrics_shipper.finish(FAREWELL_SECONDS)
        await link.close()
        watchdog.close()
        slot.close()


async def _opened(open_: Callable[[], Registry]) -> Registry:
    """In a thread where others would have to wait for it, as in a replica."""
    return open_() if forked_trial.possible() else await asyncio.to_thread(open_)


def model_tier(config: CloudConfig) -> ModelTier:
    """How the cloud wants its models run."""
    quick_seconds = config.worker.inline_below_ms / 1000
    return ModelTier(quick_seconds, RestartPolicy(50, seconds_each=0.1, waits=True))


def open_teacher(opener: Opener, pipeline: PipelineSpec) -> Registry:
    """One pipeline, tried and open; raises BundleError when its model cannot be used."""
    registry = Registry(opener.open([pipeline], START_SECONDS))
    runner = registry[pipeline.name].runner
    if runner is not None and runner.problem is not None:
        registry.close()
        raise runner.problem
    return registry


def _give_up(pipeline: str) -> None:
    """The watchdog's last resort: end, for whoever starts workers again."""
    log.critical("worker_gives_up", pipeline=pipeline)
    os._exit(STALLED_EXIT)


def _counts(worker: Worker, link: Link) -> Counts:
    """What rows of energy say of a worker; from the meter's thread."""
    wire = link.wire()
    return Counts(
        answered=worker.counters.answered,
        bytes_up=wire.bytes_sent,
        bytes_down=wire.bytes_received,
        packets=wire.packets,
    )


def _meter(config: CloudConfig, name: str, base: Path, reserved_cpus: float | None) -> Meter:
    machine = os.cpu_count() or 1
    state = base / config.state
    return open_meter(
        resolved(config.energy, base, state, state / name),
        Identity(Component.CLOUD, name, host_id(config.traces), fingerprint(config)),
        reserved=None if reserved_cpus is None else reserved_cpus / machine,
    )
