"""A whole site: real broker, real agent process, a worker; and applications that submit."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import cloud
from tests.support.agent import DEVICE, AgentProcess, config
from tests.support.leaf import LeafSite
from tests.support.spans import shipped, spooled

from setsuden.client import AsyncClient
from setsuden.energy import EnergyOptions
from setsuden.insight.traces.found import FoundSpan
from setsuden.link import JetStream, Link
from setsuden.pipelines.workloads.digits import data
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Result, Status
from setsuden.schemas.streams import StreamBounds, all_streams
from setsuden.services.config import CloudConfig
from setsuden.services.worker.assembly import assembled
from setsuden.testing.broker import LocalBroker

FINAL_SECONDS = 150.0
MAX_OPEN = 256
ENERGY = '\n[energy]\nsensor = "table"\n'
"""Some virtual machines offer a power counter that never moves: their joules are all 0."""


@dataclass
class Site:
    """What a test may reach for."""

    broker: LocalBroker | LeafSite
    agent: AgentProcess
    link: Link
    jetstream: JetStream
    folder: Path
    pipeline: str
    worker: AsyncExitStack | None = None

    async def submit_all(
        self, bodies: list[bytes], half: Callable[[], Any] | None = None
    ) -> list[Result]:
        """Submit every body; when half of them are final, call ``half`` in a thread."""
        finals: list[Result | None] = [None] * len(bodies)
        places = asyncio.Semaphore(MAX_OPEN)
        reached = asyncio.Event()

        async with AsyncClient(options=self.broker.options, device=DEVICE) as client:

            async def one(index: int) -> None:
                async with places:
                    key = f"key-{index}"
                    handle = await client.submit(self.pipeline, bodies[index], idempotency_key=key)
                    finals[index] = await handle.result(timeout=FINAL_SECONDS)
                    if sum(final is not None for final in finals) * 2 >= len(bodies):
                        reached.set()

            async with asyncio.TaskGroup() as tasks:
                for index in range(len(bodies)):
                    tasks.create_task(one(index))
                await reached.wait()
                if half is not None:
                    await asyncio.to_thread(half)
        return [final for final in finals if final is not None]

    async def records(self) -> list[Result]:
        """Every record of the results stream."""
        return await cloud.records(self.jetstream)

    async def all_settled(self) -> None:
        """Return once no escalation waits any more."""
        await cloud.until_settled(self.jetstream)

    async def spans(self) -> list[FoundSpan]:
        """Every span of agent, worker and broker; ends agent and worker."""
        await asyncio.to_thread(self.agent.terminate)
        if self.worker is not None:
            await self.worker.aclose()
        left = [*spooled(self.agent.folder / "state"), *spooled(self.folder / "cloud")]
        return [*await shipped(self.jetstream), *left]


def doubled(records: list[Result]) -> int:
    """Submitted events with more than one final record."""
    counts = Counter(record.event_id for record in records)
    keys = Counter(record.idempotency_key for record in records if record.idempotency_key)
    return sum(count > 1 for count in (counts | keys).values())


@asynccontextmanager
async def site(
    folder: Path,
    broker: LocalBroker | LeafSite,
    *,
    bundle_folder: Path,
    pipeline: str,
    gate: str = "",
    extra: str = "",
    traces: str = "",
    easy_share: float = 1.0,
    environment: dict[str, str] | None = None,
    worker: bool = True,
) -> AsyncIterator[Site]:
    """Broker and agent process, all up, and one worker in this process unless told otherwise."""
    async with AsyncExitStack() as ends:
        link = Link(broker.options, "site")
        ends.push_async_callback(link.close)
        link.start()
        await link.wait_up(10)
        jetstream = JetStream(link)
        await jetstream.start()
        for stream in all_streams(StreamBounds()):
            await jetstream.apply_stream(stream)
        text = config(
            broker=broker,
            bundle=bundle_folder,
            pipeline=pipeline,
            pipeline_extra=gate,
            extra=extra + ENERGY,
            traces=traces,
            easy_share=easy_share,
        )
        agent = AgentProcess(folder / "agent", text, environment)
        ends.callback(agent.kill)
        await asyncio.to_thread(agent.start)
        up = Site(broker, agent, link, jetstream, folder, pipeline)
        if worker:
            await _add_worker(up, bundle_folder, ends)
        yield up


async def _add_worker(up: Site, bundle_folder: Path, ends: AsyncExitStack) -> None:
    spec = PipelineSpec(name=up.pipeline, bundle=str(bundle_folder))
    energy = EnergyOptions(sensor="table")
    options = CloudConfig(nats=up.broker.options, pipelines=(spec,), state="cloud", energy=energy)
    made = assembled(options, spec, bundle_folder, up.folder)
    up.worker = await ends.enter_async_context(AsyncExitStack())
    worker, *_ = await up.worker.enter_async_context(made)
    await worker.start()
    up.worker.push_async_callback(worker.stop)


def images(count: int) -> list[bytes]:
    """Observations of the workload's test split, again from the start past its end."""
    test = data.load_splits().test
    return [test.images[index % len(test)].tobytes() for index in range(count)]


async def whole(up: Site, kill: Callable[[], Any]) -> None:
    """2,000 events, a kill in the middle, 2,000 finals, none doubled."""
    finals = await up.submit_all(images(2000), half=kill)
    records = await up.records()
    assert len(finals) == 2000
    assert len(records) == 2000
    assert doubled(records) == 0
    assert {record.status for record in records} == {Status.FINAL}
