"""Where the joules are, what another way would use, and the run over time."""

from __future__ import annotations

from setsuden.insight.report.model import (
    Amount,
    Cell,
    ComponentReport,
    Counterfactual,
    Report,
    Series,
)
from setsuden.insight.report.page import bars as html_bars
from setsuden.insight.report.page import series as html_series
from setsuden.insight.report.page.basis import Basis
from setsuden.insight.report.page.numbers import (
    NONE,
    Unit,
    clock,
    cpu,
    digits,
    euros,
    fit,
    span,
    volume,
)
from setsuden.insight.report.page.parts import (
    Column,
    Html,
    bullets,
    figure,
    folded,
    known,
    legend,
    num,
    said,
    section,
    table,
)
from setsuden.insight.report.page.words import COMPONENTS, SCENARIOS, comparison, labels, signed

_NOTHING = Html('<p class="prose">No joules are known, so there is nothing to draw.</p>')
_KEY = (
    ("s-dynamic", "Dynamic: above idle, by runs of models"),
    ("s-idle", "Idle: of the reserved part of the machines"),
    ("s-overhead", "Overhead: above idle, outside the runs"),
    ("k-whisker", "95 % interval of the whole"),
)


def components(report: Report, basis: Basis) -> str:
    """The stacked bars and their table."""
    drawn = html_bars.components(report, basis)
    note = f"{_scale(basis)} The whole is edge, broker, network and cloud, in this order."
    plot = figure(drawn, note) if drawn else _NOTHING
    return section(
        "components",
        "Where the joules go",
        _largest(report, basis),
        legend(_KEY) if drawn else "",
        plot,
        _components_table(report, basis),
    )


def _scale(basis: Basis) -> str:
    return f"{basis.unit.name} {basis.words}, all bars on one scale."


def _largest(report: Report, basis: Basis) -> str:
    amounts = [(basis.of(one.whole), one) for one in report.components]
    found = [(known.joules, known, one) for known, one in amounts if known and known.joules]
    if not found:
        return "No component has known joules."
    _, most, component = max(found, key=lambda each: each[0])
    return f"The largest known part is the {_name(component).lower()}: {basis.mid(most)}."


def _name(component: ComponentReport) -> str:
    return COMPONENTS[component.component]


def _components_table(report: Report, basis: Basis) -> str:
    columns = (Column("Component"), *map(num, ("Whole", "Dynamic", "Idle", "Overhead")))
    rows = [_component_row(one, basis) for one in report.components]
    whole = basis.of(report.whole)
    total = (Html("<b>Whole</b>"), _cell(whole, basis), "", "", "", _stands(whole))
    return table(
        f"Joules {basis.words}, with their 95 % intervals",
        (*columns, Column("Stands on")),
        [*rows, total],
    )


def _component_row(one: ComponentReport, basis: Basis) -> tuple[str, ...]:
    parts = (one.whole, one.dynamic, one.idle, one.overhead)
    return (
        _name(one),
        *(_part(part, basis) for part in parts),
        _stands(basis.of(one.whole), one.note),
    )


def _stands(amount: Amount | None, note: str = "") -> Html:
    source, *rest = labels(amount)
    return said(source, ", ".join(rest), note)


def _part(part: Cell | None, basis: Basis) -> Html:
    """A component that has no such part says so: that is not the same as an unknown one."""
    return Html("<span>no such part</span>") if part is None else _cell(basis.of(part), basis)


def _cell(amount: Amount | None, basis: Basis) -> Html:
    return said(known(basis.mid(amount)), basis.between(amount))


def ways(report: Report, basis: Basis) -> str:
    """The cascade beside all-edge and all-cloud, and the differences around zero."""
    others = (report.all_cloud, report.all_edge)
    drawn = html_bars.ways(report, basis)
    apart = html_bars.differences(others, basis)
    return section(
        "ways",
        "The same events, another way",
        "What the run's own coefficients say had every event gone to the cloud, or none. On the "
        "devices the student is alone: that it is as accurate is not claimed.",
        figure(drawn, _scale(basis)) if drawn else _NOTHING,
        _differences(apart) if apart else "",
        _ways_table(report, basis),
        *(_assumed(other, basis) for other in others),
    )


def _differences(drawn: str) -> str:
    note = (
        "An interval that crosses 0 cannot tell. A coefficient that is wrong is wrong in both ways "
        "alike, so its error counts only on the joules by which they differ."
    )
    return f"<h3>Difference to the cascade</h3>{figure(drawn, note)}"


