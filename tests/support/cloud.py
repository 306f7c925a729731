"""Workers and clouds under test: start them, feed them, kill them, read what they stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.support import ml
from tests.support.meters import meter
from tests.support.spans import spooled

from setsuden.energy import Meter
from setsuden.insight.traces.found import FoundSpan
from setsuden.link import Incoming, JetStream, Link
from setsuden.pipelines.models.watchdog import Watchdog
from setsuden.pipelines.registry import Opener
from setsuden.schemas import escalation, streams, subjects
from setsuden.schemas.errors import LinkError
from setsuden.schemas.event import Event
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Result, Status, Tier
from setsuden.schemas.subjects import Place
from setsuden.schemas.windows import Component
from setsuden.services.config import CloudConfig, WorkerOptions
from setsuden.services.worker import Worker
from setsuden.services.worker.assembly import model_tier, open_teacher
from setsuden.telemetry import Recorder, traceparent
from setsuden.testing.broker import LocalBroker

PIPELINE, DEVICE, EPOCH = "tiny", "dev-1", "0000abcd"
PARENT_SPAN = "00f067aa0ba902b7"
CONSUMER = streams.consumer_name("local", PIPELINE)


def config_of(broker: LocalBroker, folder: Path, **worker: object) -> CloudConfig:
    """A cloud with one pipeline whose bundle lies in ``folder``."""
    options = {**worker}
    return CloudConfig(
        nats=broker.options,
        state="state",
        pipelines=(PipelineSpec(name=PIPELINE, bundle=str(folder), max_attempts=3),),
        worker=WorkerOptions.model_validate(options),
    )


@dataclass
class Bench:
    """One worker in this process, not yet started, and what it is made of."""

    broker: LocalBroker
    folder: Path
    workers: list[Worker] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    recorder: Recorder | None = None
    meters: list[Meter] = field(default_factory=list)
    watchdogs: list[Watchdog] = field(default_factory=list)

    async def start(
        self,
        *,
        poisoned: bool = False,
        hanging: bool = False,
        max_batch: int = 8,
        **worker: object,
    ) -> Worker:
        """A worker that pulls."""
        folder = ml.write_bundle(
            self.folder / "bundle", poisoned=poisoned, hanging=hanging, max_batch=max_batch
        )
        config = config_of(self.broker, folder, **worker)
        meter = self._meter()
        pipeline = config.pipelines[0]
        watchdog = Watchdog()
        self.watchdogs.append(watchdog)
        opener = Opener(
            Tier.CLOUD, model_tier(config), lambda _: folder, meter=meter, watchdog=watchdog
        )
        registry = open_teacher(opener, pipeline)
        link = Link(config.nats, "worker")
        jetstream = JetStream(link)
        await jetstream.start()
        self.recorder = Recorder(config.traces, self.folder / "state", "worker", {})
        running = Worker(
            config,
            pipeline.name,
            pipelines=registry,
            meter=meter,
            link=link,
            jetstream=jetstream,
            recorder=self.recorder,
        )
        link.start()
        await running.start()
        self.workers.append(running)
        self.links.append(link)
        return running

    def _meter(self) -> Meter:
        made = meter(self.folder, Component.CLOUD)
        made.start()
        self.meters.append(made)
        return made

    def spans(self) -> list[FoundSpan]:
        """Every span sealed with its settled joules, once meter and recorder are closed."""
        assert self.recorder is not None
        self.close_meters()
        self.recorder.close()
        return spooled(self.folder / "state")

    def close_meters(self) -> None:
        """Settle what has ended."""
        while self.meters:
            self.meters.pop().close()


@asynccontextmanager
async def bench(folder: Path, broker: LocalBroker) -> AsyncIterator[Bench]:
    """A bench whose workers are stopped at the end."""
    ready = Bench(broker, folder)
    try:
        yield ready
    finally:
        for worker in ready.workers:
            await worker.stop()
        for watchdog in ready.watchdogs:
            watchdog.close()
        for link in ready.links:
            await link.close()
        ready.close_meters()
        if ready.recorder is not None:
            ready.recorder.close()


def event_id(index: int) -> str:
    """The id of the event with this number."""
    return subjects.event_id(DEVICE, EPOCH, index)


def place(index: int) -> Place:
    """Where the records of the event with this number are."""
    return Place("local", PIPELINE, DEVICE, event_id(index))


def trace_id(index: int) -> str:
    """The trace of the event with this number."""
    return f"{index + 1:032x}"


async def escalate(
    link: Link,
    indices: Iterable[int],
    *,
    ttl_ms: int | None = None,
    first: float | None = None,
    body: bytes | None = None,
) -> None:
    """Store escalations as an agent does."""
    for index in indices:
        data = ml.observation(index, first=first) if body is None else body
        event = Event(id=str(index), source="test", pipeline=PIPELINE, device=DEVICE, data=data)
        context = traceparent(trace_id(index), PARENT_SPAN)
        headers = escalation.headers(event, ttl_ms, context)
        headers[escalation.MSG_ID_HEADER] = event_id(index)
        await link.store(place(index).escalation, data, headers)


async def stored(jetstream: JetStream, stream: str, pattern: str) -> list[Incoming]:
    """Everything a stream holds under a pattern, oldest first."""
    found: list[Incoming] = []
    sequence = 1
    while True:
        request: dict[str, object] = {"next_by_subj": pattern, "seq": sequence, "batch": 500}
        batch = await jetstream.read(stream, request)
        found += batch
        if not batch:
            return found
        sequence = int(batch[-1].headers["Nats-Sequence"]) + 1


async def records(jetstream: JetStream, kind: str = "res") -> list[Result]:
    """All records of ``res`` or ``late``."""
    messages = await stored(jetstream, streams.RESULTS, f"{kind}.*.*.*.*")
    return [Result.model_validate_json(message.data) for message in messages]


async def results(
    jetstream: JetStream, count: int, kind: str = "res", timeout_seconds: float = 60
) -> list[Result]:
    """The records once there are so many."""

    async def enough() -> bool:
        return await _messages(jetstream, f"{kind}.*.*.*.*") >= count

    await eventually(enough, timeout_seconds)
    return await records(jetstream, kind)


async def _messages(jetstream: JetStream, pattern: str) -> int:
    request: dict[str, object] = {"subjects_filter": pattern}
    try:
        info = await jetstream.api(f"STREAM.INFO.{streams.RESULTS}", request)
    except LinkError:  # the broker may be dead just now
        return 0
    return sum((info["state"].get("subjects") or {}).values())


async def until_settled(jetstream: JetStream, timeout_seconds: float = 30) -> None:
    """Return once every escalation was acknowledged."""

    async def empty() -> bool:
        info = await jetstream.api(f"STREAM.INFO.{streams.ESCALATIONS}")
        return bool(info["state"]["messages"] == 0)

    await eventually(empty, timeout_seconds)


async def eventually(
    true: Callable[[], Awaitable[bool]], timeout_seconds: float = 30, pause_seconds: float = 0.05
) -> None:
    """Return once it is true."""
    async with asyncio.timeout(timeout_seconds):
        while not await true():  # noqa: ASYNC110  # other processes ring no bell here
            await asyncio.sleep(pause_seconds)


async def until(
    true: Callable[[], bool], timeout_seconds: float = 30, pause_seconds: float = 0
) -> None:
    """Return once it is true; without a pause, in the very turn of the loop."""

    async def now() -> bool:
        return true()

    await eventually(now, timeout_seconds, pause_seconds)


async def once_each(jetstream: JetStream, count: int, timeout_seconds: float = 120) -> bool:
    """True when each of the first ``count`` events has exactly one final record."""
    found = [result.event_id for result in await results(jetstream, count, "res", timeout_seconds)]
    return sorted(found) == sorted(event_id(index) for index in range(count))


async def claim(link: Link, index: int, status: Status) -> None:
    """Store a record of the device's own first."""
    record = Result(
        event_id=event_id(index),
        pipeline=PIPELINE,
        device=DEVICE,
        status=status,
        trace_id=trace_id(index),
        at=datetime.now(UTC),
    )
    await link.store(
        place(index).result,
        record.model_dump_json().encode(),
        {escalation.EXPECTED_SUBJECT_SEQUENCE: "0"},
    )
