"""Takes finished spans off the hot path and writes them; what it cannot keep it counts."""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections import deque
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import NAMESPACE_DNS, uuid5

from pydantic import Field

from setsuden.schemas.base import Model

from . import otlp
from .file import TraceFile
from .span import Span, Value

if TYPE_CHECKING:
    from .export import OtlpExporter

log = logging.getLogger(__name__)
_BATCH = 512
_PAUSE_SECONDS = 0.2
_ATTEMPTS = 3


class TraceOptions(Model):
    """The ``[traces]`` table."""

    file: str = "traces.jsonl"
    """OTLP JSON Lines; relative paths are relative to the state folder."""
    file_max_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """At the cap the older half is dropped, and its lines counted."""
    queue_max_spans: int = Field(default=20_000, ge=100)
    """Spans waiting to be written; past it new ones are dropped and counted."""
    endpoint: str | None = Field(default=None, pattern="^https?://")
    """OTLP/HTTP, e.g. ``http://jaeger:4318``; without it there is the file alone."""
    easy_share: float = Field(default=0.01, ge=0, le=1)
    """Share of events answered on the edge that are traced. Escalations always are."""


class Recorder:
    """One process's spans: always to its file, and to the endpoint when there is one."""

    def __init__(
        self, options: TraceOptions, folder: Path, service: str, extra: dict[str, Value]
    ) -> None:
        self.resource = resource(service) | extra
        self.easy_share = options.easy_share
        self.recorded = 0
        self.dropped = 0
        self.unsent = 0
        self._options = options
        self._queue: deque[Span] = deque()
        self._file = TraceFile(folder / options.file, options.file_max_bytes)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """Where the trace file lies."""
        return self._file.path

    @property
    def lost(self) -> int:
        """Spans that neither file nor endpoint keeps."""
        return self.dropped + self._file.dropped_lines

    def add(self, spans: Iterable[Span]) -> None:
        """Take finished spans; never blocks."""
        for span in spans:
            if len(self._queue) >= self._options.queue_max_spans:
                self.dropped += 1
            else:
                self._queue.append(span)

    def close(self) -> None:
        """Write what is waiting and stop."""
        self._stop.set()
        self._thread.join(timeout=10)
        self._file.close()

    def _run(self) -> None:
        exporter = self._exporter()
        while not self._stop.wait(_PAUSE_SECONDS) or self._queue:
            self._drain(exporter)
        if exporter is not None:
            exporter.close()

    def _exporter(self) -> OtlpExporter | None:
        if self._options.endpoint is None:
            return None
        from .export import OtlpExporter  # noqa: PLC0415  # the SDK costs 70 ms that a file does not need

        return OtlpExporter(self._options.endpoint, self.resource)

    def _drain(self, exporter: OtlpExporter | None) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            self._keep(batch)
            if exporter is not None:
                self._send(exporter, batch)

    def _keep(self, batch: list[Span]) -> None:
        try:
            self._file.write("".join(otlp.line(self.resource, [span]) for span in batch))
            self.recorded += len(batch)
        except OSError as error:  # a full disk must not end tracing for good
            self.dropped += len(batch)
            log.warning("spans_not_written", extra={"detail": str(error), "count": len(batch)})

    def _send(self, exporter: OtlpExporter, batch: list[Span]) -> None:
        for attempt in range(_ATTEMPTS):
            if exporter.export(batch):
                return
            self._stop.wait(_PAUSE_SECONDS * 2**attempt)
        self.unsent += len(batch)
        log.warning("spans_unsent", extra={"count": len(batch)})


def resource(service: str) -> dict[str, Value]:
    """What Jaeger needs of every process; ``host.id`` keeps its clock adjuster honest."""
    host = platform.node()
    return {
        "service.name": service,
        "service.version": version("setsuden"),
        "service.instance.id": str(uuid5(NAMESPACE_DNS, f"{host}/{service}/{time.time_ns()}")),
        "host.id": _host_id(host),
        "host.name": host,
        "host.arch": platform.machine(),
    }


def _host_id(host: str) -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or host
    except OSError:
        return host
