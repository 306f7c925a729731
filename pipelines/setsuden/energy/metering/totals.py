"""Sums over all windows of one meter: what metrics are made of."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from setsuden.schemas.windows import WindowRow


class Summed(NamedTuple):
    """Totals at one moment."""

    inference_joules: dict[tuple[str, str, str], float]
    """By (pipeline, model, ``dynamic`` or ``idle``)."""
    overhead_joules: float
    unattributed_joules: dict[str, float]
    """By bucket: other, idle_unused, quarantined."""
    cpu_seconds: dict[tuple[str, str], float]
    """Of runs, by (pipeline, model)."""
    items: dict[tuple[str, str], float]
    process_cpu_seconds: float
    window_joules: float
    windows: int
    unknown_windows: int
    """Windows without joules."""


@dataclass(slots=True)
class Totals:
    """Grows with every window; read from any thread."""

    joules: defaultdict[tuple[str, str, str], float] = field(
        default_factory=lambda: defaultdict(float)
    )
    overhead: float = 0.0
    unattributed: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    items: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    process_cpu: float = 0.0
    window_joules: float = 0.0
    windows: int = 0
    unknown_windows: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, row: WindowRow) -> None:
        """Count one window."""
        with self._lock:
            self._add(row)

    def stray(self, joules: float) -> None:
        """Joules that were read but belong to no window that could be attributed."""
        if joules:
            with self._lock:
                self.unattributed["quarantined"] += joules

    def _add(self, row: WindowRow) -> None:
        self.windows += 1
        self.process_cpu += row.process_cpu_seconds
        for work in row.work:
            self.cpu[work.pipeline, work.model] += work.cpu_seconds
            self.items[work.pipeline, work.model] += work.items
        if row.joules is None:
            self.unknown_windows += 1
            return
        self.window_joules += row.joules
        self.overhead += row.overhead or 0.0
        self.unattributed["other"] += row.other or 0.0
        self.unattributed["idle_unused"] += row.idle_unused or 0.0
        self._share(row, "dynamic", row.request_dynamic or 0.0, [w.cpu_seconds for w in row.work])
        self._share(row, "idle", row.request_idle or 0.0, [w.idle_seconds for w in row.work])

    def _share(self, row: WindowRow, part: str, joules: float, weights: list[float]) -> None:
        whole = sum(weights)
        for work, weight in zip(row.work, weights, strict=True):
            if whole > 0:
                self.joules[work.pipeline, work.model, part] += joules * weight / whole

    def summed(self) -> Summed:
        """A copy of this moment."""
        with self._lock:
            return Summed(
                dict(self.joules),
                self.overhead,
                dict(self.unattributed),
                dict(self.cpu),
                dict(self.items),
                self.process_cpu,
                self.window_joules,
                self.windows,
                self.unknown_windows,
            )
