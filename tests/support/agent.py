"""A real agent process for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support.leaf import LeafSite

from setsuden.testing.broker import LocalBroker

DEVICE = "dev-1"
READY_SECONDS = 30.0
_RUN = """
import sys
from pathlib import Path
from setsuden.edge_agent.config import AgentConfig
from setsuden.edge_agent.process import run_agent
from setsuden.process.config import load_toml, validate
from setsuden.schemas.errors import SetsudenError
path = Path(sys.argv[1])
try:
    sys.exit(run_agent(validate(AgentConfig, load_toml(path)), path.parent))
except SetsudenError as error:
    sys.exit(f"{error.code}: {error}")
"""


def digits() -> Path:
    """The built-in bundle's folder."""
    return Path(str(files("setsuden.pipelines.workloads") / "digits"))


def config(
    *,
    broker: LocalBroker | LeafSite | None = None,
    bundle: Path | None = None,
    pipeline: str = "digits",
    nats: str = "",
    extra: str = "",
    pipeline_extra: str = "",
    traces: str = "",
    http: str = "",
    escalation: str = "lookup_seconds = 1.0",
    easy_share: float = 1.0,
) -> str:
    """An ``agent.toml``; without a broker nothing listens where it looks for one."""
    url = "nats://127.0.0.1:9"
    if broker is not None:
        url = broker.leaf_url if isinstance(broker, LeafSite) else broker.url
    monitor = broker.monitor_url if broker is not None else "http://127.0.0.1:9"
    return f"""\
device = "{DEVICE}"
{extra}
[http]
port = 0
{http}
[traces]
easy_share = {easy_share}
{traces}
[escalation]
{escalation}
[nats]
urls = ["{url}"]
monitor_url = "{monitor}"
{nats}
[[pipelines]]
name = "{pipeline}"
bundle = "{bundle or digits()}"
{pipeline_extra}
"""


class AgentProcess:
    """One agent under test; its state folder survives its death."""

    def __init__(self, folder: Path, text: str, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = os.environ | (environment or {})
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "agent.toml"
        self.path.write_text(text, encoding="utf-8")
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start it and wait for nothing."""
        (self.folder / "state" / "http.port").unlink(missing_ok=True)
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _RUN, str(self.path)],
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        return self.process

    def start(self, *, link: bool = True) -> None:
        """Start it and return when it is ready, and its link up unless told otherwise."""
        self.spawn()
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            status = self.ready()
            if status and (not link or status["checks"]["link"]["ok"]):
                return
            assert not self.ends_within(0.02), self.log()
        raise AssertionError(f"not ready: {self.log()}")

    def ends_within(self, seconds: float) -> bool:
        """True when the process ended, waiting no longer than this."""
        assert self.process is not None
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def until(self, holds: Callable[[], bool], seconds: float = 20.0) -> None:
        """Return when something holds of the running agent."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.log()
            assert not self.ends_within(0.05), self.log()

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def log(self) -> str:
        return (self.folder / "agent.log").read_text(encoding="utf-8", errors="replace")[-3000:]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return int((self.folder / "state" / "http.port").read_text(encoding="ascii"))

    def ready(self) -> dict[str, Any] | None:
        if not (self.folder / "state" / "http.port").exists():
            return None
        try:
            return dict(json.loads(self.get("/readyz")[1]))
        except (OSError, ValueError):
            return None

    def get(self, path: str) -> tuple[int, bytes]:
        return self._ask(urllib.request.Request(self.url + path))

    def post(
        self, path: str, body: bytes, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {})
        status, answer = self._ask(request)
        return status, json.loads(answer)

    def exchange(
        self, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, lower-case headers, body) of the answer to a POST."""
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            names = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, names, answer.read()

    def event(
        self, data: bytes, *, wait: float = 0.0, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Submit one observation as a binary CloudEvent over HTTP."""
        names = {
            "ce-specversion": "1.0",
            "ce-id": headers.pop("id", None) or uuid4().hex,
            "ce-source": "test",
            "content-type": headers.pop("content_type", "application/octet-stream"),
        }
        names |= {f"ce-{name}": value for name, value in headers.items()}
        return self.post(f"/events?wait={wait}", data, names)

    def metric(self, name: str) -> float:
        """The sum of one metric over its labels."""
        lines = self.get("/metrics")[1].decode().splitlines()
        rows = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows)

    def peak_mb(self) -> float:
        """Memory that the process has held at most."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def _ask(self, request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
