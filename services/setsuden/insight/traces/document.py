"""Traces as data: what ``setsuden trace show --json`` prints, and OTLP lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from setsuden.telemetry import otlp
from setsuden.telemetry.span import Span, Value

from . import figures
from .critical_path import critical_path
from .figures import TraceJoules
from .found import FoundSpan
from .tree import Trace, TreeRow


def document(trace: Trace) -> dict[str, Any]:
    """One JSON object: the verdict, then every span depth first."""
    found = figures.verdict(trace)
    blamed: dict[int, int] = {}
    for section in critical_path(trace):
        key = id(section.found)
        blamed[key] = blamed.get(key, 0) + section.end_us - section.start_us
    origin = min(one.span.start_ns for one in trace.spans)
    return {
        "trace_id": trace.trace_id,
        "verdict": found.words,
        "status": found.status or None,
        "escalated": found.escalated,
        "ms": found.ms,
        "energy": _joules(found.joules),
        "energy_complete": found.complete,
        "energy_class": found.energy_class or None,
        "clock": clock._asdict() if (clock := figures.clock(trace)) is not None else None,
        "batches": [
            member._asdict() | {"found": member.found.span.span_id}
            for member in figures.memberships(trace)
        ],
        "spans": [_span(row, blamed.get(id(row.found), 0), origin) for row in trace.walk()],
    }


def _span(row: TreeRow, blamed_us: int, origin_ns: int) -> dict[str, Any]:
    found: FoundSpan = row.found
    span = found.span
    return {
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "depth": row.depth,
        "name": span.name,
        "service": found.service,
        "kind": span.kind.name,
        "start_ms": (span.start_ns - origin_ns) / 1e6,
        "ms": found.ms,
        "critical_path_ms": blamed_us / 1e3,
        "energy": _joules(figures.joules_of(found)),
        "marks": figures.marks(found),
        "error": span.error,
        "attributes": dict(span.attributes),
        "events": [event._asdict() for event in span.events],
        "links": [link._asdict() for link in span.links],
    }


def _joules(joules: TraceJoules | None) -> dict[str, Any] | None:
    return None if joules is None else joules._asdict()


def otlp_lines(spans: Iterable[FoundSpan]) -> Iterator[str]:
    """``{"resourceSpans": …}`` documents, one a line, as Jaeger's upload tab takes them.

    Each is one process's part of one trace.
    """
    groups: dict[tuple[object, ...], tuple[Mapping[str, Value], list[Span]]] = {}
    for found in spans:
        key = (found.span.trace_id, *sorted(found.resource.items(), key=repr))
        groups.setdefault(key, (found.resource, []))[1].append(found.span)
    for resource, group in groups.values():
        yield otlp.line(resource, group)
