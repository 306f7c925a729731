"""A whole site on real processes: start, memory, idleness, sparse and bulk events.

Broker, plain worker and agent of the demo's fleet; every event over NATS. Prints one JSON line
for each finding. ``python benchmarks/site.py``.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit

from setsuden.client import AsyncClient
from setsuden.demo.drive import wait_workers
from setsuden.demo.figures import percentile
from setsuden.demo.fleet import DEVICE, PIPELINE, REGION, Fleet
from setsuden.pipelines.workloads.digits import data
from setsuden.schemas.result import Result
from setsuden.schemas.streams import consumer_name

SPARSE_EVENTS, SPARSE_RATE = 200, 10.0
BULK_EVENTS, BULK_OPEN = 4000, 512
IDLE_SECONDS = 10.0


def start(folder: Path, *, escalate: float) -> tuple[Fleet, float]:
    """A fleet that is up, and how long its agent took from start to readiness with its link."""
    bundle = Path(str(files("setsuden.pipelines.workloads") / "digits"))
    fleet = Fleet(folder, bundle, plain=True, otlp_url=None, escalate=escalate)
    fleet.start_broker()
    fleet.start_cloud()
    asyncio.run(wait_workers(fleet.broker.options, consumer_name(REGION, PIPELINE), 60))
    began = time.perf_counter()
    fleet.start_agent()
    fleet.wait_agent(60)
    return fleet, time.perf_counter() - began


async def drive(fleet: Fleet, events: int, rate: float) -> list[Result]:
    """Final results of events at a rate, or as fast as they are taken."""
    images = data.load_splits().test.images
    places = asyncio.Semaphore(BULK_OPEN)
    finals: list[Result] = []
    async with AsyncClient(options=fleet.broker.options, device=DEVICE) as client:

        async def one(index: int) -> None:
            async with places:
                handle = await client.submit(PIPELINE, images[index % len(images)].tobytes())
                finals.append(await handle.result(timeout=120))

        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for index in range(events):
                await asyncio.sleep(max(0.0, started + index / rate - time.perf_counter()))
                tasks.create_task(one(index))
    return finals


def agent_cpu(fleet: Fleet) -> float:
    """CPU-seconds of the agent process so far."""
    return fleet.cpu_seconds()["edge"]


def overheads(finals: list[Result]) -> list[float]:
    """Milliseconds of escalated events beyond both models' runs."""
    return [
        (final.timing.total_ms or 0.0)
        - (final.timing.edge_infer_ms or 0.0)
        - (final.timing.cloud_infer_ms or 0.0)
        for final in finals
    ]


def escalated(folder: Path) -> None:
    """Start, memory, idleness, and hard cases one at a time."""
    fleet, ready = start(folder, escalate=1.0)
    try:
        agent = psutil.Process(fleet.child("agent").process.pid)
        quiet = agent_cpu(fleet)
        time.sleep(IDLE_SECONDS)
        idle = (agent_cpu(fleet) - quiet) / IDLE_SECONDS
        rss = agent.memory_info().rss / 2**20
        emit("agent_start", ready_s=ready, rss_mb=rss, idle_cores=idle)
        asyncio.run(drive(fleet, 20, SPARSE_RATE))
        before = fleet.cpu_seconds()
        found = sorted(overheads(asyncio.run(drive(fleet, SPARSE_EVENTS, SPARSE_RATE))))
        after = fleet.cpu_seconds()
        cpu = {f"{k}_cpu_ms": (after[k] - before[k]) / SPARSE_EVENTS * 1e3 for k in after}
        p50, p99 = percentile(found, 0.5), percentile(found, 0.99)
        emit("escalation_overhead", rate=SPARSE_RATE, p50_ms=p50, p99_ms=p99, **cpu)
    finally:
        fleet.stop()


def easy(folder: Path) -> None:
    """Easy events over NATS: one at a time, and in bulk."""
    fleet, _ = start(folder, escalate=0.0)
    try:
        asyncio.run(drive(fleet, 500, 1e9))
        for name, events, rate in (
            ("easy_sparse", SPARSE_EVENTS, SPARSE_RATE),
            ("easy_bulk", BULK_EVENTS, 1e9),
        ):
            before, began = fleet.cpu_seconds(), time.perf_counter()
            asyncio.run(drive(fleet, events, rate))
            passed, after = time.perf_counter() - began, fleet.cpu_seconds()
            cpu = {f"{k}_cpu_us": (after[k] - before[k]) / events * 1e6 for k in ("edge", "broker")}
            emit(name, events=events, events_per_s=events / passed, **cpu)
    finally:
        fleet.stop()


def main() -> None:
    """Both fleets, one after the other."""
    for part in (escalated, easy):
        with tempfile.TemporaryDirectory() as folder:
            part(Path(folder))


if __name__ == "__main__":
    main()
