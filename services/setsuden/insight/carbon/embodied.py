"""Embodied carbon: the part of a machine's making that a time of its use answers for.

M = TE x (TiR / EL) x (RR / ToR) (Software Carbon Intensity, ISO/IEC 21031:2024): total embodied
emissions, the time reserved over the expected lifespan, the resources reserved over all there are.
Only what a person declares counts. Life-cycle studies of one board differ by more than the result
would matter, so no default stands in.
"""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from pydantic import Field

from setsuden.schemas.base import Model, ShortText

DECLARED = "declared"
UNDECLARED = "undeclared"
YEAR_SECONDS = 365.25 * 86_400


class Embodied(Model):
    """An ``[embodied.<name>]`` table: what making one kind of machine emitted."""

    total_kg: float = Field(gt=0, le=1e6)
    """kg of CO2 equivalent, from raw materials to disposal."""
    lifespan_years: float | None = Field(default=None, gt=0, le=50)
    """How long it is used; without it the site's."""
    source: ShortText = Field(min_length=1)
    """Whose study or declaration this is."""
    retrieved: date
    """When it was read there."""


class EmbodiedShare(NamedTuple):
    """Grams of CO2 equivalent; None, never 0, when ``label`` is ``undeclared``."""

    grams: float | None
    label: str
    source: str
    """Where it is from, or what is missing."""


def embodied(
    declared: Embodied | None,
    seconds: float,
    reserved_share: float,
    lifespan_years: float | None = None,
) -> EmbodiedShare:
    """M of so many seconds of this part (0 to 1) of a machine; ``lifespan_years`` is the site's.

    Raises ValueError for a negative time or a share outside 0 to 1.
    """
    if seconds < 0 or not 0 <= reserved_share <= 1:
        raise ValueError("seconds must be at least 0, and the share between 0 and 1")
    if declared is None:
        return EmbodiedShare(None, UNDECLARED, "no embodied emissions declared for this machine")
    years = declared.lifespan_years or lifespan_years
    if years is None:
        return EmbodiedShare(None, UNDECLARED, "no lifespan declared for this machine or site")
    grams = declared.total_kg * 1000 * (seconds / (years * YEAR_SECONDS)) * reserved_share
    return EmbodiedShare(grams, DECLARED, declared.source)
