"""Sections, tables and figures of the page; whatever is not ``Html`` is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from setsuden.insight.report.page.numbers import NONE
from setsuden.insight.traces.html_parts import safe

MAX_ROWS = 300
"""Of one table; the rest is counted and stays in the JSON."""
_MAX_TEXT = 600


class Html(str):
    """Markup that we made; every other text is escaped on its way into the page."""

    __slots__ = ()


class Column(NamedTuple):
    """One column: its heading, and whether its cells are numbers."""

    name: str
    numeric: bool = False


def num(name: str) -> Column:
    """A column of numbers."""
    return Column(name, numeric=True)


def text(value: str) -> str:
    """Markup as it is, anything else escaped, bounded and printable."""
    return value if isinstance(value, Html) else safe(value, _MAX_TEXT)


def said(first: str, *more: str) -> Html:
    """A cell: its main line and smaller ones below; empty ones are left out."""
    below = "".join(f"<small>{text(line)}</small>" for line in more if line)
    return Html(f"{_main(first)}{below}")


def _main(value: str) -> str:
    """Always an element: a narrow screen sets it beside the column's name."""
    return value if isinstance(value, Html) or not value else f"<span>{text(value)}</span>"


def code(value: str, shown: int | None = None) -> Html:
    """Something to be typed or compared; cut to ``shown`` letters, whole on hover."""
    if shown is None or len(value) <= shown:
        return Html(f"<code>{safe(value, _MAX_TEXT)}</code>")
    return Html(f'<code title="{safe(value)}">{safe(value[:shown])}…</code>')


def known(value: str) -> Html:
    """A figure that does not break; ``none`` is set softer than a number."""
    shown = escape(value)
    return Html(f'<span class="x">{shown}</span>' if value == NONE else f"<span>{shown}</span>")


def section(anchor: str, title: str, lead: str, *body: str) -> str:
    """A part of the page with a heading that can be linked to; ``body`` is HTML."""
    note = f'<p class="lead">{text(lead)}</p>' if lead else ""
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-h"><h2 id="{anchor}-h">'
        f"{escape(title)}</h2>{note}{''.join(body)}</section>"
    )


def figure(body: str, caption: str = "") -> str:
    """A plot with what must be known to read it; ``body`` is HTML."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure class="plot">{body}{below}</figure>'


def legend(items: Iterable[tuple[str, str]]) -> str:
    """Colours by name: the class of the swatch, and what it stands for."""
    made = "".join(f'<li><i class="{kind}"></i>{escape(name)}</li>' for kind, name in items)
    return f'<ul class="key" aria-hidden="true">{made}</ul>'


def bullets(lines: Sequence[str], kind: str = "") -> str:
    """A list of texts; nothing when there are none."""
    if not lines:
        return ""
    made = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<ul class="lines {kind}">{made}</ul>'


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    most: int = MAX_ROWS,
    dense: bool = False,
) -> str:
    """A table whose first column names the row; rows above ``most`` are counted, not shown.

    On a narrow screen each row is a block, or with ``dense`` the letters are smaller. Roles are
    spelt out because a table laid out as blocks is none to some screen readers.
    """
    kind = "dense" if dense else "slim" if len(columns) == 2 else "rows"
    names = "".join(
        f'<th scope="col" role="columnheader"{_kind(column)}>{escape(column.name)}</th>'
        for column in columns
    )
    shown = "".join((_dense if dense else _row)(columns, row) for row in rows[:most])
    return (
        f'<table class="{kind}" role="table"><caption>{text(caption)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{names}</tr></thead>'
        f'<tbody role="rowgroup">{shown}</tbody></table>{_left(len(rows) - most)}'
    )


def _left(rows: int) -> str:
    if rows <= 0:
        return ""
    return f'<p class="meta">{rows:,} more rows are in <code>--json</code>.</p>'


def _row(columns: Sequence[Column], row: Sequence[str]) -> str:
    first, *others = row
    cells = "".join(
        f'<td role="cell" data-l="{escape(column.name)}"{_kind(column)}>{_main(cell)}</td>'
        for column, cell in zip(columns[1:], others, strict=True)
    )
    return f'<tr role="row"><th scope="row" role="rowheader">{text(first)}</th>{cells}</tr>'


def _dense(columns: Sequence[Column], row: Sequence[str]) -> str:
    """Cells without labels: hundreds of rows would carry each label hundreds of times."""
    first, *others = (text(cell) for _, cell in zip(columns, row, strict=True))
    cells = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr><th scope="row">{first}</th>{cells}</tr>'


def _kind(column: Column) -> str:
    return ' class="num"' if column.numeric else ""


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what they are, one a line."""
    made = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs)
    return f'<dl class="facts">{made}</dl>'


def folded(summary: str, body: str, *, paper: bool = True) -> str:
    """A part that a reader opens; on paper it is open, or with ``paper`` False left out."""
    kind = "" if paper else ' class="screen"'
    name = f"<summary>{escape(summary)}</summary>"
    return f'<details{kind}>{name}<div class="in">{body}</div></details>'
