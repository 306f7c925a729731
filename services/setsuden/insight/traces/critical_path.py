"""The critical path as the Jaeger UI draws it: which span the trace waited for, and when.

Follows the UI's rule, written anew from what it does: whole microseconds, as Jaeger keeps them; a
CONSUMER under a PRODUCER waits for nobody and is left out with all below it; a child is cut to its
parent and dropped when nothing of it is left; from the end backwards the child that finished last
is followed, then the one that finished strictly before it began. So a span that ends in the very
microsecond in which its sibling begins is left off, which is why ours keep a microsecond apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from setsuden.telemetry.span import Span, SpanKind

from .found import FoundSpan
from .tree import Trace


class Section(NamedTuple):
    """A stretch of time for which one span is to blame. Microseconds since 1970."""

    found: FoundSpan
    start_us: int
    end_us: int


class _Node(NamedTuple):
    found: FoundSpan
    start_us: int
    end_us: int


class _Visit(NamedTuple):
    """How far back a span was followed, and its children not yet looked at."""

    node: _Node
    until_us: int
    strict: bool
    """A child of it was followed: the next one ended before that one began."""
    children: Iterator[_Node]

    def allows(self, child: _Node) -> bool:
        """True when the span waited for this child until where it was followed back to."""
        return not self.strict or child.end_us < self.until_us


def start_us(span: Span) -> int:
    """Its start as Jaeger keeps it."""
    return span.start_ns // 1000


def end_us(span: Span) -> int:
    """Its end as Jaeger keeps it: the start's microsecond plus whole microseconds of duration."""
    return span.start_ns // 1000 + (span.end_ns - span.start_ns) // 1000


def critical_path(trace: Trace) -> tuple[Section, ...]:
    """Sections of every entry of the trace, earliest first."""
    found = [section for entry in trace.entries for section in sections(trace, entry)]
    return tuple(sorted(found, key=lambda section: section.start_us))


def sections(trace: Trace, entry: FoundSpan) -> Iterator[Section]:
    """Sections below one entry, latest first; disjoint and inside it."""
    seen: set[int] = set()
    stack = [_visit(trace, _node(entry), seen)]
    while stack:
        visit = stack.pop()
        child = next((child for child in visit.children if visit.allows(child)), None)
        start = visit.node.start_us if child is None else child.end_us
        if start < visit.until_us:
            yield Section(visit.node.found, start, visit.until_us)
        if child is not None:
            stack.append(visit._replace(until_us=child.start_us, strict=True))
            stack.append(_visit(trace, child, seen))


def _node(found: FoundSpan) -> _Node:
    return _Node(found, start_us(found.span), end_us(found.span))


def _visit(trace: Trace, node: _Node, seen: set[int]) -> _Visit:
    """A span not yet walked through, its children last-finishing first."""
    again = id(node.found) in seen  # only where two spans share an id
    seen.add(id(node.found))
    children = [] if again else sorted(_children(trace, node), key=lambda child: -child.end_us)
    return _Visit(node, node.end_us, False, iter(children))


def _children(trace: Trace, node: _Node) -> Iterator[_Node]:
    """What the span waited for, cut to its own time."""
    for found in trace.children.get(node.found.span.span_id, ()):
        if _waits_for_nobody(node.found.span, found.span):
            continue
        start, end = start_us(found.span), end_us(found.span)
        outside = start >= node.end_us or (start < node.start_us and end <= node.start_us)
        if not outside:
            yield _Node(found, max(start, node.start_us), min(end, node.end_us))


def _waits_for_nobody(parent: Span, child: Span) -> bool:
    return parent.kind is SpanKind.PRODUCER and child.kind is SpanKind.CONSUMER
