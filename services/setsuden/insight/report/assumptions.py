"""Everything in a report that is no reading: sites, grids, prices, the network's rates.

They are resolved once, with the source of each, and kept beside the rows: the report of today can
be made again next year, when tables and price lists have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from setsuden.insight.carbon.cost import Price
from setsuden.insight.carbon.declared import Declarations
from setsuden.insight.carbon.embodied import Embodied
from setsuden.insight.carbon.intensity import Rate, RateMethod, Zone, intensity
from setsuden.insight.carbon.network import network
from setsuden.insight.carbon.profiles import SiteEntry, profile
from setsuden.insight.report.errors import RowsError
from setsuden.process.config import load_toml, validate
from setsuden.schemas.base import Model, ShortText, Token
from setsuden.schemas.windows import Access, Component, MeterRow

FILE = "assumptions.json"
VERSION = 1
UNDECLARED = "undeclared"
_Component = Annotated[Component, Field(strict=False)]
_Access = Annotated[Access, Field(strict=False)]
HourName = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:00Z$")]
"""The start of an hour in UTC, as a report names it: ``2026-11-24T10:00Z``."""


class Device(Model):
    """A ``[devices.<component>]`` table: what one machine of a component was bought for."""

    euros: float = Field(ge=0, le=1e7)
    """Its price."""
    lifespan_years: float | None = Field(default=None, gt=0, le=50)
    """How long it is used; without it the site's."""
    source: ShortText = Field(min_length=1)
    """The invoice or price list."""
    retrieved: date
    """When it was read there."""


class Declared(Declarations):
    """What a person declares for reports: the tables of a carbon file, and these."""

    site_of: Mapping[_Component, Token] = Field(default_factory=dict)
    """Where a component stands, whatever its rows say."""
    rents: Mapping[_Component, Price] = Field(default_factory=dict)
    """What one machine of a component costs an hour, its electricity included."""
    devices: Mapping[_Component, Device] = Field(default_factory=dict)
    """What one machine of a component was bought for."""
    tariff: Price | None = None
    """Electricity at every site without a price of its own."""


class GridIntensity(Model):
    """Grams of CO2 equivalent per kWh."""

    g_per_kwh: Rate
    year: int
    zone: Zone
    method: Annotated[RateMethod, Field(strict=False)]
    estimated: bool
    source: ShortText


class Site(Model):
    """Everything that is assumed of one site; None: undeclared."""

    profile: SiteEntry | None = None
    intensity: GridIntensity | None = None
    """Of a year; it stands for every hour that has none of its own."""
    hours: Mapping[HourName, GridIntensity] = Field(default_factory=dict)
    """Of single hours of the run, copied from a series: the report needs the series no more."""
    price: Price | None = None
    embodied: Embodied | None = None

    @model_validator(mode="after")
    def _hours_add_up(self) -> Self:
        """Figures that mean different things have no sum."""
        hours = self.hours.values()
        if any(hour.method is not RateMethod.AVERAGE for hour in hours):
            raise ValueError("an hour has a marginal intensity: a report counts averages")
        if len({hour.source for hour in hours}) > 1:
            raise ValueError("the hours have intensities of several sources")
        yearly = [self.intensity] if self.intensity is not None else []
        if hours and len({grid.zone for grid in (*hours, *yearly)}) > 1:
            raise ValueError("the intensities are of several zones")
        return self

    def at(self, hour: str) -> GridIntensity | None:
        """The hour's own figure, else its yearly one."""
        return self.hours.get(hour, self.intensity)


class Rates(Model):
    """kWh per 10^9 bytes on the wire."""

    low: float = Field(ge=0)
    mid: float = Field(ge=0)
    high: float = Field(ge=0)
    source: str


