"""What one escalation costs a worker, and what share of the model's own speed is left.

Prints JSON lines. CPU is user + system time of whole processes per event: nats-server and worker
(or everything below ``cloud run``, Ray included); the publisher is shown apart. Ratios hold
between machines, absolute numbers do not.

    python benchmarks/worker.py [--events 20000] [--serve] [--no-traces]
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from tests.support import cloud, ml, processes

from setsuden.link import JetStream, Link
from setsuden.pipelines import bundle
from setsuden.pipelines.models import session
from setsuden.schemas import escalation, streams
from setsuden.schemas.event import Event
from setsuden.telemetry import traceparent
from setsuden.testing.broker import LocalBroker

WINDOW = 64


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all below it."""
    root = psutil.Process(pid)
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


async def publish(link: Link, first: int, count: int) -> None:
    """Escalations as an agent sends them, many in flight."""
    room = asyncio.Semaphore(WINDOW)
    context = traceparent("1" * 32, cloud.PARENT_SPAN)
    data = ml.observation(1)
    event = Event(id="1", source="b", pipeline=cloud.PIPELINE, device=cloud.DEVICE, data=data)
    headers = escalation.headers(event, None, context)
    for index in range(first, first + count):
        await room.acquire()
        await link.post(cloud.place(index).escalation, data, headers, lambda _: room.release())
    for _ in range(WINDOW):
        await room.acquire()


async def drained(jetstream: JetStream) -> float:
    """The moment at which every escalation was acknowledged."""
    while True:
        info = await jetstream.api(f"STREAM.INFO.{streams.ESCALATIONS}")
        if info["state"]["messages"] == 0:
            return time.perf_counter()
        await asyncio.sleep(0.02)


async def measure(
    broker: LocalBroker, running: processes.Process, first: int, count: int
) -> dict[str, float]:
    """CPU and rate over ``count`` events that arrive while they are answered."""
    server_pid = broker.process.pid if broker.process else 0
    link = Link(broker.options.model_copy(update={"durability": "relaxed"}), "bench")
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    await link.wait_up(10)
    own = time.process_time()
    server, worker = cpu_seconds(server_pid), cpu_seconds(running.popen.pid)
    start = time.perf_counter()
    await publish(link, first, count)
    end = await drained(jetstream)
    server = cpu_seconds(server_pid) - server
    worker = cpu_seconds(running.popen.pid) - worker
    own = time.process_time() - own
    await link.close()
    each = 1e6 / count
    return {
        "events": count,
        "events_per_second": round(count / (end - start)),
        "server_us": round(server * each, 1),
        "worker_us": round(worker * each, 1),
        "cloud_us": round((server + worker) * each, 1),
        "publisher_us": round(own * each, 1),
    }


def in_process(folder: Path, batch: int, seconds: float = 3.0) -> float:
    """Events a second of the model alone in this process, in batches as the worker runs them."""
    model = session.load(bundle.load(folder), "teacher")
    block = model.prepare([np.frombuffer(ml.observation(1), np.float32)] * batch)
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        model.run(block)
        done += batch
    return done / passed


def config(folder: Path, broker: LocalBroker, args: argparse.Namespace, repeats: int) -> Path:
    """A cloud with one replica."""
    path = processes.write_config(folder, broker, replicas=1, cpus=1.0, repeats=repeats)
    text = path.read_text(encoding="utf-8").replace("max_batch = 8", f"max_batch = {args.batch}")
    if args.no_traces:
        text += "\n[traces]\nenabled = false\n"
    path.write_text(text, encoding="utf-8")
    return path


async def case(folder: Path, args: argparse.Namespace, *, serve: bool, repeats: int) -> None:
    """One combination of teacher and place, on a broker of its own."""
    with LocalBroker(folder / "nats", sync=args.sync) as broker:
        path = config(folder, broker, args, repeats)
        if args.sync != "always":
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace("[nats]", '[nats]\ndurability = "relaxed"'))
        running = processes.cloud_process(path) if serve else processes.worker_process(path)
        await running.until("cloud_ready" if serve else "worker_ready")
        count = args.slow_events if repeats else args.events
        alone = in_process(path.parent / "bundle", args.batch) if repeats else 0.0
        await measure(broker, running, 0, count // 10)
        figures = await measure(broker, running, count, count)
        told: dict[str, object] = {"where": "replica" if serve else "plain", **figures}
        if repeats:
            share = figures["events_per_second"] / alone
            told |= {"model_ms": round(1000 / alone, 2), "of_in_process": round(share, 3)}
        told |= {"traces": not args.no_traces, "sync": args.sync, "batch": args.batch}
        emit("worker_slow_teacher" if repeats else "worker_noop_teacher", **told)
        running.popen.send_signal(signal.SIGTERM)
        await running.ended()
        if args.verbose:
            print(running.log.read_text(encoding="utf-8").splitlines()[-3:], file=sys.stderr)


async def main(args: argparse.Namespace) -> None:
    """Every case, one after the other."""
    with tempfile.TemporaryDirectory() as root:
        for repeats in (0, args.repeats) if args.repeats else (0,):
            for serve in (False, True) if args.serve else (False,):
                folder = Path(tempfile.mkdtemp(dir=root))
                await case(folder, args, serve=serve, repeats=repeats)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--slow-events", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=450, help="makes the slow teacher slower")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sync", default="2m", help="'always' is what strict durability asks")
    parser.add_argument("--serve", action="store_true", help="also inside a Serve replica")
    parser.add_argument("--no-traces", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(arguments()))
