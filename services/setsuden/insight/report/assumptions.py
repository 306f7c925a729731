"""Everything in a report that is not a reading: sites, grids, prices, network rates.

Resolved once, each with its source, and kept beside the rows: today's report can be made again next
year, when tables and price lists have changed. A person declares their own in one TOML file::

    [profiles.lab]
    zone = "FR"
    pue = 1.0
    source = "our meter room"
    retrieved = 2026-11-23

    [embodied.lab]
    total_kg = 60.0
    lifespan_years = 6.0
    source = "the maker's life-cycle study"
    retrieved = 2026-11-23

    [prices.lab]
    euros_per_kwh = 0.21
    source = "contract of 2026"
    retrieved = 2026-11-23
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from setsuden.insight.carbon.intensity import (
    IntensityError,
    Rate,
    RateMethod,
    Zone,
    intensity,
)
from setsuden.insight.carbon.network_rates import network_rate
from setsuden.insight.carbon.series import HourRow, IntensitySeries
from setsuden.insight.carbon.sites import Embodied, Price, SiteEntry, profile
from setsuden.insight.report.rows.read import RowsError
from setsuden.process.config import load_toml, validate
from setsuden.schemas.base import Model, ShortText, Token
from setsuden.schemas.windows import Access, Component, MeterRow

FILE = "assumptions.json"
VERSION = 1
_Component = Annotated[Component, Field(strict=False)]
_Access = Annotated[Access, Field(strict=False)]
HourName = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:00Z$")]
"""The start of an hour in UTC, as a report names it: ``2026-11-24T10:00Z``."""


class MachinePrice(Model):
    """A ``[devices.<component>]`` table: what one machine of a component was bought for."""

    euros: float = Field(ge=0, le=1e7)
    """Its price."""
    lifespan_years: float | None = Field(default=None, gt=0, le=50)
    """How long it is used; without it the site's."""
    source: ShortText = Field(min_length=1)
    """The invoice or price list."""
    retrieved: date
    """When it was read there."""


class Declarations(Model):
    """What a person declares for reports; every table is optional."""

    profiles: dict[Token, SiteEntry] = Field(default_factory=dict)
    """Sites, by the name that ``[energy] site`` gives."""
    embodied: dict[Token, Embodied] = Field(default_factory=dict)
    """Machines: by site, or by device id where a site has several kinds."""
    prices: dict[Token, Price] = Field(default_factory=dict)
    """Prices, by site."""
    site_of: Mapping[_Component, Token] = Field(default_factory=dict)
    """Where a component stands, whatever its rows say."""
    rents: Mapping[_Component, Price] = Field(default_factory=dict)
    """What one machine of a component costs an hour, its electricity included."""
    devices: Mapping[_Component, MachinePrice] = Field(default_factory=dict)
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


class SiteAssumptions(Model):
    """Everything that is assumed of one site; None: undeclared."""

    profile: SiteEntry | None = None
    intensity: GridIntensity | None = None
    """Of a year; used for every hour without a figure of its own."""
    hours: Mapping[HourName, GridIntensity] = Field(default_factory=dict)
    """Of single hours of the run, copied from a series, which is not needed again."""
    price: Price | None = None
    embodied: Embodied | None = None

    @model_validator(mode="after")
    def _hours_are_comparable(self) -> Self:
        """Figures that mean different things cannot be averaged."""
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


class NetworkRates(Model):
    """kWh per 10^9 bytes on the wire."""

    low: float = Field(ge=0)
    mid: float = Field(ge=0)
    high: float = Field(ge=0)
    source: str


