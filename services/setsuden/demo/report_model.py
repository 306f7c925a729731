"""The document that ``setsuden demo --json`` prints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from setsuden.schemas.base import WireModel


class Accuracy(WireModel):
    """Fractions of the labelled events answered rightly."""

    student: float
    """The student alone on all events."""
    teacher: float
    """The teacher alone on all events."""
    cascade: float
    """The final results of this run."""


class Percentiles(WireModel):
    """Milliseconds from acceptance by the agent to the final result."""

    p50: float | None
    p99: float | None


class Latency(WireModel):
    """By who answered."""

    easy: Percentiles
    escalated: Percentiles


class CpuSeconds(WireModel):
    """CPU-seconds of whole processes per 1,000 events, exact."""

    edge: float
    broker: float
    cloud: float


class Joules(WireModel):
    """One part's energy per 1,000 events; unknown is null with source ``none``."""

    value: float | None
    low: float | None
    high: float | None
    source: str
    method: str


class JoulesByPart(WireModel):
    """Joules per 1,000 events, idle share and overhead in them; ``total`` sums what is known."""

    edge: Joules
    broker: Joules
    network: Joules
    cloud: Joules
    total: Joules


class Hop(WireModel):
    """One span of the sample event."""

    name: str
    service: str
    ms: float
    joules: float | None
    """Exclusive energy of this span; null where none is stated."""
    depth: int
    start_ms: float
    """After the event's own start."""


class Sample(WireModel):
    """One escalated event as a waterfall."""

    event_id: str
    trace_id: str
    hops: tuple[Hop, ...] = Field(strict=False)


class JaegerReport(WireModel):
    """What went to Jaeger; ``url`` is null where none was found or named."""

    url: str | None
    """Its query address, as a person opens it."""
    trace_ids: tuple[str, ...] = Field(strict=False)
    """The escalated events' traces."""
    spans_dropped: int
    """Spans that any process gave up on."""


class Files(WireModel):
    """Where to look further."""

    trace: str
    """OTLP JSON Lines; Jaeger's upload tab takes it."""
    report: str
    """One HTML page of the run."""
    energy: str
    """One HTML page of its joules; ``setsuden report`` on the folder says more."""
    sample: str | None = None
    """One HTML page of the sample event's trace."""


class DemoReport(WireModel):
    """One run, in numbers."""

    workload: str
    cloud: Literal["ray-serve", "plain"]
    events: int
    """Events submitted."""
    accepted: int
    """Events the agent accepted."""
    final: int
    """Accepted events with a final result in the results stream."""
    lost: int
    """Accepted events without one."""
    doubled: int
    """Submitted events with more than one."""
    escalated: int
    expired: int
    outage_s: float
    """Seconds for which nats-server was dead in the middle; 0 without an outage."""
    bytes_up: int
    """Headers and bodies of escalations, device to cloud, repetitions included."""
    accuracy: Accuracy
    latency_ms: Latency
    cpu_seconds_per_1000: CpuSeconds
    joules_per_1000: JoulesByPart
    sample: Sample | None
    """Null when no event was escalated."""
    jaeger: JaegerReport
    files: Files
