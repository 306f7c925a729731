"""Windows folded into sums per meter: all that a report needs, in memory that does not grow much.

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
from setsuden.insight.report.read import Seen
from setsuden.schemas.energy import Method, Quality
from setsuden.schemas.windows import Counts, MeterRow, WindowRow, WorkRow

HEADER_BYTES = 40
"""IPv4 and TCP without options, of each segment."""
_WORST_LAST = tuple(Quality)
_KEPT = 512


class Sum:
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
    found: list[float] = []
    while rest := fsum((*parts, *(-one for one in found))):
        found.append(rest)
    return found


class WorkKey(NamedTuple):
    """Whose runs they are."""

    pipeline: str
    model: str
    digest: str
    method: Method


@dataclass(slots=True)
class WorkSums:
    """What one model did under one meter."""

    runs: Sum = field(default_factory=Sum)
    items: Sum = field(default_factory=Sum)
    cpu: Sum = field(default_factory=Sum)
    known_items: Sum = field(default_factory=Sum)
    """Items in windows with joules."""
    dynamic: Sum = field(default_factory=Sum)
    idle: Sum = field(default_factory=Sum)


@dataclass(slots=True)
class Timeline:
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

    meter: MeterRow
    windows: int = 0
    unknown: int = 0
    degraded: int = 0
    quarantined: int = 0
    quality: Quality = Quality.OK
    """The worst of the windows with joules."""
    seconds: Sum = field(default_factory=Sum)
    known_seconds: Sum = field(default_factory=Sum)
    joules: Sum = field(default_factory=Sum)
    """Of the machine."""
    idle_joules: Sum = field(default_factory=Sum)
    """The part of them that the idle machine would have used."""
    idle_watt_seconds: Sum = field(default_factory=Sum)
    request_idle: Sum = field(default_factory=Sum)
    overhead: Sum = field(default_factory=Sum)
    idle_unused: Sum = field(default_factory=Sum)
    other: Sum = field(default_factory=Sum)
    busy_cpu: Sum = field(default_factory=Sum)
    steal_cpu: Sum = field(default_factory=Sum)
    process_cpu: Sum = field(default_factory=Sum)
    run_cpu: Sum = field(default_factory=Sum)
    dynamic: defaultdict[Method, Sum] = field(default_factory=lambda: defaultdict(Sum))
    """``request_dynamic`` by how the runs' CPU time was found."""
    work: defaultdict[WorkKey, WorkSums] = field(default_factory=lambda: defaultdict(WorkSums))
    counts: Counter[str] = field(default_factory=Counter)
    timeline: Timeline = field(default_factory=Timeline)

    def add(self, window: WindowRow) -> None:
        """Fold in one window."""
        found = buckets_of(self.meter, window)
        self._count(window, known=found is not None)
        if found is None:
            self._work_without_joules(window.work)
            self.timeline.add(window, float("nan"))
            return
        self._machine(window)
        self._parts(found)
        self._shares(window.work, found)
        self.timeline.add(window, fsum(found[:4]))

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
        self.quality = max(self.quality, window.quality, key=_WORST_LAST.index)

    def _parts(self, found: Buckets) -> None:
        self.request_idle.add(found.request_idle)
        self.overhead.add(found.overhead)
        self.idle_unused.add(found.idle_unused)
        self.other.add(found.other)

    def _work_without_joules(self, rows: Iterable[WorkRow]) -> None:
        for row in rows:
            self._work(row)

    def _shares(self, rows: tuple[WorkRow, ...], found: Buckets) -> None:
        cpu = fsum(row.cpu_seconds for row in rows)
        opened = fsum(row.idle_seconds for row in rows)
        for row in rows:
            sums = self._work(row)
            dynamic = found.request_dynamic * row.cpu_seconds / cpu if cpu > 0 else 0.0
            sums.known_items.add(row.items)
            sums.dynamic.add(dynamic)
            sums.idle.add(found.request_idle * row.idle_seconds / opened if opened > 0 else 0.0)
            self.dynamic[row.method].add(dynamic)

    def _work(self, row: WorkRow) -> WorkSums:
        sums = self.work[WorkKey(row.pipeline, row.model, row.digest, row.method)]
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


def fold(rows: Iterable[Seen]) -> list[MeterSums]:
    """Sums of every meter that closed a window, by component, name and start."""
    found: dict[str, MeterSums] = {}
    for row in rows:
        if row.meter.meter not in found:
            found[row.meter.meter] = MeterSums(row.meter)
        found[row.meter.meter].add(row.window)
    return sorted(found.values(), key=_place)


def _place(sums: MeterSums) -> tuple[str, str, int, str]:
    meter = sums.meter
    return meter.component, meter.name, meter.started_ns, meter.meter


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
