"""The processes of a demo: broker, cloud and one agent, each real, all stopped at the end."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from setsuden.energy import EnergyOptions, Meter
from setsuden.energy.broker import BrokerCounts, broker_meter
from setsuden.energy.open import Identity, fingerprint
from setsuden.link import web
from setsuden.schemas.errors import SetsudenError, UnavailableError
from setsuden.schemas.windows import Access, Component
from setsuden.telemetry.options import TraceOptions
from setsuden.telemetry.resource import host_id
from setsuden.telemetry.spool import COUNTERS_FILE
from setsuden.testing.broker import LocalBroker

DEVICE = "demo-device"
PIPELINE = "digits"
REGION = "local"
STOP_SECONDS = 40.0
MAX_LOST = 2
"""Ray sessions that may be lost before the demo gives up; nothing of it kills Ray."""
_AGENT = """\
device = "{device}"
region = "{region}"
state = "agent"

[http]
port = 0

[nats]
urls = ["{url}"]
monitor_url = "{monitor_url}"

[traces]
easy_share = 0.05

[energy]
access = "loopback"
reserved_share = {share}
idle_window_seconds = 1.0

[[pipelines]]
name = "{pipeline}"
bundle = "{bundle}"
{gate}"""
_CLOUD = """\
region = "{region}"
state = "cloud"

[nats]
urls = ["{url}"]
monitor_url = "{monitor_url}"

[energy]
access = "loopback"
reserved_share = {share}
idle_window_seconds = 1.0

