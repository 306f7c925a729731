"""Arithmetic of joules with bounds and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum
from typing import TypeVar

from setsuden.insight.report.model import Amount, Cell
from setsuden.schemas.energy import Boundary, Method, Quality, Source

JOULES_PER_KWH = 3.6e6
NOTHING = Amount()
"""No such joules: adding it leaves a sum complete."""
UNKNOWN = Amount(complete=False)
"""Joules that nobody could read: adding it makes a sum a lower bound."""
_WORST_LAST = tuple(Source)
_QUALITY = tuple(Quality)
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
        source=max((part.source for part in known), key=_WORST_LAST.index),
        boundary=_same([part.boundary for part in known]),
        method=_same([part.method for part in known]),
        quality=max((part.quality for part in known), key=_QUALITY.index),
        complete=complete,
    )


def _same(labels: Sequence[LabelT | None]) -> LabelT | None:
    return labels[0] if all(label is labels[0] for label in labels) else None


def scaled(of: Amount, by: float) -> Amount:
    """So many times the amount; ``by`` is not negative."""
    if of.joules is None or of.low is None or of.high is None:
        return of
    return of.model_copy(
        update={"joules": of.joules * by, "low": of.low * by, "high": of.high * by}
    )


def cell(total: Amount, inferences: int) -> Cell:
    """The amount, and its part of 1,000 inferences."""
    return Cell(total=total, per_1000=scaled(total, 1000 / inferences) if inferences else None)


def ratio(of: float, whole: float) -> float | None:
    """``of / whole``; None for a part of nothing."""
    return of / whole if whole > 0 else None


def sum_known(values: Iterable[float | None]) -> float | None:
    """The sum of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return fsum(known) if known else None
