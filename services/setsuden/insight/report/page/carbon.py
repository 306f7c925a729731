"""Grams of CO2e after ISO/IEC 21031, and euros, or what would have to be declared."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from setsuden.insight.report.model import Carbon, CarbonRow, Cost, CostRow, Report, Sci
from setsuden.insight.report.page.numbers import (
    NONE,
    TIMES,
    Unit,
    bounds,
    digits,
    euros,
    figure,
    fit,
    quantity,
)
from setsuden.insight.report.page.parts import (
    Column,
    Html,
    bullets,
    facts,
    known,
    num,
    said,
    section,
    table,
    text,
)
from setsuden.insight.report.page.words import COMPONENTS

UNDECLARED = "undeclared"


def carbon(report: Report) -> str:
    """The section."""
    return section(
        "carbon",
        "Carbon and cost",
        "Location-based, with the average intensity of each grid, of its year or hour by hour. "
        "What nobody declared is left out and named, never 0.",
        _big(report),
        _sci(report.sci),
        "<h3>Carbon of the whole run</h3>",
        _carbon_facts(report.carbon),
        _carbon_table(report.carbon),
        _listed("Sources of the grid intensities:", _grids(report.carbon)),
        _listed(
            "To complete the grams, these would have to be declared:", report.carbon.undeclared
        ),
        "<h3>Cost of the whole run</h3>",
        _cost(report.cost),
    )


def _big(report: Report) -> str:
    sci, cost = report.sci, report.cost
    unit = fit([sci.high or sci.grams], "g")
    grams = _least(figure(sci.grams, unit), sci.complete)
    money = _least(euros(cost.per_1000_eur), cost.complete)
    between = bounds(sci.low, sci.high, unit)
    about = f"CO₂e per 1,000 inferences{', ' if between else ''}{between}"
    shown = _number(grams, about) + _number(money, "Euros per 1,000 inferences")
    return f'<div class="big">{shown}</div>'


def _number(value: str, about: str) -> str:
    kind = ' class="unknown"' if value == NONE else ""
    plain = escape(value).replace("at least ", "<small>at least </small>")
    return f"<div><b{kind}>{plain}</b><span>{text(about)}</span></div>"


def _least(value: str, complete: bool) -> str:
    return value if complete or value == NONE else f"at least {value}"


def _sci(sci: Sci) -> str:
    unit = fit([sci.operational_g, sci.embodied_g], "g")
    embodied = UNDECLARED if sci.embodied_g is None else figure(sci.embodied_g, unit)
    return facts(
        (
            ("Method", f"SCI = (E {TIMES} I + M) / R, ISO/IEC 21031:2024"),
            ("Functional unit R", sci.functional_unit),
            (f"Operational, E {TIMES} I", figure(sci.operational_g, unit)),
            ("Embodied, M", embodied),
            ("Boundary", sci.boundary),
        )
    )


def _carbon_facts(found: Carbon) -> str:
    unit = fit([found.operational_high or found.operational_g], "g")
    between = bounds(found.operational_low, found.operational_high, unit)
    operational = _least(figure(found.operational_g, unit), found.complete)
    partly = ", of the machines for which it is declared" if found.undeclared else ""
    made = quantity(found.embodied_g, "g")
    embodied = UNDECLARED if found.embodied_g is None else f"{made}{partly}"
    return facts(
        (
            ("Operational", operational + (f" ({between})" if between else "")),
            ("Embodied", embodied),
            ("Water", quantity(found.water_l, "L")),
        )
    )


def _carbon_table(found: Carbon) -> str:
    energy = fit([_watt_hours(row) for row in found.rows], "Wh")
    grams = fit([row.operational_high or row.operational_g for row in found.rows], "g")
    heads = (
        "Component",
        "Energy at the plug",
        "Grid intensity",
        "Operational",
        "Embodied",
        "Water",
    )
    columns = [Column(heads[0]), num(heads[1]), Column(heads[2]), *map(num, heads[3:])]
    return table(
        "By component and site",
        columns,
        [_carbon_row(row, energy, grams) for row in found.rows],
    )


def _watt_hours(row: CarbonRow) -> float | None:
    return None if row.kwh is None else 1000 * row.kwh


def _carbon_row(row: CarbonRow, energy: Unit, grams: Unit) -> tuple[str, ...]:
    pue = "PUE undeclared" if row.pue is None else f"PUE {digits(row.pue)}"
    embodied = UNDECLARED if row.embodied_g is None else figure(row.embodied_g, grams)
    return (
        said(COMPONENTS[row.component], row.site),
        said(known(_least(figure(_watt_hours(row), energy), row.complete)), pue),
        _intensity(row),
        said(
            known(_least(figure(row.operational_g, grams), row.complete)),
            bounds(row.operational_low, row.operational_high, grams),
        ),
        said(embodied, row.embodied_source),
        known(quantity(row.water_l, "L")),
    )


def _intensity(row: CarbonRow) -> Html:
    if row.intensity_g_per_kwh is None:
        return said(UNDECLARED, row.intensity_source)
    return said(f"{digits(row.intensity_g_per_kwh)} g/kWh", _grid(row), row.intensity_method or "")


def _grid(row: CarbonRow) -> str:
    """Zone and year: a figure without its year is none."""
    return " ".join(filter(None, (row.zone, str(row.year) if row.year is not None else None)))


def _grids(found: Carbon) -> list[str]:
    """The source of each intensity, said once."""
    known_rows = (row for row in found.rows if row.intensity_g_per_kwh is not None)
    return list(dict.fromkeys(f"{_grid(row)}: {row.intensity_source}" for row in known_rows))


def _cost(found: Cost) -> str:
    shown = table(
        "By component; rent holds its electricity",
        (Column("Component"), *map(num, ("Electricity", "Rent", "Devices", "Whole"))),
        [_cost_row(row) for row in found.rows],
    )
    return shown + _listed(
        "To know all the euros, these would have to be declared:", found.undeclared
    )


def _listed(words: str, lines: Sequence[str]) -> str:
    return f'<p class="asked">{words}</p>{bullets(lines)}' if lines else ""


def _cost_row(row: CostRow) -> tuple[str, ...]:
    parts = (row.electricity_eur, row.instance_eur, row.device_eur)
    return (
        COMPONENTS[row.component],
        *(known(euros(part)) for part in parts),
        known(_least(euros(row.whole_eur), row.complete)),
    )
