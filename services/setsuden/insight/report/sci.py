"""Grams, litres and the SCI of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import fsum
from typing import NamedTuple

from setsuden.insight.carbon.embodied import EmbodiedShare, embodied
from setsuden.insight.report.amounts import JOULES_PER_KWH, added, scaled, sum_known
from setsuden.insight.report.assumptions import Site
from setsuden.insight.report.grid import Grid, grid_of
from setsuden.insight.report.model import Amount, Carbon, CarbonRow, HourReport, Part, Sci
from setsuden.insight.report.run import Metered, Run
from setsuden.insight.report.timeline import hours_of

UNIT = "1,000 inferences: events with a final result on the device"
OUTSIDE = "not in the SCI's boundary here"
_PLACE = tuple(Part)


class Place(NamedTuple):
    """One component at one site."""

    part: Part
    site: str


def carbon_of(run: Run, *, complete: bool) -> Carbon:
    """Grams and litres by component and site; ``complete`` are the run's joules."""
    found, hours = list(_places(run)), _hours(run)
    grids = [_grid(run, place, meters, hours) for place, meters in found]
    rows = tuple(_row(run, *one, grid) for one, grid in zip(found, grids, strict=True))
    with_grids = list(zip(rows, grids, strict=True))
    return Carbon(
        rows=rows,
        operational_g=sum_known(row.operational_g for row in rows),
        operational_low=sum_known(row.operational_low for row in rows),
        operational_high=sum_known(row.operational_high for row in rows),
        embodied_g=sum_known(row.embodied_g for row in rows),
        water_l=sum_known(row.water_l for row in rows),
        complete=complete and all(row.complete and row.operational_g is not None for row in rows),
        undeclared=tuple(words for row, grid in with_grids for words in _undeclared(row, grid)),
    )


def _hours(run: Run) -> Mapping[Place, Sequence[HourReport]]:
    """Of each row; none where no hour has an intensity of its own, and nobody needs them."""
    found: defaultdict[Place, list[HourReport]] = defaultdict(list)
    if any(site.hours for site in run.assumptions.sites.values()):
        for hour in hours_of(run):
            found[Place(hour.component, hour.site)].append(hour)
    return found


def _grid(
    run: Run, place: Place, meters: Sequence[Metered], hours: Mapping[Place, Sequence[HourReport]]
) -> Grid:
    """A network of unknown joules has no hours: then those of the machine that used it."""
    machine = Place(meters[0].part, place.site)
    site = run.assumptions.site(meters[0].sums.meter)
    return grid_of(site, hours.get(place) or hours.get(machine, ()))


def _places(run: Run) -> Iterator[tuple[Place, list[Metered]]]:
    found: defaultdict[Place, list[Metered]] = defaultdict(list)
    for one in run.meters:
        site = run.assumptions.site_name(one.sums.meter)
        found[Place(one.part, site)].append(one)
        if one.network.joules is not None or not one.network.complete:
            found[Place(Part.NETWORK, site)].append(one)
    for place in sorted(found, key=lambda place: (_PLACE.index(place.part), place.site)):
        yield place, found[place]


def _row(run: Run, place: Place, meters: Sequence[Metered], grid: Grid) -> CarbonRow:
    site = run.assumptions.site(meters[0].sums.meter)
    network = place.part is Part.NETWORK
    joules = added(one.network if network else one.joules.whole for one in meters)
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


def _water(site: Site, joules: Amount) -> float | None:
    """WUE is of the machines' own energy, before the building's part."""
    if site.profile is None or site.profile.wue_l_per_kwh is None or joules.joules is None:
        return None
    return joules.joules / JOULES_PER_KWH * site.profile.wue_l_per_kwh


def _making(run: Run, meters: Sequence[Metered]) -> EmbodiedShare:
    """M of the machines for the time they were reserved; None when one is undeclared."""
    shares = [_share(run, one) for one in meters]
    for share in shares:
        if share.grams is None:
            return share
    sources = sorted({share.source for share in shares})
    grams = fsum(share.grams or 0.0 for share in shares)
    return EmbodiedShare(grams, shares[0].label, "; ".join(sources))


def _share(run: Run, one: Metered) -> EmbodiedShare:
    meter = one.sums.meter
    profile = run.assumptions.site(meter).profile
    return embodied(
        run.assumptions.embodied_of(meter),
        one.sums.seconds.value,
        meter.reserved_share,
        profile.lifespan_years if profile is not None else None,
    )


def _undeclared(row: CarbonRow, grid: Grid) -> Iterator[str]:
    if row.intensity_g_per_kwh is None:
        yield f"grid intensity of {row.component} at site {row.site}"
    if grid.lacking:
        yield f"grid intensity of {row.component} at site {row.site} in {grid.lacking}"
    if row.embodied_g is None and row.component is not Part.NETWORK:
        yield f"embodied carbon of {row.component} at site {row.site}"


def sci_of(run: Run, carbon: Carbon, boundary: str) -> Sci:
    """(E x I + M) / R; without M where nothing is declared, and that is said."""
    scale = 1000 / run.inferences if run.inferences else None

    def per_unit(grams: float | None, *, making: bool = True) -> float | None:
        if grams is None or scale is None:
            return None
        return (grams + ((carbon.embodied_g or 0.0) if making else 0.0)) * scale

    missing = [words for words in carbon.undeclared if words.startswith("embodied")]
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
