"""From a source to spans: OTLP JSON Lines, a spool's segments, a folder of them, or a Jaeger.

Every source is read as a stream and within bounds; past one it is an error, never a shorter answer.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from setsuden.pipelines.tracing import otlp
from setsuden.pipelines.tracing.span import ResourceSpans, Span
from setsuden.schemas.errors import TraceDataError
from setsuden.schemas.spans import SERVICE_EDGE, SERVICE_WORKER

from .found import FoundSpan

STDIN = "-"
LINES_SUFFIX, SEGMENT_SUFFIX = ".jsonl", ".pb.gz"
MAX_LINE_BYTES = 32 << 20
MAX_SEGMENT_FILE_BYTES = 16 << 20
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


def load(sources: Iterable[str], trace_id: str | None = None) -> list[FoundSpan]:
    """The distinct spans of all sources; raises TraceDataError past MAX_SPANS.

    ``trace_id`` is asked of a Jaeger instead of its newest traces; files are read whole.
    """
    kept: dict[tuple[str, str], list[FoundSpan]] = {}
    count = 0
    for source in sources:
        for found in spans(source, trace_id):
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


def spans(source: str, trace_id: str | None = None) -> Iterator[FoundSpan]:
    """Every span of one source, copies included; raises TraceDataError with file and line."""
    if is_url(source):
        yield from _jaeger(source, trace_id)
    elif source == STDIN:
        yield from _lines(sys.stdin.buffer, "standard input")
    else:
        for path in files(Path(source)):
            yield from _file(path)


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


def _file(path: Path) -> Iterator[FoundSpan]:
    try:
        if path.name.endswith(SEGMENT_SUFFIX):
            yield from _segment(path)
        else:
            with path.open("rb") as stream:
                yield from _lines(stream, str(path))
    except OSError as error:
        raise TraceDataError(
            f"{path}: {error.strerror or error}",
            remedy="name a trace file, a spool folder, or the address of a Jaeger",
        ) from error


def _lines(stream: BinaryIO, name: str) -> Iterator[FoundSpan]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        place = f"{name}:{number}"
        if len(line) > MAX_LINE_BYTES:
            raise TraceDataError(f"{place}: a line of over {MAX_LINE_BYTES} bytes")
        if line.strip():
            yield from _document(line, place)


def _document(text: str | bytes, place: str) -> Iterator[FoundSpan]:
    try:
        groups = otlp.read(text)
    except TraceDataError as error:
        raise TraceDataError(f"{place}: {error.message}", remedy=error.remedy) from error
    except RecursionError as error:
        raise TraceDataError(f"{place}: nested too deeply") from error
    yield from _found(groups, place)


def _segment(path: Path) -> Iterator[FoundSpan]:
    from setsuden.pipelines.tracing import protobuf  # noqa: PLC0415  # 40 ms that JSON need not pay

    if path.stat().st_size > MAX_SEGMENT_FILE_BYTES:
        raise TraceDataError(f"{path}: over {MAX_SEGMENT_FILE_BYTES} bytes")
    try:
        groups = protobuf.decode(protobuf.decompress(path.read_bytes()))
    except TraceDataError as error:
        raise TraceDataError(f"{path}: {error.message}", remedy=error.remedy) from error
    except ValueError as error:  # a span kind of the future
        raise TraceDataError(f"{path}: {error}") from error
    yield from _found(groups, str(path))


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
