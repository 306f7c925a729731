"""Site profiles: where a machine stands, and what its building adds to its electricity."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cache

from pydantic import Field

from setsuden.schemas.base import Model, ShortText, Token

from .intensity import HIGHEST, Zone
from .tables import table


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


class _Table(Model):
    profiles: Mapping[Token, SiteEntry]


def profile(site: str, own: Mapping[str, SiteEntry] | None = None) -> SiteProfile | None:
    """The site of this name, a declared one before a shipped one; None when nobody knows it."""
    return profiles(own).get(site)


def profiles(own: Mapping[str, SiteEntry] | None = None) -> dict[str, SiteProfile]:
    """All known sites by name; ``own`` are those of a person's file and replace shipped ones."""
    entries = {**_shipped(), **(own or {})}
    return {name: SiteProfile(name=name, **entry.model_dump()) for name, entry in entries.items()}


@cache
def _shipped() -> Mapping[str, SiteEntry]:
    return table("profiles.toml", _Table).profiles
