"""Clouds under test as processes: plain workers, `cloud run`, local Ray clusters, all killable."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from tests.support import ml
from tests.support.cloud import eventually

from setsuden.services.serve.processes import MARK, kill_marked, marked
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

CONFIG = """\
state = "state"

[nats]
urls = ["{url}"]
monitor_url = "{monitor_url}"

[worker]
ack_wait_seconds = 2.0
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
from setsuden.process.config import load_toml, validate
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
    pipeline_extra: str = "",
) -> Path:
    """``cloud.toml`` and its bundle; ``extra`` ends the ``[worker]`` table."""
    ml.write_bundle(folder / "bundle", hanging=hanging, repeats=repeats)
    path = folder / "cloud.toml"
    urls = {"url": broker.url, "monitor_url": broker.monitor_url}
    text = CONFIG.format(replicas=replicas, cpus=cpus, **urls)
    text = text.replace("\n[serve]", f"{extra}\n[serve]") + pipeline_extra
    path.write_text(text, encoding="utf-8")
    return path


def worker_group(config: Path) -> Process:
    """``setsuden worker run`` as a person starts it: a process for each pipeline of the file."""
    program = "from setsuden.cli.main import main; main()"
    log = config.with_name("workers.log")
    return Process(program, "worker", "run", "--config", str(config), log=log)


def worker_process(config: Path, environment: dict[str, str] | None = None) -> Process:
    """A plain worker."""
    log = config.with_name("worker.log")
    return Process(WORKER, str(config), log=log, environment=environment)


MISBEHAVING = """
import ctypes, os, onnxruntime
_run = onnxruntime.InferenceSession.run
def run(self, names, feed, options=None):
    if any((value == 666).any() for value in feed.values()):
        os.abort()
    if any((value == 667).any() for value in feed.values()):
        ctypes.CDLL(None).sleep(1000)
    return _run(self, names, feed, options)
onnxruntime.InferenceSession.run = run
"""


def aborting(folder: Path) -> dict[str, str]:
    """An environment in whose processes onnxruntime aborts on 666, and on 667 hangs in one node."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(MISBEHAVING, encoding="utf-8")
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

    def __init__(
        self, folder: Path, token: str, port: int, *, head: bool, dashboard: int | None = None
    ) -> None:
        self.mark = secrets.token_hex(8)
        self.folder = folder
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        place = (
            [
                "--head",
                f"--port={port}",
                f"--include-dashboard={'false' if dashboard is None else 'true'}",
                f"--dashboard-port={dashboard or free_port()}",
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
def cluster(nodes: int, dashboard: int | None = None) -> Iterator[tuple[list[Node], str, str]]:
    """A local Ray cluster: its nodes, its address and its token; all killed at the end."""
    port, token = free_port(), secrets.token_hex(32)
    # Unix sockets of a session stand 60 characters below this folder, and 107 are allowed.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as root:
        started: list[Node] = []
        try:
            for number in range(nodes):
                folder = Path(root) / f"n{number}"
                head = number == 0
                started.append(Node(folder, token, port, head=head, dashboard=dashboard))
            yield started, f"127.0.0.1:{port}", token
        finally:
            for node in started:
                node.kill()
