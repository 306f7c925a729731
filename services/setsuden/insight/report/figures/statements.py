"""What a report states as text: its boundary, and each assumption with its source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from setsuden.insight.carbon.network_rates import BYTES_PER_GB
from setsuden.insight.report.assumptions import SiteAssumptions
from setsuden.insight.report.model import ComponentReport, Part
from setsuden.insight.report.rows.sums import HEADER_BYTES
from setsuden.insight.report.totals.run import MACHINE_PARTS, RunTotals
from setsuden.schemas.energy import Boundary

INSIDE = {
    Boundary.WALL_AC: "at the wall",
    Boundary.HOST: "the whole machine",
    Boundary.BOARD_DC: "the whole board, without its power supply",
    Boundary.MODULE: "the module, without carrier board and power supply",
    Boundary.SOCKET: "the socket, without board, disks, fans and power supply",
    Boundary.CPU_PACKAGE: "the CPU package, without board, disks, fans and power supply",
    Boundary.CPU_CORE: "the CPU cores alone",
    Boundary.LINK: "the link",
}
OUTSIDE = "training, distillation, the caller's own machine, storage of results after the run"


def boundary_of(run: RunTotals, components: Iterable[ComponentReport]) -> str:
    """What is inside and outside the headline."""
    inside = [f"{part}: {_inside(run, part)}" for part in MACHINE_PARTS if run.of(part)]
    left = [f"{c.component} ({c.note})" for c in components if c.whole.total.joules is None]
    network = next(c for c in components if c.component is Part.NETWORK)
    if network.whole.total.joules is not None:
        inside.append("network: from bytes on the wire")
    outside = ", ".join([*left, OUTSIDE])
    return f"operation. Inside: {'; '.join(inside)}. Outside: {outside}"


def _inside(run: RunTotals, part: Part) -> str:
    boundaries = {
        INSIDE[meter.row.boundary] for meter in run.of(part) if meter.row.boundary is not None
    }
    return " or ".join(sorted(boundaries)) or "unknown"


def assumptions_of(run: RunTotals) -> tuple[str, ...]:
    """Each with its source."""
    return tuple(
        dict.fromkeys((*_method(run), *_meters(run), *_sites(run), *_declared(run), *_network(run)))
    )


def _method(run: RunTotals) -> Iterator[str]:
    yield (
        "idle joules are the idle baseline times time, shared by reserved part of the machine; "
        "the rest is shared by CPU-seconds (SCI counts reserved hardware, used or not)"
    )
    if run.reader.torn:
        yield f"{run.reader.torn} rows were cut off when a process was killed, and are left out"


def _meters(run: RunTotals) -> Iterator[str]:
    """One line for machines with the same facts."""
    names: defaultdict[tuple[Part, str], set[str]] = defaultdict(set)
    for meter in run.meters:
        names[meter.part, _facts(meter.row.origin, meter.row.factor)].add(meter.row.name)
        names[meter.part, f"idle: {meter.row.idle_origin}"].add(meter.row.name)
        share = f"reserved part {meter.row.reserved_share:.3g} ({meter.row.reserved_why})"
        names[meter.part, share].add(meter.row.name)
    for (part, facts), meters in sorted(names.items()):
        yield f"{part} {_some(meters)}: {facts}"


def _facts(origin: str, factor: float | None) -> str:
    return f"{origin}, 95 % within a factor of {factor:.3g}" if factor else origin


def _some(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown) if len(shown) <= 3 else f"{shown[0]} and {len(shown) - 1} more"


def _sites(run: RunTotals) -> Iterator[str]:
    for name, site in sorted(run.assumptions.sites.items()):
        yield from (f"site {name}: {fact}" for fact in _site(site))


def _site(site: SiteAssumptions) -> Iterator[str]:
    if site.profile is None:
        yield "no profile, so no PUE, grid or water is assumed"
    else:
        water = site.profile.wue_l_per_kwh
        wue = f", {water:g} L/kWh" if water is not None else ", water unknown"
        yield f"PUE {site.profile.pue:g}{wue} ({site.profile.source})"
    if site.intensity is not None:
        grid = site.intensity
        kind = f"{grid.method}, estimated" if grid.estimated else grid.method
        when = f"{grid.year}, for hours without a figure" if site.hours else str(grid.year)
        yield f"grid {grid.zone} {when}: {grid.g_per_kwh:g} g/kWh, {kind} ({grid.source})"
    yield from _hourly(site)
    if site.price is not None and site.price.euros_per_kwh is not None:
        yield f"{site.price.euros_per_kwh:g} EUR/kWh ({site.price.source})"
    if site.embodied is not None:
        yield f"{site.embodied.total_kg:g} kg CO2e a machine ({site.embodied.source})"


def _hourly(site: SiteAssumptions) -> Iterator[str]:
    names = sorted(site.hours)
    if not names:
        return
    grids = list(site.hours.values())
    figures = [grid.g_per_kwh for grid in grids]
    modelled = sum(grid.estimated for grid in grids)
    kind = f"average, {modelled} of them estimated" if modelled else "average"
    yield (
        f"grid {grids[0].zone} hourly, {len(names)} from {names[0]} to {names[-1]}: "
        f"{min(figures):g} to {max(figures):g} g/kWh, {kind} ({grids[0].source})"
    )


def _declared(run: RunTotals) -> Iterator[str]:
    assumed = run.assumptions
    for component, site in sorted(assumed.site_of.items()):
        yield f"{component} stands at site {site}, whatever its rows say (declared)"
    for name, making in sorted(assumed.embodied.items()):
        yield f"{name}: {making.total_kg:g} kg CO2e ({making.source})"
    for component, rent in sorted(assumed.rents.items()):
        yield f"{component}: {rent.euros_per_hour or 0:g} EUR/h a machine ({rent.source})"
    for component, device in sorted(assumed.devices.items()):
        yield f"{component}: {device.euros:g} EUR a machine ({device.source})"


def _network(run: RunTotals) -> Iterator[str]:
    used = {meter.row.access for meter in run.meters if meter.sums.wire_bytes}
    for access in sorted(used):
        rates = run.assumptions.network.get(access)
        if rates is not None:
            yield (
                f"network {access}: {rates.low:g} / {rates.mid:g} / {rates.high:g} kWh per "
                f"{BYTES_PER_GB:.0e} bytes, {HEADER_BYTES} of headers a packet ({rates.source}); "
                "its grid is the device's"
            )
