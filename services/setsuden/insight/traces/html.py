"""Traces as one self-contained HTML page: no script, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from setsuden.insight.pages import document
from setsuden.schemas import spans as table

from . import figures, html_energy, html_spans, html_waterfall
from .html_parts import Around, badge, safe
from .html_style import STYLE
from .tree import Trace
from .units import UNKNOWN, between, clean, duration, energy, moment

MAX_TRACES = 50
"""Traces drawn in full on one page; the rest is counted in the index."""
_NO_BREAK = "&nbsp;"


def page(
    traces: Mapping[str, Trace], trace_id: str | None = None, *, base: str | None = None
) -> str:
    """One trace, or an index of all with the escalated ones first.

    With ``trace_id`` the other traces only lend what they know: its batch's total, and what a
    teacher's run cost elsewhere. ``base`` is where pages of other traces are served.
    """
    shown = [traces[trace_id]] if trace_id is not None else in_order(traces)
    drawn = shown[:MAX_TRACES]
    top = _index(shown, len(shown) - len(drawn)) if len(shown) != 1 else ""
    around = Around(traces, frozenset(trace.trace_id for trace in drawn), base)
    body = top + "".join(_article(trace, around, alone=len(shown) == 1) for trace in drawn)
    title = f"trace {trace_id[:8]}" if trace_id is not None else _count(shown)
    return document(title, STYLE, body)


def _count(shown: Sequence[Trace]) -> str:
    return f"{len(shown)} trace{'' if len(shown) == 1 else 's'}"


def in_order(traces: Mapping[str, Trace]) -> list[Trace]:
    """Escalated events first, then other events, then the rest, each in the order of time."""
    return sorted(traces.values(), key=_rank)


def _rank(trace: Trace) -> tuple[int, int]:
    is_event = trace.entry.span.name == table.EVENT
    first = 0 if figures.verdict(trace).escalated else 1 if is_event else 2
    return first, trace.entry.span.start_ns


def _index(shown: Sequence[Trace], left: int) -> str:
    rows = "".join(_index_row(trace, place < MAX_TRACES) for place, trace in enumerate(shown))
    more = f" {left} of them are listed but not drawn." if left > 0 else ""
    return (
        f'<p class="eyebrow">Setsuden</p><h1>{_count(shown)}</h1>'
        f'<p class="meta">The escalated ones first.{more}</p>'
        '<section class="index"><table><thead><tr><th scope="col">trace</th>'
        '<th scope="col">what happened</th><th scope="col" class="r">took</th>'
        '<th scope="col" class="r">energy</th><th scope="col" class="r w">class</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _index_row(trace: Trace, drawn: bool) -> str:
    found = figures.verdict(trace)
    name = safe(trace.trace_id)
    short = f"<code>{name[:12]}</code>"
    link = f'<a href="#t-{name}">{short}</a>' if drawn else short
    spent = energy(found.joules.value) if found.joules is not None else UNKNOWN
    least = "" if found.complete or found.joules is None else "≥ "
    return (
        f"<tr><td>{link}</td><td>{safe(found.words)}</td>"
        f'<td class="r">{escape(duration(found.ms))}</td><td class="r">{least}{escape(spent)}</td>'
        f'<td class="r w">{safe(found.energy_class) or "-"}</td></tr>'
    )


def _article(trace: Trace, around: Around, *, alone: bool) -> str:
    parts = (
        _head(trace, around, alone=alone),
        _cards(trace),
        html_waterfall.waterfall(trace),
        html_energy.hops(trace),
        html_energy.path_not_taken(trace, around),
        html_energy.batches(trace, around),
        html_spans.clocks(trace),
        html_spans.spans(trace),
        html_spans.definitions(trace),
    )
    return f'<article id="t-{safe(trace.trace_id)}">{"".join(parts)}</article>'


def _head(trace: Trace, around: Around, *, alone: bool) -> str:
    entry, found = trace.entry, figures.verdict(trace)
    spent = f", {_amount(found)}" if found.joules is not None else ", energy unknown"
    figure = (
        escape(duration(found.ms) + spent).replace(" ", _NO_BREAK).replace(f",{_NO_BREAK}", ", ")
    )
    heading = f"{safe(found.words)}: {figure}"
    level = "h1" if alone else "h2"
    said = [entry.text("setsuden.pipeline") and f"pipeline {entry.text('setsuden.pipeline')}"]
    said += [entry.text("setsuden.event_id") and f"event {entry.text('setsuden.event_id')}"]
    said += [moment(entry.span.start_ns)]
    return (
        f'<p class="eyebrow">Setsuden trace</p><{level} class="title">{heading}</{level}>'
        f'<p class="meta">{safe(", ".join(one for one in said if one))}, trace '
        f"<code>{safe(trace.trace_id)}</code></p><p>{_badges(trace, found)}</p>"
        f"{_about(trace, around)}"
    )


def _about(trace: Trace, around: Around) -> str:
    """The trace that late work came too late for."""
    entry = trace.entry
    if entry.span.name == table.BATCH:
        return ""
    others = [link.trace_id for link in entry.span.links if link.trace_id != trace.trace_id][:4]
    return "".join(f'<p class="meta">about trace {around.link(other)}</p>' for other in others)


def _amount(found: figures.Verdict) -> str:
    if found.joules is None:
        return UNKNOWN
    least = "" if found.complete else "at least "
    return f"{least}{energy(found.joules.value)}"


def _badges(trace: Trace, found: figures.Verdict) -> str:
    entry = trace.entry
    joules = found.joules
    errors = sum(one.span.error is not None for one in trace.spans)
    made = [
        badge("escalated", "hot") if found.escalated else "",
        badge(found.status, "" if found.status == "final" else "bad") if found.status else "",
        badge(f"energy class {found.energy_class}") if found.energy_class else "",
        "" if found.complete else badge("energy incomplete: a lower bound", "bad"),
        badge("energy estimated") if joules is not None and joules.estimated else "",
        badge(f"{errors} failed spans", "bad") if errors else "",
        badge(f"kept because {why}") if (why := entry.text("setsuden.sampling.reason")) else "",
    ]
    return "".join(made)


def _cards(trace: Trace) -> str:
    batch = trace.entry.span.name == table.BATCH
    third = _size_card(trace) if batch else _gate_card(trace)
    cards = (_time_card(trace), _energy_card(trace), third, _split_card(trace))
    body = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{safe(text)}</span></div>'
        for value, text in cards
    )
    return f'<div class="cards">{body}</div>'


def _time_card(trace: Trace) -> tuple[str, str]:
    waits = trace.named(table.ESCALATE)
    waited = f", {duration(sum(wait.ms for wait in waits))} of it for the cloud" if waits else ""
    return duration(trace.entry.ms), f"start to end{waited}"


def _energy_card(trace: Trace) -> tuple[str, str]:
    found = figures.verdict(trace)
    joules = found.joules
    if joules is None:
        return UNKNOWN, "no span states any energy"
    bounds = between(joules.low, joules.high) or "bounds unknown"
    label = "estimated" if joules.estimated else joules.source
    return _amount(found), f"{bounds}, {label}" if label else bounds


def _size_card(trace: Trace) -> tuple[str, str]:
    members = len(trace.entry.span.links)
    size = trace.entry.text("setsuden.batch.size") or str(members)
    return clean(size, 20), f"events in it, {members} of them traced"


def _gate_card(trace: Trace) -> tuple[str, str]:
    decided = figures.gate(trace)
    confidence, reason = decided.get("confidence"), decided.get("reason")
    if not isinstance(confidence, float | int):
        return "-", f"no confidence is known{f', {reason}' if reason else ''}"
    asked = decided.get("threshold")
    said = f", {asked:.0%} asked for" if isinstance(asked, float | int) else ""
    why = f": {str(reason).replace('_', ' ')}" if reason else ""
    return f"{confidence:.0%}", f"the student's confidence{said}{why}"


def _split_card(trace: Trace) -> tuple[str, str]:
    entry = trace.entry
    edge = entry.number("setsuden.energy.edge_joules")
    cloud = entry.number("setsuden.energy.cloud_joules")
    if edge is None or cloud is None or edge + cloud <= 0:
        return str(len(trace.spans)), "spans in this trace"
    return (
        f"{cloud / (edge + cloud):.0%}",
        f"of it in the cloud: edge {energy(edge)}, cloud {energy(cloud)}",
    )
