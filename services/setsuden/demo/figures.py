"""Figures of a run, computed from what was seen; pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from setsuden.insight.report.model import Amount, Cell, Part, Report
from setsuden.schemas.result import Result, Status

from .report_model import CpuSeconds, Joules, JoulesByPart, Latency, Percentiles


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latency(results: Sequence[Result]) -> Latency:
    """By the gate's decision, accepted until final on the device."""
    easy: list[float] = []
    hard: list[float] = []
    for result in results:
        escalated = result.decision is not None and result.decision.escalates
        if result.timing.total_ms is not None:
            (hard if escalated else easy).append(result.timing.total_ms)
    return Latency(easy=_percentiles(easy), escalated=_percentiles(hard))


def _percentiles(values: Sequence[float]) -> Percentiles:
    return Percentiles(p50=percentile(values, 0.50), p99=percentile(values, 0.99))


def accuracy(answers: Mapping[int, str], labels: Sequence[str]) -> float:
    """Share of right answers; an event without one counts as wrong."""
    right = sum(answers.get(index) == label for index, label in enumerate(labels))
    return right / len(labels)


def doubled(records: Sequence[Result]) -> int:
    """Submitted events with more than one final record."""
    finals = Counter(record.idempotency_key or record.event_id for record in records)
    return sum(count > 1 for count in finals.values())


def expired(records: Sequence[Result]) -> int:
    """Events whose deadline passed before the cloud answered."""
    return sum(record.status is Status.EXPIRED for record in records)


def cpu_seconds(report: Report) -> CpuSeconds:
    """CPU-seconds of each tier's processes per 1,000 events."""
    found = {one.component: one.cpu_seconds_per_1000 or 0.0 for one in report.components}
    return CpuSeconds(edge=found[Part.EDGE], broker=found[Part.BROKER], cloud=found[Part.CLOUD])


def joules(report: Report) -> JoulesByPart:
    """Energy per 1,000 events by tier, idle share and overhead included."""
    found = {one.component: _joules(one.whole, one.note) for one in report.components}
    return JoulesByPart(
        edge=found[Part.EDGE],
        broker=found[Part.BROKER],
        network=found[Part.NETWORK],
        cloud=found[Part.CLOUD],
        total=_joules(report.whole, "sum of edge, broker, network and cloud"),
    )


def _joules(found: Cell, note: str) -> Joules:
    amount = found.per_1000 or Amount()
    return Joules(
        value=amount.joules,
        low=amount.low,
        high=amount.high,
        source=amount.source.value,
        method=note or "dynamic, idle and overhead of its processes",
    )
