"""One event's spans as rows: where its milliseconds and joules went."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .report_model import Hop

BAR_WIDTH = 34


class FoundSpan(NamedTuple):
    """A span read back from a trace file."""

    service: str
    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]


def read(paths: Iterable[Path]) -> Iterator[FoundSpan]:
    """Every span of these OTLP JSON Lines files."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield from _spans(json.loads(line))


def _spans(document: dict[str, Any]) -> Iterator[FoundSpan]:
    for group in document["resourceSpans"]:
        service = str(_attributes(group["resource"]["attributes"])["service.name"])
        for scope in group["scopeSpans"]:
            for span in scope["spans"]:
                yield FoundSpan(
                    service,
                    span["traceId"],
                    span["spanId"],
                    span.get("parentSpanId"),
                    span["name"],
                    int(span["startTimeUnixNano"]),
                    int(span["endTimeUnixNano"]),
                    _attributes(span["attributes"]),
                )


def _attributes(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in pairs}


def hops(spans: Iterable[FoundSpan]) -> list[Hop]:
    """The spans of one trace in depth-first order, each with its own energy.

    The root comes first; children follow their parent by start time. An orphan is shown at the
    top level: it must not vanish.
    """
    by_parent: dict[str | None, list[FoundSpan]] = {}
    known = {span.span_id: span for span in spans}
    for span in known.values():
        parent = span.parent_id if span.parent_id in known else None
        by_parent.setdefault(parent, []).append(span)
    origin = min((span.start_ns for span in known.values()), default=0)
    found: list[Hop] = []
    _walk(by_parent, None, 0, origin, found)
    return found


def _walk(
    by_parent: dict[str | None, list[FoundSpan]],
    parent: str | None,
    depth: int,
    origin: int,
    found: list[Hop],
) -> None:
    for span in sorted(by_parent.get(parent, ()), key=lambda span: span.start_ns):
        joules = span.attributes.get("setsuden.energy.joules")
        found.append(
            Hop(
                name=span.name,
                service=span.service,
                ms=(span.end_ns - span.start_ns) / 1e6,
                joules=None if joules is None else float(joules),
                depth=depth,
                start_ms=(span.start_ns - origin) / 1e6,
            )
        )
        _walk(by_parent, span.span_id, depth + 1, origin, found)


def lines(rows: Iterable[Hop]) -> list[str]:
    """The waterfall as text, one line a hop."""
    rows = list(rows)
    whole = max((hop.start_ms + hop.ms for hop in rows), default=1.0) or 1.0
    return [
        f"  {'  ' * hop.depth + hop.name:<22} {hop.service:<11} {_bar(hop, whole)} "
        f"{hop.ms:9.2f} ms {energy(hop.joules):>11}"
        for hop in rows
    ]


def _bar(hop: Hop, whole: float) -> str:
    start = min(int(hop.start_ms / whole * BAR_WIDTH), BAR_WIDTH - 1)
    length = max(1, round(hop.ms / whole * BAR_WIDTH))
    length = min(length, BAR_WIDTH - start)
    return "·" * start + "█" * length + "·" * (BAR_WIDTH - start - length)


def energy(joules: float | None) -> str:
    """Joules with a fitting prefix; a hyphen where none is stated."""
    if joules is None:
        return "-"
    for factor, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")):
        if joules >= factor:
            return f"{joules / factor:.3g} {unit}"
    return f"{joules / 1e-9:.3g} nJ"
