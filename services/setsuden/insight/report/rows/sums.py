"""Windows folded into sums per meter: all that a report needs, in little memory.

Every sum is exact, so the order in which rows are read, and the files they lie in, change nothing.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import fsum
from typing import NamedTuple

from setsuden.energy.attribution.attribute import Buckets, HostWindow, ProcessUse, buckets
from setsuden.insight.report.rows.read import WindowAt
from setsuden.schemas.energy import Method, Quality, worst
from setsuden.schemas.windows import Counts, MeterRow, WindowRow, WorkRow

HEADER_BYTES = 40
"""IPv4 and TCP without options, of each segment."""
_KEPT = 512


class ExactSum:
    """A sum, rounded once at the end and so independent of the order of its parts."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[float] = []

    def add(self, value: float) -> None:
        """Add one part."""
        self._parts.append(value)
        if len(self._parts) >= _KEPT:
            self._parts = _exact(self._parts)

    @property
    def value(self) -> float:
        """The sum of all parts."""
        return fsum(self._parts)


def _exact(parts: list[float]) -> list[float]:
    """Few floats of exactly the same sum: each is what the ones before it leave out."""
    exact: list[float] = []
    while rest := fsum((*parts, *(-value for value in exact))):
        exact.append(rest)
    return exact


class ModelKey(NamedTuple):
    """One model in one pipeline, and how the CPU time of its runs was measured."""

    pipeline: str
    model: str
    digest: str
    method: Method


@dataclass(slots=True)
class WorkSums:
    """What one model did under one meter."""

    runs: ExactSum = field(default_factory=ExactSum)
    items: ExactSum = field(default_factory=ExactSum)
    cpu: ExactSum = field(default_factory=ExactSum)
    known_items: ExactSum = field(default_factory=ExactSum)
    """Items in windows with joules."""
    dynamic: ExactSum = field(default_factory=ExactSum)
    idle: ExactSum = field(default_factory=ExactSum)


