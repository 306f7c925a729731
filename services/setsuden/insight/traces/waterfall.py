"""One trace in a terminal: where its milliseconds and joules went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from . import figures
from .critical_path import Section, critical_path
from .found import FoundSpan
from .tree import Trace, TreeRow, trace_of
from .units import between, clean, duration, energy

BAR_WIDTH = 34
MAX_ROWS = 1_000
_NAME_WIDTH = 24
_COLOURS = {"edge-agent": "green", "nats": "magenta", "worker": "yellow"}
_ON_PATH, _WAITING, _NOTHING, _MARK = "█", "▒", "·", "▌"


def lines(
    spans: Trace | Iterable[FoundSpan], *, bar_width: int = BAR_WIDTH, styled: bool = False
) -> list[str]:
    """The trace as text, one line a span, between its verdict and its notes.

    ``▌`` and ``█`` mark the critical path. With ``styled`` the lines carry colours, which
    ``click.echo`` takes away where there is no terminal.
    """
    trace = spans if isinstance(spans, Trace) else trace_of(spans)
    shown = [*_head(trace), "", *_rows(trace, bar_width), *_notes(trace)]
    return shown if styled else [click.unstyle(line) for line in shown]


def _head(trace: Trace) -> list[str]:
    found = figures.verdict(trace)
    said = [f"{found.words}: {duration(found.ms)}", *_cost(found)]
    if found.energy_class:
        said.append(f"class {clean(found.energy_class)}")
    return [f"trace {trace.trace_id}", click.style(", ".join(said), bold=True)]


def _cost(found: figures.TraceSummary) -> list[str]:
    joules = found.joules
    if joules is None:
        return ["energy unknown"]
    bounds = between(joules.low, joules.high)
    label = "estimated" if joules.estimated else clean(joules.source)
    beside = ", ".join(part for part in (bounds, label) if part)
    least = "" if found.complete else "at least "
    return [f"{least}{energy(joules.value)}" + (f" ({beside})" if beside else "")]


def _rows(trace: Trace, bar_width: int) -> list[str]:
    rows = list(trace.walk())
    path: dict[int, list[Section]] = {}
    for section in critical_path(trace):
        path.setdefault(id(section.found), []).append(section)
    scale = _Scale(trace, bar_width)
    shown = [_row(row, path.get(id(row.found), ()), scale) for row in rows[:MAX_ROWS]]
    left = len(rows) - len(shown)
    return [*shown, f"  … and {left} more spans"] if left else shown


class _Scale:
    """From nanoseconds to places in a bar."""

    def __init__(self, trace: Trace, width: int) -> None:
        self.width = width
        self.start_ns = min(found.span.start_ns for found in trace.spans)
        end = max(found.span.end_ns for found in trace.spans)
        self.whole_ns = max(end - self.start_ns, 1)

    def cells(self, start_ns: int, end_ns: int) -> range:
        """The places of this stretch, one at least."""
        first = int((start_ns - self.start_ns) / self.whole_ns * self.width)
        first = min(max(first, 0), self.width - 1)
        last = round((end_ns - self.start_ns) / self.whole_ns * self.width)
        return range(first, min(max(last, first + 1), self.width))


def _row(row: TreeRow, path: Sequence[Section], scale: _Scale) -> str:
    found = row.found
    colour = _COLOURS.get(found.service)
    name = clean("  " * min(row.depth, 8) + found.span.name, _NAME_WIDTH)
    mark = _MARK if path else " "
    failed = found.span.error is not None
    said = ", ".join(clean(one, 60) for one in figures.marks(found))
    joules = figures.joules_of(found)
    return (
        f"{click.style(mark, fg=colour, bold=True)} "
        f"{click.style(f'{name:<{_NAME_WIDTH}}', bold=bool(path), fg='red' if failed else None)} "
        f"{click.style(f'{clean(found.service, 11):<11}', fg=colour)} "
        f"{click.style(_bar(found, path, scale), fg=colour)} "
        f"{found.ms:10.2f} ms {energy(joules and joules.value):>9}"
        f"{click.style(f'  {said}', fg='red' if failed else None, dim=not failed) if said else ''}"
    ).rstrip()


def _bar(found: FoundSpan, path: Sequence[Section], scale: _Scale) -> str:
    cells = [_NOTHING] * scale.width
    for place in scale.cells(found.span.start_ns, found.span.end_ns):
        cells[place] = _WAITING
    for section in path:
        for place in scale.cells(section.start_us * 1000, section.end_us * 1000):
            cells[place] = _ON_PATH
    return "".join(cells)


def _notes(trace: Trace) -> list[str]:
    said = [
        f"{member.found.span.name}: {member.words()}, batch trace {clean(member.trace_id)}"
        for member in figures.memberships(trace)
    ]
    clock = figures.clock(trace)
    said += [clock.words()] if clock is not None else []
    said += [
        f"{found.span.name}: about trace {link.trace_id}"
        for found in trace.roots
        for link in found.span.links[:4]
        if link.trace_id != trace.trace_id
    ]
    if not figures.complete(trace):
        said.append("a part of the energy is unknown: the total is a lower bound")
    return ["", *(f"  {one}" for one in said)] if said else []
