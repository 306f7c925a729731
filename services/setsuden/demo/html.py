"""The run as one self-contained HTML page: no script, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from setsuden.insight.pages import document
from setsuden.insight.traces.units import energy

from .report_model import DemoReport, Hop, Joules

_STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5d6b7a;--line:#d9e0e7;--paper:#fbfcfd;
--edge:#1f8a70;--broker:#8a63d2;--cloud:#e07a1f;--card:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e8edf2;--soft:#9aa8b5;--line:#2c3743;
--paper:#12181f;--card:#1a222b}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.7rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
p{margin:.4rem 0;color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;margin-top:1.4rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.8rem 1rem}
.card b{display:block;font-size:1.45rem}.card span{color:var(--soft);font-size:.85rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.35rem .6rem;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600;font-size:.85rem}
svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font:12px system-ui,sans-serif}
.bad{color:#c62828}.note{font-size:.88rem}
"""
_COLOURS = {"edge-agent": "var(--edge)", "nats": "var(--broker)", "worker": "var(--cloud)"}
_PARTS = (("edge", "--edge"), ("broker", "--broker"), ("cloud", "--cloud"))


def page(report: DemoReport) -> str:
    """The whole page."""
    body = "".join(
        (
            _head(report),
            _cards(report),
            _accuracy(report),
            _energy(report),
            _latency(report),
            _waterfall(report),
            _method(report),
        )
    )
    return document(report.workload, _STYLE, body)


def _head(report: DemoReport) -> str:
    cloud = "Ray Serve" if report.cloud == "ray-serve" else "a plain worker"
    outage = f", nats-server dead for {report.outage_s:.0f} s" if report.outage_s else ""
    return (
        f"<h1>{report.events:,} events, {escape(report.workload)}</h1>"
        f"<p>One edge agent, a real nats-server, the teacher on {cloud}{outage}.</p>"
    )


def _cards(report: DemoReport) -> str:
    total = report.joules_per_1000.total
    share = report.escalated / max(report.accepted, 1)
    good = report.lost == 0 and report.doubled == 0
    cards = (
        (f"{report.accuracy.cascade:.1%}", "answered rightly by the cascade"),
        (f"{share:.1%}", "escalated to the teacher"),
        (f"{_number(total.value)} J", f"per 1,000 events, {_label(total)}"),
        (f"{report.lost} / {report.doubled}", "lost / finished twice"),
    )
    items = "".join(
        f'<div class="card"><b{"" if good or "lost" not in text else " class=bad"}>'
        f"{escape(value)}</b><span>{escape(text)}</span></div>"
        for value, text in cards
    )
    return f'<div class="cards">{items}</div>'


def _accuracy(report: DemoReport) -> str:
    found = report.accuracy
    rows = (
        ("student alone", found.student, "--edge"),
        ("cascade", found.cascade, "--broker"),
        ("teacher alone", found.teacher, "--cloud"),
    )
    bars = "".join(
        _bar(place, name, value, f"{value:.2%}", colour)
        for place, (name, value, colour) in enumerate(rows)
    )
    return f"<h2>Accuracy on the same events</h2>{_svg(700, 96, bars)}"


def _bar(place: int, name: str, share: float, text: str, colour: str) -> str:
    y = place * 32
    return (
        f'<text x="0" y="{y + 19}">{escape(name)}</text>'
        f'<rect x="130" y="{y + 4}" width="{480 * share:.1f}" height="22" rx="4" '
        f'fill="var({colour})"/>'
        f'<text x="{138 + 480 * share:.1f}" y="{y + 19}">{escape(text)}</text>'
    )


def _energy(report: DemoReport) -> str:
    parts = report.joules_per_1000
    highest = max(
        ((joules.high or 0.0) for joules in (parts.edge, parts.broker, parts.cloud)), default=0.0
    )
    bars = "".join(
        _interval(place, name, getattr(parts, name), highest or 1.0, colour)
        for place, (name, colour) in enumerate(_PARTS)
    )
    total = parts.total
    return (
        "<h2>Joules per 1,000 events, with low and high</h2>"
        f"{_svg(700, 100, bars)}"
        f'<p class="note">Total {_number(total.value)} J (low {_number(total.low)}, high '
        f"{_number(total.high)}), {_label(total)}. Network: none, everything ran over loopback.</p>"
    )