@dataclass(slots=True)
class WindowColumns:
    """Windows one by one, as little of each as hours and curves need."""

    start_ns: array[int] = field(default_factory=lambda: array("q"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    ours: array[float] = field(default_factory=lambda: array("d"))
    """Joules we answer for; NaN: unknown."""
    finals: array[int] = field(default_factory=lambda: array("q"))
    wire: array[int] = field(default_factory=lambda: array("q"))

    def add(self, window: WindowRow, ours: float) -> None:
        """Keep one window."""
        self.start_ns.append(window.start_ns)
        self.seconds.append(window.seconds)
        self.ours.append(ours)
        self.finals.append(finals_of(window.counts))
        self.wire.append(wire_of(window.counts))

    def order(self) -> list[int]:
        """Places of the windows by time."""
        return sorted(range(len(self.start_ns)), key=self.start_ns.__getitem__)


@dataclass(slots=True)
class MeterSums:
    """One meter's windows, summed."""

    row: MeterRow
    windows: int = 0
    unknown: int = 0
    degraded: int = 0
    quarantined: int = 0
    quality: Quality = Quality.OK
    """The worst of the windows with joules."""
    seconds: ExactSum = field(default_factory=ExactSum)
    known_seconds: ExactSum = field(default_factory=ExactSum)
    joules: ExactSum = field(default_factory=ExactSum)
    """Of the machine."""
    idle_joules: ExactSum = field(default_factory=ExactSum)
    """The part of them that the idle machine would have used."""
    idle_watt_seconds: ExactSum = field(default_factory=ExactSum)
    request_idle: ExactSum = field(default_factory=ExactSum)
    overhead: ExactSum = field(default_factory=ExactSum)
    idle_unused: ExactSum = field(default_factory=ExactSum)
    other: ExactSum = field(default_factory=ExactSum)
    busy_cpu: ExactSum = field(default_factory=ExactSum)
    steal_cpu: ExactSum = field(default_factory=ExactSum)
    process_cpu: ExactSum = field(default_factory=ExactSum)
    run_cpu: ExactSum = field(default_factory=ExactSum)
    dynamic: defaultdict[Method, ExactSum] = field(default_factory=lambda: defaultdict(ExactSum))
    """``request_dynamic`` by how the CPU time of the runs was measured."""
    work: defaultdict[ModelKey, WorkSums] = field(default_factory=lambda: defaultdict(WorkSums))
    counts: Counter[str] = field(default_factory=Counter)
    timeline: WindowColumns = field(default_factory=WindowColumns)

    def add(self, window: WindowRow) -> None:
        """Fold in one window."""
        split = buckets_of(self.row, window)
        self._count(window, known=split is not None)
        if split is None:
            for row in window.work:
                self._work(row)
            self.timeline.add(window, float("nan"))
            return
        self._machine(window)
        self._parts(split)
        self._shares(window.work, split)
        self.timeline.add(window, fsum(split[:4]))

    def _count(self, window: WindowRow, *, known: bool) -> None:
        self.windows += 1
        self.unknown += not known
        self.degraded += window.quality is Quality.DEGRADED
        self.quarantined += window.quality is Quality.QUARANTINED
        self.seconds.add(window.seconds)
        self.busy_cpu.add(window.busy_cpu_seconds)
        self.steal_cpu.add(window.steal_cpu_seconds)
        self.process_cpu.add(window.process_cpu_seconds)
        for work in window.work:
            self.run_cpu.add(work.cpu_seconds)
        for name in Counts.model_fields:
            self.counts[name] += getattr(window.counts, name)

    def _machine(self, window: WindowRow) -> None:
        joules, watts = window.joules or 0.0, window.idle_watts or 0.0
        self.known_seconds.add(window.seconds)
        self.joules.add(joules)
        self.idle_joules.add(min(joules, watts * window.seconds))
        self.idle_watt_seconds.add(watts * window.seconds)
        self.quality = worst((self.quality, window.quality))

    def _parts(self, split: Buckets) -> None:
        self.request_idle.add(split.request_idle)
        self.overhead.add(split.overhead)
        self.idle_unused.add(split.idle_unused)
        self.other.add(split.other)

    def _shares(self, rows: tuple[WorkRow, ...], split: Buckets) -> None:
        cpu = fsum(row.cpu_seconds for row in rows)
        opened = fsum(row.idle_seconds for row in rows)
        for row in rows:
            sums = self._work(row)
            dynamic = split.request_dynamic * row.cpu_seconds / cpu if cpu > 0 else 0.0
            sums.known_items.add(row.items)
            sums.dynamic.add(dynamic)
            sums.idle.add(split.request_idle * row.idle_seconds / opened if opened > 0 else 0.0)
            self.dynamic[row.method].add(dynamic)

    def _work(self, row: WorkRow) -> WorkSums:
        sums = self.work[ModelKey(row.pipeline, row.model, row.digest, row.method)]
        sums.runs.add(row.runs)
        sums.items.add(row.items)
        sums.cpu.add(row.cpu_seconds)
        return sums

    @property
    def unknown_seconds(self) -> float:
        """Time whose joules could not be read."""
        return max(0.0, self.seconds.value - self.known_seconds.value) if self.unknown else 0.0

    @property
    def wire_bytes(self) -> int:
        """On the wire, both ways, headers included."""
        counts = self.counts
        return counts["bytes_up"] + counts["bytes_down"] + HEADER_BYTES * counts["packets"]


def fold(windows: Iterable[WindowAt]) -> list[MeterSums]:
    """Sums of every meter that closed a window, by component, name and start."""
    sums: dict[str, MeterSums] = {}
    for meter, window, _ in windows:
        if meter.meter not in sums:
            sums[meter.meter] = MeterSums(meter)
        sums[meter.meter].add(window)
    return sorted(sums.values(), key=_order)


def _order(sums: MeterSums) -> tuple[str, str, int, str]:
    row = sums.row
    return row.component, row.name, row.started_ns, row.meter


def buckets_of(meter: MeterRow, window: WindowRow) -> Buckets | None:
    """The window's buckets, computed again from its own readings; None without joules."""
    return buckets(
        HostWindow(
            window.seconds,
            window.joules,
            window.idle_watts or 0.0,
            window.busy_cpu_seconds,
            meter.exponent,
        ),
        ProcessUse(window.process_cpu_seconds, meter.reserved_share),
        fsum(work.cpu_seconds for work in window.work),
        fsum(work.idle_seconds for work in window.work),
    )


def finals_of(counts: Counts) -> int:
    """Events that got their final result on the device."""
    return counts.local + counts.cloud + counts.expired + counts.dead


def wire_of(counts: Counts) -> int:
    """Bytes on the wire, both ways, headers included."""
    return counts.bytes_up + counts.bytes_down + HEADER_BYTES * counts.packets
