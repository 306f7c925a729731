"""Grams, litres and the SCI of a run.

Grams are joules at the plug times the intensity of the site's grid: that of the year, or the mean
over the hours of the run, weighted with their joules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import fsum
from typing import NamedTuple

from setsuden.insight.carbon.intensity import JOULES_PER_KWH
from setsuden.insight.carbon.sites import EmbodiedShare, embodied
from setsuden.insight.report.assumptions import GridIntensity, SiteAssumptions
from setsuden.insight.report.figures.timeline import hours_of
from setsuden.insight.report.model import Amount, Carbon, CarbonRow, HourReport, Part, Sci
from setsuden.insight.report.totals.amounts import added, scaled, sum_known
from setsuden.insight.report.totals.run import MeterTotals, RunTotals

UNIT = "1,000 inferences: events with a final result on the device"
OUTSIDE = "not in the SCI's boundary here"


class ComponentSite(NamedTuple):
    """One component at one site."""

    part: Part
    site: str


def carbon_of(run: RunTotals, *, complete: bool) -> Carbon:
    """Grams and litres by component and site; ``complete`` are the run's joules."""
    places, hours = list(_places(run)), _hours(run)
    grids = [_grid(run, place, meters, hours) for place, meters in places]
    rows = tuple(
        _row(run, place, meters, grid) for (place, meters), grid in zip(places, grids, strict=True)
    )
    with_grids = list(zip(rows, grids, strict=True))
    return Carbon(
        rows=rows,
        operational_g=sum_known(row.operational_g for row in rows),
        operational_low=sum_known(row.operational_low for row in rows),
        operational_high=sum_known(row.operational_high for row in rows),
        embodied_g=sum_known(row.embodied_g for row in rows),
        water_l=sum_known(row.water_l for row in rows),
        complete=complete and all(row.complete and row.operational_g is not None for row in rows),
        undeclared=tuple(name for row, grid in with_grids for name in _undeclared(row, grid)),
    )


def _hours(run: RunTotals) -> Mapping[ComponentSite, Sequence[HourReport]]:
    """Of each row; empty where no hour has an intensity of its own, and they are not needed."""
    hours: defaultdict[ComponentSite, list[HourReport]] = defaultdict(list)
    if any(site.hours for site in run.assumptions.sites.values()):
        for hour in hours_of(run):
            hours[ComponentSite(hour.component, hour.site)].append(hour)
    return hours


def _grid(
    run: RunTotals,
    place: ComponentSite,
    meters: Sequence[MeterTotals],
    hours: Mapping[ComponentSite, Sequence[HourReport]],
) -> GridMean:
    """The network has no hours where its joules are unknown: then its machine's are used."""
    machine = ComponentSite(meters[0].part, place.site)
    site = run.assumptions.site(meters[0].row)
    return grid_of(site, hours.get(place) or hours.get(machine, ()))


def _places(run: RunTotals) -> Iterator[tuple[ComponentSite, list[MeterTotals]]]:
    places: defaultdict[ComponentSite, list[MeterTotals]] = defaultdict(list)
    for meter in run.meters:
        site = run.assumptions.site_name(meter.row)
        places[ComponentSite(meter.part, site)].append(meter)
        if meter.network.joules is not None or not meter.network.complete:
            places[ComponentSite(Part.NETWORK, site)].append(meter)
    order = tuple(Part)
    for place in sorted(places, key=lambda place: (order.index(place.part), place.site)):
        yield place, places[place]


def _row(
    run: RunTotals, place: ComponentSite, meters: Sequence[MeterTotals], grid: GridMean
) -> CarbonRow:
    site = run.assumptions.site(meters[0].row)
    network = place.part is Part.NETWORK
    joules = added(meter.network if network else meter.joules.whole for meter in meters)
    pue = 1.0 if network else None if site.profile is None else site.profile.pue
    at_plug = scaled(joules, (pue or 1.0) / JOULES_PER_KWH)
    grams = grid.grams(at_plug)
    making = EmbodiedShare(None, "", OUTSIDE) if network else _making(run, meters)
    return CarbonRow(
        component=place.part,
        site=place.site,
        kwh=at_plug.joules,
        pue=pue,
        zone=grid.zone,
        intensity_g_per_kwh=grid.g_per_kwh,
        year=grid.year,
        intensity_method=grid.method,
        intensity_source=grid.source,
        operational_g=grams.mid,
        operational_low=grams.low,
        operational_high=grams.high,
        embodied_g=making.grams,
        embodied_source=making.source,
        water_l=None if network else _water(site, joules),
        complete=joules.complete and not grid.lacking,
    )


def _water(site: SiteAssumptions, joules: Amount) -> float | None:
    """WUE is of the machines' own energy, before the building's part."""
    if site.profile is None or site.profile.wue_l_per_kwh is None or joules.joules is None:
        return None
    return joules.joules / JOULES_PER_KWH * site.profile.wue_l_per_kwh


def _making(run: RunTotals, meters: Sequence[MeterTotals]) -> EmbodiedShare:
    """M of the machines for the time they were reserved; None when one is undeclared."""
    shares = [_share(run, meter) for meter in meters]
    for share in shares:
        if share.grams is None:
            return share
    sources = sorted({share.source for share in shares})
    grams = fsum(share.grams or 0.0 for share in shares)
    return EmbodiedShare(grams, shares[0].label, "; ".join(sources))


