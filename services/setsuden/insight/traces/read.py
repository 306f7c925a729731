"""From a source to spans: OTLP JSON Lines, a spool's segments, a folder of them, or a Jaeger.

Every source is read as a stream and within bounds; past one it is an error, never a shorter answer.
A damaged line or segment among others (a full disk, a power cut) is passed over and counted.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from setsuden.schemas.errors import TraceDataError
from setsuden.schemas.spans import SERVICE_EDGE, SERVICE_WORKER
from setsuden.telemetry import otlp
from setsuden.telemetry.span import ResourceSpans, Span

from .found import FoundSpan

STDIN = "-"
LINES_SUFFIX, SEGMENT_SUFFIX = ".jsonl", ".pb.gz"
MAX_LINE_BYTES = 32 << 20
MAX_SEGMENT_FILE_BYTES = 1 << 20
MAX_FILES = 20_000
MAX_SPANS = 500_000
"""Of all sources together; some 2 kB of memory each."""
SEARCHED_TRACES = 100
"""The newest of each service that are asked of a Jaeger when no trace is named."""
SEARCHED_SECONDS = 86_400
_TRACE_ID, _SPAN_ID = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{16}")


def is_url(source: str) -> bool:
    """True for the address of a Jaeger."""
    return source.startswith(("http://", "https://"))


class Damage:
    """Lines and segments that could not be read and were passed over."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""
        """Where the first one is, and what is wrong with it."""

    def add(self, error: TraceDataError) -> None:
        """Count one more."""
        self.count += 1
        self.first = self.first or error.message

    def __str__(self) -> str:
        """One line for people; empty when nothing is damaged."""
        if not self.count:
            return ""
        what = "line or segment" if self.count == 1 else "lines or segments"
        return f"{self.count} damaged {what} passed over; the first: {self.first}"


def load(
    sources: Iterable[str], trace_id: str | None = None, damage: Damage | None = None
) -> list[FoundSpan]:
    """The distinct spans of all sources; raises TraceDataError past MAX_SPANS.

    ``trace_id`` is asked of a Jaeger instead of its newest traces; files are read whole. What is
    damaged among what is not is counted in ``damage``; a source of nothing else is an error.
    """
    kept: dict[tuple[str, str], list[FoundSpan]] = {}
    count = 0
    for source in sources:
        for found in spans(source, trace_id, damage):
            if not _kept(found, kept.setdefault(found.key, [])):
                continue
            count += 1
            if count > MAX_SPANS:
                raise TraceDataError(
                    f"{found.place}: over {MAX_SPANS} spans", remedy="name fewer files at once"
                )
    return [found for copies in kept.values() for found in copies]


def _kept(found: FoundSpan, copies: list[FoundSpan]) -> bool:
    """True when it is a new one; of copies the one with Jaeger's warning stays."""
    for place, copy in enumerate(copies):
        if found.same_as(copy):
            if found.warned and not copy.warned:
                copies[place] = found
            return False
    copies.append(found)
    return True


def spans(
    source: str, trace_id: str | None = None, damage: Damage | None = None
) -> Iterator[FoundSpan]:
    """Every span of one source, copies included; raises TraceDataError with file and line."""
    if is_url(source):
        yield from _jaeger(source, trace_id)
        return
    readable, first = False, None
    for part in _parts(source):
        try:
            found = part()
        except TraceDataError as error:
            first = first or error
            if damage is not None:
                damage.add(error)
            continue
        readable = True
        yield from found
    if first is not None and not readable:
        raise first


Part = Callable[[], list[FoundSpan]]
"""Reads one line or segment; raises TraceDataError when it is damaged."""


def _parts(source: str) -> Iterator[Part]:
    if source == STDIN:
        yield from _lines(sys.stdin.buffer, "standard input")
        return
    path = Path(source)
    for file in files(path):
        try:
            if file.name.endswith(SEGMENT_SUFFIX):
                yield partial(_segment, file, _content(file))
            else:
                with file.open("rb") as stream:
                    yield from _lines(stream, str(file))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and file != path:
                continue  # a running agent sent it meanwhile
            raise TraceDataError(
                f"{file}: {error.strerror or error}",
                remedy="name a trace file, a spool folder, or the address of a Jaeger",
            ) from error


