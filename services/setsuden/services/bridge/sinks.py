"""Where spans and metrics go: an OTLP/HTTP endpoint, a file of OTLP JSON Lines, or both."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Protocol

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from setsuden.link import web
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.log import get_logger
from setsuden.telemetry import otlp, protobuf
from setsuden.telemetry.ship import CONTENT_ENCODING, CONTENT_TYPE

log = get_logger(__name__)
_MAX_ANSWER_BYTES = 1 << 16
_REFUSED = frozenset({400, 413, 415, 422})
"""What says something about these spans; any other status is about the endpoint, and may pass."""
SPANS_PATH, METRICS_PATH = "/v1/traces", "/v1/metrics"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class SinkOutcome(Enum):
    """What a sink said of some spans or metrics."""

    TAKEN = "taken"
    REFUSED = "refused"
    """It never will take them."""
    LATER = "later"


class Sink(Protocol):
    """**Protocol:** takes serialised ``TracesData``, or else ``MetricsData``; blocks."""

    rejected: int
    """Spans or points it took and threw away, as it says itself."""
    problem: str
    """Why it did not take the last ones it did not take."""

    def put(self, data: bytes) -> SinkOutcome:
        """Hand over; the same data may come twice."""
        ...


class OtlpEndpoint:
    """Any OTLP/HTTP receiver: Jaeger, a Collector, Prometheus, a vendor."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout_seconds: float,
        path: str = SPANS_PATH,
    ) -> None:
        self._url = url.rstrip("/") + path
        self._headers = dict(headers) | {
            "Content-Type": CONTENT_TYPE,
            "Content-Encoding": CONTENT_ENCODING,
        }
        self._timeout = timeout_seconds
        self.rejected = 0
        self.problem = ""

    def put(self, data: bytes) -> SinkOutcome:
        """Post once."""
        try:
            answer = web.post(
                self._url,
                protobuf.compress(data),
                limit=_MAX_ANSWER_BYTES,
                timeout=self._timeout,
                headers=self._headers,
            )
        except web.AnswerTooLongError:  # it took them, and says more than we care to read
            return SinkOutcome.TAKEN
        except web.WebError as error:
            self.problem = f"status {error.status}" if error.status else str(error)
            return SinkOutcome.REFUSED if error.status in _REFUSED else SinkOutcome.LATER
        self._count_rejected(answer)
        return SinkOutcome.TAKEN

    def _count_rejected(self, body: bytes) -> None:
        """Partial success (OTLP specification): 200, and some spans were thrown away.

        The answer for metrics has the same fields, with ``rejected_data_points`` for spans.
        """
        try:
            partial = ExportTraceServiceResponse.FromString(body).partial_success
        except DecodeError:
            return
        if partial.rejected_spans:
            self.rejected += partial.rejected_spans
            log.warning(
                "endpoint_rejected", count=partial.rejected_spans, detail=partial.error_message
            )


def span_lines(data: bytes) -> str:
    """One line for each resource: what Jaeger's upload tab and ``setsuden trace`` read."""
    return "".join(otlp.line(group.resource, group.spans) for group in protobuf.decode(data))


class LinesFile:
    """Appends OTLP JSON Lines: spans, or what else ``lines`` makes of the data."""

    def __init__(self, path: Path, lines: Callable[[bytes], str] = span_lines) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lines = path, lines
        self.rejected = 0
        self.problem = ""

    def put(self, data: bytes) -> SinkOutcome:
        """Append its lines: all of them, or none."""
        try:
            lines = self._lines(data).encode()
        except ValueError as error:  # NaN is no JSON
            self.problem = str(error)
            return SinkOutcome.REFUSED
        try:
            append(self._path, lines)
        except OSError as error:
            self.problem = str(error)
            return SinkOutcome.LATER
        return SinkOutcome.TAKEN


def append(path: Path, lines: bytes) -> None:
    """Add whole lines to a file, or nothing; raises OSError.

    A full disk takes a part of a write: that part is cut off again. A line that somebody else left
    torn (a crash, a power cut) is ended first, so that ours does not grow into it.
    """
    handle = _opened(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # bridges may share a file
        size = os.fstat(handle).st_size  # 0 for a pipe or a terminal
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        _write(handle, b"\n" + lines if torn else lines, size)
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    if not path.is_fifo():
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    # Refused while nobody reads: what is in a pipe is gone when its last end is closed.
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(handle, True)
    return handle


def _write(handle: int, data: bytes, size: int) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(handle, rest) :]
    except OSError:
        with contextlib.suppress(OSError):  # what cannot be cut off now is ended next time
            os.ftruncate(handle, size)
        raise


def read_headers(path: Path | None) -> dict[str, str]:
    """``Name: value`` lines of a file, which may hold secrets; raises ConfigError."""
    if path is None:
        return {}
    headers = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", remedy="set bridge.headers_file"
        ) from error
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if line.strip() and not (
            colon and _HEADER_NAME.fullmatch(name.strip()) and value.isascii()
        ):
            raise ConfigError(f"{path}:{number} is no header", remedy="write `Name: value`")
        if line.strip():
            headers[name.strip()] = value.strip()
    return headers