def _share(run: RunTotals, meter: MeterTotals) -> EmbodiedShare:
    profile = run.assumptions.site(meter.row).profile
    return embodied(
        run.assumptions.embodied_of(meter.row),
        meter.sums.seconds.value,
        meter.row.reserved_share,
        profile.lifespan_years if profile is not None else None,
    )


def _undeclared(row: CarbonRow, grid: GridMean) -> Iterator[str]:
    if row.intensity_g_per_kwh is None:
        yield f"grid intensity of {row.component} at site {row.site}"
    if grid.lacking:
        yield f"grid intensity of {row.component} at site {row.site} in {grid.lacking}"
    if row.embodied_g is None and row.component is not Part.NETWORK:
        yield f"embodied carbon of {row.component} at site {row.site}"


def sci_of(run: RunTotals, carbon: Carbon, boundary: str) -> Sci:
    """(E x I + M) / R; without M where nothing is declared, which the boundary then states."""
    scale = 1000 / run.inferences if run.inferences else None

    def per_unit(grams: float | None, *, making: bool = True) -> float | None:
        if grams is None or scale is None:
            return None
        return (grams + ((carbon.embodied_g or 0.0) if making else 0.0)) * scale

    missing = [name for name in carbon.undeclared if name.startswith("embodied")]
    left_out = "; M undeclared and left out" if carbon.embodied_g is None else ""
    part = "; M of some machines undeclared" if missing and not left_out else ""
    return Sci(
        grams=per_unit(carbon.operational_g),
        low=per_unit(carbon.operational_low),
        high=per_unit(carbon.operational_high),
        operational_g=per_unit(carbon.operational_g, making=False),
        embodied_g=None
        if carbon.embodied_g is None or scale is None
        else carbon.embodied_g * scale,
        functional_unit=UNIT,
        boundary=f"{boundary}{left_out}{part}",
        complete=carbon.complete and not missing,
    )


# -- the grid -------------------------------------------------------------------------------------


class GramsRange(NamedTuple):
    """With bounds; all None when unknown."""

    mid: float | None = None
    low: float | None = None
    high: float | None = None


class MeanIntensities(NamedTuple):
    """g/kWh of all joules of a row, weighted with their mids and with each bound.

    Two meters with different errors weigh differently at a bound.
    """

    mid: float
    low: float
    high: float


class GridMean(NamedTuple):
    """The grid behind the kWh of one component at one site."""

    zone: str | None = None
    year: int | None = None
    """None also when figures of several years are in it."""
    g_per_kwh: float | None = None
    """Of the joules whose hour has a figure."""
    method: str | None = None
    source: str = "undeclared"
    rates: MeanIntensities | None = None
    """Joules of an hour without any figure add nothing to the grams: a lower bound."""
    lacking: str = ""
    """How many hours have no figure, as text; empty when none or all."""

    def grams(self, kwh: Amount) -> GramsRange:
        """Of so many kWh."""
        if kwh.joules is None or kwh.low is None or kwh.high is None or self.rates is None:
            return GramsRange()
        mid, low, high = self.rates
        return GramsRange(kwh.joules * mid, kwh.low * low, kwh.high * high)


def grid_of(site: SiteAssumptions, hours: Sequence[HourReport]) -> GridMean:
    """The mean of these hours' figures; hours without their own take the year's."""
    own = [site.hours[hour.hour] for hour in hours if hour.hour in site.hours]
    if not own:
        return _yearly(site.intensity)
    known = [(hour, grid) for hour in hours if (grid := site.at(hour.hour)) is not None]
    years = {grid.year for _, grid in known}
    lacking = len(hours) - len(known)
    return GridMean(
        zone=own[0].zone,
        year=years.pop() if len(years) == 1 else None,
        g_per_kwh=mean((hour.joules, grid.g_per_kwh) for hour, grid in known),
        method=_method(own, len(hours), site.intensity),
        source=_source(own, len(hours), site.intensity),
        rates=_rates(site, hours),
        lacking=_of(lacking, len(hours)) if lacking else "",
    )


def _yearly(grid: GridIntensity | None) -> GridMean:
    if grid is None:
        return GridMean()
    rate = grid.g_per_kwh
    return GridMean(
        grid.zone,
        grid.year,
        rate,
        grid.method.value,
        grid.source,
        MeanIntensities(rate, rate, rate),
    )


def _rates(site: SiteAssumptions, hours: Sequence[HourReport]) -> MeanIntensities:
    grids = [site.at(hour.hour) for hour in hours]
    rates = [grid.g_per_kwh if grid is not None else 0.0 for grid in grids]
    return MeanIntensities(
        *(
            mean((getattr(hour, end), rate) for hour, rate in zip(hours, rates, strict=True))
            for end in ("joules", "low", "high")
        )
    )


def mean(pairs: Iterable[tuple[float | None, float]]) -> float:
    """Of ``(weight, value)`` pairs; unweighted when no weight is above 0."""
    weighted = [(weight or 0.0, value) for weight, value in pairs]
    whole = fsum(weight for weight, _ in weighted)
    if whole <= 0:
        return fsum(value for _, value in weighted) / len(weighted)
    return fsum(weight / whole * value for weight, value in weighted)


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