class Assumptions(Model):
    """The file ``assumptions.json`` of a run."""

    version: int = VERSION
    sites: Mapping[Token, Site] = Field(default_factory=dict)
    site_of: Mapping[_Component, Token] = Field(default_factory=dict)
    embodied: Mapping[Token, Embodied] = Field(default_factory=dict)
    """Machines by the name of their device or worker, before those of their site."""
    rents: Mapping[_Component, Price] = Field(default_factory=dict)
    devices: Mapping[_Component, Device] = Field(default_factory=dict)
    network: Mapping[_Access, Rates | None] = Field(default_factory=dict)
    """None: nobody knows the energy of such an access."""

    @property
    def sha256(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def text(self) -> str:
        """As it is stored: sorted, so that equal ones are equal files."""
        told = self.model_dump(mode="json")
        for site in told["sites"].values():
            if not site["hours"]:  # older files lack the key, and reports hold their SHA-256
                del site["hours"]
        return json.dumps(told, indent=2, sort_keys=True) + "\n"

    def site_name(self, meter: MeterRow) -> str:
        """Where this meter's machine stands."""
        return self.site_of.get(meter.component, meter.site)

    def site(self, meter: MeterRow) -> Site:
        """What is assumed of that place."""
        return self.sites.get(self.site_name(meter), Site())

    def embodied_of(self, meter: MeterRow) -> Embodied | None:
        """What making the machine emitted."""
        return self.embodied.get(meter.name) or self.site(meter).embodied


def resolve(
    saved: Assumptions | None, declared: Declared, meters: Iterable[MeterRow], year: int
) -> Assumptions:
    """What is kept, with what is declared now laid over it and new sites looked up.

    ``year`` is the run's: no intensity newer than it is used.
    """
    base = saved or Assumptions()
    found = list(meters)
    site_of = {**base.site_of, **declared.site_of}
    names = {site_of.get(meter.component, meter.site) for meter in found} | set(base.sites)
    return Assumptions(
        sites={name: _site(name, base, declared, year) for name in sorted(names)},
        site_of=site_of,
        embodied={**base.embodied, **_without(declared.embodied, names)},
        rents={**base.rents, **declared.rents},
        devices={**base.devices, **declared.devices},
        network={**_rates({meter.access for meter in found}), **base.network},
    )


def _without(embodied: Mapping[str, Embodied], sites: Iterable[str]) -> dict[str, Embodied]:
    return {name: one for name, one in embodied.items() if name not in sites}


def _site(name: str, base: Assumptions, declared: Declared, year: int) -> Site:
    kept = base.sites.get(name, Site())
    entry, grid = kept.profile, kept.intensity
    if name in declared.profiles or entry is None:
        entry = _entry(name, declared)
        grid = _grid(entry.zone, year) if entry is not None else None
    same_grid = entry is not None and kept.profile is not None and entry.zone == kept.profile.zone
    return Site(
        profile=entry,
        intensity=grid,
        hours=kept.hours if same_grid else {},
        price=declared.prices.get(name) or declared.tariff or kept.price,
        embodied=declared.embodied.get(name) or kept.embodied,
    )


def _entry(name: str, declared: Declared) -> SiteEntry | None:
    found = profile(name, declared.profiles)
    if found is None:
        return None
    return SiteEntry(**found.model_dump(include=set(SiteEntry.model_fields)))


def _grid(zone: str, year: int) -> GridIntensity | None:
    found = intensity(zone, year)
    return None if found is None else GridIntensity(**found._asdict())


def _rates(accesses: Iterable[Access]) -> dict[Access, Rates | None]:
    found = {access: network(access) for access in sorted(accesses)}
    return {
        access: None if rate is None else Rates(**rate._asdict()) for access, rate in found.items()
    }


def load(folder: Path) -> Assumptions | None:
    """The run's file, None without one; raises RowsError naming the field that is wrong."""
    path = folder / FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = Assumptions.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RowsError(
            f"{path}: {where}: {first['msg']}",
            remedy="mend it, or remove it: the next report resolves a new one",
        ) from error
    if found.version > VERSION:
        raise RowsError(f"{path}: written by a newer Setsuden (version {found.version})")
    return found


def read_declared(path: Path) -> Declared:
    """A person's TOML file; raises ConfigError naming file, line, key and the nearest name."""
    return validate(Declared, load_toml(path))
