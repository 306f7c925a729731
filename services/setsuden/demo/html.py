"""The page of a demo run: ``demo.html`` and the data it is rendered from."""

from __future__ import annotations

from setsuden.insight.render.charts import Stretch
from setsuden.insight.render.environment import render
from setsuden.insight.render.trace import HopBar, WaterfallRow, axis_labels, colour
from setsuden.insight.traces.units import energy

from .report_model import DemoReport, Hop, Joules

_PARTS = (("edge", "edge-agent"), ("broker", "nats"), ("cloud", "worker"))
"""Each part, and the service whose colour it has."""


def page(report: DemoReport) -> str:
    """The whole page."""
    hops = report.sample.hops if report.sample is not None else ()
    whole_ms = max((hop.start_ms + hop.ms for hop in hops), default=0.0) or 1.0
    return render(
        "demo.html",
        report=report,
        cloud="Ray Serve" if report.cloud == "ray-serve" else "a plain worker",
        cards=_cards(report),
        accuracy=_accuracy(report),
        energy=_energy(report),
        total=_total(report.joules_per_1000.total),
        latency=[
            [name, _milliseconds(row.p50), _milliseconds(row.p99)]
            for name, row in (
                ("easy, answered on the edge", report.latency_ms.easy),
                ("escalated, answered by the teacher", report.latency_ms.escalated),
            )
        ],
        waterfall=[_hop(hop, whole_ms) for hop in hops],
        axis=axis_labels(whole_ms),
        method=_method(report),
    )


def _cards(report: DemoReport) -> list[tuple[str, str, str]]:
    total = report.joules_per_1000.total
    share = report.escalated / max(report.accepted, 1)
    wrong = "bad" if report.lost or report.doubled else ""
    return [
        (f"{report.accuracy.cascade:.1%}", "answered rightly by the cascade", ""),
        (f"{share:.1%}", "escalated to the teacher", ""),
        (f"{_number(total.value)} J", f"per 1,000 events, {_label(total)}", ""),
        (f"{report.lost} / {report.doubled}", "lost / finished twice", wrong),
    ]


def _accuracy(report: DemoReport) -> list[HopBar]:
    accuracy = report.accuracy
    rows = (
        ("student alone", accuracy.student, "edge-agent"),
        ("cascade", accuracy.cascade, "nats"),
        ("teacher alone", accuracy.teacher, "worker"),
    )
    return [
        HopBar(
            name=name,
            service="",
            colour=style,
            label=f"{name}: {share:.2%}",
            bar=Stretch.between(0, share),
            interval=None,
            amount=f"{share:.2%}",
            bounds="",
        )
        for name, share, style in rows
    ]


def _energy(report: DemoReport) -> list[HopBar]:
    parts = [(name, getattr(report.joules_per_1000, name), style) for name, style in _PARTS]
    highest = max(joules.high or 0.0 for _, joules, _ in parts) or 1.0
    return [_joules_bar(name, joules, style, highest) for name, joules, style in parts]


def _joules_bar(name: str, joules: Joules, style: str, highest: float) -> HopBar:
    amount, bounds, interval = f"{_number(joules.value)} J", "", None
    if joules.low is not None and joules.high is not None:
        bounds = f"{_number(joules.low)} to {_number(joules.high)} J"
        interval = Stretch.between(joules.low / highest, joules.high / highest)
    bar = Stretch.between(0, (joules.value or 0.0) / highest)
    return HopBar(name, "", style, f"{name}: {amount}", bar, interval, amount, bounds)


def _total(total: Joules) -> str:
    low, high = _number(total.low), _number(total.high)
    return f"Total {_number(total.value)} J (low {low}, high {high}), {_label(total)}."


def _hop(hop: Hop, whole_ms: float) -> WaterfallRow:
    took = f"{hop.ms:.2f} ms"
    return WaterfallRow(
        hop.name,
        hop.service,
        colour(hop.service),
        hop.depth,
        f"{hop.name}: from {hop.start_ms:.2f} ms for {took}",
        Stretch.between(hop.start_ms / whole_ms, (hop.start_ms + hop.ms) / whole_ms),
        took,
        energy(hop.joules),
    )


def _method(report: DemoReport) -> list[list[str]]:
    cpu, joules = report.cpu_seconds_per_1000, report.joules_per_1000
    return [
        [name, f"{getattr(cpu, name):.3f} s", getattr(joules, name).method] for name, _ in _PARTS
    ]


def _milliseconds(value: float | None) -> str:
    return "none" if value is None else f"{value:,.2f} ms"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.3g}"


def _label(joules: Joules) -> str:
    return "estimated (table model)" if joules.source == "table_model" else joules.source
