"""What the simulated machine is: its power curve, its neighbours, the requests it serves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import pow as power


class Pattern(StrEnum):
    """How load comes."""

    STEADY = "steady"
    BURSTY = "bursty"


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Power of ``u`` of its cores busy: ``idle + dynamic * ((1-s) * (u/cores)^b + s * u/cores)``.

    The default has 4 cores of an Ampere Altra Q80-30 at the wall: 53.9 W idle and 140 W full for
    80 (SPECpower_ssj2008). Exponents of published curves are 0.3 to 0.8. With a straight part the
    curve is no power law: whatever fits one to it has an error.
    """

    cores: int = 4
    idle_watts: float = 2.7
    dynamic_watts: float = 4.3
    """Above idle, at full load."""
    exponent: float = 0.55
    straight: float = 0.2
    """The part ``s`` of the dynamic power that grows in a straight line."""

    def watts_above_idle(self, busy_cores: float) -> float:
        """Dynamic power."""
        used = busy_cores / self.cores
        bent = (1.0 - self.straight) * power(used, self.exponent)
        return self.dynamic_watts * (bent + self.straight * used)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Everyone else on the machine."""

    mean_cores: float = 0.0
    pattern: Pattern = Pattern.STEADY
    period_seconds: float = 2.0
    """Bursty: on at twice the mean and off, each for exponential times of half of this."""

    @property
    def peak_cores(self) -> float:
        """The most that they take."""
        return self.mean_cores * (2.0 if self.pattern is Pattern.BURSTY else 1.0)


@dataclass(frozen=True, slots=True)
class Requests:
    """The metered process's work: each request is one ``session.run`` on one core."""

    per_second: float = 20.0
    pattern: Pattern = Pattern.STEADY
    """Steady: Poisson. Bursty: Poisson at four times the rate, a quarter of the time."""
    cpu_seconds: float = 0.010
    """Median of a lognormal."""
    spread: float = 0.5
    """Its sigma: 95 % of runs lie within a factor of 2.7."""
    workers: int = 1
    """Runs at the same time; others wait, in the order they came, and are not open yet."""
    period_seconds: float = 2.0
    """Mean length of one burst and the pause behind it."""
