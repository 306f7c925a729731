"""A real Jaeger on this machine: free ports, traces in memory, OTLP over HTTP."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from setsuden.schemas.errors import ConfigError, MissingExtraError, UnavailableError

BINARY = Path("setsuden/jaeger-v2.13.0/jaeger")
"""Where `make jaeger` puts it, below the user's cache folder."""
JAEGER_REMEDY = "make jaeger builds one in 3 to 7 minutes"
READY_SECONDS = 15.0
_CONFIG = """\
service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [jaeger_storage_exporter]
  telemetry:
    metrics:
      level: none
extensions:
  jaeger_storage:
    backends:
      traces:
        memory:
          max_traces: {max_traces}
  jaeger_query:
    storage:
      traces: traces
    max_clock_skew_adjust: 0s
    enable_tracing: false
    http:
      endpoint: "127.0.0.1:{query}"
    grpc:
      endpoint: "127.0.0.1:{grpc}"
  healthcheckv2:
    use_v2: true
    http:
      endpoint: "127.0.0.1:{health}"
receivers:
  otlp:
    protocols:
      http:
        endpoint: "127.0.0.1:{otlp}"
exporters:
  jaeger_storage_exporter:
    trace_storage: traces
"""


def find_jaeger(path: str | Path | None = None) -> str | None:
    """The Jaeger at ``path``, else of PATH, else the one `make jaeger` built, else None.

    Raises ConfigError when ``path`` is given and no program is there.
    """
    if path is not None:
        if (found := shutil.which(path)) is None:
            raise ConfigError(f"no program at {path}", remedy=JAEGER_REMEDY)
        return str(found)
    # Named by the desktop standard and read as PATH is: build.py writes there.
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return shutil.which("jaeger") or shutil.which(str(Path(cache) / BINARY))


def require_jaeger(path: str | Path | None = None) -> str:
    """As :func:`find_jaeger`; raises MissingExtraError where there is none."""
    found = find_jaeger(path)
    if found is None:
        raise MissingExtraError("Jaeger was not found", remedy=JAEGER_REMEDY)
    return found


class LocalJaeger:
    """One Jaeger process whose ports survive its death; its traces, in memory, do not."""

    def __init__(self, folder: Path, binary: str, *, max_traces: int = 20_000) -> None:
        self.folder = folder
        self.otlp_port, self.query_port, self.grpc_port, self.health_port = free_ports(4)
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] | None = None
        """What the process sees instead of ours."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "jaeger.yaml"
        self._binary = binary
        self.config.write_text(
            _CONFIG.format(
                max_traces=max_traces,
                otlp=self.otlp_port,
                query=self.query_port,
                grpc=self.grpc_port,
                health=self.health_port,
            ),
            encoding="utf-8",
        )

    @property
    def otlp_url(self) -> str:
        """Where spans go: the base address of OTLP over HTTP."""
        return f"http://127.0.0.1:{self.otlp_port}"

    @property
    def query_url(self) -> str:
        """Where traces are asked for."""
        return f"http://127.0.0.1:{self.query_port}"

    @property
    def log(self) -> Path:
        """What the process wrote, of all its lives."""
        return self.folder / "jaeger.log"

    def start(self) -> None:
        """Start Jaeger and return when it serves; raises UnavailableError."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._binary, "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        self._wait_ready()

    def kill(self) -> None:
        """SIGKILL: no farewell, nothing flushed."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when it lingers."""
        self._end(signal.SIGTERM)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    def _end(self, with_signal: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(with_signal)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_ready(self) -> None:
        try:
            if self._becomes_ready():
                return
        except BaseException:  # Ctrl-C while it starts must leave no process behind
            self.stop()
            raise
        self.stop()
        raise UnavailableError("Jaeger did not become ready", remedy=f"read {self.log}")

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                return False
            if _answers(f"http://127.0.0.1:{self.health_port}/status"):
                return True
            time.sleep(0.02)
        return False


def free_ports(number: int) -> tuple[int, ...]:
    """That many different TCP ports of the loopback interface that are free now."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310  # http, built above
            return bool(answer.status == 200)
    except OSError:
        return False
