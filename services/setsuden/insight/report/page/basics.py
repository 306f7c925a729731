"""What the figures stand on: coverage, outcomes, utilisation, traffic."""

from __future__ import annotations

from collections.abc import Sequence

from setsuden.insight.report.model import ComponentReport, Coverage, Report, Utilisation
from setsuden.insight.report.page import bars as html_bars
from setsuden.insight.report.page.bars import Share
from setsuden.insight.report.page.numbers import count, percent, span, volume
from setsuden.insight.report.page.parts import (
    Column,
    bullets,
    facts,
    figure,
    known,
    legend,
    num,
    said,
    section,
    table,
)
from setsuden.insight.report.page.words import COMPONENTS, SOURCES


def basis(report: Report) -> str:
    """The section."""
    return section(
        "basis",
        "What the figures stand on",
        "A joule that a sensor read and one that a model estimated are never mixed up.",
        *_coverage(report.coverage),
        *_outcomes(report),
        *_utilisation(report),
        _traffic(report),
    )


def _coverage(found: Coverage) -> tuple[str, ...]:
    parts = (
        Share("measured", found.measured, "s-dynamic"),
        Share("modelled", found.modelled, "s-idle"),
        Share("declared", found.declared, "s-overhead"),
    )
    drawn = html_bars.shares("coverage", "Sources of the known joules", parts)
    rows = [
        ("Read from sensors", known(percent(found.measured))),
        ("Estimated by a model or table", known(percent(found.modelled))),
        ("Declared", known(percent(found.declared))),
    ]
    rows += [
        (f"of it: {SOURCES[source]}", known(percent(share)))
        for source, share in found.by_source.items()
    ]
    rows += [("Time under meters without joules", known(percent(found.unknown_seconds_share)))]
    missing = [f"No joules are known for: {what}" for what in found.unknown]
    return (
        "<h3>Sources of the joules</h3>",
        _named(parts) if drawn else "",
        figure(drawn) if drawn else "",
        table("Shares of the known joules", (Column("Source"), num("Share")), rows),
        bullets(missing),
    )


def _named(parts: Sequence[Share]) -> str:
    """A legend with each figure, so that the bar needs no letters in it."""
    return legend((part.kind, f"{part.name} {part.said or percent(part.share)}") for part in parts)


def _outcomes(report: Report) -> tuple[str, ...]:
    events = report.events
    ends = (
        ("answered on the device", events.local, "s-dynamic"),
        ("answered by the cloud", events.cloud, "s-idle"),
        ("expired, the device's answer stood", events.expired, "s-overhead"),
        ("dead, no answer", events.dead, "s-other"),
    )
    whole = sum(number for _, number, _ in ends)
    parts = [
        Share(name, number / whole if whole else None, kind, count(number))
        for name, number, kind in ends
    ]
    drawn = html_bars.shares("outcomes", "What became of the events", parts)
    rows = [(name.capitalize(), count(number)) for name, number, _ in ends]
    rows += [
        ("Escalated to the cloud", said(count(events.escalated), _rate(report))),
        ("Answers of the cloud, repetitions included", count(events.answered)),
    ]
    return (
        "<h3>What became of the events</h3>",
        _named(parts) if drawn else "",
        figure(drawn) if drawn else "",
        table("Events with a final result", (Column("Outcome"), num("Events")), rows),
    )


def _rate(report: Report) -> str:
    return f"escalation rate {percent(report.escalation_rate)}"


def _utilisation(report: Report) -> tuple[str, ...]:
    found = [(one, one.utilisation) for one in report.components if one.utilisation is not None]
    if not found:
        return ("<h3>Utilisation</h3>", '<p class="prose">No utilisation is known.</p>')
    rows = [(COMPONENTS[one.component], _busy(use)) for one, use in found]
    names = ("Runs of models", "Our processes", "Machine", "Steal")
    return (
        "<h3>Utilisation</h3>",
        f'<p class="lead">{_WHY_UTILISATION}</p>',
        legend((kind, name) for name, kind in _BUSY),
        figure(html_bars.nested("use", "Utilisation of the machines by component", rows)),
        table(
            "Parts of the machines' CPU time",
            (Column("Component"), *map(num, (*names, "Time under meters"))),
            [_use_row(one, use) for one, use in found],
        ),
    )


_WHY_UTILISATION = (
    "Parts of the machines' CPU time. Joules per inference depend on them: an idle machine divides "
    "its idle power among few inferences."
)
_BUSY = (
    ("runs of models", "s-dynamic"),
    ("our processes", "s-idle"),
    ("machine, for anybody", "s-overhead"),
)


def _busy(use: Utilisation) -> list[Share]:
    shares = (use.inference, use.ours, use.machine)
    return [Share(name, share, kind) for (name, kind), share in zip(_BUSY, shares, strict=True)]


def _use_row(one: ComponentReport, use: Utilisation) -> tuple[str, ...]:
    shares = (use.inference, use.ours, use.machine, use.steal)
    lost = f"{span(one.unknown_seconds)} without joules" if one.unknown_seconds else ""
    return (
        COMPONENTS[one.component],
        *(known(percent(share)) for share in shares),
        said(span(one.seconds), lost),
    )


def _traffic(report: Report) -> str:
    events = report.events
    return '<h3 id="traffic">Traffic</h3>' + facts(
        (
            ("Device to broker", _bytes(events.bytes_up)),
            ("Broker to device", _bytes(events.bytes_down)),
            ("TCP segments", count(events.packets)),
            ("Messages through the broker", count(events.messages)),
        )
    )


def _bytes(number: int) -> str:
    return volume(number)
