"""The waterfall of a page: time to the right, the critical path underlined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from . import figures
from .critical_path import Section, critical_path
from .found import FoundSpan
from .html_parts import colour_class, place, safe, section
from .tree import Row, Trace
from .units import duration, energy

MAX_ROWS = 500
"""Spans drawn of one trace; the rest is counted under them."""
_TICKS = 4
_DEEPEST = 8
_BAD = ("error", "late", "expired", "dead")
_QUEUE_MS = "messaging.nats.queue_ms"


class _Scale:
    """From nanoseconds to fractions of the drawn time."""

    def __init__(self, trace: Trace) -> None:
        self.start_ns = min(found.span.start_ns for found in trace.spans)
        end_ns = max(found.span.end_ns for found in trace.spans)
        self.whole_ns = max(end_ns - self.start_ns, 1)

    def at(self, ns: float) -> float:
        """0 at the first start, 1 at the last end."""
        return (ns - self.start_ns) / self.whole_ns


def waterfall(trace: Trace) -> str:
    """The section with every span of the trace."""
    rows = list(trace.walk())
    scale = _Scale(trace)
    path: dict[int, list[Section]] = {}
    for part in critical_path(trace):
        path.setdefault(id(part.found), []).append(part)
    body = "".join(_row(row, path.get(id(row.found), ()), scale) for row in rows[:MAX_ROWS])
    left = len(rows) - MAX_ROWS
    more = f'<p class="note">{left} more spans are not drawn.</p>' if left > 0 else ""
    return section(
        "Where the time went",
        "Every hop of this trace. The solid, underlined stretches are the critical path: "
        "what the trace was waiting for at that moment.",
        f'<table class="wf">{_head(scale)}<tbody>{body}</tbody></table>{more}{_legend(trace)}',
    )


def _head(scale: _Scale) -> str:
    whole_ms = scale.whole_ns / 1e6
    digits = 0 if whole_ms >= 40 else 1 if whole_ms >= 4 else 2
    said = [f"{whole_ms * n / _TICKS:,.{digits}f}" for n in range(_TICKS + 1)]
    said[-1] += " ms"
    ticks = "".join(
        f'<span style="left:{100 * n / _TICKS:.0f}%">{text}</span>' for n, text in enumerate(said)
    )
    return (
        '<thead><tr><th scope="col">span</th>'
        f'<th scope="col"><div class="axis" aria-hidden="true">{ticks}</div></th>'
        '<th scope="col" class="r">took</th><th scope="col" class="r">own energy</th></tr></thead>'
    )


def _row(row: Row, path: Sequence[Section], scale: _Scale) -> str:
    found = row.found
    joules = figures.joules_of(found)
    return (
        f'<tr class="{colour_class(found.service)}{" on" if path else ""}">'
        f'<td class="n" style="--d:{min(row.depth, _DEEPEST)}"><span class="dot"></span>'
        f"<b>{safe(found.span.name, 60)}</b><i>{safe(found.service, 40)}</i>{_marks(found)}</td>"
        f'<td class="t"><div class="track" role="img" aria-label="{_label(found, path, scale)}" '
        f'title="{_label(found, path, scale)}">{_track(found, path, scale)}</div></td>'
        f'<td class="r">{escape(duration(found.ms))}</td>'
        f'<td class="r">{escape(energy(joules and joules.value))}</td></tr>'
    )


def _marks(found: FoundSpan) -> str:
    return "".join(
        f'<span class="mark{" bad" if said.startswith(_BAD) else ""}">{safe(said, 60)}</span>'
        for said in figures.marks(found)
    )


def _label(found: FoundSpan, path: Sequence[Section], scale: _Scale) -> str:
    start = (found.span.start_ns - scale.start_ns) / 1e6
    blamed = sum(part.end_us - part.start_us for part in path) / 1e3
    waited = f", {duration(blamed)} on the critical path" if path else ", not on the critical path"
    return safe(f"{found.span.name}: from {duration(start)} for {duration(found.ms)}{waited}")


def _track(found: FoundSpan, path: Sequence[Section], scale: _Scale) -> str:
    span = found.span
    grid = "".join(
        f'<span class="grid" style="left:{100 * n / _TICKS:.0f}%"></span>'
        for n in range(_TICKS + 1)
    )
    fail = " fail" if span.error is not None else ""
    where = place(scale.at(span.start_ns), scale.at(span.end_ns))
    bar = f'<span class="bar{fail}" style="{where}"></span>'
    return grid + _queue(found, scale) + bar + _path(path, scale) + _events(found, scale)


def _queue(found: FoundSpan, scale: _Scale) -> str:
    """The time a message lay in its stream, before the worker took it."""
    queued = found.number(_QUEUE_MS)
    if queued is None or queued <= 0:
        return ""
    start = scale.at(found.span.start_ns - queued * 1e6)
    return f'<span class="q" style="{place(start, scale.at(found.span.start_ns))}"></span>'


def _path(path: Iterable[Section], scale: _Scale) -> str:
    return "".join(
        f'<span class="cp" style="{place(scale.at(p.start_us * 1000), scale.at(p.end_us * 1000))}">'
        "</span>"
        for p in path
    )


def _events(found: FoundSpan, scale: _Scale) -> str:
    return "".join(
        f'<span class="ev" style="left:{100 * min(max(scale.at(event.at_ns), 0), 0.998):.3f}%" '
        f'title="{safe(event.name, 60)}"></span>'
        for event in found.span.events[:50]
    )


def _legend(trace: Trace) -> str:
    services = list(dict.fromkeys(found.service for found in trace.spans))[:12]
    items = [
        f'<li class="{colour_class(name)}"><i style="background:var(--c)"></i>{safe(name, 40)}</li>'
        for name in services
    ]
    items += [
        '<li class="other"><i class="cp" style="top:0"></i>critical path</li>',
    ]
    if any(found.number(_QUEUE_MS) for found in trace.spans):
        items.append('<li class="worker"><i class="q" style="top:0"></i>queued in the stream</li>')
    if any(found.span.events for found in trace.spans):
        items.append('<li><i class="ev" style="top:0;width:2px"></i>a moment (hover)</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'
