"""Joules of one meter: its parts, each with the interval that its own errors give."""

from __future__ import annotations

from math import fsum
from typing import NamedTuple

from setsuden.energy.attribution.intervals import (
    WINDOW_FACTOR,
    Spread,
    combine,
    dynamic_factor,
    idle_part_factor,
)
from setsuden.insight.report.amounts import UNKNOWN, added, amount
from setsuden.insight.report.fold import MeterSums
from setsuden.insight.report.model import Amount
from setsuden.schemas.energy import Method


class Joules(NamedTuple):
    """What one meter's windows say, of the whole run."""

    whole: Amount
    dynamic: Amount
    idle: Amount
    overhead: Amount
    idle_unused: Amount
    other: Amount


class Errors(NamedTuple):
    """95 % factors of one meter, and the joules of its machine that they play on."""

    sensor: float
    baseline: float
    idle: float
    dynamic: float

    def of_dynamic(self, method: Method) -> float:
        """Of a dynamic part."""
        return dynamic_factor(self.sensor, self.baseline, self.idle, self.dynamic, method)

    @property
    def of_idle(self) -> float:
        """Of an idle part."""
        return idle_part_factor(self.sensor, self.baseline)

    def of_whole(self, idle: float, dynamic: float) -> float:
        """Of our idle and dynamic joules together.

        A baseline that is wrong by x moves ``x * idle joules of the machine`` between its two
        parts; our sum moves only by the difference of our shares of them. A wrong share of the
        dynamic joules, ``e`` relative to everyone else's, moves our part s by ``(1 - s) * e``.
        So of a machine that is all ours the sum is as good as its sensor.
        """
        ours = idle + dynamic
        if ours <= 0:
            return self.sensor
        part_idle = idle / self.idle if self.idle > 0 else 0.0
        part_dynamic = dynamic / self.dynamic if self.dynamic > 0 else 0.0
        moved = abs(part_idle - part_dynamic) * self.idle / ours
        shared = max(0.0, 1 - part_dynamic) * dynamic / ours
        return combine(
            Spread.of(self.sensor),
            Spread(Spread.of(self.baseline).sigma * moved),
            Spread(Spread.of(WINDOW_FACTOR).sigma * shared),
        ).factor


def errors_of(sums: MeterSums) -> Errors:
    """The meter's factors; a baseline of unknown worth is as good as the sensor."""
    sensor = sums.meter.factor or 1.0
    idle = sums.idle_joules.value
    return Errors(
        sensor, sums.meter.idle_factor or sensor, idle, max(0.0, sums.joules.value - idle)
    )


def joules_of(sums: MeterSums) -> Joules:
    """The meter's joules; unknown when no window had any."""
    if sums.unknown == sums.windows:
        return Joules(*[UNKNOWN] * 6)
    errors = errors_of(sums)
    dynamic = added(
        part_of(sums, mid.value, errors.of_dynamic(method), method)
        for method, mid in sorted(sums.dynamic.items())
    )
    if dynamic.joules is None:
        dynamic = part_of(sums, 0.0, 1.0, None)
    unused, request_idle = sums.idle_unused.value, sums.request_idle.value
    idle, overhead = fsum((request_idle, unused)), sums.overhead.value
    above = fsum((dynamic.joules or 0.0, overhead))
    return Joules(
        whole=part_of(sums, fsum((idle, above)), errors.of_whole(idle, above), None),
        dynamic=dynamic,
        idle=part_of(sums, idle, errors.of_idle, None),
        overhead=part_of(sums, overhead, errors.of_dynamic(Method.EXCLUSIVE), None),
        idle_unused=part_of(sums, unused, errors.of_idle, None),
        other=part_of(sums, sums.other.value, errors.sensor, None),
    )


def part_of(sums: MeterSums, mid: float, factor: float, method: Method | None) -> Amount:
    """Joules with the meter's labels."""
    return amount(
        mid,
        factor,
        sums.meter.source,
        boundary=sums.meter.boundary,
        method=method,
        quality=sums.quality,
        complete=sums.unknown == 0,
    )


def shares_of(
    sums: MeterSums, dynamic: float, idle: float, method: Method
) -> tuple[Amount, Amount]:
    """Dynamic and idle joules of one model under the meter."""
    if sums.unknown == sums.windows:
        return UNKNOWN, UNKNOWN
    errors = errors_of(sums)
    return (
        part_of(sums, dynamic, errors.of_dynamic(method), method),
        part_of(sums, idle, errors.of_idle, method),
    )
