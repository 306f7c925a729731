"""Hourly intensities: copied from series into what a run assumes, and meant over its joules.

Averages alone: a marginal intensity says what one kWh more would emit. It is for decisions, and
summed over a run it counts emissions that others are counted for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import fsum
from pathlib import Path
from typing import NamedTuple

from setsuden.insight.carbon.errors import IntensityError
from setsuden.insight.carbon.intensity import RateMethod
from setsuden.insight.carbon.series import HourRow, Series
from setsuden.insight.report.assumptions import GridIntensity, Site
from setsuden.insight.report.model import Amount, HourReport
from setsuden.insight.report.run import Run
from setsuden.insight.report.timeline import HOUR_NS, hour_name, pieces_of

# -- from series into the run -----------------------------------------------------------------


class Joined(NamedTuple):
    """A run with the hours of a series."""

    run: Run
    without: tuple[str, ...]
    """Zones of the run of which the series has no hour of the run."""


def averages(paths: Iterable[Path]) -> Series:
    """The hours of these files together; raises IntensityError for what no report can count."""
    whole = Series()
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
    rows = list(Series.read(path))
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


def joined(run: Run, series: Series) -> Joined:
    """The run with every hour of it that the series has, laid over those it already assumes.

    Kept hours of another source go: a mean over two sources means nothing.
    """
    sites = dict(run.assumptions.sites)
    zones: dict[str, bool] = {}
    for name, slots in sorted(_slots(run).items()):
        site = sites.get(name, Site())
        if site.profile is None:
            continue
        zone = site.profile.zone
        found = _found(series, zone, slots)
        zones[zone] = zones.get(zone, False) or bool(found)
        if found:
            sites[name] = _laid_over(site, found)
    assumptions = run.assumptions.model_copy(update={"sites": sites})
    without = tuple(sorted(zone for zone, some in zones.items() if not some))
    return Joined(replace(run, assumptions=assumptions), without)


def _slots(run: Run) -> dict[str, set[int]]:
    """Hours with rows, by site: a clock that was years off must not fetch all years between."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for one in run.meters:
        name = run.assumptions.site_name(one.sums.meter)
        found[name].update(piece.slot for piece in pieces_of(one, HOUR_NS))
    return found


def _found(series: Series, zone: str, slots: Iterable[int]) -> dict[str, GridIntensity]:
    figures = ((slot, series.at(zone, datetime.fromtimestamp(slot * 3600, UTC))) for slot in slots)
    return {
        hour_name(slot): GridIntensity(**figure._asdict())
        for slot, figure in figures
        if figure is not None
    }


def _laid_over(site: Site, found: dict[str, GridIntensity]) -> Site:
    source = next(iter(found.values())).source
    kept = {name: grid for name, grid in site.hours.items() if grid.source == source}
    return site.model_copy(update={"hours": {**kept, **found}})


# -- from the run's hours to a row ------------------------------------------------------------


class Grams(NamedTuple):
    """With bounds; all None when unknown."""

    mid: float | None = None
    low: float | None = None
    high: float | None = None


class Rates(NamedTuple):
    """g/kWh of all joules of a row, by their mids and by each bound.

    Hours weigh by their joules, and two meters of different errors have other weights at a bound.
    """

    mid: float
    low: float
    high: float


class Grid(NamedTuple):
    """What the kWh of one component at one site emitted."""

    zone: str | None = None
    year: int | None = None
    """None also when figures of several years are in it."""
    g_per_kwh: float | None = None
    """Of the joules whose hour has a figure."""
    method: str | None = None
    source: str = "undeclared"
    rates: Rates | None = None
    """Joules of an hour without any figure add nothing to the grams: a lower bound."""
    lacking: str = ""
    """How many hours have no figure, in words; empty when none or all."""

    def grams(self, kwh: Amount) -> Grams:
        """Of so many kWh."""
        if kwh.joules is None or kwh.low is None or kwh.high is None or self.rates is None:
            return Grams()
        mid, low, high = self.rates
        return Grams(kwh.joules * mid, kwh.low * low, kwh.high * high)


def grid_of(site: Site, hours: Sequence[HourReport]) -> Grid:
    """The site's grid as the joules of these hours met it; that of its year for the others."""
    own = [site.hours[hour.hour] for hour in hours if hour.hour in site.hours]
    if not own:
        return _yearly(site.intensity)
    known = [(hour, grid) for hour in hours if (grid := site.at(hour.hour)) is not None]
    years = {grid.year for _, grid in known}
    lacking = len(hours) - len(known)
    return Grid(
        zone=own[0].zone,
        year=years.pop() if len(years) == 1 else None,
        g_per_kwh=mean((hour.joules, grid.g_per_kwh) for hour, grid in known),
        method=_method(own, len(hours), site.intensity),
        source=_source(own, len(hours), site.intensity),
        rates=_rates(site, hours),
        lacking=_of(lacking, len(hours)) if lacking else "",
    )


def _yearly(grid: GridIntensity | None) -> Grid:
    if grid is None:
        return Grid()
    rate = grid.g_per_kwh
    return Grid(grid.zone, grid.year, rate, grid.method.value, grid.source, Rates(rate, rate, rate))


def _rates(site: Site, hours: Sequence[HourReport]) -> Rates:
    grids = [site.at(hour.hour) for hour in hours]
    rates = [grid.g_per_kwh if grid is not None else 0.0 for grid in grids]
    return Rates(
        *(
            mean((getattr(hour, end), rate) for hour, rate in zip(hours, rates, strict=True))
            for end in ("joules", "low", "high")
        )
    )


def mean(pairs: Iterable[tuple[float | None, float]]) -> float:
    """Of the second of each pair, weighted with the first; plain when no weight is above 0."""
    found = [(weight or 0.0, value) for weight, value in pairs]
    whole = fsum(weight for weight, _ in found)
    if whole <= 0:
        return fsum(value for _, value in found) / len(found)
    return fsum(weight / whole * value for weight, value in found)


def _method(own: Sequence[GridIntensity], hours: int, yearly: GridIntensity | None) -> str:
    modelled = sum(grid.estimated for grid in own)
    estimated = f", {modelled} of them estimated" if modelled else ""
    rest = f"; {_rest(yearly)}" if len(own) < hours else ""
    return f"average, hourly: {_of(len(own), hours)}{estimated}{rest}"


def _source(own: Sequence[GridIntensity], hours: int, yearly: GridIntensity | None) -> str:
    if len(own) == hours:
        return own[0].source
    by = f" from {yearly.source}" if yearly is not None else ""
    return f"{_of(len(own), hours)} from {own[0].source}; {_rest(yearly)}{by}"


def _of(part: int, hours: int) -> str:
    return f"{part} of {hours} hour{'' if hours == 1 else 's'}"


def _rest(yearly: GridIntensity | None) -> str:
    return f"the rest yearly {yearly.year}" if yearly is not None else "the rest unknown"
