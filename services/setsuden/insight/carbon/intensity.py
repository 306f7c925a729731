"""Carbon intensity of a country's electricity, a year at a time.

Grams of CO2 equivalent per kWh generated, location-based, average: what reporting asks for
(ISO/IEC 21031 excludes market-based instruments). National operators publish other figures for
the same year, because they count other gases and other stages of a plant's life.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Annotated, NamedTuple, TypeVar

from pydantic import BaseModel, Field, StringConstraints

from setsuden.schemas.base import Model, ShortText
from setsuden.schemas.errors import SetsudenError

JOULES_PER_KWH = 3.6e6
ZONE_PATTERN = r"^[A-Z]{2}(-[A-Z0-9-]{1,24})?$"
Zone = Annotated[str, StringConstraints(pattern=ZONE_PATTERN)]
"""ISO 3166-1 alpha-2, or a part of a country as Electricity Maps names it: ``US-CAL-CISO``."""
HIGHEST = 3000.0
"""g/kWh. Burning lignite in an old plant emits about 1,300; beyond this it is another unit."""
Rate = Annotated[float, Field(ge=0, le=HIGHEST)]
ModelT = TypeVar("ModelT", bound=BaseModel)


class IntensityError(SetsudenError):
    """No intensity: a service fails or breaks its contract, or a series is unusable."""

    code = "intensity_unavailable"


class RateMethod(StrEnum):
    """Whose emissions: of the average kWh, for reports, or of one more, for decisions only."""

    AVERAGE = "average"
    MARGINAL = "marginal"


class Intensity(NamedTuple):
    """Grams of CO2 equivalent per kWh, and how we know."""

    g_per_kwh: float
    year: int
    zone: str
    method: RateMethod
    estimated: bool
    source: str

    @property
    def label(self) -> str:
        """One line that never leaves the year out."""
        kind = f"{self.method}, estimated" if self.estimated else self.method
        return f"{self.zone} {self.year}: {self.g_per_kwh:.1f} g/kWh ({kind}; {self.source})"


class _Source(Model):
    text: ShortText
    url: ShortText
    retrieved: date
    method: Annotated[RateMethod, Field(strict=False)]


class _Table(Model):
    source: _Source
    zones: Mapping[Zone, Mapping[str, Annotated[float, Field(gt=0, le=HIGHEST)]]]


def intensity(zone: str, year: int | None = None) -> Intensity | None:
    """The newest yearly figure of a country, not newer than ``year``; None when there is none.

    No world average stands in for an unknown country: it would be wrong by a factor of ten either
    way and look like a figure.
    """
    years = _yearly().zones.get(zone, {})
    known = [int(text) for text in years if year is None or int(text) <= year]
    if not known:
        return None
    source = _yearly().source
    newest = max(known)
    return Intensity(years[str(newest)], newest, zone, source.method, False, source.text)


def zones() -> tuple[str, ...]:
    """Every country of the table."""
    return tuple(_yearly().zones)


@cache
def _yearly() -> _Table:
    return shipped_table("intensity.toml", _Table)


def shipped_table(name: str, model: type[ModelT]) -> ModelT:
    """A TOML file shipped beside this module; a mistake in it is ours: raises ValidationError."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return model.model_validate(tomllib.loads(text))
