"""Reads one source, and says what its primary domains came to since the last time."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from setsuden.energy.domain import Candidate, DomainKind, Reading
from setsuden.energy.sensors.counter import Track
from setsuden.schemas.energy import WORST_LAST, Quality

_COST_WEIGHT = 0.2
_LAG_WEIGHT = 0.9


class SampledEnergy(NamedTuple):
    """Of all primary domains, since the last window was taken."""

    joules: float | None
    """None when one of them is unknown, or when there are no primary domains."""
    quality: Quality
    stray: float = 0.0
    """Joules that were read and belong to no window: others of the same window were unknown."""


class EnergySampler:
    """One opened source. Not thread-safe: the meter's thread owns it."""

    def __init__(self, candidate: Candidate) -> None:
        self.cost = 0.0
        """CPU-seconds of one reading, smoothed."""
        domains = [d for d in candidate.domains if d.id in candidate.primary]
        powers = [d.interval_seconds for d in domains if d.kind is not DomainKind.COUNTER]
        self.sampled = bool(powers)
        """True where power must be read inside a window too."""
        self.interval_seconds = min(powers, default=1.0)
        self.slowest_seconds = max((d.interval_seconds for d in domains), default=0.0)
        """How long the slowest primary domain may say the same thing again."""
        self.lag_seconds = 0.0
        """How old its news are when they are taken: a plug is asked by a thread of its own."""
        self._sensor = candidate.open() if candidate.open is not None else None
        self._primary = candidate.primary
        self._tracks = {domain.id: Track(domain) for domain in candidate.domains}
        self._carried = dict.fromkeys(candidate.primary, 0.0)
        self._totals: dict[str, float] = {}
        self._quality = Quality.OK
        self._waits: set[str] = set()
        self._newest: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        self._lock = threading.Lock()

    def read(self) -> None:
        """One reading of every domain."""
        if self._sensor is None:
            return
        began = time.thread_time()
        readings = self._sensor.read()
        self._waits = {reading.domain for reading in readings if not self._new(reading)}
        for reading in readings:
            self._tracks[reading.domain].add(reading)
        self.cost += _COST_WEIGHT * (time.thread_time() - began - self.cost)

    def _new(self, reading: Reading) -> bool:
        """True for a value of this window: a slow plug says its last one again and again."""
        if reading.value is None:
            return False
        self._newest[reading.domain] = reading.at_ns
        return reading.at_ns > self._taken.get(reading.domain, -1)

    @property
    def blind(self) -> bool:
        """True while a primary domain has said nothing new: the window had better wait for it."""
        return not self._waits.isdisjoint(self._primary)

    def take(self, now_ns: int) -> SampledEnergy:
        """What there is since the last call; begins the next window."""
        known = self._sensor is not None
        self._taken = dict(self._newest)
        oldest = min((self._newest.get(name, now_ns) for name in self._primary), default=now_ns)
        self.lag_seconds = max(_LAG_WEIGHT * self.lag_seconds, (now_ns - oldest) / 1e9)
        for name, track in self._tracks.items():
            delta = track.take()
            if delta.joules is not None:
                with self._lock:
                    self._totals[name] = self._totals.get(name, 0.0) + delta.joules
            if name in self._carried:
                known &= delta.joules is not None
                self._carried[name] += delta.joules or 0.0
                self._quality = max(self._quality, delta.quality, key=WORST_LAST.index)
        joules, quality = sum(self._carried.values()), self._quality
        self._carried = dict.fromkeys(self._primary, 0.0)
        self._quality = Quality.OK
        if known:
            return SampledEnergy(joules, quality)
        return SampledEnergy(None, quality if self._sensor is not None else Quality.OK, joules)

    def domain_joules(self) -> dict[str, float]:
        """Joules of each domain since the start, of those that were read; from any thread."""
        with self._lock:
            return dict(self._totals)

    def close(self) -> None:
        """Let the source go."""
        if self._sensor is not None:
            self._sensor.close()
