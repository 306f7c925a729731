"""Small pieces of HTML, their text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from .tree import Trace
from .units import clean

_OURS = frozenset({"edge-agent", "nats", "worker"})


class Around(NamedTuple):
    """What a trace's own part of the page may know of the rest."""

    traces: Mapping[str, Trace]
    """Every trace of the source."""
    drawn: frozenset[str] = frozenset()
    """Those with a place on this page."""
    base: str | None = None
    """Where pages of other traces are served, e.g. ``/trace/``."""

    def link(self, trace_id: str) -> str:
        """The trace's id, as a link where there is something to go to."""
        shown = f"<code>{safe(trace_id, 40)}</code>"
        if trace_id in self.drawn:
            return f'<a href="#t-{safe(trace_id, 40)}">{shown}</a>'
        return (
            shown if self.base is None else f'<a href="{self.base}{safe(trace_id, 40)}">{shown}</a>'
        )


def safe(value: object, limit: int = 400) -> str:
    """Text from a trace, printable, bounded and escaped."""
    return escape(clean(str(value), limit))


def colour_class(service: str) -> str:
    """The class that gives a service its colour."""
    return service if service in _OURS else "other"


def section(title: str, note: str, body: str) -> str:
    """A framed part of the page; ``body`` is HTML."""
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>"


def badge(text: str, kind: str = "") -> str:
    """A small label."""
    return f'<span class="badge {kind}">{safe(text)}</span>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A plain table of texts."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    top = f"<thead><tr>{names}</tr></thead>" if head else ""
    body = "".join(
        "<tr>" + "".join(f"<td>{safe(cell, 2000)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<table class="{kind}">{top}<tbody>{body}</tbody></table>'


def place(left: float, right: float) -> str:
    """The style of something between two fractions of its track."""
    left, right = min(max(left, 0.0), 1.0), min(max(right, 0.0), 1.0)
    return f"left:{100 * left:.3f}%;width:{100 * max(right - left, 0.0):.3f}%"
