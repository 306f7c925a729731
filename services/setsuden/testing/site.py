"""A whole site on this machine: broker, agent and worker, each a real process."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Self

from setsuden.schemas.errors import UnavailableError

from .broker import LocalBroker
from .server import LocalServer, free_ports

STREAMS_SECONDS = 60.0
_COMMON = """\
[nats]
urls = ["{url}"]
monitor_url = "{monitor_url}"

[energy]
sensor = "table"

[[pipelines]]
name = "{pipeline}"
bundle = {bundle}
"""
_AGENT = """\
device = "{device}"
state = "agent"

[http]
port = {http_port}

"""
_CLOUD = """\
state = "cloud"

"""
_GATE = "gate = {{ threshold = {threshold} }}\n"


class LocalSite:
    """One device's agent, a broker, and a worker without Ray, all on the loopback interface.

    ``bundle`` is the pipeline's folder, by default the built-in ``digits``; ``threshold`` replaces
    its gate's: 0 makes every event easy, 1 every event hard. Everything the processes write is
    below ``folder``. The parts are also started and stopped one by one: ``site.broker.kill()``.

    ::

        with LocalSite(tmp_path) as site, Client(site.url, device=site.device) as client:
            print(client.submit(site.pipeline, bytes(784)).result(timeout=30).answer)
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path | None = None,
        *,
        device: str = "local-device",
        threshold: float | None = None,
        broker_port: int | None = None,
        http_port: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        bundle = (bundle or _digits()).resolve()
        self.folder, self.device = folder, device
        self.pipeline: str = tomllib.loads((bundle / "bundle.toml").read_text("utf-8"))["name"]
        self.broker = LocalBroker(folder / "nats", port=broker_port)
        self.http_url = f"http://127.0.0.1:{http_port or free_ports(1)[0]}"
        common = _COMMON.format(
            url=self.broker.url,
            monitor_url=self.broker.monitor_url,
            pipeline=self.pipeline,
            bundle=json.dumps(str(bundle)),  # a TOML string too
        )
        gate = "" if threshold is None else _GATE.format(threshold=threshold)
        agent = _AGENT.format(device=device, http_port=self.http_url.rsplit(":", 1)[1])
        (folder / "agent.toml").write_text(agent + common + gate, encoding="utf-8")
        (folder / "cloud.toml").write_text(_CLOUD + common, encoding="utf-8")
        self.agent = LocalServer(
            folder, "agent", self._command("agent", "run", "agent.toml"), f"{self.http_url}/readyz"
        )
        self.worker = LocalServer(folder, "worker", self._command("worker", "run", "cloud.toml"))

    @property
    def url(self) -> str:
        """The broker's address, for clients."""
        return self.broker.url

    def start(self) -> None:
        """Start broker, worker and agent; returns when events can be submitted."""
        try:
            self.broker.start()
            self._apply_streams()
            self.worker.start()
            self.agent.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop what runs, the broker last."""
        for server in (self.agent, self.worker, self.broker):
            server.stop()

    def __enter__(self) -> Self:
        """The site itself, started."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stops it."""
        self.stop()

    def _command(self, group: str, name: str, config: str) -> list[str]:
        path = str(self.folder / config)
        return [sys.executable, "-m", "setsuden.cli.main", group, name, "--config", path]

    def _apply_streams(self) -> None:
        ended = subprocess.run(
            self._command("cloud", "streams", "cloud.toml"),
            capture_output=True,
            text=True,
            check=False,
            timeout=STREAMS_SECONDS,
        )
        if ended.returncode:
            raise UnavailableError(f"the streams could not be made: {ended.stderr.strip()[-400:]}")


def _digits() -> Path:
    return Path(str(files("setsuden.pipelines.workloads") / "digits"))
