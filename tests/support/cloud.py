"""Workers and clouds under test: start them, feed them, kill them, read what they stored."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
from tests.support import ml

from setsuden.link import Incoming, JetStream, Link
from setsuden.pipelines import bundle, energy
from setsuden.pipelines.tracing import Recorder, traceparent
from setsuden.schemas import escalation, streams, subjects
from setsuden.schemas.errors import LinkError
from setsuden.schemas.event import Event
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Result, Status
from setsuden.services.config import CloudConfig, WorkerOptions
from setsuden.services.demo.broker import LocalBroker, free_port
from setsuden.services.serve.processes import MARK, kill_marked, marked
from setsuden.services.worker import Teacher, Worker

PIPELINE, DEVICE, EPOCH = "tiny", "dev-1", "0000abcd"
PARENT_SPAN = "00f067aa0ba902b7"
CONSUMER = streams.consumer_name("local", PIPELINE)


def config_of(broker: LocalBroker, folder: Path, **worker: object) -> CloudConfig:
    """A cloud with one pipeline whose bundle lies in ``folder``."""
    options = {"retry_delay_seconds": 0.05, **worker}
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
        teacher = Teacher(bundle.load(folder), "teacher", config.worker.inline_below_ms)
        link = Link(config.nats, "worker")
        jetstream = JetStream(link)
        await jetstream.start()
        self.recorder = Recorder(config.traces, self.folder / "state", "worker", {})
        running = Worker(
            config,
            config.pipelines[0],
            teacher=teacher,
            energy=energy.choose(config.energy),
            link=link,
            jetstream=jetstream,
            recorder=self.recorder,
        )
        link.start()
        await running.start()
        self.workers.append(running)
        self.links.append(link)
        return running

    def spans(self) -> list[dict[str, object]]:
        """Every span written, once the recorder is closed."""
        assert self.recorder is not None
        self.recorder.close()
        lines = self.recorder.path.read_text(encoding="utf-8").splitlines()
        return [
            span
            for line in lines
            for resource in json.loads(line)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


@asynccontextmanager
async def bench(folder: Path, broker: LocalBroker) -> AsyncIterator[Bench]:
    """A bench whose workers are stopped at the end."""
    ready = Bench(broker, folder)
    try:
        yield ready
    finally:
        for worker in ready.workers:
            await worker.stop()
        for link in ready.links:
            await link.close()
        if ready.recorder is not None:
            ready.recorder.close()


def event_id(index: int) -> str:
    """The id of the event with this number."""
    return subjects.event_id(DEVICE, EPOCH, index)


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
    subject = subjects.escalation("local", PIPELINE, DEVICE)
    for index in indices:
        data = ml.observation(index, first=first) if body is None else body
        event = Event(id=str(index), source="test", pipeline=PIPELINE, device=DEVICE, data=data)
        context = traceparent(trace_id(index), PARENT_SPAN)
        headers = escalation.headers(event, event_id(index), ttl_ms, context)
        headers[escalation.MSG_ID_HEADER] = event_id(index)
        await link.store(subject, data, headers)


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
    messages = await stored(jetstream, streams.RESULTS, f"{kind}.*.*")
    return [Result.model_validate_json(message.data) for message in messages]


async def results(
    jetstream: JetStream, count: int, kind: str = "res", timeout_seconds: float = 60
) -> list[Result]:
    """The records once there are so many."""

    async def enough() -> bool:
        return await _messages(jetstream, f"{kind}.*.*") >= count

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
        subjects.result(DEVICE, event_id(index)),
        record.model_dump_json().encode(),
        {escalation.EXPECTED_SUBJECT_SEQUENCE: "0"},
    )


def attributes(span: dict[str, object]) -> dict[str, object]:
    """A written span's attributes by name."""
    pairs = span["attributes"]
    assert isinstance(pairs, list)
    return {pair["key"]: next(iter(pair["value"].values())) for pair in pairs}


CONFIG = """\
state = "state"

[nats]
urls = ["{url}"]
monitor_url = "{monitor_url}"

[worker]
ack_wait_seconds = 2.0
retry_delay_seconds = 0.05
max_batch = 8

[serve]
min_replicas = {replicas}
max_replicas = {replicas}
num_cpus = {cpus}
health_check_seconds = 1.0

[[pipelines]]
name = "tiny"
bundle = "bundle"
max_attempts = 4
"""
_RUN_WORKER = """
import sys
import tempfile
from pathlib import Path
from setsuden.pipelines.config import load_toml, validate
from setsuden.services.config import CloudConfig
path = Path(sys.argv[1])
config = validate(CloudConfig, load_toml(path))
"""
WORKER = _RUN_WORKER + (
    "from setsuden.services.worker.process import run_worker\n"
    "sys.exit(run_worker(config, path.parent))\n"
)
CLOUD = _RUN_WORKER + (
    "from setsuden.services.serve.supervise import run_cloud\n"
    "sys.exit(run_cloud(config, path.parent, sys.argv[2] if len(sys.argv) > 2 else None))\n"
)


