"""A worker put together from configuration: the same in a process and in a replica."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from setsuden.link import JetStream, Link
from setsuden.link.tasks import end
from setsuden.pipelines import bundle, energy
from setsuden.pipelines.tracing import Recorder
from setsuden.pipelines.tracing.ship import Shipper
from setsuden.schemas import spans
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.services.config import CloudConfig

from .teacher import Teacher
from .worker import Worker

MAX_SLOTS = 1024
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


@asynccontextmanager
async def assembled(
    config: CloudConfig, pipeline: PipelineSpec, folder: Path, state: Path
) -> AsyncIterator[tuple[Worker, Link]]:
    """A worker on a link that begins to connect; the caller starts and stops the worker.

    Raises BundleError when the bundle in ``folder`` cannot be used.
    """
    teacher = Teacher(bundle.load(folder), pipeline.teacher, config.worker.inline_below_ms)
    link = Link(config.nats, f"worker-{pipeline.name}")
    slot = TraceSlot(state)
    recorder = Recorder(config.traces, state / slot.name, spans.SERVICE_WORKER, {})
    shipper = Shipper(link, recorder, slot.name)
    shipping = asyncio.create_task(shipper.run()) if config.traces.ship else None
    model = energy.choose(config.energy)
    try:
        jetstream = JetStream(link)
        await jetstream.start()
        link.start()
        worker = Worker(
            config,
            pipeline,
            teacher=teacher,
            energy=model,
            link=link,
            jetstream=jetstream,
            recorder=recorder,
        )
        yield worker, link
    finally:
        recorder.close()
        if shipping is not None:
            await end(shipping)
            await shipper.finish(FAREWELL_SECONDS)
        await link.close()
        slot.close()
