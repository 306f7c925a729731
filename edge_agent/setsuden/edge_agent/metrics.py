"""Counters in plain integers; turned into the Prometheus text format when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from setsuden.energy.metering.instruments import Instrument
from setsuden.link.wire import Wire
from setsuden.schemas.metrics import underscored
from setsuden.schemas.result import Result, Status, Tier
from setsuden.schemas.windows import Counts

BUCKETS_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000)


@dataclass(slots=True)
class Histogram:
    """Milliseconds in fixed buckets."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))
    total: float = 0.0

    def add(self, milliseconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_MS, milliseconds)] += 1
        self.total += milliseconds


@dataclass(slots=True)
class Metrics:
    """Everything the agent counts."""

    accepted: Counter[str] = field(default_factory=Counter)
    """By pipeline."""
    rows_damaged: int = 0
    """Rows of the outbox that did not match their checksum."""
    streams_replaced: int = 0
    """Times the events stream was another one than before."""
    results_too_large: int = 0
    """Final results that the results stream never takes; they stay on the device."""
    undurable: int = 0
    """Easy events answered while the disk took nothing."""
    repeated: int = 0
    """Events known before by their idempotency key."""
    results: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Final results by (pipeline, status, tier)."""
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (pipeline, reason)."""
    refused: Counter[str] = field(default_factory=Counter)
    """By error code."""
    http_refused: Counter[str] = field(default_factory=Counter)
    """Requests and connections over HTTP, by error code."""
    superseded: int = 0
    escalated: int = 0
    """Events first handed to the broker; repetitions are not counted."""
    changed: int = 0
    """Final answers of the teacher that differ from the student's."""
    escalated_bytes: Counter[str] = field(default_factory=Counter)
    """By pipeline: bodies and headers handed to the broker, repetitions included."""
    escalations_sent: int = 0
    escalations_failed: int = 0
    lookups: int = 0
    traces_declined: int = 0
    """Easy events that were not traced though their caller had sampled them: too many a second."""
    student_cpu_seconds: float = 0.0
    """CPU time of the students' runs, before any window has closed."""
    latency: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    """Final results by (pipeline, tier)."""

    def counts(self, wire: Wire) -> Counts:
        """What rows of energy say of events; from any thread."""
        by = Counter[str]()
        for (_, status, tier), number in list(self.results.items()):
            by[status if status != Status.FINAL else tier] += number
        return Counts(
            local=by[Tier.EDGE],
            cloud=by[Tier.CLOUD],
            changed=self.changed,
            expired=by[Status.EXPIRED],
            dead=by[Status.DEAD],
            escalated=self.escalated,
            bytes_up=wire.bytes_sent,
            bytes_down=wire.bytes_received,
            packets=wire.packets,
        )

    def final(self, result: Result, provisional: Result | None = None) -> None:
        """Count one final result; ``provisional`` is what the student had said of a hard case."""
        if provisional is not None and result.tier is Tier.CLOUD:
            self.changed += _label(result) != _label(provisional)
        tier = result.tier or "none"
        self.results[result.pipeline, result.status, tier] += 1
        histogram = self.latency.get((result.pipeline, tier))
        if histogram is None:
            histogram = self.latency[result.pipeline, tier] = Histogram()
        histogram.add(result.timing.total_ms or 0.0)


def _label(result: Result) -> str | None:
    return None if result.answer is None else result.answer.label


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is so at this moment."""

    link_up: bool
    link_connections: int
    link_handler_errors: int
    link_unreadable: int
    pending_events: Mapping[str, int]
    """By pipeline."""
    pending_bytes: Mapping[str, int]
    """By pipeline."""
    quota_bytes: int
    waiting_to_send: int
    spans_recorded: int
    spans_lost: int
    telemetry_failures: int
    spool_bytes: int
    outbox_set_aside: int
    outbox_unwritable: bool
    deadlines_unverified: int
    broker_refuses: bool
    pipelines_unserved: int


def exposition(metrics: Metrics, gauges: Gauges, instruments: Sequence[Instrument] = ()) -> bytes:
    """The Prometheus text format, version 0.0.4."""
    from prometheus_client import generate_latest  # noqa: PLC0415  # 20 ms the start need not pay
    from prometheus_client.registry import Collector, CollectorRegistry  # noqa: PLC0415

    class _Ours(Collector):
        def collect(self) -> Iterator[object]:  # type: ignore[override]  # our rows are its families
            yield from _families(metrics, gauges)
            yield from _energy(instruments)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Ours())
    return generate_latest(registry)


def _families(metrics: Metrics, gauges: Gauges) -> Iterator[object]:
    yield from _labelled(metrics)
    yield from _latencies(metrics)
    yield from _plain(metrics, gauges)


def _energy(instruments: Sequence[Instrument]) -> Iterator[object]:
    """As OpenTelemetry's exporter would write them, so that both ways tell one story."""
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415

    for row, points in instruments:
        family = CounterMetricFamily(row.prometheus, row.meaning)
        for point in points:
            labels = {underscored(key): value for key, value in point.attributes.items()}
            family.add_sample(row.prometheus, labels, point.value)
        yield family