def _ways_table(report: Report, basis: Basis) -> str:
    others = (report.all_cloud, report.all_edge)
    heads = ("Cascade", *(SCENARIOS[other.scenario] for other in others))
    whole = (Html("<b>Whole</b>"), _cell(basis.of(report.whole), basis))
    rows: list[tuple[str, ...]] = [(*whole, *(_cell(other.per_1000, basis) for other in others))]
    rows += [_way_row(one, others, basis) for one in report.components]
    rows += [_apart_row(others, basis), _cpu_row(report, others), _bytes_row(others)]
    rows += [_euro_row(report)]
    return table(
        f"Joules {basis.words}; CPU time, bytes and euros per 1,000 inferences",
        (Column("Component"), *map(num, heads)),
        rows,
    )


def _way_row(
    one: ComponentReport, others: tuple[Counterfactual, ...], basis: Basis
) -> tuple[str, ...]:
    cells = (_cell(other.by_component.get(one.component), basis) for other in others)
    return (_name(one), _cell(basis.of(one.whole), basis), *cells)


def _apart_row(others: tuple[Counterfactual, ...], basis: Basis) -> tuple[str, ...]:
    return ("Difference to the cascade", "", *(_apart(other, basis.unit) for other in others))


def _apart(other: Counterfactual, unit: Unit) -> Html:
    found = other.difference
    if found is None or found.joules is None:
        return known(NONE)
    low = "unknown" if found.low is None else signed(found.low, unit)
    high = "unknown" if found.high is None else signed(found.high, unit)
    return said(known(signed(found.joules, unit)), f"{low} to {high}", other.verdict.value)


def _cpu_row(report: Report, others: tuple[Counterfactual, ...]) -> tuple[str, ...]:
    each = [one.cpu_seconds_per_1000 for one in report.components]
    own = said("", *_cpu_parts(report)) if any(v is not None for v in each) else known(NONE)
    return (
        "CPU time",
        own,
        *(known(cpu(other.cpu_seconds_per_1000)) for other in others),
    )


def _cpu_parts(report: Report) -> list[str]:
    return [
        f"{_name(one).lower()} {cpu(one.cpu_seconds_per_1000)}"
        for one in report.components
        if one.cpu_seconds_per_1000 is not None
    ]


def _bytes_row(others: tuple[Counterfactual, ...]) -> tuple[str, ...]:
    cells = (known(volume(other.bytes_per_1000)) for other in others)
    return ("Bytes on the wire", Html('<a href="#traffic">of the run</a>'), *cells)


def _euro_row(report: Report) -> tuple[str, ...]:
    cost = report.cost
    each = (cost.per_1000_eur, cost.all_cloud_per_1000_eur, cost.all_edge_per_1000_eur)
    return ("Euros", *(known(euros(value)) for value in each))


def _assumed(other: Counterfactual, basis: Basis) -> str:
    lines = [*other.assumptions]
    if not lines:
        return ""
    body = f'<p class="prose">{comparison(other, basis.unit)}</p>' if not other.reason else ""
    return folded(f"{SCENARIOS[other.scenario]}: what is assumed", body + bullets(lines))


def time(report: Report) -> str:
    """Watts and inferences per second, and the same in a table."""
    drawn = html_series.series(report)
    found = report.series
    if not drawn:
        return section("time", "Over the run", "The run has no window to draw.")
    return section(
        "time",
        "Over the run",
        f"Mean watts that each component answers for, and inferences, over steps of "
        f"{span(found.step_seconds)}. Every panel has its own scale, from 0.",
        legend((("s-hole", "Nothing is known here"),)) if html_series.holes(found) else "",
        figure(drawn, "Times in UTC."),
        folded("The values as a table", _series_table(found), paper=False),
    )


def _series_table(found: Series) -> str:
    curves = [(COMPONENTS[curve.component], curve.watts) for curve in found.curves]
    unit = fit([value for _, watts in curves for value in watts], "W")
    rows = []
    for place, rate in enumerate(found.inferences_per_second):
        at = found.start_ns + round(place * found.step_seconds * 1e9)
        cells = [_watts(watts, place, unit) for _, watts in curves]
        rows.append((clock(at, found.step_seconds), *cells, digits(rate)))
    heads = (*(f"{name}, {unit.name}" for name, _ in curves), "Inferences per s")
    caption = f"Means over {span(found.step_seconds)}, which begin at this time (UTC)"
    return table(caption, (Column("Time"), *map(num, heads)), rows, dense=True)


def _watts(watts: tuple[float | None, ...], place: int, unit: Unit) -> str:
    value = watts[place] if place < len(watts) else None
    return NONE if value is None else digits(value / unit.size)
