"""Streams labelled events through the fleet and waits for every final result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from setsuden.client import AsyncClient
from setsuden.link import JetStream, Link, LinkOptions
from setsuden.schemas.result import Result
from setsuden.schemas.streams import RESULTS, SPANS
from setsuden.testing.broker import LocalBroker

from .fleet import DEVICE, PIPELINE

MAX_OPEN = 512
"""Events submitted and not yet final."""
FINAL_SECONDS = 180.0
_READ = 512

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class StreamedEvents:
    """What the application saw."""

    finals: dict[int, Result] = field(default_factory=dict)
    """Final result by the event's place in the stream of events."""
    failures: dict[int, str] = field(default_factory=dict)
    """Events without a final result here, and why."""
    seconds: float = 0.0
    outage_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outage:
    """nats-server dies by SIGKILL when half the events are submitted, and comes back."""

    seconds: float
    broker: LocalBroker


async def drive(
    broker: LocalBroker,
    images: Sequence[NDArray[Any]],
    *,
    rate: float,
    outage: Outage | None,
    progress: Progress,
) -> StreamedEvents:
    """Submit every image at ``rate`` events per second and collect the results."""
    run = StreamedEvents()
    gate = asyncio.Semaphore(MAX_OPEN)
    started = time.perf_counter()
    async with AsyncClient(
        options=broker.options,
        device=DEVICE,
        submit_timeout_seconds=FINAL_SECONDS,  # an outage is meant to be sat out
    ) as client:

        async def one(index: int, image: NDArray[Any]) -> None:
            try:
                handle = await client.submit(PIPELINE, image.tobytes(), idempotency_key=f"n{index}")
                run.finals[index] = await handle.result(timeout=FINAL_SECONDS)
            except Exception as error:  # every failed event is reported by itself
                run.failures[index] = f"{type(error).__name__}: {error}"
            finally:
                gate.release()
                done = len(run.finals) + len(run.failures)
                progress("answered", done, len(images))

        async with asyncio.TaskGroup() as tasks:
            if outage is not None:
                tasks.create_task(_outage(outage, run, started + len(images) / rate / 2))
            for index, image in enumerate(images):
                await asyncio.sleep(max(0.0, started + index / rate - time.perf_counter()))
                await gate.acquire()
                tasks.create_task(one(index, image))
    run.seconds = time.perf_counter() - started
    return run


async def _outage(outage: Outage, run: StreamedEvents, at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.perf_counter()))
    began = time.perf_counter()
    await asyncio.to_thread(outage.broker.kill)
    await asyncio.sleep(outage.seconds)
    await asyncio.to_thread(outage.broker.start)
    run.outage_s = time.perf_counter() - began


async def read_results(options: LinkOptions) -> list[Result]:
    """Every record of the results stream, in the order it was stored."""
    async with _asking(options, "demo-audit") as jetstream:
        found: list[Result] = []
        sequence = 1
        while True:
            request: dict[str, object] = {
                "next_by_subj": "res.*.*.*.*",
                "seq": sequence,
                "batch": _READ,
            }
            batch = await jetstream.read(RESULTS, request)
            if not batch:
                return found
            found += [Result.model_validate_json(message.data) for message in batch]
            sequence = int(batch[-1].headers["Nats-Sequence"]) + 1


async def wait_spans(options: LinkOptions, seconds: float) -> bool:
    """True once the bridge has passed on every span the broker held; False when it did not."""
    async with _asking(options, "demo-spans") as jetstream:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    info = await jetstream.api(f"STREAM.INFO.{SPANS}")
                    if info["state"]["messages"] == 0:
                        return True
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False


@asynccontextmanager
async def _asking(options: LinkOptions, name: str) -> AsyncIterator[JetStream]:
    link = Link(options, name)
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    try:
        await link.wait_up(15)
        yield jetstream
    finally:
        await link.close()


async def wait_workers(options: LinkOptions, consumer: str, seconds: float) -> None:
    """Return once a worker is pulling from the teacher's consumer; raises UnavailableError."""
    async with _asking(options, "demo-wait") as jetstream, asyncio.timeout(seconds):
        while True:
            info = await jetstream.find(f"CONSUMER.INFO.ESC.{consumer}")
            if info is not None and info.get("num_waiting", 0) > 0:
                return
            await asyncio.sleep(0.1)
