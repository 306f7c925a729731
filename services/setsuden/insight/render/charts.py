"""Geometry of the drawings: x in percent of the width, y in pixels, so that letters never shrink.

Every text in a drawing is ours or a number; names from a run stay in the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import accumulate, pairwise
from math import ceil, floor, log10
from typing import NamedTuple

from setsuden.insight.render.numbers import Unit, fit, percent, utc

_LEAST_STEP = 1e-300
_TICKS_SECONDS = (
    *(1.0, 2.0, 5.0, 10.0, 15.0, 30.0),
    *(60.0 * n for n in (1, 2, 5, 10, 15, 30)),
    *(3600.0 * n for n in (1, 2, 3, 6, 12)),
    *(86_400.0 * n for n in (1, 2, 7, 14, 28, 91, 365)),
)
_MAX_TICKS = 6


class Scale(NamedTuple):
    """Values from ``low`` to ``high`` over the whole width."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Percent from the left."""
        inside = min(max(value, self.low), self.high)
        return 100 * (inside - self.low) / (self.high - self.low)


class Box(NamedTuple):
    """A part of a bar; the template draws none without a width."""

    x: float
    width: float
    style: str


class Stretch(NamedTuple):
    """A part of a track, in fractions of it."""

    left: float
    width: float

    @classmethod
    def between(cls, left: float, right: float) -> Stretch:
        """What lies on the track of it."""
        left, right = min(max(left, 0.0), 1.0), min(max(right, 0.0), 1.0)
        return cls(left, max(right - left, 0.0))


class Tick(NamedTuple):
    """A number of the axis."""

    x: float
    label: str


class BarPart(NamedTuple):
    """One part of a stacked bar, in the chart's unit."""

    size: float
    style: str


class Bar(NamedTuple):
    """An amount with its figures as text; a bound that is not known is not drawn."""

    name: str
    value: str
    interval: str
    middle: float = 0.0
    low: float | None = None
    high: float | None = None
    parts: Sequence[BarPart] = ()
    """It is drawn as one bar of these, or without any as a point."""
    breaks: Sequence[float] = ()
    """Where one component ends and the next begins."""
    strong: bool = False

    def boxes(self, scale: Scale) -> list[Box]:
        """Its parts, one after another."""
        return _stacked(self.parts, scale)


class BarChart(NamedTuple):
    """Bars on one scale that begins at 0."""

    name: str
    title: str
    bars: Sequence[Bar]
    unit: Unit

    @property
    def scale(self) -> Scale:
        """Up to the greatest upper bound."""
        return Scale(0.0, max(max(bar.high or 0.0, _length(bar.parts)) for bar in self.bars))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return self.scale.high / self.unit.size <= 0

    @property
    def ticks(self) -> list[Tick]:
        """Round numbers of the unit."""
        scale, size = self.scale, self.unit.size
        most = scale.high / size
        return [
            Tick(scale.at(value * size), round_number(value))
            for value in steps(0.0, most, nice_step(most))
        ]


def _length(parts: Sequence[BarPart]) -> float:
    return sum(part.size for part in parts)


def _stacked(parts: Sequence[BarPart], scale: Scale) -> list[Box]:
    ends = [0.0, *accumulate(part.size for part in parts)]
    return [
        Box(scale.at(left), scale.at(right) - scale.at(left), part.style)
        for part, (left, right) in zip(parts, pairwise(ends), strict=True)
    ]


class DifferenceChart(NamedTuple):
    """Intervals around 0; a missing bound is an open end."""

    name: str
    title: str
    bars: Sequence[Bar]

    @property
    def scale(self) -> Scale:
        """All middles and bounds with some room beside them."""
        ends = [end for bar in self.bars for end in (bar.low, bar.middle, bar.high)]
        values = [0.0, *(end for end in ends if end is not None)]
        room = 0.08 * ((max(values) - min(values)) or 1.0)
        return Scale(min(values) - room, max(values) + room)


class LabelledShare(NamedTuple):
    """A part of 1 with its name."""

    name: str
    share: float | None
    style: str
    amount: str = ""
    """What the legend shows instead of the share."""

    @property
    def label(self) -> str:
        """Its name and figure."""
        return f"{self.name} {self.amount or percent(self.share)}"


class ShareChart(NamedTuple):
    """One bar of parts that sum to 1."""

    name: str
    title: str
    shares: Sequence[LabelledShare]

    @property
    def boxes(self) -> list[Box]:
        """The known parts, one after another."""
        parts = [BarPart(share.share, share.style) for share in self.shares if share.share]
        return _stacked(parts, Scale(0.0, max(1.0, _length(parts))))


