"""What a person or an operator declares: sites, embodied carbon of machines, prices.

Scaleway's sites are shipped, with source and date of each figure. No embodied carbon is: studies
of one board differ by more than it would matter. No price is: lists soon age.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from setsuden.schemas.base import Model, ShortText, Token

from .intensity import HIGHEST, JOULES_PER_KWH, Zone, shipped_table

DECLARED = "declared"
UNDECLARED = "undeclared"
YEAR_SECONDS = 365.25 * 86_400


class SiteEntry(Model):
    """A ``[profiles.<name>]`` table: one site."""

    zone: Zone
    """Its grid: a country code, or a part of a country as Electricity Maps names it."""
    pue: float = Field(ge=1, le=5)
    """Power usage effectiveness: energy of the whole site over that of its machines. 1 at home."""
    wue_l_per_kwh: float | None = Field(default=None, ge=0, le=50)
    """Water usage effectiveness in litres per kWh of its machines; without it unknown, not 0."""
    lifespan_years: float | None = Field(default=None, gt=0, le=50)
    """How long a machine is used here, for its embodied carbon."""
    operator_g_per_kwh: float | None = Field(default=None, ge=0, le=HIGHEST)
    """Grid intensity in the operator's own reports: to compare with, never to compute with."""
    source: ShortText = Field(min_length=1)
    """Who says so, and where."""
    retrieved: date
    """When it was read there."""


class SiteProfile(SiteEntry):
    """One site and its name."""

    name: Token


class _SiteTable(Model):
    profiles: Mapping[Token, SiteEntry]


def profile(site: str, own: Mapping[str, SiteEntry] | None = None) -> SiteProfile | None:
    """The site of this name, a declared one before a shipped one; None when unknown."""
    return profiles(own).get(site)


def profiles(own: Mapping[str, SiteEntry] | None = None) -> dict[str, SiteProfile]:
    """All known sites by name; ``own`` are those of a person's file and replace shipped ones."""
    entries = {**_shipped(), **(own or {})}
    return {name: SiteProfile(name=name, **entry.model_dump()) for name, entry in entries.items()}


@cache
def _shipped() -> Mapping[str, SiteEntry]:
    return shipped_table("profiles.toml", _SiteTable).profiles


# -- embodied carbon -------------------------------------------------------------------------


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
    """M = TE x (TiR / EL) x (RR / ToR) of the Software Carbon Intensity, ISO/IEC 21031:2024.

    Total embodied emissions, times the reserved time over the expected lifespan, times the reserved
    part (0 to 1) of the machine. ``lifespan_years`` is the site's, for machines without their own.
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


# -- euros -----------------------------------------------------------------------------------


class Price(Model):
    """A ``[prices.<name>]`` table: what a site's electricity or a rented machine costs."""

    euros_per_kwh: float | None = Field(default=None, ge=0, le=100)
    """The electricity tariff, for machines whose bill you pay."""
    euros_per_hour: float | None = Field(default=None, ge=0, le=10_000)
    """The rent of a whole machine; its electricity is in it."""
    source: ShortText = Field(min_length=1)
    """The contract or price list."""
    retrieved: date
    """When it was read there."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.euros_per_kwh is None and self.euros_per_hour is None:
            raise ValueError("give euros_per_kwh or euros_per_hour")
        return self


class Charge(NamedTuple):
    """Euros; None, never 0, when it cannot be known."""

    euros: float | None
    method: str
    """``rent``, ``electricity`` or ``undeclared``."""
    source: str


def charge(
    price: Price | None,
    *,
    joules: float | None,
    seconds: float,
    reserved_share: float,
    pue: float = 1.0,
) -> Charge:
    """Rent of the reserved part where one is declared, else electricity times ``pue``.

    Never both: a rent includes the electricity, and their sum would count it twice.
    """
    if price is None:
        return Charge(None, "undeclared", "no price declared for this site")
    if price.euros_per_hour is not None:
        euros = price.euros_per_hour * seconds / 3600 * reserved_share
        return Charge(euros, "rent", price.source)
    per_joule = (price.euros_per_kwh or 0.0) / JOULES_PER_KWH
    return Charge(None if joules is None else joules * pue * per_joule, "electricity", price.source)
