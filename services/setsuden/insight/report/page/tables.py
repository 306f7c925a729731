"""Findings, and the appendix: models, meters, machines, hours, assumptions, rows."""

from __future__ import annotations

import shlex

from setsuden.insight.report.model import (
    Amount,
    ComponentReport,
    Finding,
    HourReport,
    MachineReport,
    MeterReport,
    ModelReport,
    Report,
)
from setsuden.insight.report.page.numbers import (
    NONE,
    Unit,
    bounds,
    count,
    digits,
    figure,
    fit,
    percent,
    quantity,
    span,
)
from setsuden.insight.report.page.numbers import cpu as seconds
from setsuden.insight.report.page.parts import (
    Column,
    Html,
    bullets,
    code,
    facts,
    folded,
    known,
    num,
    said,
    section,
    table,
    text,
)
from setsuden.insight.report.page.words import (
    COMPONENTS,
    METHODS,
    SEVERITIES,
    SOURCES,
    amount,
    boundary,
    interval,
    labels,
)
from setsuden.insight.traces.html_parts import safe

_FEW = 12
_METERS, _HOURS = 120, 300
"""Rows that are shown: a report of any run stays under 400 kB."""


def findings(report: Report) -> str:
    """What a person may want to act on, the worst first; nothing when there is nothing."""
    if not report.findings:
        return ""
    found = sorted(report.findings, key=lambda one: SEVERITIES.index(one.severity))
    made = "".join(map(_finding, found))
    return section("findings", "Findings", "", f'<ul class="find">{made}</ul>')


def _finding(one: Finding) -> str:
    advice = f'<p class="advice">{text(one.advice)}</p>' if one.advice else ""
    evidence = ", ".join(f"{name} {_evidence(value)}" for name, value in one.evidence.items())
    shown = f'<p class="evidence">{text(evidence)}</p>' if evidence else ""
    return (
        f'<li class="{one.severity.value}"><span class="kind">{one.severity.value.capitalize()}, '
        f"{text(one.code)}</span><b>{text(one.words)}</b>{advice}{shown}</li>"
    )


