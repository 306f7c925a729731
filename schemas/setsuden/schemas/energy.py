"""Energy with its provenance: a number nobody can mistake for a better one."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum
from typing import Self, TypeVar

from pydantic import Field, model_validator

from .base import WireModel, Word


class Source(Word):
    """Where the joules come from, best first."""

    MEASURED = "measured"
    DERIVED = "derived"
    RELAYED = "relayed"
    CALIBRATED_MODEL = "calibrated_model"
    TABLE_MODEL = "table_model"
    DECLARED = "declared"
    NONE = "none"


class Boundary(Word):
    """What is inside the figure."""

    WALL_AC = "wall_ac"
    HOST = "host"
    BOARD_DC = "board_dc"
    MODULE = "module"
    SOCKET = "socket"
    CPU_PACKAGE = "cpu_package"
    CPU_CORE = "cpu_core"
    LINK = "link"


class Method(Word):
    """How a request's part was found."""

    EXCLUSIVE = "exclusive"
    THREAD = "thread"
    SHARED_POOL = "shared_pool"
    BATCH_WEIGHTED = "batch_weighted"
    AMORTISED = "amortised"


class Quality(Word):
    """How far the figure can be trusted now."""

    OK = "ok"
    PROVISIONAL = "provisional"
    DEGRADED = "degraded"
    QUARANTINED = "quarantined"


class EnergyReading(WireModel):
    """Joules with low and high, and how we know. Unknown is ``None`` with source ``none``."""

    joules: float | None = Field(default=None, ge=0)
    joules_low: float | None = Field(default=None, ge=0)
    joules_high: float | None = Field(default=None, ge=0)
    dynamic_joules: float | None = Field(default=None, ge=0)
    """The part above the machine's idle power; None where it was not told apart."""
    idle_joules: float | None = Field(default=None, ge=0)
    """The part of the machine's idle power."""
    cpu_seconds: float = Field(ge=0)
    """Exact CPU time of the work, from which any better coefficient can start again."""
    source: Source = Source.NONE
    boundary: Boundary | None = None
    method: Method | None = None
    quality: Quality = Quality.OK

    @model_validator(mode="after")
    def _unknown_is_none(self) -> Self:
        values = (self.joules, self.joules_low, self.joules_high)
        if (self.source is Source.NONE) != all(value is None for value in values):
            raise ValueError("joules must be given unless, and only unless, source is 'none'")
        if self.joules is not None and not self._ordered():
            raise ValueError("joules_low <= joules <= joules_high must hold")
        return self

    def _ordered(self) -> bool:
        low, mid, high = self.joules_low, self.joules, self.joules_high
        return low is not None and mid is not None and high is not None and low <= mid <= high


LabelT = TypeVar("LabelT", Source, Quality)
_RANKS: dict[Word, int] = {
    label: rank for kind in (Source, Quality) for rank, label in enumerate(kind)
}
"""Both enumerations are in order, the best first."""


def worst(labels: Iterable[LabelT]) -> LabelT:
    """The worst of some sources or qualities, of which there is one at least."""
    return max(labels, key=lambda label: _RANKS[label])


WORST_FIRST = tuple(reversed(Source))
WORST_LAST = tuple(Quality)


def total(readings: Iterable[EnergyReading]) -> EnergyReading:
    """The sum of exclusive readings: bounds add linearly, the worst source and quality label it.

    Errors of one model are systematic, so they add, not average (energy model, section 7 of
    the design). One unknown part makes the whole unknown: a sum that skips it would be too low.
    """
    parts = list(readings)
    cpu = fsum(part.cpu_seconds for part in parts)
    source = worst(part.source for part in parts) if parts else Source.NONE
    if source is Source.NONE:
        return EnergyReading(cpu_seconds=cpu)
    boundaries = {part.boundary for part in parts}
    return EnergyReading(
        joules=fsum(part.joules or 0.0 for part in parts),
        joules_low=fsum(part.joules_low or 0.0 for part in parts),
        joules_high=fsum(part.joules_high or 0.0 for part in parts),
        dynamic_joules=_sum_or_none([part.dynamic_joules for part in parts]),
        idle_joules=_sum_or_none([part.idle_joules for part in parts]),
        cpu_seconds=cpu,
        source=source,
        boundary=boundaries.pop() if len(boundaries) == 1 else None,
        quality=worst(part.quality for part in parts),
    )


def _sum_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) if len(known) == len(values) else None


def share_of(reading: EnergyReading, share: float) -> EnergyReading:
    """A part, 0 to 1, of a reading; the bounds are the same part of the bounds."""
    names = ("joules", "joules_low", "joules_high", "dynamic_joules", "idle_joules")
    values = {name: getattr(reading, name) for name in names}
    parts = {name: None if value is None else value * share for name, value in values.items()}
    cpu = reading.cpu_seconds * share
    return reading.model_copy(update={**parts, "cpu_seconds": cpu, "method": Method.BATCH_WEIGHTED})
