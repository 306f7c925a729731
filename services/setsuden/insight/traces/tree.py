"""The spans of one trace as a tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from setsuden.schemas import spans as table

from .found import FoundSpan


class TreeRow(NamedTuple):
    """One span in depth-first order."""

    depth: int
    found: FoundSpan


@dataclass(frozen=True, slots=True)
class Trace:
    """One trace. Every group of spans is in the order of their starts."""

    trace_id: str
    spans: tuple[FoundSpan, ...]
    roots: tuple[FoundSpan, ...]
    """Spans without a parent."""
    orphans: tuple[FoundSpan, ...]
    """Spans whose parent is not here."""
    children: Mapping[str, tuple[FoundSpan, ...]]
    """By the parent's span id."""
    by_id: Mapping[str, FoundSpan]

    @property
    def entries(self) -> tuple[FoundSpan, ...]:
        """Where a reader begins: roots, then orphans."""
        return self.roots + self.orphans

    @property
    def entry(self) -> FoundSpan:
        """The span that speaks for the trace: `event`, else its root, else its first."""
        events = (found for found in self.entries if found.span.name == table.EVENT)
        return next(events, (self.entries or self.spans)[0])

    def parent(self, found: FoundSpan) -> FoundSpan | None:
        """The span it hangs under, when that is here."""
        parent_id = found.span.parent_id
        return None if parent_id is None else self.by_id.get(parent_id)

    def ancestors(self, found: FoundSpan) -> Iterator[FoundSpan]:
        """Its parent, its parent's parent and so on; a circle ends where it closes."""
        seen = {found.span.span_id}
        above = self.parent(found)
        while above is not None and above.span.span_id not in seen:
            yield above
            seen.add(above.span.span_id)
            above = self.parent(above)

    def walk(self) -> Iterator[TreeRow]:
        """Every span once, depth first, children by start; what hangs in a circle comes last."""
        seen: set[int] = set()
        for first in (*self.entries, *self.spans):
            stack = [TreeRow(0, first)]
            while stack:
                row = stack.pop()
                if id(row.found) in seen:
                    continue
                seen.add(id(row.found))
                yield row
                below = self.children.get(row.found.span.span_id, ())
                stack += [TreeRow(row.depth + 1, child) for child in reversed(below)]

    def named(self, name: str, service: str | None = None) -> list[FoundSpan]:
        """Its spans of this name, of one service or of any."""
        return [
            found
            for found in self.spans
            if found.span.name == name and service in {None, found.service}
        ]


def trace_of(spans: Iterable[FoundSpan]) -> Trace:
    """The tree of one trace's spans; raises ValueError without any."""
    ordered = tuple(sorted(spans, key=_order))
    if not ordered:
        raise ValueError("a trace has at least one span")
    by_id: dict[str, FoundSpan] = {}
    children: dict[str, list[FoundSpan]] = {}
    for found in ordered:
        by_id.setdefault(found.span.span_id, found)
        if found.span.parent_id is not None:
            children.setdefault(found.span.parent_id, []).append(found)
    return Trace(
        ordered[0].span.trace_id,
        ordered,
        tuple(found for found in ordered if found.span.parent_id is None),
        tuple(
            found for found in ordered if (found.span.parent_id or found.span.span_id) not in by_id
        ),
        {parent: tuple(found) for parent, found in children.items()},
        by_id,
    )


def traces_of(spans: Iterable[FoundSpan]) -> dict[str, Trace]:
    """Every trace among these spans by its id, in the order of their first spans."""
    groups: dict[str, list[FoundSpan]] = {}
    for found in spans:
        groups.setdefault(found.span.trace_id, []).append(found)
    made = [trace_of(group) for group in groups.values()]
    return {trace.trace_id: trace for trace in sorted(made, key=lambda one: _order(one.spans[0]))}


def _order(found: FoundSpan) -> tuple[int, int, str]:
    return found.span.start_ns, -found.span.end_ns, found.span.span_id
