"""When requests and neighbours begin and end; the same for the same seed."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from setsuden.energy.simulator.machine import Neighbours, Pattern, Requests

_BURST_PART = 0.25


@dataclass(slots=True, eq=False)
class SimulatedRequest:
    """One run, and what it has truly used so far."""

    opened_ns: int
    closed_ns: int
    dynamic: float = 0.0
    """Joules."""
    idle: float = 0.0

    @property
    def cpu_seconds(self) -> float:
        """It has a core to itself while it is open."""
        return (self.closed_ns - self.opened_ns) / 1e9


class NeighbourLoad(NamedTuple):
    """From this moment on so many cores are the neighbours'."""

    at_ns: int
    cores: float


def requests(declared: Requests, seconds: float, random: Random) -> list[SimulatedRequest]:
    """Every request that opens in this time, by its opening."""
    free = [0.0] * declared.workers
    made: list[SimulatedRequest] = []
    for arrived in _arrivals(declared, seconds, random):
        opened = max(arrived, heapq.heappop(free))
        closed = opened + declared.cpu_seconds * random.lognormvariate(0.0, declared.spread)
        heapq.heappush(free, closed)
        if opened < seconds:
            made.append(SimulatedRequest(round(opened * 1e9), round(closed * 1e9)))
    return made


def changes(declared: Neighbours, seconds: float, random: Random) -> list[NeighbourLoad]:
    """Every change of the neighbours' load; the first is at 0."""
    if declared.pattern is Pattern.STEADY:
        return [NeighbourLoad(0, declared.mean_cores)]
    half = declared.period_seconds / 2
    made, now, on = [], 0.0, random.random() < 0.5
    while now < seconds:
        made.append(NeighbourLoad(round(now * 1e9), declared.peak_cores if on else 0.0))
        now += random.expovariate(1.0 / half)
        on = not on
    return made


def _arrivals(declared: Requests, seconds: float, random: Random) -> Iterator[float]:
    if declared.per_second <= 0:
        return
    spans = [(0.0, seconds)]
    rate = declared.per_second
    if declared.pattern is Pattern.BURSTY:
        spans = list(_bursts(declared.period_seconds, seconds, random))
        rate /= _BURST_PART
    for begin, end in spans:
        now = begin + random.expovariate(rate)
        while now < end:
            yield now
            now += random.expovariate(rate)


def _bursts(period: float, seconds: float, random: Random) -> Iterator[tuple[float, float]]:
    now = 0.0
    while now < seconds:
        now += random.expovariate(1.0 / (period * (1.0 - _BURST_PART)))
        end = now + random.expovariate(1.0 / (period * _BURST_PART))
        yield now, min(end, seconds)
        now = end
