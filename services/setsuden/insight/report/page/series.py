"""Watts and inferences per second over the run: one panel each, gaps left open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from setsuden.insight.report.model import Report, Series
from setsuden.insight.report.page import svg as draw
from setsuden.insight.report.page.numbers import Unit, fit, span, utc
from setsuden.insight.report.page.words import COMPONENTS

_PANEL, _HEAD, _GAP = 72.0, 26.0, 18.0
"""Pixels: the drawing, the line of words above it, the room below."""
_TICKS_SECONDS = (
    *(1.0, 2.0, 5.0, 10.0, 15.0, 30.0),
    *(60.0 * n for n in (1, 2, 5, 10, 15, 30)),
    *(3600.0 * n for n in (1, 2, 3, 6, 12)),
    *(86_400.0 * n for n in (1, 2, 7, 14, 28, 91, 365)),
)
_MOST_TICKS = 6


class Panel(NamedTuple):
    """One curve: a value for each step, null where nothing is known."""

    name: str
    symbol: str
    values: Sequence[float | None]
    kind: str


def panels(series: Series) -> list[Panel]:
    """Every component's watts, then the inferences."""
    curves = {curve.component: curve.watts for curve in series.curves}
    found = [Panel(name, "W", curves.get(part, ()), "watts") for part, name in COMPONENTS.items()]
    return [*found, Panel("Inferences", "per s", series.inferences_per_second, "rate")]


def holes(found: Series) -> bool:
    """Whether a drawn curve has a gap."""
    return any(None in panel.values and _known(panel) for panel in panels(found))


def series(report: Report) -> str:
    """The panels below one another on one axis of time; empty when the run has no length."""
    shown = panels(report.series)
    points = max((len(panel.values) for panel in shown), default=0)
    if points == 0:
        return ""
    tall = [panel for panel in shown if _known(panel)]
    flat = [panel for panel in shown if not _known(panel)]
    bottom = len(tall) * (_HEAD + _PANEL + _GAP)
    marks = _times(report.series, points, bottom) + "".join(
        _panel(panel, place * (_HEAD + _PANEL + _GAP), points) for place, panel in enumerate(tall)
    )
    marks += "".join(
        draw.words(0, bottom + 44 + 26 * place, panel.name, "name")
        + draw.words(100, bottom + 44 + 26 * place, "none", "none", "end")
        for place, panel in enumerate(flat)
    )
    height = bottom + 24 + 26 * len(flat)
    title = "Watts of each component and inferences per second over the run"
    return draw.svg("series", title, _described(report.series, shown), height, marks)


def _known(panel: Panel) -> bool:
    return any(value is not None for value in panel.values)


def _described(found: Series, shown: Sequence[Panel]) -> str:
    said = ", ".join(panel.name.lower() + ("" if _known(panel) else " (none)") for panel in shown)
    return f"Means over {span(found.step_seconds)}: {said}. The values are in the table below."


def _panel(panel: Panel, top: float, points: int) -> str:
    most = max((value for value in panel.values if value is not None), default=0.0)
    unit = fit([most], panel.symbol) if panel.symbol == "W" else Unit(1.0, panel.symbol)
    step = draw.nice((most or 1.0) / unit.size, 2)
    ceiling = step * max(1, -(-(most / unit.size) // step))
    ground = top + _HEAD + _PANEL
    return (
        draw.words(0, top + 16, panel.name, "name")
        + draw.words(100, top + 18, f"{draw.round_number(ceiling)} {unit.name}", "tick", "end")
        + draw.line(0, top + _HEAD, 100, top + _HEAD, "rule")
        + _holes(panel.values, points, top + _HEAD)
        + _curve(panel, points, ceiling * unit.size, top + _HEAD)
        + draw.line(0, ground, 100, ground, "ground")
    )


def runs(values: Sequence[float | None]) -> Iterator[tuple[int, int, bool]]:
    """Stretches (first, one past the last, known) of values that are known, or that are not."""
    start = 0
    for place in range(1, len(values) + 1):
        if place == len(values) or (values[place] is None) != (values[start] is None):
            yield start, place, values[start] is not None
            start = place


def _holes(values: Sequence[float | None], points: int, top: float) -> str:
    return "".join(
        draw.rect(100 * start / points, top, 100 * (end - start) / points, _PANEL, "hole")
        for start, end, known in runs(values)
        if not known
    )


def _curve(panel: Panel, points: int, ceiling: float, top: float) -> str:
    """Steps: each value is the mean over its width, not a point that the curve passes."""
    lines, areas = "", ""
    for start, end, known in runs(panel.values):
        if known:
            path = _steps(panel.values[start:end], start, ceiling)
            lines += f"M{start} {path}"
            areas += f"M{start} 100V{path}V100Z"
    return (
        f'<svg x="0" y="{top:g}" width="100%" height="{_PANEL:g}" viewBox="0 0 {points} 100" '
        f'preserveAspectRatio="none"><path class="area {panel.kind}" d="{areas}"/>'
        f'<path class="curve {panel.kind}" d="{lines}"/></svg>'
    )


def _steps(values: Sequence[float | None], start: int, ceiling: float) -> str:
    heights = [f"{100 - 100 * (value or 0.0) / ceiling:.4g}" for value in values]
    path = heights[0]
    for place, (height, before) in enumerate(zip(heights[1:], heights, strict=False), start + 1):
        if height != before:
            path += f"H{place}V{height}"
    return f"{path}H{start + len(values)}"


def _times(found: Series, points: int, bottom: float) -> str:
    whole = points * found.step_seconds
    step = next((s for s in _TICKS_SECONDS if whole / s <= _MOST_TICKS), whole)
    start = found.start_ns / 1e9
    marks = ""
    for moment in draw.steps(start, start + whole, step):
        at = 100 * (moment - start) / whole
        stamp = utc(int(moment * 1e9))
        if stamp is not None:
            marks += draw.line(at, _HEAD, at, bottom - _GAP, "rule")
            marks += draw.tick(at, bottom, _label(stamp, step))
    return marks


def _label(stamp: datetime, step: float) -> str:
    if step < 60:
        return f"{stamp:%H:%M:%S}"
    return f"{stamp:%H:%M}" if step < 86_400 else f"{stamp:%d %b}"
