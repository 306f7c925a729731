"""How far a figure can be wrong: 95 % factors, and how they add up.

A factor f says that the truth lies within value / f and value x f in 95 % of cases; as a spread in
log space it is ``ln(f) / 1.96``. Independent spreads add as squares.
"""

from __future__ import annotations

from math import exp, hypot, log
from typing import NamedTuple

from setsuden.schemas.energy import Method

Z = 1.96
"""Standard deviations that hold 95 % of a normal spread on both sides."""
MAX_FACTOR = 100.0
"""No factor is larger: past it a figure says nothing but its order of magnitude."""
WINDOW_FACTOR = 1.2
"""Of a run's dynamic joules: a window knows the mean load only, not the load while the run was
open. A simulation of a concave 4-core host with a bursty neighbour gave 6.6 % mean absolute error
at 1 s windows (2.3 % at 0.1 s), which is a spread of 8.3 % and so a factor of 1.18; windows of
0.1 s to 1 s all get it, rounded up."""


class MethodFactor(NamedTuple):
    """How well a run's CPU-seconds are known."""

    factor: float
    origin: str


METHODS = {
    Method.EXCLUSIVE: MethodFactor(
        1.0, "one run in flight per process: the process's clock, to the nanosecond"
    ),
    Method.THREAD: MethodFactor(
        1.0, "sum of thread clocks over process clock was 0.998 to 0.999 with two callers"
    ),
    Method.SHARED_POOL: MethodFactor(
        1.5, "28 to 39 % of CPU time ran in pool threads that no clock splits among callers"
    ),
    Method.BATCH_WEIGHTED: MethodFactor(
        1.0, "weights are a convention: a share of an exactly known run"
    ),
    Method.AMORTISED: MethodFactor(
        1.0, "a mean over messages is a convention: the total it divides is known exactly"
    ),
}


class RelativeError(NamedTuple):
    """A relative error in log space, as a standard deviation."""

    sigma: float

    @classmethod
    def of(cls, factor: float) -> RelativeError:
        """The spread of a 95 % factor; ValueError below 1."""
        if factor < 1:
            raise ValueError(f"a factor is 1 or more, not {factor:g}")
        return cls(log(factor) / Z)

    @property
    def factor(self) -> float:
        """The 95 % factor, at most ``MAX_FACTOR``."""
        return exp(min(self.sigma * Z, log(MAX_FACTOR)))

    def interval(self, mid: float) -> tuple[float, float]:
        """Low and high of ``mid``."""
        return interval(mid, self.sigma)


def combine(*parts: RelativeError) -> RelativeError:
    """The spread of a product of independent parts."""
    return RelativeError(hypot(*(part.sigma for part in parts)))


def interval(mid: float, sigma: float) -> tuple[float, float]:
    """``mid * exp(-+1.96 sigma)``; the factor is at most ``MAX_FACTOR``."""
    factor = RelativeError(sigma).factor
    return mid / factor, mid * factor


def dynamic_factor(
    sensor_factor: float,
    idle_factor: float,
    idle_joules: float,
    dynamic_joules: float,
    method: Method,
) -> float:
    """95 % factor of a run's dynamic joules in a window of these idle and dynamic joules.

    The dynamic part is what is left above the baseline, so a baseline that is wrong by x is an
    error of ``x * idle / dynamic`` in it: +10 % of it took 45 % off the dynamic joules at 7 %
    utilisation in a simulation. Towards no dynamic joules this grows without end, and the factor
    stops at ``MAX_FACTOR``; then only the sum of both parts says anything, and the interval of 0 J
    is 0 to 0. ``sensor_factor`` holds the boundary's and the model's error too; the baseline comes
    from the same sensor, so its scale error is the same in both parts and is not amplified.
    """
    return combine(
        RelativeError.of(sensor_factor),
        RelativeError.of(METHODS[method].factor),
        RelativeError.of(WINDOW_FACTOR),
        baseline_spread(idle_factor, idle_joules, dynamic_joules),
    ).factor


def idle_part_factor(sensor_factor: float, idle_factor: float) -> float:
    """95 % factor of a run's idle joules.

    How they are shared (reserved share, open time) is a convention and has no error.
    """
    return combine(RelativeError.of(sensor_factor), RelativeError.of(idle_factor)).factor


def baseline_spread(idle_factor: float, idle_joules: float, dynamic_joules: float) -> RelativeError:
    """What the baseline's error does to the dynamic part."""
    sigma = RelativeError.of(idle_factor).sigma
    if sigma == 0 or idle_joules <= 0:
        return RelativeError(0.0)
    if dynamic_joules <= 0:
        return RelativeError(log(MAX_FACTOR) / Z)
    return RelativeError(sigma * idle_joules / dynamic_joules)
