"""The small print of a page: every span's attributes, the clocks, what the words mean."""

from __future__ import annotations

from collections.abc import Mapping

from setsuden.schemas import spans as table
from setsuden.telemetry.span import Value

from . import figures
from .found import FoundSpan
from .html_parts import colour_class, safe, section
from .html_parts import table as html_table
from .tree import Trace
from .units import duration, moment

MAX_SPANS = 500
"""Spans whose attributes are listed; the rest is counted."""
_DEFINITIONS = (
    ("own energy", "what this span alone used (exclusive); a batch's energy is shared out"),
    ("total", "sum of the spans with allocation exclusive or batch_share"),
    ("overhead", "attempts that gave no result; not in the total of the event"),
    ("low, high", "bounds; errors of one model are systematic, so bounds add linearly"),
    ("at least", "a tier's part is unknown, so the total is a lower bound"),
    ("critical path", "as the Jaeger UI draws it, in whole microseconds"),
    ("queued", "from stored in the stream until taken, by cloud clocks alone"),
)
_ESTIMATED = (
    "estimated",
    "no power sensor was read: joules come from exact CPU-seconds and a labelled table",
)


def spans(trace: Trace) -> str:
    """Every span with its attributes, folded."""
    rows = list(trace.walk())
    body = "".join(_span(row.found) for row in rows[:MAX_SPANS])
    left = len(rows) - MAX_SPANS
    more = f'<p class="note">{left} more spans are left out.</p>' if left > 0 else ""
    return section("Every span", "Open one to see its attributes.", body + more)


def _span(found: FoundSpan) -> str:
    span = found.span
    resource = {f"resource {key}": value for key, value in found.resource.items()}
    return (
        f'<details class="{colour_class(found.service)}"><summary><b><span class="dot"></span>'
        f'{safe(span.name, 80)}</b><span class="meta">{safe(found.service, 40)}, '
        f"{span.kind.name}, {duration(found.ms)}</span></summary>"
        f'<div class="in">{_pairs(_facts(found))}{_pairs(span.attributes)}{_events(found)}'
        f"{_pairs(resource)}</div></details>"
    )


def _facts(found: FoundSpan) -> dict[str, Value]:
    span = found.span
    facts: dict[str, Value] = {
        "span id": span.span_id,
        "parent": span.parent_id or "none",
        "start": moment(span.start_ns),
    }
    for number, link in enumerate(span.links[:100], 1):
        facts[f"link {number}"] = f"{link.trace_id} / {link.span_id}"
    if span.error is not None:
        facts["error"] = span.error or "yes"
    return facts


def _events(found: FoundSpan) -> str:
    return "".join(
        f"<p><b>{safe(event.name, 80)}</b> <span class='meta'>after {duration(after)}</span></p>"
        f"{_pairs(event.attributes)}"
        for event in found.span.events[:100]
        for after in [(event.at_ns - found.span.start_ns) / 1e6]
    )


def _pairs(pairs: Mapping[str, Value]) -> str:
    rows = [(key, _text(value)) for key, value in sorted(pairs.items())]
    return html_table((), rows, "kv mono") if rows else ""


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def clocks(trace: Trace) -> str:
    """How far the device's clock was off, and whether its spans were moved."""
    found = figures.clock(trace)
    if found is None:
        return ""
    said = found.words()
    why = (
        "Its spans were moved by the measured offset before they were sent."
        if found.corrected
        else "Its spans are where its own clock put them."
    )
    return section(
        "Clocks", "Device against cloud, measured over NATS.", f"<p>{safe(said)}. {why}</p>"
    )


def definitions(trace: Trace) -> str:
    """What the words of the page mean."""
    sources = {
        source
        for found in trace.spans
        if (source := found.text("setsuden.energy.source")) not in {None, "none"}
    }
    rows = list(_DEFINITIONS)
    if figures.ESTIMATED in sources:
        rows.insert(0, _ESTIMATED)
    named = ", ".join(sorted(str(source) for source in sources)) or "none"
    rows.append(("energy source", f"{named}; {table.ATTRIBUTES['setsuden.energy.source']}"))
    body = "".join(f"<dt>{safe(word)}</dt><dd>{safe(meaning)}</dd>" for word, meaning in rows)
    return section("What the words mean", "", f"<dl>{body}</dl>")
