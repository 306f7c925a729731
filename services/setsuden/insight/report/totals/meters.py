"""Joules of one meter, with the interval that its errors give, and of the bytes it counted."""

from __future__ import annotations

from math import fsum
from typing import NamedTuple

from setsuden.energy.attribution.intervals import (
    WINDOW_FACTOR,
    RelativeError,
    combine,
    dynamic_factor,
    idle_part_factor,
)
from setsuden.insight.carbon.intensity import JOULES_PER_KWH
from setsuden.insight.carbon.network_rates import BYTES_PER_GB
from setsuden.insight.report.assumptions import Assumptions, NetworkRates
from setsuden.insight.report.model import Amount
from setsuden.insight.report.rows.sums import MeterSums
from setsuden.insight.report.totals.amounts import NOTHING, UNKNOWN, added, amount
from setsuden.schemas.energy import Boundary, Method, Source
from setsuden.schemas.windows import Access, Component

WITHOUT_RATE = frozenset({Access.LOOPBACK, Access.LAN})
"""No usable figure of their energy exists; they are left out, and the report says so."""


class MeterJoules(NamedTuple):
    """What one meter's windows sum to, over the whole run."""

    whole: Amount
    dynamic: Amount
    idle: Amount
    overhead: Amount
    idle_unused: Amount
    other: Amount


class ErrorFactors(NamedTuple):
    """95 % factors of one meter, and its machine's joules that they apply to."""

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
        So where we are the only load, the sum is as accurate as the sensor.
        """
        ours = idle + dynamic
        if ours <= 0:
            return self.sensor
        part_idle = idle / self.idle if self.idle > 0 else 0.0
        part_dynamic = dynamic / self.dynamic if self.dynamic > 0 else 0.0
        moved = abs(part_idle - part_dynamic) * self.idle / ours
        shared = max(0.0, 1 - part_dynamic) * dynamic / ours
        return combine(
            RelativeError.of(self.sensor),
            RelativeError(RelativeError.of(self.baseline).sigma * moved),
            RelativeError(RelativeError.of(WINDOW_FACTOR).sigma * shared),
        ).factor


def errors_of(sums: MeterSums) -> ErrorFactors:
    """The meter's factors; a baseline without a factor of its own gets the sensor's."""
    sensor = sums.row.factor or 1.0
    idle = sums.idle_joules.value
    return ErrorFactors(
        sensor, sums.row.idle_factor or sensor, idle, max(0.0, sums.joules.value - idle)
    )


def joules_of(sums: MeterSums) -> MeterJoules:
    """The meter's joules; unknown when no window had any."""
    if sums.unknown == sums.windows:
        return MeterJoules(*[UNKNOWN] * 6)
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
    return MeterJoules(
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
        sums.row.source,
        boundary=sums.row.boundary,
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


# -- the network ------------------------------------------------------------------------------


def network_of(sums: MeterSums, assumptions: Assumptions) -> Amount:
    """Joules of one machine's bytes on the wire; the broker's end is not counted a second time."""
    if sums.row.component is Component.BROKER or not sums.wire_bytes:
        return NOTHING
    rates = assumptions.network.get(sums.row.access)
    if rates is None:
        return NOTHING if sums.row.access in WITHOUT_RATE else UNKNOWN
    return transfer(sums.wire_bytes, rates)


def transfer(wire_bytes: float, rates: NetworkRates) -> Amount:
    """Joules of transferring so many bytes."""
    per_byte = JOULES_PER_KWH / BYTES_PER_GB
    return Amount(
        joules=wire_bytes * rates.mid * per_byte,
        low=wire_bytes * rates.low * per_byte,
        high=wire_bytes * rates.high * per_byte,
        source=Source.TABLE_MODEL,
        boundary=Boundary.LINK,
    )