def _interval(place: int, name: str, joules: Joules, highest: float, colour: str) -> str:
    y, scale = place * 32, 440 / highest
    low, mid, high = ((v or 0.0) * scale for v in (joules.low, joules.value, joules.high))
    return (
        f'<text x="0" y="{y + 19}">{name}</text>'
        f'<rect x="130" y="{y + 4}" width="{mid:.1f}" height="22" rx="4" fill="var({colour})"/>'
        f'<path d="M{130 + low:.1f} {y + 15}H{130 + high:.1f}M{130 + low:.1f} {y + 9}v12'
        f'M{130 + high:.1f} {y + 9}v12" stroke="var(--ink)" stroke-width="1.5" fill="none"/>'
        f'<text x="{142 + high:.1f}" y="{y + 19}">{_number(joules.value)} J</text>'
    )


def _latency(report: DemoReport) -> str:
    rows = [
        (name, _milliseconds(row.p50), _milliseconds(row.p99))
        for name, row in (
            ("easy, answered on the edge", report.latency_ms.easy),
            ("escalated, answered by the teacher", report.latency_ms.escalated),
        )
    ]
    return "<h2>Accepted until final</h2>" + _table(("", "p50", "p99"), rows)


def _milliseconds(value: float | None) -> str:
    return "none" if value is None else f"{value:,.2f} ms"


def _waterfall(report: DemoReport) -> str:
    sample = report.sample
    if sample is None:
        return "<h2>One escalated event</h2><p>No event was escalated in this run.</p>"
    whole = max(hop.start_ms + hop.ms for hop in sample.hops) or 1.0
    rows = "".join(_hop(place, hop, whole) for place, hop in enumerate(sample.hops))
    return (
        "<h2>One escalated event</h2>"
        f'<p class="note">{escape(sample.event_id)}, trace {escape(sample.trace_id)}</p>'
        f"{_svg(860, 28 * len(sample.hops) + 4, rows)}"
    )


def _hop(place: int, hop: Hop, whole: float) -> str:
    y = place * 28
    x, width = 250 + 400 * hop.start_ms / whole, max(2.0, 400 * hop.ms / whole)
    return (
        f'<text x="{8 + 14 * hop.depth}" y="{y + 18}">{escape(hop.name)}</text>'
        f'<text x="150" y="{y + 18}" opacity=".65">{escape(hop.service)}</text>'
        f'<rect x="{x:.1f}" y="{y + 6}" width="{width:.1f}" height="16" rx="3" '
        f'fill="{_COLOURS.get(hop.service, "var(--soft)")}"/>'
        f'<text x="740" y="{y + 18}" text-anchor="end">{hop.ms:.2f} ms</text>'
        f'<text x="850" y="{y + 18}" text-anchor="end">{escape(energy(hop.joules))}</text>'
    )


def _method(report: DemoReport) -> str:
    cpu = report.cpu_seconds_per_1000
    rows = [
        (name, f"{getattr(cpu, name):.3f} s", getattr(report.joules_per_1000, name).method)
        for name, _ in _PARTS
    ]
    return (
        "<h2>How this was found</h2>"
        + _table(("", "CPU per 1,000", "energy"), rows)
        + f'<p class="note">No power sensor was read: joules are estimated from exact CPU-seconds '
        "of whole processes and a labelled table, low and high beside each. Escalations took "
        f"{report.bytes_up:,} bytes up. Accuracy compares final results with the labels of the "
        "test split. The trace file opens in Jaeger's upload tab.</p>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{names}</tr>{body}</table>"


def _svg(width: int, height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{content}</svg>'


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.3g}"


def _label(joules: Joules) -> str:
    return "estimated (table model)" if joules.source == "table_model" else joules.source
