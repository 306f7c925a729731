"""A whole site: real broker, real agent process, a worker; and applications that submit."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import cloud
from tests.support.agent import DEVICE, AgentProcess, config

from setsuden.client import AsyncClient
from setsuden.link import JetStream, Link
from setsuden.pipelines import bundle, energy
from setsuden.pipelines.tracing import Recorder
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Result
from setsuden.schemas.streams import StreamBounds, all_streams
from setsuden.services.config import CloudConfig
from setsuden.services.demo.broker import LocalBroker
from setsuden.services.worker import Teacher, Worker

FINAL_SECONDS = 150.0
MAX_OPEN = 256


@dataclass
class Site:
    """What a test may reach for."""

    broker: LocalBroker
    agent: AgentProcess
    link: Link
    jetstream: JetStream
    folder: Path
    pipeline: str
    workers: list[Worker]
    recorder: Recorder

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

    def spans(self) -> list[dict[str, Any]]:
        """Every span of agent and worker, each with its service; ends both."""
        self.agent.terminate()
        self.recorder.close()
        files = [*self.agent.folder.glob("state/*.jsonl*"), self.recorder.path]
        return [span for file in files for span in read_spans(file)]


def read_spans(path: Path) -> list[dict[str, Any]]:
    """The spans of one OTLP JSON Lines file."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        for group in json.loads(line)["resourceSpans"]:
            resource = {pair["key"]: pair["value"] for pair in group["resource"]["attributes"]}
            for span in group["scopeSpans"][0]["spans"]:
                service = resource["service.name"]["stringValue"]
                found.append({**span, "service": service, "resource": resource})
    return found


def doubled(records: list[Result]) -> int:
    """Submitted events with more than one final record."""
    counts = Counter(record.event_id for record in records)
    keys = Counter(record.idempotency_key for record in records if record.idempotency_key)
    return sum(count > 1 for count in (counts | keys).values())


@asynccontextmanager
async def site(
    folder: Path, broker: LocalBroker, *, bundle_folder: Path, pipeline: str, gate: str = ""
) -> AsyncIterator[Site]:
    """Broker, agent process and one worker in this process, all up."""
    link = Link(broker.options, "site")
    link.start()
    await link.wait_up(10)
    jetstream = JetStream(link)
    await jetstream.start()
    for stream in all_streams(StreamBounds()):
        await jetstream.apply_stream(stream)
    text = config(broker=broker, bundle=bundle_folder, pipeline=pipeline, pipeline_extra=gate)
    agent = AgentProcess(folder / "agent", text)
    recorder, worker, worker_link = await _worker(folder, broker, bundle_folder, pipeline)
    try:
        await asyncio.to_thread(agent.start)
        yield Site(broker, agent, link, jetstream, folder, pipeline, [worker], recorder)
    finally:
        await worker.stop()
        await worker_link.close()
        agent.kill()
        await link.close()
        recorder.close()


async def _worker(
    folder: Path, broker: LocalBroker, bundle_folder: Path, pipeline: str
) -> tuple[Recorder, Worker, Link]:
    spec = PipelineSpec(name=pipeline, bundle=str(bundle_folder))
    options = CloudConfig(nats=broker.options, pipelines=(spec,))
    teacher = Teacher(bundle.load(bundle_folder), "teacher", options.worker.inline_below_ms)
    link = Link(options.nats, "worker")
    recorder = Recorder(options.traces, folder / "cloud", "worker", {})
    model = energy.choose(options.energy)
    jetstream = JetStream(link)
    await jetstream.start()
    worker = Worker(
        options,
        spec,
        teacher=teacher,
        energy=model,
        link=link,
        jetstream=jetstream,
        recorder=recorder,
    )
    link.start()
    await worker.start()
    return recorder, worker, link