[[pipelines]]
name = "{pipeline}"
bundle = "{bundle}"
"""
SHARE = 0.3333
"""One machine plays device, broker and cloud: each answers for a third of its idle power."""


class Child:
    """One process of ours in a group of its own, its output in a file."""

    def __init__(self, name: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "setsuden.cli.main", *arguments],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises SetsudenError with its last words once it has died."""
        code = self.process.poll()
        if code is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise SetsudenError(
                f"{self.name} ended with code {code}: {' | '.join(lines[-3:])[-600:]}",
                remedy=f"read {self.log}",
            )

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to whatever it leaves behind."""
        family = descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=STOP_SECONDS)
        for left in [*family, *descendants(self.process.pid)]:
            with contextlib.suppress(psutil.Error):
                left.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Fleet:
    """Broker, span bridge, cloud, agent: started in that order, stopped in the other."""

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        *,
        plain: bool,
        escalate: float | None,
        otlp_url: str | None,
    ) -> None:
        self.folder = folder
        self.trace = folder / "traces.jsonl"
        self._otlp_url = otlp_url
        self.broker = LocalBroker(folder / "nats")
        self.plain = plain
        self._children: dict[str, Child] = {}
        self._meter: Meter | None = None
        gate = "" if escalate is None else f"gate = {{ escalate = {escalate} }}\n"
        names = {
            "device": DEVICE,
            "region": REGION,
            "pipeline": PIPELINE,
            "bundle": bundle,
            "url": self.broker.url,
            "monitor_url": self.broker.monitor_url,
            "gate": gate,
            "share": SHARE,
        }
        (folder / "agent.toml").write_text(_AGENT.format(**names), encoding="utf-8")
        (folder / "cloud.toml").write_text(_CLOUD.format(**names), encoding="utf-8")

    def start_broker(self) -> None:
        """A real nats-server that syncs every acknowledged write, and its meter."""
        self.broker.start()
        options = EnergyOptions(
            access=Access.LOOPBACK, reserved_share=SHARE, rows=str(self.broker.folder / "energy")
        )
        identity = Identity(
            Component.BROKER, "demo-nats", host_id(TraceOptions()), fingerprint(options)
        )
        counts = BrokerCounts(self.broker.monitor_url)
        self._meter = broker_meter(options, identity, counts, find=self._broker_pids)
        self._meter.start()

    def start_bridge(self) -> None:
        """The span bridge: to the trace file, and to Jaeger where there is one."""
        endpoint = [] if self._otlp_url is None else ["--endpoint", self._otlp_url]
        arguments = ["cloud", "bridge", "--config", "cloud.toml", "--file", self.trace.name]
        self._start("bridge", [*arguments, *endpoint])

    def start_cloud(self) -> None:
        """Ray Serve, or the plain worker."""
        command = "worker" if self.plain else "cloud"
        self._start("cloud", [command, "run", "--config", "cloud.toml"])

    def start_agent(self) -> None:
        """The edge agent."""
        self._start("agent", ["agent", "run", "--config", "agent.toml"])

    def _start(self, name: str, arguments: list[str]) -> None:
        self._children[name] = Child(name, arguments, self.folder)

    def child(self, name: str) -> Child:
        """A started process."""
        return self._children[name]

    def check(self) -> None:
        """Raises SetsudenError when a process died on its own, or Ray twice."""
        for child in self._children.values():
            child.check()
        lost = [line for line in self.log_of("cloud") if line.get("event") == "cloud_lost"]
        if len(lost) >= MAX_LOST:
            raise UnavailableError(
                f"Ray does not stay up: {lost[-1]['reason']}",
                remedy=f"read {self._children['cloud'].log}, or try --plain",
            )

    def stop_one(self, name: str) -> None:
        """Stop one process; it says farewell."""
        self._children.pop(name).stop()

    def spans_dropped(self) -> int:
        """Spans that any process gave up on, as their spools and the bridge's log tell."""
        spools = self.folder.rglob(f"spool/{COUNTERS_FILE}")
        lost = sum(sum(json.loads(path.read_text("utf-8")).values()) for path in spools)
        stopped = [line for line in self.log_of("bridge") if line.get("event") == "bridge_stopped"]
        return lost + sum(int(line["dropped"]) for line in stopped)

    def log_of(self, name: str) -> list[dict[str, Any]]:
        """A process's log lines."""
        file = self.folder / f"{name}.log"
        lines = file.read_text("utf-8", "replace").splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]

    def stop(self) -> None:
        """Stop everything this fleet started."""
        for name in reversed(list(self._children)):
            self._children.pop(name).stop()
        if self._meter is not None:
            self._meter.close()
            self._meter = None
        self.broker.stop()

    def agent_status(self) -> dict[str, Any] | None:
        """What the agent says of itself, or None while it does not listen."""
        port_file = self.folder / "agent" / "http.port"
        if not port_file.exists():
            return None
        body = self._get(f"http://127.0.0.1:{port_file.read_text('ascii')}/readyz")
        return None if body is None else dict(json.loads(body))

    def agent_metrics(self) -> dict[str, float]:
        """The agent's counters by exposition name with labels."""
        port = (self.folder / "agent" / "http.port").read_text("ascii")
        body = self._get(f"http://127.0.0.1:{port}/metrics") or ""
        lines = (line.rsplit(" ", 1) for line in body.splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in lines}

    def _get(self, url: str) -> str | None:
        try:
            return web.get(url, limit=1 << 24, timeout=5, direct=True).decode()
        except (OSError, ValueError):
            return None

    def wait_agent(self, seconds: float) -> None:
        """Return once the agent is ready and its link is up."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            status = self.agent_status()
            if status is not None and status["checks"]["link"]["ok"]:
                return
            time.sleep(0.05)
        raise UnavailableError("the agent did not become ready", remedy="read agent.log")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time so far by tier: whole processes and their descendants, those alive now."""
        return {
            "edge": _cpu_of_tree(self._children["agent"].process.pid),
            "broker": sum(map(_cpu_of_tree, self._broker_pids())),
            "cloud": _cpu_of_tree(self._children["cloud"].process.pid),
        }

    def _broker_pids(self) -> list[int]:
        return [] if self.broker.process is None else [self.broker.process.pid]


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below ``pid``."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _cpu_of_tree(pid: int) -> float:
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(pid), *descendants(pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total
