"""Figures of a run, computed from what was seen; pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from setsuden.pipelines.energy import EnergyModel
from setsuden.schemas.energy import Method
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


def per_1000(cpu: Mapping[str, float], events: int) -> CpuSeconds:
    """CPU-seconds of each tier per 1,000 events."""
    scale = 1000 / max(events, 1)
    return CpuSeconds(
        edge=cpu["edge"] * scale, broker=cpu["broker"] * scale, cloud=cpu["cloud"] * scale
    )


def joules(cpu: CpuSeconds, model: EnergyModel) -> JoulesByPart:
    """Energy of each tier's processes; loopback is no network, so its part is unknown."""
    edge = _joules(cpu.edge, model)
    broker = _joules(cpu.broker, model)
    cloud = _joules(cpu.cloud, model)
    parts = (edge, broker, cloud)
    total = Joules(
        value=sum(part.value or 0.0 for part in parts),
        low=sum(part.low or 0.0 for part in parts),
        high=sum(part.high or 0.0 for part in parts),
        source=edge.source,
        method="sum of edge, broker and cloud",
    )
    none = Joules(value=None, low=None, high=None, source="none", method="loopback")
    return JoulesByPart(edge=edge, broker=broker, network=none, cloud=cloud, total=total)


def _joules(cpu_seconds: float, model: EnergyModel) -> Joules:
    reading = model.reading(cpu_seconds, Method.EXCLUSIVE)
    return Joules(
        value=reading.joules,
        low=reading.joules_low,
        high=reading.joules_high,
        source=reading.source.value,
        method=f"CPU-seconds of the processes x {model.watts_per_core} W ({model.origin})",
    )
