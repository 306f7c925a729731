"""Joules of a run before its window has closed, for an answer that cannot wait."""

from __future__ import annotations

from setsuden.energy.metering.ledger import MeteredRun
from setsuden.energy.metering.settle import ClosedWindow, MeterFacts
from setsuden.schemas.base import trusted
from setsuden.schemas.energy import EnergyReading, Method, Quality

LEAST_BUSY_SECONDS = 0.02
"""Two ticks of ``/proc/stat``: with less, joules per CPU-second are noise."""
LEAST_FACTOR = 1.5
"""Of a provisional value: load may have changed since (a judgement)."""


class ProvisionalEstimator:
    """Joules of one CPU-second and of one open second, as the newest window had them."""

    def __init__(self, dynamic: float | None, idle_watts: float, facts: MeterFacts) -> None:
        self._facts = facts
        self._dynamic = dynamic
        """Above idle, per CPU-second; None while unknown."""
        self._idle = idle_watts * facts.reserved_share
        self._factor = max(LEAST_FACTOR, facts.factor)

    def learn(self, closed: ClosedWindow, facts: MeterFacts) -> None:
        """Take over what a settled window says."""
        if closed.joules is None or closed.idle_watts is None:
            return
        self._idle = closed.idle_watts * facts.reserved_share
        if closed.busy_seconds >= LEAST_BUSY_SECONDS:
            dynamic = (closed.joules - closed.idle_joules) / closed.busy_seconds
            self._dynamic = dynamic
            self._factor = max(LEAST_FACTOR, facts.factors(closed, Method.EXCLUSIVE)[0])

    def reading(self, run: MeteredRun, items: int) -> EnergyReading:
        """Of one of ``items`` equal parts of an ended run."""
        cpu = run.cpu_seconds / items
        method = Method.BATCH_WEIGHTED if items > 1 else run.method
        if self._dynamic is None:
            return EnergyReading(cpu_seconds=cpu, method=method, quality=Quality.PROVISIONAL)
        dynamic = cpu * self._dynamic
        idle = (run.end_ns - run.start_ns) / 1e9 * self._idle / items
        joules = dynamic + idle
        # Built by us a thousand times a second: its rules hold by construction.
        return trusted(
            EnergyReading,
            joules=joules,
            joules_low=joules / self._factor,
            joules_high=joules * self._factor,
            dynamic_joules=dynamic,
            idle_joules=idle,
            cpu_seconds=cpu,
            source=self._facts.source,
            boundary=self._facts.boundary,
            method=method,
            quality=Quality.PROVISIONAL,
        )
