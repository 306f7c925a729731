"""What the run's traces show of one escalated event."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from setsuden.insight.render import trace as trace_page
from setsuden.insight.traces import figures, read, tree, waterfall
from setsuden.insight.traces.found import FoundSpan
from setsuden.insight.traces.tree import Trace
from setsuden.schemas.result import Result

from .report_model import Hop, Sample


class TracedEvent(NamedTuple):
    """One event's trace: for the report, for a browser and for a terminal."""

    sample: Sample | None
    page: Path | None
    lines: list[str]


def seen(file: Path, finals: list[Result], page: Path) -> TracedEvent:
    """The sample among the traces of this file; its page is written."""
    traces = tree.traces_of(read.load([str(file)])) if file.exists() else {}
    sample = _sample(traces, finals)
    if sample is None:
        return TracedEvent(None, None, [])
    page.write_text(trace_page.page(traces, sample.trace_id), encoding="utf-8")
    return TracedEvent(sample, page, waterfall.lines(traces[sample.trace_id], styled=True))


def is_hard(result: Result) -> bool:
    """True for an event that was escalated."""
    return result.decision is not None and result.decision.escalates


def _sample(traces: Mapping[str, Trace], finals: list[Result]) -> Sample | None:
    """The escalated event of median latency whose trace is whole."""
    hard = sorted(filter(is_hard, finals), key=lambda result: result.timing.total_ms or 0.0)
    middle = len(hard) // 2
    for result in hard[middle:] + hard[:middle]:
        trace = traces.get(result.trace_id)
        hops = _hops(trace) if trace is not None else []
        if {"edge-agent", "nats", "worker"} <= {hop.service for hop in hops}:
            return Sample(event_id=result.event_id, trace_id=result.trace_id, hops=tuple(hops))
    return None


def _hops(trace: Trace) -> list[Hop]:
    """The spans of one trace, depth first, each with its own energy."""
    rows = list(trace.walk())
    origin = min(row.found.span.start_ns for row in rows)
    return [
        Hop(
            name=row.found.span.name,
            service=row.found.service,
            ms=row.found.ms,
            joules=_joules_of(row.found),
            depth=row.depth,
            start_ms=(row.found.span.start_ns - origin) / 1e6,
        )
        for row in rows
    ]


def _joules_of(found: FoundSpan) -> float | None:
    joules = figures.joules_of(found)
    return None if joules is None else joules.value
