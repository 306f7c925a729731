"""The report as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from setsuden.insight.report.model import (
    Amount,
    CarbonRow,
    Cell,
    ComponentReport,
    Counterfactual,
    Part,
    Report,
    Severity,
    Verdict,
)
from setsuden.insight.report.totals.amounts import scaled
from setsuden.insight.traces.units import clean, energy

UNKNOWN, NO_SUCH = "unknown", "-"
_WIDTH = 12
_VERDICTS = {
    Verdict.SAVES: "the cascade saves",
    Verdict.COSTS: "the cascade costs more",
    Verdict.CANNOT_TELL: "cannot tell",
}
_MARKS = {Severity.ERROR: "!!", Severity.WARNING: "! ", Severity.INFO: "  "}


def text(report: Report, per: int = 1000) -> str:
    """The whole page; joules are of ``per`` inferences."""
    blocks = (
        _head(report),
        _table(report, per),
        _coverage(report),
        _utilisation(report),
        _otherwise(report, per),
        _carbon(report),
        _cost(report),
        _models(report),
        _findings(report),
        _rows(report),
    )
    return "\n\n".join("\n".join(lines) for block in blocks if (lines := list(block)))


def _head(report: Report) -> Iterator[str]:
    begin, end = _moment(report.start_ns), _moment(report.end_ns)
    yield f"{clean(report.name)}: {begin} to {end} UTC"
    rate = report.escalation_rate
    escalated = f", {rate:.1%} escalated" if rate is not None else ""
    events = report.events
    yield (
        f"{report.devices} device{'' if report.devices == 1 else 's'}, "
        f"{report.inferences:,} inferences{escalated} "
        f"({events.local:,} local, {events.cloud:,} cloud, {events.expired:,} expired, "
        f"{events.dead:,} dead)"
    )


def _moment(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}"


# -- the table --------------------------------------------------------------------------------


def _table(report: Report, per: int) -> Iterator[str]:
    if report.whole.per_1000 is None:
        yield "energy of the run (no inference ended in it), low to high:"
    else:
        yield f"energy per {per:,} inferences, low to high:"
    yield _line("", "dynamic", "idle", "overhead", "total", "")
    pick = _picker(report, per)
    for component in report.components:
        yield from _component(component, pick)
    yield _line("all", "", "", "", _mid(pick(report.whole)), _bounds(pick(report.whole)))


def _picker(report: Report, per: int) -> Callable[[Cell], Amount]:
    if report.whole.per_1000 is None:
        return lambda cell: cell.total
    return lambda cell: scaled(cell.per_1000 or cell.total, per / 1000)


def _component(component: ComponentReport, pick: Callable[[Cell], Amount]) -> Iterator[str]:
    parts = (component.dynamic, component.idle, component.overhead)
    cells = [_mid(pick(part)) if part is not None else NO_SUCH for part in parts]
    whole = pick(component.whole)
    label = f"{_bounds(whole)}  {whole.source}" if whole.joules is not None else component.note
    yield _line(component.component, *cells, _mid(whole), label)


def _line(name: str, *columns: str) -> str:
    *numbers, last = columns
    aligned = "".join(f"{column:>{_WIDTH}}" for column in numbers)
    return f"  {name:<8}{aligned}  {last}".rstrip()


def _mid(amount: Amount) -> str:
    if amount.joules is None:
        return NO_SUCH if amount.complete else UNKNOWN
    return f"{'' if amount.complete else '>'}{energy(amount.joules)}"


def _bounds(amount: Amount) -> str:
    return "" if amount.joules is None else f"({energy(amount.low)} to {energy(amount.high)})"


# -- where the joules come from ---------------------------------------------------------------


def _coverage(report: Report) -> Iterator[str]:
    coverage = report.coverage
    if coverage.measured is not None:
        by = ", ".join(f"{name} {share:.1%}" for name, share in coverage.by_source.items())
        yield f"measured     {coverage.measured:.1%} of the joules ({by})"
    for gap in coverage.unknown:
        yield f"unknown      {gap}: the totals are at least these"


def _utilisation(report: Report) -> Iterator[str]:
    for component in report.components:
        used = component.utilisation
        if used is not None and used.machine is not None:
            yield (
                f"utilisation  {component.component:<8} machine {used.machine:.1%}, "
                f"ours {used.ours or 0:.1%}, models {used.inference or 0:.1%}; "
                f"{component.cpu_seconds:,.2f} CPU-s"
            )


def _otherwise(report: Report, per: int) -> Iterator[str]:
    for name, other in (("all-edge", report.all_edge), ("all-cloud", report.all_cloud)):
        yield f"{name:<12} {_scenario(other, per)}"
    if report.all_edge.per_1000 is not None:
        yield "             all-edge is the student alone: its accuracy is not claimed"


def _scenario(other: Counterfactual, per: int) -> str:
    if other.per_1000 is None or other.difference is None:
        return f"cannot tell: {other.reason}"
    whole, by = scaled(other.per_1000, per / 1000), other.difference
    ends = [NO_SUCH if end is None else _signed(end * per / 1000) for end in (by.low, by.high)]
    return (
        f"{_mid(whole)} {_bounds(whole)}, {ends[0]} to {ends[1]} against the cascade: "
        f"{_VERDICTS[other.verdict]}"
    )


def _signed(joules: float) -> str:
    return f"{'-' if joules < 0 else '+'}{energy(abs(joules))}"


# -- grams and euros --------------------------------------------------------------------------


def _carbon(report: Report) -> Iterator[str]:
    sci = report.sci
    if all(row.intensity_g_per_kwh is None for row in report.carbon.rows):
        yield "SCI          undeclared: --site-of cloud=fr-par-2, energy.site, --assumptions FILE"
        return
    if sci.grams is None:
        yield "SCI          undeclared"
    else:
        made = "M undeclared" if sci.embodied_g is None else f"M {_grams(sci.embodied_g)}"
        yield (
            f"SCI          {_grams(sci.grams)} CO2e per 1,000 inferences "
            f"({_grams(sci.low)} to {_grams(sci.high)}; {made})"
        )
    for row in report.carbon.rows:
        if row.intensity_g_per_kwh is not None:
            yield f"             {row.component:<8} {row.site}: {_grid(row)}"
    if report.carbon.undeclared:
        yield f"             undeclared: {'; '.join(report.carbon.undeclared)}"
    if report.carbon.water_l is not None:
        yield f"water        {_litres(report.carbon.water_l)} in the run"


def _grid(row: CarbonRow) -> str:
    """Never without its year, or that it is hourly."""
    zone = " ".join(str(part) for part in (row.zone, row.year) if part is not None)
    pue = f", PUE {row.pue:g}" if row.component is not Part.NETWORK and row.pue is not None else ""
    return f"{zone}, {row.intensity_g_per_kwh:.4g} g/kWh{pue} ({row.intensity_method})"


def _grams(grams: float | None) -> str:
    if grams is None:
        return UNKNOWN
    return f"{grams * 1000:.3g} mg" if abs(grams) < 1 else f"{grams:.3g} g"


def _litres(litres: float) -> str:
    return f"{litres * 1000:.3g} mL" if litres < 1 else f"{litres:.3g} L"


def _cost(report: Report) -> Iterator[str]:
    cost = report.cost
    if cost.per_1000_eur is not None:
        least = "" if cost.complete else "at least "
        others = [
            f"{name} {value:.3g} EUR"
            for name, value in (
                ("all-edge", cost.all_edge_per_1000_eur),
                ("all-cloud", cost.all_cloud_per_1000_eur),
            )
            if value is not None
        ]
        tail = f"; {', '.join(others)}" if others else ""
        yield f"cost         {least}{cost.per_1000_eur:.3g} EUR per 1,000 events{tail}"
    else:
        yield "cost         undeclared: --tariff 0.21, --price cloud=0.12, --assumptions FILE"
    if cost.per_1000_eur is not None and cost.undeclared:
        yield f"             undeclared: {'; '.join(cost.undeclared)}"


def _models(report: Report) -> Iterator[str]:
    if report.models:
        yield "models, per 1,000 items:"
    for model in report.models:
        per = model.joules_per_1000_items
        joules = f"{_mid(per)} {_bounds(per)}" if per is not None else UNKNOWN
        ms = f"{model.cpu_ms_per_item:.3g} ms CPU each" if model.cpu_ms_per_item else ""
        name = clean(f"{model.pipeline} {model.model}")
        part = Part(model.component)
        yield f"  {part:<8} {name:<32} {model.items:>12,.0f}  {joules}  {ms}".rstrip()


def _findings(report: Report) -> Iterator[str]:
    for finding in report.findings:
        yield f"{_MARKS[finding.severity]} {finding.words}"
        if finding.advice:
            yield f"   {finding.advice}"


def _rows(report: Report) -> Iterator[str]:
    rows = report.rows
    lost = sum(meter.gap_seconds for meter in report.meters)
    yield (
        f"from {rows.windows:,} windows of {rows.meters} meters"
        + (f", {rows.torn} torn rows left out" if rows.torn else "")
        + (f", {rows.duplicates} counted once" if rows.duplicates else "")
        + (f", {lost:,.0f} s without rows" if lost >= 1 else "")
    )
    yield f"{len(report.assumptions)} assumptions, each with its source: --json, --html"
