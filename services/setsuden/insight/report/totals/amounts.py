"""Arithmetic of joules with bounds and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum
from typing import TypeVar

from setsuden.insight.report.model import Amount, Cell
from setsuden.schemas.energy import Boundary, Method, Quality, Source, worst

NOTHING = Amount()
"""There are no such joules: adding it leaves a sum complete."""
UNKNOWN = Amount(complete=False)
"""Joules that could not be read: adding it makes a sum a lower bound."""
LabelT = TypeVar("LabelT", Boundary, Method)


def amount(
    mid: float,
    factor: float,
    source: Source,
    *,
    boundary: Boundary | None = None,
    method: Method | None = None,
    quality: Quality = Quality.OK,
    complete: bool = True,
) -> Amount:
    """``mid`` with the bounds of a 95 % factor."""
    return Amount(
        joules=mid,
        low=mid / factor,
        high=mid * factor,
        source=source,
        boundary=boundary,
        method=method,
        quality=quality,
        complete=complete,
    )


def added(parts: Iterable[Amount]) -> Amount:
    """The sum of the known parts; incomplete when one is unknown or incomplete.

    Bounds add linearly: errors of one sensor or model are systematic and do not average.
    """
    whole = list(parts)
    known = [part for part in whole if part.joules is not None]
    complete = all(part.complete for part in whole)
    if not known:
        return NOTHING if complete else UNKNOWN
    return Amount(
        joules=fsum(part.joules or 0.0 for part in known),
        low=fsum(part.low or 0.0 for part in known),
        high=fsum(part.high or 0.0 for part in known),
        source=worst(part.source for part in known),
        boundary=_same([part.boundary for part in known]),
        method=_same([part.method for part in known]),
        quality=worst(part.quality for part in known),
        complete=complete,
    )


def _same(labels: Sequence[LabelT | None]) -> LabelT | None:
    return labels[0] if all(label is labels[0] for label in labels) else None


def scaled(of: Amount, factor: float) -> Amount:
    """``factor`` times the amount; not negative."""
    if of.joules is None or of.low is None or of.high is None:
        return of
    return of.model_copy(
        update={"joules": of.joules * factor, "low": of.low * factor, "high": of.high * factor}
    )


def cell(total: Amount, inferences: int) -> Cell:
    """The amount, and its part of 1,000 inferences."""
    return Cell(total=total, per_1000=scaled(total, 1000 / inferences) if inferences else None)


def ratio(part: float, whole: float) -> float | None:
    """``part / whole``; None where ``whole`` is 0."""
    return part / whole if whole > 0 else None


def sum_known(values: Iterable[float | None]) -> float | None:
    """The sum of the known values; None when there are none."""
    known = [value for value in values if value is not None]
    return fsum(known) if known else None
