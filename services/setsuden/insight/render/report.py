"""The page of a run's energy report: ``report.html`` and the data it is rendered from."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from setsuden.insight.render import report_text as terms
from setsuden.insight.render.charts import (
    Bar,
    BarChart,
    BarPart,
    DifferenceChart,
    LabelledShare,
    NestedChart,
    Panel,
    ShareChart,
    TimeChart,
)
from setsuden.insight.render.environment import render
from setsuden.insight.render.numbers import (
    NONE,
    Unit,
    bounds,
    clock,
    count,
    cpu,
    digits,
    fit,
    moment,
    percent,
    period,
    span,
)
from setsuden.insight.report.figures.statements import INSIDE
from setsuden.insight.report.model import (
    Amount,
    CarbonRow,
    Cell,
    ComponentReport,
    Counterfactual,
    Difference,
    Finding,
    MeterReport,
    Report,
    RowsRead,
)

_PARTS = (("dynamic", "s-dynamic"), ("idle", "s-idle"), ("overhead", "s-overhead"))

TableCell = str | Sequence[str]
"""Text, or a main line and smaller ones below it."""


class Basis(NamedTuple):
    """What all joules of the page refer to, 1,000 inferences or the whole run, and their unit."""

    per_1000: bool
    unit: Unit

    @property
    def label(self) -> str:
        """After a number of joules."""
        return "per 1,000 inferences" if self.per_1000 else "in the whole run"

    def of(self, cell: Cell | None) -> Amount | None:
        """The amount of a cell that is shown."""
        if cell is None:
            return None
        return cell.per_1000 if self.per_1000 else cell.total

    def text(self, amount: Amount | None) -> str:
        """``412 J``, or ``none``."""
        return terms.amount_text(amount, self.unit)

    def interval(self, amount: Amount | None) -> str:
        """``206 to 824 J``; empty when nothing is known."""
        return terms.interval(amount, self.unit)

    def lines(self, amount: Amount | None) -> list[str]:
        """The amount and below it its interval."""
        return _amount_cell(amount, self.unit)

    def cell(self, cell: Cell | None) -> list[str]:
        """The same of a cell; a component without such a part is not an unknown part."""
        return ["no such part"] if cell is None else self.lines(self.of(cell))


def basis_of(report: Report) -> Basis:
    """Per 1,000 where there are inferences; the unit fits the headline, or else what is known."""
    basis = Basis(report.whole.per_1000 is not None, Unit(1.0, "J"))
    whole = basis.of(report.whole)
    if whole is not None and whole.joules is not None:
        return basis._replace(unit=fit([whole.high], "J"))
    amounts = [basis.of(component.whole) for component in report.components]
    amounts += [report.all_edge.per_1000, report.all_cloud.per_1000]
    return basis._replace(unit=fit(map(_high, amounts), "J"))


def page(report: Report) -> str:
    """The whole page, for a screen of any width, light or dark, and for paper."""
    basis = basis_of(report)
    whole = basis.of(report.whole) or Amount()
    return render(
        "report.html",
        report=report,
        basis=basis,
        whole=whole,
        terms=terms,
        units=_units(report),
        bounds=bounds,
        amount_cell=_amount_cell,
        comparison=lambda other: terms.comparison(other, basis.unit),
        provenance=terms.provenance(report, whole),
        stands_on=_stands_on,
        labels=terms.labels,
        **_head(report, basis),
        **_charts(report, basis),
        **_tables(report, basis),
    )


def _head(report: Report, basis: Basis) -> dict[str, object]:
    return {
        "about": _about(report),
        "alert": _alert(report.findings),
        "largest": _largest(report, basis),
        "findings": sorted(report.findings, key=lambda one: terms.SEVERITIES.index(one.severity)),
        "evidence": _evidence,
        "rows_read": _rows_read(report.rows),
        "recompute": f"setsuden report {shlex.quote(report.name)} --recompute",
        **_reading(report),
    }


def _about(report: Report) -> str:
    devices = f"{count(report.devices)} device{'' if report.devices == 1 else 's'}"
    first = f" from {moment(report.since_ns)}" if report.since_ns is not None else ""
    last = f" until {moment(report.until_ns)}" if report.until_ns is not None else ""
    asked = f"; asked for: rows{first}{last}" if first or last else ""
    return (
        f"{period(report.start_ns, report.end_ns)}, {devices}, "
        f"{count(report.inferences)} inferences{asked}"
    )


def _alert(findings: Iterable[Finding]) -> str:
    """How many findings to read before believing the headline."""
    numbers = Counter(finding.severity for finding in findings)
    return " and ".join(
        f"{numbers[severity]} {severity.value}{'' if numbers[severity] == 1 else 's'}"
        for severity in terms.SEVERITIES[:2]
        if numbers[severity]
    )


def _largest(report: Report, basis: Basis) -> str:
    amounts = [(basis.of(one.whole), one.component) for one in report.components]
    known = [(one.joules, one, part) for one, part in amounts if one is not None and one.joules]
    if not known:
        return "No component has known joules."
    _, amount, component = max(known, key=lambda each: each[0])
    name = terms.COMPONENTS[component].lower()
    return f"The largest known part is the {name}: {basis.text(amount)}."


def _evidence(finding: Finding) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in finding.evidence.items())


def _value(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else digits(value)


def _rows_read(rows: RowsRead) -> str:
    torn = f", {count(rows.torn)} torn last lines left out" if rows.torn else ""
    twice = f", {count(rows.duplicates)} found twice and counted once" if rows.duplicates else ""
    return f"{count(rows.meters)} meters, {count(rows.windows)} windows{torn}{twice}"


def _reading(report: Report) -> dict[str, object]:
    """The boundaries and sources that occur, explained."""
    totals = [component.whole.total for component in report.components]
    boundaries = {total.boundary for total in totals} | {one.boundary for one in report.meters}
    sources = {total.source for total in totals} | {one.source for one in report.meters}
    sources |= set(report.coverage.by_source)
    return {
        "boundaries": [
            (terms.BOUNDARIES[boundary].capitalize(), meaning)
            for boundary, meaning in INSIDE.items()
            if boundary in boundaries
        ],
        "sources": [
            (terms.SOURCES[source].capitalize(), meaning)
            for source, meaning in terms.SOURCE_MEANINGS.items()
            if source in sources
        ],
    }


def _units(report: Report) -> dict[str, Unit]:
    """One unit for all figures that are compared."""
    sci, carbon = report.sci, report.carbon
    highs = [row.operational_high or row.operational_g for row in carbon.rows]
    kwh = fit([None if row.kwh is None else 1000 * row.kwh for row in carbon.rows], "Wh")
    return {
        "sci": fit([sci.high or sci.grams], "g"),
        "sci_parts": fit([sci.operational_g, sci.embodied_g], "g"),
        "carbon": fit([carbon.operational_high or carbon.operational_g], "g"),
        "grams": fit(highs, "g"),
        "kwh": kwh._replace(size=kwh.size / 1000),
        "models": fit((_high(one.joules_per_1000_items) for one in report.models), "J"),
        "meter_watts": fit((one.watts for one in report.meters), "W"),
        "meter_joules": fit((one.joules for one in report.meters), "J"),
        "machines": fit((one.joules for one in report.machines), "J"),
        "hours": fit((one.high for one in report.hours if one.joules is not None), "J"),
    }


def _high(amount: Amount | None) -> float | None:
    return None if amount is None else amount.high


# -- charts -----------------------------------------------------------------------------------


def _charts(report: Report, basis: Basis) -> dict[str, object]:
    return {
        "component_chart": _component_chart(report, basis),
        "ways_chart": _ways_chart(report, basis),
        "difference_chart": _difference_chart((report.all_cloud, report.all_edge), basis.unit),
        "time_chart": _time_chart(report),
        "coverage_chart": _coverage_chart(report),
        "outcome_chart": _outcome_chart(report),
        "utilisation_chart": _utilisation_chart(report.components),
    }


def _bar(name: str, amount: Amount | None, parts: Sequence[BarPart], basis: Basis) -> Bar:
    bar = Bar(name, basis.text(amount), basis.interval(amount), parts=parts)
    return bar if amount is None else bar._replace(low=amount.low, high=amount.high)


def _component_chart(report: Report, basis: Basis) -> BarChart:
    """The whole and each component, by part."""
    parts = [
        [
            part
            for name, style in _PARTS
            for part in _part(basis.of(getattr(component, name)), style)
        ]
        for component in report.components
    ]
    ends = list(accumulate(sum(part.size for part in each) for each in parts if each))
    whole = _bar("Whole", basis.of(report.whole), [part for each in parts for part in each], basis)
    bars = [
        _bar(terms.COMPONENTS[one.component], basis.of(one.whole), each, basis)
        for one, each in zip(report.components, parts, strict=True)
    ]
    title = f"Joules by component and part, {basis.label}"
    bars = [whole._replace(breaks=ends[:-1], strong=True), *bars]
    return BarChart("parts", title, bars, basis.unit)


def _part(amount: Amount | None, style: str) -> list[BarPart]:
    return [] if amount is None or amount.joules is None else [BarPart(amount.joules, style)]


def _ways_chart(report: Report, basis: Basis) -> BarChart:
    """The cascade and both other ways."""
    cascade = basis.of(report.whole)
    bar = _bar("Cascade, as it ran", cascade, _part(cascade, "s-dynamic"), basis)
    others = [
        _bar(terms.SCENARIOS[way.scenario], way.per_1000, _part(way.per_1000, "s-other"), basis)
        for way in (report.all_cloud, report.all_edge)
    ]
    title = f"Joules of the three ways, {basis.label}"
    return BarChart("ways", title, [bar._replace(strong=True), *others], basis.unit)


def _difference_chart(ways: Iterable[Counterfactual], unit: Unit) -> DifferenceChart:
    """What each other way would use more or less; without bars when none is known."""
    bars = [
        Bar(
            terms.SCENARIOS[way.scenario],
            terms.signed(way.difference.joules, unit),
            _signed_interval(way.difference, unit, ("no lower bound", "no upper bound")),
            way.difference.joules,
            way.difference.low,
            way.difference.high,
        )
        for way in ways
        if way.difference is not None and way.difference.joules is not None
    ]
    title = "Joules per 1,000 inferences that the other ways would use more or less"
    return DifferenceChart("differences", title, bars)


def _signed_interval(
    difference: Difference, unit: Unit, missing: tuple[str, str] = ("unknown", "unknown")
) -> str:
    low = missing[0] if difference.low is None else terms.signed(difference.low, unit)
    high = missing[1] if difference.high is None else terms.signed(difference.high, unit)
    return f"{low} to {high}"


def _time_chart(report: Report) -> TimeChart | None:
    """Watts of each component and inferences; None when the run has no length."""
    series = report.series
    watts = {curve.component: curve.watts for curve in series.curves}
    rates = series.inferences_per_second
    points = max(map(len, (*watts.values(), rates)), default=0)
    if points == 0:
        return None
    panels = [
        Panel(name, "W", _padded(watts.get(part, ()), points), "watts")
        for part, name in terms.COMPONENTS.items()
    ]
    panels.append(Panel("Inferences", "per s", _padded(rates, points), "rate"))
    return TimeChart(
        "series",
        "Watts of each component and inferences per second over the run",
        panels,
        series.start_ns,
        series.step_seconds,
    )


def _padded(values: Sequence[float | None], points: int) -> list[float | None]:
    return [*values, *[None] * (points - len(values))]


def _coverage_chart(report: Report) -> ShareChart:
    coverage = report.coverage
    shares = (
        LabelledShare("measured", coverage.measured, "s-dynamic"),
        LabelledShare("modelled", coverage.modelled, "s-idle"),
        LabelledShare("declared", coverage.declared, "s-overhead"),
    )
    return ShareChart("coverage", "Sources of the known joules", shares)


def _outcomes(report: Report) -> tuple[tuple[str, int, str], ...]:
    events = report.events
    return (
        ("answered on the device", events.local, "s-dynamic"),
        ("answered by the cloud", events.cloud, "s-idle"),
        ("expired, the device's answer stood", events.expired, "s-overhead"),
        ("dead, no answer", events.dead, "s-other"),
    )


def _outcome_chart(report: Report) -> ShareChart:
    outcomes = _outcomes(report)
    total = sum(number for _, number, _ in outcomes)
    shares = [
        LabelledShare(name, number / total if total else None, style, count(number))
        for name, number, style in outcomes
    ]
    return ShareChart("outcomes", "What became of the events", shares)


def _utilisation_chart(components: Iterable[ComponentReport]) -> NestedChart:
    rows = [
        (
            terms.COMPONENTS[one.component],
            (
                LabelledShare("runs of models", one.utilisation.inference, "s-dynamic"),
                LabelledShare("our processes", one.utilisation.ours, "s-idle"),
                LabelledShare("machine, for anybody", one.utilisation.machine, "s-overhead"),
            ),
        )
        for one in components
        if one.utilisation is not None
    ]
    return NestedChart("use", "Utilisation of the machines by component", rows)


# -- tables -----------------------------------------------------------------------------------


def _tables(report: Report, basis: Basis) -> dict[str, object]:
    return {
        "way_rows": list(_way_rows(report, basis)),
        **_series_table(report),
        "coverage_rows": list(_coverage_rows(report)),
        "outcome_rows": list(_outcome_rows(report)),
        "utilised": [one for one in report.components if one.utilisation is not None],
        "grid": _grid,
        "grid_sources": list(
            dict.fromkeys(
                f"{_grid(row)}: {row.intensity_source}"
                for row in report.carbon.rows
                if row.intensity_g_per_kwh is not None
            )
        ),
        "factor": lambda factor: "" if factor is None else f", factor {digits(factor)}",
        "doubts": _doubts,
    }


def _amount_cell(amount: Amount | None, unit: Unit | None = None) -> list[str]:
    """An amount and below it its interval; without ``unit`` in the one that fits."""
    unit = unit or fit([_high(amount)], "J")
    return [terms.amount_text(amount, unit), terms.interval(amount, unit)]


def _stands_on(amount: Amount | None, note: str = "") -> list[str]:
    source, *others = terms.labels(amount)
    return [source, ", ".join(others), note]


def _way_rows(report: Report, basis: Basis) -> Iterator[list[TableCell]]:
    ways = (report.all_cloud, report.all_edge)
    yield ["Whole", basis.cell(report.whole), *(basis.lines(way.per_1000) for way in ways)]
    for one in report.components:
        others = (basis.lines(way.by_component.get(one.component)) for way in ways)
        yield [terms.COMPONENTS[one.component], basis.cell(one.whole), *others]
    yield ["Difference to the cascade", "", *(_difference(way, basis.unit) for way in ways)]
    own = [
        f"{terms.COMPONENTS[one.component].lower()} {cpu(one.cpu_seconds_per_1000)}"
        for one in report.components
        if one.cpu_seconds_per_1000 is not None
    ]
    cells = (cpu(way.cpu_seconds_per_1000) for way in ways)
    yield ["CPU time", ["", *own] if own else NONE, *cells]


def _difference(way: Counterfactual, unit: Unit) -> TableCell:
    difference = way.difference
    if difference is None or difference.joules is None:
        return NONE
    interval = _signed_interval(difference, unit)
    return [terms.signed(difference.joules, unit), interval, way.verdict.value]


def _series_table(report: Report) -> dict[str, object]:
    series = report.series
    unit = fit((value for curve in series.curves for value in curve.watts), "W")
    columns = {"Time": ""}
    columns |= {f"{terms.COMPONENTS[c.component]}, {unit.name}": "num" for c in series.curves}
    rows = []
    for point, rate in enumerate(series.inferences_per_second):
        at = series.start_ns + round(point * series.step_seconds * 1e9)
        watts = [
            curve.watts[point] if point < len(curve.watts) else None for curve in series.curves
        ]
        cells = (NONE if value is None else digits(value / unit.size) for value in watts)
        rows.append([clock(at, series.step_seconds), *cells, digits(rate)])
    return {"series_columns": columns | {"Inferences per s": "num"}, "series_rows": rows}


def _coverage_rows(report: Report) -> Iterator[list[str]]:
    coverage = report.coverage
    yield ["Read from sensors", percent(coverage.measured)]
    yield ["Estimated by a model or table", percent(coverage.modelled)]
    yield ["Declared", percent(coverage.declared)]
    for source, share in coverage.by_source.items():
        yield [f"of it: {terms.SOURCES[source]}", percent(share)]
    yield ["Time under meters without joules", percent(coverage.unknown_seconds_share)]


def _outcome_rows(report: Report) -> Iterator[list[TableCell]]:
    for name, number, _ in _outcomes(report):
        yield [name.capitalize(), count(number)]
    rate = f"escalation rate {percent(report.escalation_rate)}"
    yield ["Escalated to the cloud", [count(report.events.escalated), rate]]
    yield ["Answers of the cloud, repetitions included", count(report.events.answered)]


def _grid(row: CarbonRow) -> str:
    """Zone and year: an intensity without its year says nothing."""
    return " ".join(filter(None, (row.zone, str(row.year) if row.year is not None else None)))


def _doubts(meter: MeterReport) -> list[str]:
    counted = (
        (meter.unknown_windows, "without joules"),
        (meter.degraded_windows, "degraded"),
        (meter.quarantined_windows, "quarantined"),
    )
    gaps = [f"{span(meter.gap_seconds)} of gaps"] if meter.gap_seconds else []
    return [f"{count(number)} {label}" for number, label in counted if number] + gaps