class NestedChart(NamedTuple):
    """Bars from 0 to 1, the parts of each inside one another."""

    name: str
    title: str
    rows: Sequence[tuple[str, Sequence[LabelledShare]]]

    @property
    def bars(self) -> list[tuple[str, list[Box]]]:
        """The widest part first, so that the others lie on it."""
        return [
            (label, sorted(map(_from_zero, shares), key=_by_width)) for label, shares in self.rows
        ]


def _from_zero(share: LabelledShare) -> Box:
    return Box(0.0, 100 * min(share.share or 0.0, 1.0), share.style)


def _by_width(box: Box) -> float:
    return -box.width


class Panel(NamedTuple):
    """One curve over time: the mean of each step, null where nothing is known."""

    name: str
    symbol: str
    values: Sequence[float | None]
    style: str

    @property
    def known(self) -> bool:
        """Whether there is anything to draw."""
        return any(value is not None for value in self.values)

    @property
    def unit(self) -> Unit:
        """The prefix follows the curve's maximum."""
        return fit([self._most], self.symbol) if self.symbol == "W" else Unit(1.0, self.symbol)

    @property
    def ceiling(self) -> float:
        """A round number of the unit above every value."""
        most = self._most / self.unit.size
        step = nice_step(most or 1.0, 2)
        return step * max(1, ceil(most / step))

    @property
    def top_label(self) -> str:
        """The ceiling as text."""
        return f"{round_number(self.ceiling)} {self.unit.name}"

    @property
    def _most(self) -> float:
        return max((value for value in self.values if value is not None), default=0.0)

    @property
    def gaps(self) -> list[Box]:
        """Stretches without a value."""
        points = len(self.values)
        return [
            Box(100 * start / points, 100 * (end - start) / points, "hole")
            for start, end, known in runs(self.values)
            if not known
        ]

    @property
    def paths(self) -> list[str]:
        """Each known stretch as steps: a value is a mean over its width, not a point."""
        return [
            f"{start} {self._steps(start, end)}" for start, end, known in runs(self.values) if known
        ]

    def _steps(self, start: int, end: int) -> str:
        high = self.ceiling * self.unit.size
        heights = [f"{100 - 100 * (value or 0.0) / high:.4g}" for value in self.values[start:end]]
        path = heights[0]
        for place, (height, before) in enumerate(
            zip(heights[1:], heights, strict=False), start + 1
        ):
            if height != before:
                path += f"H{place}V{height}"
        return f"{path}H{end}"


class TimeChart(NamedTuple):
    """Panels below one another on one axis of time."""

    name: str
    title: str
    panels: Sequence[Panel]
    start_ns: int
    step_seconds: float

    @property
    def points(self) -> int:
        """Steps of the time axis."""
        return max(len(panel.values) for panel in self.panels)

    @property
    def ticks(self) -> list[Tick]:
        """Round times of the day, or days."""
        whole = self.points * self.step_seconds
        step = next((s for s in _TICKS_SECONDS if whole / s <= _MAX_TICKS), whole)
        start = self.start_ns / 1e9
        return [
            Tick(100 * (second - start) / whole, _time_label(stamp, step))
            for second in steps(start, start + whole, step)
            if (stamp := utc(int(second * 1e9))) is not None
        ]


def _time_label(stamp: datetime, step: float) -> str:
    if step < 60:
        return f"{stamp:%H:%M:%S}"
    return f"{stamp:%H:%M}" if step < 86_400 else f"{stamp:%d %b}"


def runs(values: Sequence[float | None]) -> Iterator[tuple[int, int, bool]]:
    """Stretches (first, one past the last, known) of values that are known, or that are not."""
    start = 0
    for place in range(1, len(values) + 1):
        if place == len(values) or (values[place] is None) != (values[start] is None):
            yield start, place, values[start] is not None
            start = place


def round_number(value: float) -> str:
    """A number of an axis as short as possible: ``0.5``, ``1,500``."""
    return f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")


def nice_step(most: float, ticks: int = 4) -> float:
    """A round step (1, 2 or 5 times a power of ten) that divides ``most`` about so often."""
    raw = max(most / ticks, _LEAST_STEP)
    power = 10.0 ** floor(log10(raw))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= raw * (1 - 1e-9))


def steps(low: float, high: float, step: float) -> Iterator[float]:
    """Multiples of ``step`` from ``low`` to ``high``."""
    first = ceil(low / step - 1e-9)
    for number in range(first, floor(high / step + 1e-9) + 1):
        yield number * step
