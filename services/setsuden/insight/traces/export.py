"""Spans back into OTLP JSON Lines, as Jaeger's upload tab takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from setsuden.telemetry import otlp
from setsuden.telemetry.span import Span, Value

from .found import FoundSpan


def lines(spans: Iterable[FoundSpan]) -> Iterator[str]:
    """One ``{"resourceSpans": …}`` document on each line: one process's part of one trace."""
    groups: dict[tuple[object, ...], tuple[Mapping[str, Value], list[Span]]] = {}
    for found in spans:
        key = (found.span.trace_id, *sorted(found.resource.items(), key=repr))
        groups.setdefault(key, (found.resource, []))[1].append(found.span)
    for resource, group in groups.values():
        yield otlp.line(resource, group)