def _evidence(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else digits(value)


def appendix(report: Report) -> str:
    """Every table behind the figures, and how to find them again."""
    return section(
        "appendix",
        "Appendix",
        "",
        "<h3>Models</h3>",
        _models(report),
        "<h3>Meters</h3>",
        _meters(report),
        "<h3>Machines</h3>",
        _machines(report),
        "<h3>Components</h3>",
        _components(report),
        "<h3>Hours</h3>",
        _hours(report),
        "<h3>Assumptions</h3>",
        bullets(report.assumptions) or '<p class="prose">Nothing is assumed.</p>',
        "<h3>Rows</h3>",
        _rows(report),
        _recompute(report),
    )


def _models(report: Report) -> str:
    unit = fit([_high(one.joules_per_1000_items) for one in report.models], "J")
    heads = (*map(num, ("Runs", "CPU per item", "Joules per 1,000 items")), Column("Method"))
    return table(
        "Runs of models alone: overhead and idle time without a run belong to none",
        (Column("Model"), *heads),
        [_model(one, unit) for one in report.models],
    )


def _high(found: Amount | None) -> float | None:
    return None if found is None else found.high


def _model(one: ModelReport, unit: Unit) -> tuple[str, ...]:
    each = None if one.cpu_ms_per_item is None else one.cpu_ms_per_item / 1000
    found = one.joules_per_1000_items
    return (
        said(
            one.model, f"{COMPONENTS[one.component].lower()}, {one.pipeline}", code(one.digest, 19)
        ),
        said(known(count(one.runs)), f"{count(one.items)} items"),
        said(known(seconds(each)), f"{seconds(one.cpu_seconds)} in all"),
        said(known(amount(found, unit)), interval(found, unit)),
        said(METHODS[one.method], ", ".join(labels(found))),
    )


def _meters(report: Report) -> str:
    watts = fit([one.watts for one in report.meters], "W")
    joules = fit([one.joules for one in report.meters], "J")
    columns = (
        *map(Column, ("Meter", "Sensor", "Idle power")),
        *map(num, ("Windows", "Mean power", "Joules of the machine")),
    )
    shown = table(
        "Each life of each meter; power and joules are of the whole machine it reads",
        columns,
        [_meter(one, watts, joules) for one in report.meters],
        most=_METERS,
    )
    return _folded(len(report.meters), "meters", shown)


def _folded(rows: int, what: str, shown: str) -> str:
    """Long tables open on demand."""
    return shown if rows <= _FEW else folded(f"{rows:,} {what}", shown)


def _meter(one: MeterReport, watts: Unit, joules: Unit) -> tuple[str, ...]:
    return (
        said(
            one.name,
            f"{COMPONENTS[one.component].lower()}, site {one.site or NONE}, {one.access.value}",
            f"host {one.host_id}, {one.cores} cores, "
            f"{percent(one.reserved_share)} reserved ({one.reserved_why})",
            f"{one.software}, meter {one.meter}",
            Html(f"configuration {code(one.config_sha256, 12)}"),
        ),
        said(
            one.sensor,
            f"{SOURCES[one.source]}, {boundary(one.boundary)}{_factor(one.factor)}",
            one.origin,
            _bend(one.exponent),
        ),
        said(
            known(figure(one.idle_watts, watts)),
            f"{one.idle_origin}{_factor(one.idle_factor)}",
        ),
        said(known(count(one.windows)), span(one.seconds), *_doubts(one)),
        known(figure(one.watts, watts)),
        known(figure(one.joules, joules)),
    )


def _factor(factor: float | None) -> str:
    return "" if factor is None else f", factor {digits(factor)}"


def _bend(exponent: float) -> str:
    if exponent == 1:
        return ""
    return f"dynamic power grows with utilisation to the power of {digits(exponent)}"


def _doubts(one: MeterReport) -> list[str]:
    counted = (
        (one.unknown_windows, "without joules"),
        (one.degraded_windows, "degraded"),
        (one.quarantined_windows, "quarantined"),
    )
    gaps = [f"{span(one.gap_seconds)} of gaps"] if one.gap_seconds else []
    return [f"{count(number)} {word}" for number, word in counted if number] + gaps


def _machines(report: Report) -> str:
    unit = fit([one.joules for one in report.machines], "J")
    heads = (Column("Components"), *map(num, ("Whole machine", "Ours", "Everyone else's")))
    shown = table(
        "Each machine once, whoever of ours ran on it",
        (Column("Machine"), *heads),
        [_machine(one, unit) for one in report.machines],
        most=_METERS,
    )
    return _folded(len(report.machines), "machines", shown)


def _machine(one: MachineReport, unit: Unit) -> tuple[str, ...]:
    return (
        one.host_id,
        ", ".join(COMPONENTS[part].lower() for part in one.components),
        *(known(figure(joules, unit)) for joules in (one.joules, one.ours, one.other)),
    )


def _components(report: Report) -> str:
    return table(
        "Of the whole run",
        (
            Column("Component"),
            *map(num, ("Idle without a run", "Not ours, in no sum", "CPU time", "Meters")),
        ),
        [_component(one) for one in report.components],
    )


def _component(one: ComponentReport) -> tuple[str, ...]:
    unused, other = one.idle_unused, one.other
    return (
        COMPONENTS[one.component],
        _whole_run(unused),
        _whole_run(other),
        said(
            known(seconds(one.cpu_seconds)),
            f"{seconds(one.inference_cpu_seconds)} in runs of models",
        ),
        known(count(one.meters)),
    )


def _whole_run(found: Amount | None) -> Html:
    unit = fit([_high(found)], "J")
    return said(known(amount(found, unit)), interval(found, unit))


def _hours(report: Report) -> str:
    unit = fit([one.high if one.joules is not None else None for one in report.hours], "J")
    heads = ("Joules", "Inferences", "Operational CO₂e", "Time under meters")
    shown = table(
        "Each component at each site in each hour (UTC)",
        (Column("Hour"), *map(num, heads)),
        [_hour(one, unit) for one in report.hours],
        most=_HOURS,
        dense=True,
    )
    return _folded(len(report.hours), "rows", shown)


def _hour(one: HourReport, unit: Unit) -> tuple[str, ...]:
    least = "" if one.complete or one.joules is None else "at least "
    return (
        said(one.hour, f"{COMPONENTS[one.component].lower()}, site {one.site or NONE}"),
        said(known(least + figure(one.joules, unit)), bounds(one.low, one.high, unit)),
        known(count(one.inferences)),
        known(quantity(one.operational_g, "g")),
        known(span(one.seconds)),
    )


def _rows(report: Report) -> str:
    rows = report.rows
    torn = f", {count(rows.torn)} torn last lines left out" if rows.torn else ""
    twice = f", {count(rows.duplicates)} found twice and counted once" if rows.duplicates else ""
    return facts(
        (
            ("Read", f"{count(rows.meters)} meters, {count(rows.windows)} windows{torn}{twice}"),
            ("SHA-256 of the rows", code(rows.sha256)),
            ("SHA-256 of the assumptions", code(rows.assumptions_sha256)),
            ("Version of the report", str(report.version)),
        )
    )


def _recompute(report: Report) -> str:
    """The name of the run stands where its folder's path belongs."""
    command = safe(f"setsuden report {shlex.quote(report.name)} --recompute")
    return (
        '<p class="prose">Every figure follows from these rows and assumptions alone. To attribute '
        f"every window again and compare, where the run's folder is:</p><pre>{command}</pre>"
    )