class Process:
    """One process of ours, its log in a file."""

    def __init__(
        self, program: str, *arguments: str, log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | (environment or {}),
            )

    def events(self) -> list[dict[str, object]]:
        """The log lines that are JSON."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    async def until(self, event: str, times: int = 1, timeout_seconds: float = 90) -> None:
        """Return once this event was logged so often; fails when the process dies first."""

        async def logged() -> bool:
            assert self.popen.poll() is None, self.log.read_text(encoding="utf-8")[-3000:]
            return sum(line.get("event") == event for line in self.events()) >= times

        await eventually(logged, timeout_seconds)

    async def ended(self, timeout_seconds: float = 60) -> int:
        """The exit code, once there is one."""
        return await asyncio.to_thread(self.popen.wait, timeout_seconds)

    def kill(self) -> None:
        """SIGKILL."""
        self.popen.kill()
        self.popen.wait()


def write_config(
    folder: Path,
    broker: LocalBroker,
    *,
    replicas: int = 2,
    cpus: float = 0.25,
    hanging: bool = False,
    repeats: int = 0,
    extra: str = "",
) -> Path:
    """``cloud.toml`` and its bundle; ``extra`` ends the ``[worker]`` table."""
    ml.write_bundle(folder / "bundle", hanging=hanging, repeats=repeats)
    path = folder / "cloud.toml"
    urls = {"url": broker.url, "monitor_url": broker.monitor_url}
    text = CONFIG.format(replicas=replicas, cpus=cpus, **urls)
    path.write_text(text.replace("\n[serve]", f"{extra}\n[serve]"), encoding="utf-8")
    return path


def worker_process(config: Path, environment: dict[str, str] | None = None) -> Process:
    """A plain worker."""
    log = config.with_name("worker.log")
    return Process(WORKER, str(config), log=log, environment=environment)


ABORTING = """
import os, onnxruntime
_run = onnxruntime.InferenceSession.run
def run(self, names, feed, options=None):
    if any((value == 666).any() for value in feed.values()):
        os.abort()
    return _run(self, names, feed, options)
onnxruntime.InferenceSession.run = run
"""


def aborting(folder: Path) -> dict[str, str]:
    """An environment in whose processes onnxruntime aborts on the number 666."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(ABORTING, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def cloud_process(config: Path, address: str | None = None, token: str | None = None) -> Process:
    """``setsuden cloud run``."""
    arguments = [str(config), *([address] if address else [])]
    environment = {"RAY_AUTH_TOKEN": token} if token else None
    log = config.with_name("cloud.log")
    return Process(CLOUD, *arguments, log=log, environment=environment)


def below(pid: int, needle: str) -> list[psutil.Process]:
    """Processes under ``pid`` whose command line contains the needle."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if needle in " ".join(process.cmdline()):
                found.append(process)
    return found


class Node:
    """One Ray node of a local cluster: its own processes, folder and ports."""

    def __init__(self, folder: Path, token: str, port: int, *, head: bool) -> None:
        self.mark = secrets.token_hex(8)
        self.folder = folder
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        place = (
            [
                "--head",
                f"--port={port}",
                "--include-dashboard=false",
                f"--ray-client-server-port={free_port()}",
                f"--temp-dir={folder}",
            ]
            if head
            else [f"--address=127.0.0.1:{port}"]
        )
        size = ["--num-cpus=1", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1"]
        ray = Path(sys.executable).with_name("ray")
        environment = os.environ | {
            MARK: self.mark,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            starting = subprocess.Popen(
                [str(ray), "start", *place, *size, *ports, "--disable-usage-stats"],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
            self.leader = starting.pid
            assert starting.wait(timeout=120) == 0

    def pids(self, needle: str = "") -> list[int]:
        """Process ids of this node, by what stands in their command line."""
        return [
            pid
            for pid in marked(self.mark, self.leader)
            if needle in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        ]

    def kill(self) -> None:
        """SIGKILL everything of this node at once."""
        kill_marked(self.mark, self.leader)


@contextmanager
def cluster(nodes: int) -> Iterator[tuple[list[Node], str, str]]:
    """A local Ray cluster: its nodes, its address and its token; all killed at the end."""
    port, token = free_port(), secrets.token_hex(32)
    # Unix sockets of a session stand 60 characters below this folder, and 107 are allowed.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as root:
        started: list[Node] = []
        try:
            for number in range(nodes):
                folder = Path(root) / f"n{number}"
                started.append(Node(folder, token, port, head=number == 0))
            yield started, f"127.0.0.1:{port}", token
        finally:
            for node in started:
                node.kill()