def files(path: Path) -> list[Path]:
    """The file itself, or all segments and JSON Lines files below a folder, sorted."""
    if not path.is_dir():
        return [path]
    found = sorted(
        inner
        for inner in path.rglob("*")
        if inner.name.endswith((LINES_SUFFIX, SEGMENT_SUFFIX)) and inner.is_file()
    )
    if not found:
        raise TraceDataError(
            f"{path}: no {LINES_SUFFIX} file and no *{SEGMENT_SUFFIX} segment in it",
            remedy="name a trace file, a spool folder, or the address of a Jaeger",
        )
    if len(found) > MAX_FILES:
        raise TraceDataError(f"{path}: over {MAX_FILES} files", remedy="name a smaller folder")
    return found


def _lines(stream: BinaryIO, name: str) -> Iterator[Part]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        place = f"{name}:{number}"
        if len(line) > MAX_LINE_BYTES:
            while not line.endswith(b"\n") and (line := stream.readline(MAX_LINE_BYTES)):
                pass  # to its end: the next one may be whole
            yield partial(_refuse, f"{place}: a line of over {MAX_LINE_BYTES} bytes")
        elif line.strip():
            yield partial(_document, line, place)


def _refuse(words: str) -> list[FoundSpan]:
    raise TraceDataError(words)


def _document(text: str | bytes, place: str) -> list[FoundSpan]:
    try:
        groups = otlp.read(text)
    except TraceDataError as error:
        raise TraceDataError(f"{place}: {error.message}", remedy=error.remedy) from error
    except RecursionError as error:
        raise TraceDataError(f"{place}: nested too deeply") from error
    return list(_found(groups, place))


def _content(path: Path) -> bytes:
    """A segment's bytes, no more of them than a segment has; raises OSError."""
    with path.open("rb") as file:
        return file.read(MAX_SEGMENT_FILE_BYTES + 1)


def _segment(path: Path, data: bytes) -> list[FoundSpan]:
    from setsuden.telemetry import protobuf  # noqa: PLC0415  # 40 ms that JSON need not pay

    if len(data) > MAX_SEGMENT_FILE_BYTES:
        raise TraceDataError(f"{path}: over {MAX_SEGMENT_FILE_BYTES} bytes")
    try:
        groups = protobuf.decode(protobuf.decompress(data))
    except TraceDataError as error:
        raise TraceDataError(f"{path}: {error.message}", remedy=error.remedy) from error
    return list(_found(groups, str(path)))


def _found(groups: Iterable[ResourceSpans], place: str) -> Iterator[FoundSpan]:
    for group in groups:
        for span in group.spans:
            if not _is_whole(span):
                raise TraceDataError(f"{place}: a span without a name or with malformed ids")
            yield FoundSpan(group.resource, span, place)


def _is_whole(span: Span) -> bool:
    return bool(
        isinstance(span.name, str)
        and _TRACE_ID.fullmatch(span.trace_id)
        and _SPAN_ID.fullmatch(span.span_id)
        and (span.parent_id is None or _SPAN_ID.fullmatch(span.parent_id))
    )


def _jaeger(url: str, trace_id: str | None) -> Iterator[FoundSpan]:
    """One trace, or the newest of the services that begin traces."""
    if trace_id is None:
        for service in (SERVICE_EDGE, SERVICE_WORKER):
            yield from recent(url, service, SEARCHED_TRACES)
        return
    from .jaeger import JaegerQuery  # noqa: PLC0415  # HTTP, which files do not need

    document = JaegerQuery(url).trace(trace_id)
    if document is not None:
        yield from _document(json.dumps(document), url)


def recent(url: str, service: str, traces: int) -> Iterator[FoundSpan]:
    """Spans of this service's newest traces in a Jaeger, within SEARCHED_SECONDS."""
    from .jaeger import JaegerQuery  # noqa: PLC0415  # HTTP, which files do not need

    now = time.time()
    found = JaegerQuery(url).search(service, start=now - SEARCHED_SECONDS, end=now, limit=traces)
    yield from _document(json.dumps(found), url)