class Assumptions(Model):
    """The file ``assumptions.json`` of a run."""

    version: int = VERSION
    sites: Mapping[Token, SiteAssumptions] = Field(default_factory=dict)
    site_of: Mapping[_Component, Token] = Field(default_factory=dict)
    embodied: Mapping[Token, Embodied] = Field(default_factory=dict)
    """Machines by the name of their device or worker, before those of their site."""
    rents: Mapping[_Component, Price] = Field(default_factory=dict)
    devices: Mapping[_Component, MachinePrice] = Field(default_factory=dict)
    network: Mapping[_Access, NetworkRates | None] = Field(default_factory=dict)
    """None: no figure exists for such an access."""

    @property
    def sha256(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def text(self) -> str:
        """As it is stored: sorted, so that equal ones are equal files."""
        document = self.model_dump(mode="json")
        for site in document["sites"].values():
            if not site["hours"]:  # older files lack the key, and reports hold their SHA-256
                del site["hours"]
        return json.dumps(document, indent=2, sort_keys=True) + "\n"

    def site_name(self, meter: MeterRow) -> str:
        """The site of this meter's machine."""
        return self.site_of.get(meter.component, meter.site)

    def site(self, meter: MeterRow) -> SiteAssumptions:
        """What is assumed of that site."""
        return self.sites.get(self.site_name(meter), SiteAssumptions())

    def embodied_of(self, meter: MeterRow) -> Embodied | None:
        """What making the machine emitted."""
        return self.embodied.get(meter.name) or self.site(meter).embodied


def resolve(
    saved: Assumptions | None, declared: Declarations, meters: Iterable[MeterRow], year: int
) -> Assumptions:
    """What is kept, overridden by what is declared now; new sites are looked up.

    ``year`` is the run's: no intensity newer than it is used.
    """
    base = saved or Assumptions()
    rows = list(meters)
    site_of = {**base.site_of, **declared.site_of}
    names = {site_of.get(meter.component, meter.site) for meter in rows} | set(base.sites)
    return Assumptions(
        sites={name: _site(name, base, declared, year) for name in sorted(names)},
        site_of=site_of,
        embodied={**base.embodied, **_without(declared.embodied, names)},
        rents={**base.rents, **declared.rents},
        devices={**base.devices, **declared.devices},
        network={**_rates({meter.access for meter in rows}), **base.network},
    )


def _without(embodied: Mapping[str, Embodied], sites: Iterable[str]) -> dict[str, Embodied]:
    return {name: value for name, value in embodied.items() if name not in sites}


def _site(name: str, base: Assumptions, declared: Declarations, year: int) -> SiteAssumptions:
    kept = base.sites.get(name, SiteAssumptions())
    entry, grid = kept.profile, kept.intensity
    if name in declared.profiles or entry is None:
        entry = _entry(name, declared)
        grid = _grid(entry.zone, year) if entry is not None else None
    same_grid = entry is not None and kept.profile is not None and entry.zone == kept.profile.zone
    return SiteAssumptions(
        profile=entry,
        intensity=grid,
        hours=kept.hours if same_grid else {},
        price=declared.prices.get(name) or declared.tariff or kept.price,
        embodied=declared.embodied.get(name) or kept.embodied,
    )


def _entry(name: str, declared: Declarations) -> SiteEntry | None:
    site = profile(name, declared.profiles)
    if site is None:
        return None
    return SiteEntry(**site.model_dump(include=set(SiteEntry.model_fields)))


def _grid(zone: str, year: int) -> GridIntensity | None:
    yearly = intensity(zone, year)
    return None if yearly is None else GridIntensity(**yearly._asdict())


def _rates(accesses: Iterable[Access]) -> dict[Access, NetworkRates | None]:
    rates = {access: network_rate(access) for access in sorted(accesses)}
    return {
        access: None if rate is None else NetworkRates(**rate._asdict())
        for access, rate in rates.items()
    }


def load(folder: Path) -> Assumptions | None:
    """The run's file, None without one; raises RowsError naming the field that is wrong."""
    path = folder / FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        kept = Assumptions.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RowsError(
            f"{path}: {where}: {first['msg']}",
            remedy="mend it, or remove it: the next report resolves a new one",
        ) from error
    if kept.version > VERSION:
        raise RowsError(f"{path}: written by a newer Setsuden (version {kept.version})")
    return kept


def read_declared(path: Path) -> Declarations:
    """A person's TOML file; raises ConfigError naming file, line, key and the nearest name."""
    return validate(Declarations, load_toml(path))


# -- hourly intensities -----------------------------------------------------------------------


def averages(paths: Iterable[Path]) -> IntensitySeries:
    """The hours of these files together; raises IntensityError for what no report can count."""
    whole = IntensitySeries()
    for path in paths:
        rows = _averages(path)
        try:
            whole.add(rows)
        except IntensityError as error:
            raise IntensityError(
                f"{path}: {error.message}", remedy="give one source for each zone"
            ) from error
    return whole


def _averages(path: Path) -> list[HourRow]:
    rows = list(IntensitySeries.read(path))
    if not rows:
        raise IntensityError(
            f"{path} is missing or holds no hours",
            remedy="`setsuden energy intensity ZONE --live SERVICE --save FILE` collects them",
        )
    if rows[0].method is not RateMethod.AVERAGE:
        raise IntensityError(
            f"{path} holds {rows[0].method} intensities, and a report counts averages",
            remedy="marginal ones are for decisions: give a series of averages",
        )
    return rows


def with_hours(
    assumptions: Assumptions, series: IntensitySeries, hours: Mapping[str, Iterable[int]]
) -> tuple[Assumptions, tuple[str, ...]]:
    """The series' figures for these hours (since 1970) of each site; zones of which it has none.

    Kept hours of another source are dropped: two sources cannot be averaged. Averages only: a
    marginal intensity says what one kWh more would emit. It is for decisions; summed over a run it
    counts emissions that others are charged with.
    """
    sites = dict(assumptions.sites)
    covered: dict[str, bool] = {}
    for name, slots in sorted(hours.items()):
        site = sites.get(name, SiteAssumptions())
        if site.profile is None:
            continue
        zone = site.profile.zone
        figures = _hourly(series, zone, slots)
        covered[zone] = covered.get(zone, False) or bool(figures)
        if figures:
            sites[name] = _with_figures(site, figures)
    missing = tuple(sorted(zone for zone, some in covered.items() if not some))
    return assumptions.model_copy(update={"sites": sites}), missing


def _hourly(series: IntensitySeries, zone: str, slots: Iterable[int]) -> dict[str, GridIntensity]:
    figures = ((slot, series.at(zone, datetime.fromtimestamp(slot * 3600, UTC))) for slot in slots)
    return {
        hour_name(slot): GridIntensity(**figure._asdict())
        for slot, figure in figures
        if figure is not None
    }


def _with_figures(site: SiteAssumptions, figures: dict[str, GridIntensity]) -> SiteAssumptions:
    source = next(iter(figures.values())).source
    kept = {name: grid for name, grid in site.hours.items() if grid.source == source}
    return site.model_copy(update={"hours": {**kept, **figures}})


def hour_name(slot: int) -> str:
    """The hour that is so many after 1970 began, as a report names it."""
    return datetime.fromtimestamp(slot * 3600, UTC).strftime("%Y-%m-%dT%H:%MZ")
