"""What the agent costs beyond its student's run, without any transport.

Feeds checked events straight into the ingress of a whole agent (student, gate, outbox with
``synchronous=FULL``, metrics, traces at the default share; no broker) and counts the CPU time of
the process. One JSON line. ``python benchmarks/agent.py [events]``.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import sys
import tempfile
import time
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit

from setsuden.edge_agent.config import AgentConfig, HttpOptions
from setsuden.edge_agent.process import Agent, build
from setsuden.pipelines.workloads.digits import data
from setsuden.schemas.event import Event
from setsuden.schemas.pipeline import GateOverride, PipelineSpec

OPEN = 256
WINDOW = 1024
"""Events of which the cheapest window is told too: what else the machine does only adds."""
NUMBERS = itertools.count()
"""Of the events: one that came before would be known, and not judged again."""


async def measure(events: int, folder: Path) -> dict[str, object]:
    """Events all easy (threshold 0), taken in as fast as the agent accepts them."""
    bundle = str(files("setsuden.pipelines.workloads") / "digits")
    spec = PipelineSpec(name="digits", bundle=bundle, gate=GateOverride(threshold=0.0))
    config = AgentConfig(
        device="bench", pipelines=(spec,), http=HttpOptions(port=0), publish_results="none"
    )
    async with build(config, folder) as agent:
        running = [asyncio.create_task(part.run()) for part in (agent.runtime, agent.sender)]
        await feed(agent, 2000)
        cpu, wall, student = time.process_time(), time.perf_counter(), student_cpu(agent)
        windows = [await window(agent) for _ in range(events // WINDOW)]
        used, passed = time.process_time() - cpu, time.perf_counter() - wall
        student = student_cpu(agent) - student
        commits = agent.runtime.durable.outbox.commits
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    events = len(windows) * WINDOW
    each = used / events * 1e6
    return {
        "events": events,
        "cpu_us_per_event": round(each, 1),
        "best_cpu_us_per_event": round(min(windows) / WINDOW * 1e6, 1),
        "student_cpu_us_per_event": round(student / events * 1e6, 1),
        "overhead_us_per_event": round(each - student / events * 1e6, 1),
        "events_per_s_per_core": round(1e6 / each),
        "events_per_s": round(events / passed),
        "events_per_commit": round((events + 2000) / commits, 1),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


async def window(agent: Agent) -> float:
    """CPU-seconds of so many events."""
    before = time.process_time()
    await feed(agent, WINDOW)
    return time.process_time() - before


@cache
def images() -> Any:
    """What is fed, read once."""
    return data.load_splits().test.images


def student_cpu(agent: Agent) -> float:
    """CPU-seconds of all student runs so far."""
    return agent.runtime.metrics.student_cpu_seconds


async def feed(agent: Agent, events: int) -> None:
    """Put events in, each with an id of its own, and wait until each is accepted."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    places = asyncio.Semaphore(OPEN)
    left = events

    def answered(_outcome: object) -> None:
        nonlocal left
        left -= 1
        places.release()
        if left == 0:
            done.set_result(None)

    for _ in range(events):
        index = next(NUMBERS)
        await places.acquire()
        image = images()[index % len(images())]
        event = Event(
            id=str(index), source="bench", pipeline="digits", device="bench", data=image.tobytes()
        )
        observation = np.frombuffer(event.data, np.uint8).reshape(28, 28)
        await agent.ingress.offer(event, observation, answered)
    await done


def main() -> None:
    """Print one JSON line."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        emit("agent_intake", **asyncio.run(measure(events, Path(folder))))


if __name__ == "__main__":
    main()