def _labelled(metrics: Metrics) -> Iterator[object]:
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415

    rows = (
        ("accepted_events", "Events accepted", ("pipeline",), metrics.accepted),
        ("escalated_bytes", "Headers and bodies", ("pipeline",), metrics.escalated_bytes),
        ("results", "Final results", ("pipeline", "status", "tier"), metrics.results),
        ("gate_decisions", "What the gate decided", ("pipeline", "reason"), metrics.decisions),
        ("refused_events", "Events refused; nothing changed", ("code",), metrics.refused),
        ("http_refused_requests", "HTTP requests refused", ("code",), metrics.http_refused),
    )
    for name, text, labels, counter in rows:
        family = CounterMetricFamily(f"setsuden_{name}", text, labels=labels)
        for key, value in counter.items():
            labels_of = (key,) if isinstance(key, str) else tuple(map(str, key))
            family.add_metric(labels_of, value)
        yield family


def _latencies(metrics: Metrics) -> Iterator[object]:
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415

    family = HistogramMetricFamily(
        "setsuden_result_seconds", "Accepted until final", labels=("pipeline", "tier")
    )
    for labels, histogram in metrics.latency.items():
        running, buckets = 0, []
        bounds = [*(f"{bound / 1000:g}" for bound in BUCKETS_MS), "+Inf"]
        for bound, count in zip(bounds, histogram.counts, strict=True):
            running += count
            buckets.append((bound, running))
        family.add_metric(tuple(map(str, labels)), buckets, histogram.total / 1000)
    yield family


def _plain(metrics: Metrics, gauges: Gauges) -> Iterator[object]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    counters = {
        "repeated_events": ("Events known before by their key", metrics.repeated),
        "superseded_results": ("Cloud answers after the deadline", metrics.superseded),
        "escalations_sent": ("Escalations handed to the broker", metrics.escalations_sent),
        "escalations_failed": ("Escalations not acknowledged", metrics.escalations_failed),
        "lookups": ("Results asked for", metrics.lookups),
        "rows_damaged": ("Outbox rows that do not match their checksum", metrics.rows_damaged),
        "streams_replaced": ("Times the events stream was a new one", metrics.streams_replaced),
        "results_too_large": ("Finals no stream takes", metrics.results_too_large),
        "undurable_answers": ("Answers given while the disk was full", metrics.undurable),
        "student_cpu_seconds": ("CPU time of student runs", metrics.student_cpu_seconds),
        "link_connections": ("Connections opened", gauges.link_connections),
        "link_handler_errors": ("Messages our own code failed on", gauges.link_handler_errors),
        "link_unreadable_messages": ("Messages nobody could read", gauges.link_unreadable),
        "spans_recorded": ("Spans sealed", gauges.spans_recorded),
        "spans_lost": ("Spans nobody keeps", gauges.spans_lost),
        "telemetry_failures": ("Failures of its parts", gauges.telemetry_failures),
        "traces_declined": ("Callers' sampled events past the bound", metrics.traces_declined),
    }
    for name, (text, value) in counters.items():
        yield CounterMetricFamily(f"setsuden_{name}", text, value=value)
    states = {
        "link_up": ("1 while the broker is usable", int(gauges.link_up)),
        "outbox_quota_bytes": ("Their bound", gauges.quota_bytes),
        "waiting_to_send": ("Escalations no broker has yet", gauges.waiting_to_send),
        "spool_bytes": ("Sealed spans no broker has yet", gauges.spool_bytes),
        "outbox_set_aside": ("Damaged outboxes nobody has salvaged", gauges.outbox_set_aside),
        "outbox_unwritable": ("1 while the disk takes nothing", int(gauges.outbox_unwritable)),
        "deadlines_unverified": ("Deadlines on the wall clock alone", gauges.deadlines_unverified),
        "broker_refuses": ("1 while a stream is full", int(gauges.broker_refuses)),
        "pipelines_unserved": ("Pipelines no worker serves", gauges.pipelines_unserved),
    }
    for name, (text, value) in states.items():
        yield GaugeMetricFamily(f"setsuden_{name}", text, value=value)
    waiting = {
        "pending_events": ("Events without a final result", gauges.pending_events),
        "outbox_bytes": ("Observations waiting for the cloud", gauges.pending_bytes),
    }
    for name, (text, values) in waiting.items():
        family = GaugeMetricFamily(f"setsuden_{name}", text, labels=("pipeline",))
        for pipeline, value in values.items():
            family.add_metric((pipeline,), value)
        yield family
