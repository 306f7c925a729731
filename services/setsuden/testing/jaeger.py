"""A real Jaeger on this machine: free ports, traces in memory, OTLP over HTTP."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from setsuden.schemas.errors import ConfigError

from .server import LocalServer, free_ports

BINARY = Path("setsuden/jaeger-v2.13.0/jaeger")
"""Where `make jaeger` installs it, relative to the user's cache folder."""
JAEGER_REMEDY = "make jaeger builds one in 3 to 7 minutes"
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
    """The path of a Jaeger: ``path``, else PATH's, else the one `make jaeger` built, else None.

    Raises ConfigError when ``path`` is given and is not a program.
    """
    if path is not None:
        if (program := shutil.which(path)) is None:
            raise ConfigError(f"no program at {path}", remedy=JAEGER_REMEDY)
        return str(program)
    cache = _cache()
    return shutil.which("jaeger") or (shutil.which(str(cache / BINARY)) if cache else None)


def _cache() -> Path | None:
    """The user's cache folder; None for a user without a home folder."""
    # The XDG base directory specification's variable.
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


class LocalJaeger(LocalServer):
    """One Jaeger; it keeps its ports when started again, but not its traces, which are in memory.

    ``binary`` is what :func:`find_jaeger` returns.
    """

    def __init__(self, folder: Path, binary: str, *, max_traces: int = 20_000) -> None:
        self.otlp_port, self.query_port, self.grpc_port, self.health_port = free_ports(4)
        config = folder / "jaeger.yaml"
        status = f"http://127.0.0.1:{self.health_port}/status"
        super().__init__(folder, "jaeger", [binary, "--config", str(config)], status)
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text(
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
        """The base address of OTLP over HTTP, which takes spans."""
        return f"http://127.0.0.1:{self.otlp_port}"

    @property
    def query_url(self) -> str:
        """The address of the query API and of the web pages."""
        return f"http://127.0.0.1:{self.query_port}"
