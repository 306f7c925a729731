"""Marks of a plot whose x is a percentage: it fits every width and its letters never shrink.

Every text in a plot is one of ours or a number; names from a run stand in the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

_EDGE = 4.0
"""Percent from a side within which a label is set against that side."""


_LEAST_STEP = 1e-300


class Scale(NamedTuple):
    """Values from ``low`` to ``high`` over the whole width."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Percent from the left."""
        inside = min(max(value, self.low), self.high)
        return 100 * (inside - self.low) / (self.high - self.low)


def svg(name: str, title: str, description: str, height: float, marks: str) -> str:
    """One plot with its title and description for those who do not see it."""
    return (
        f'<svg role="img" aria-labelledby="{name}-t {name}-d" width="100%" height="{height:g}">'
        f'<title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(description)}</desc>{marks}</svg>'
    )


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A rectangle; none at all when it has no width, for nothing is not a short something."""
    if width <= 0:
        return ""
    return (
        f'<rect class="{kind}" x="{x:.2f}%" y="{y:g}" width="{max(width, 0.01):.2f}%" '
        f'height="{height:g}"/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line; x in percent, y in pixels."""
    return f'<line class="{kind}" x1="{x1:.2f}%" y1="{y1:g}" x2="{x2:.2f}%" y2="{y2:g}"/>'


def words(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    """A text that starts, ends or is centred at x."""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x:.2f}%" y="{y:g}"{where}>{escape(said)}</text>'


def figures(y: float, mid: str, between: str) -> str:
    """At the right: the figure, and before it on a wide screen its interval."""
    kind = "none" if mid == "none" else "value"
    softer = f'<tspan class="soft wide">{escape(between)}\u2003</tspan>' if between else ""
    return f'<text class="{kind}" x="100%" y="{y:g}" text-anchor="end">{softer}{escape(mid)}</text>'


def tick(x: float, y: float, said: str) -> str:
    """A number of the axis, kept inside the plot at both of its sides."""
    anchor = "start" if x < _EDGE else "end" if x > 100 - _EDGE else "middle"
    return words(x, y, said, "tick", anchor)


def round_number(value: float) -> str:
    """A number of an axis as short as it is: ``0.5``, ``1,500``."""
    return f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")


def whisker(low: float, high: float, y: float) -> str:
    """An interval; x in percent. A halo keeps it apart from the bar below it."""
    shape = (
        line(low, y, high, y, "{}")
        + line(low, y - 5, low, y + 5, "{}")
        + line(high, y - 5, high, y + 5, "{}")
    )
    return shape.replace("{}", "halo") + shape.replace("{}", "whisker")


def arrow(x: float, y: float, *, left: bool) -> str:
    """The end of an interval that has no bound on this side."""
    turn = "M7 -4L1 0L7 4" if left else "M-7 -4L-1 0L-7 4"
    return (
        f'<svg x="{x:.2f}%" y="{y:g}" overflow="visible"><path class="whisker open" d="{turn}"/>'
        "</svg>"
    )


def dot(x: float, y: float) -> str:
    """The middle of an interval."""
    return f'<circle class="dotted" cx="{x:.2f}%" cy="{y:g}" r="5"/>'


def nice(most: float, ticks: int = 4) -> float:
    """A round step (1, 2 or 5 times a power of ten) that divides ``most`` about so often."""
    raw = max(most / ticks, _LEAST_STEP)
    power = 10.0 ** floor(log10(raw))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= raw * (1 - 1e-9))


def steps(low: float, high: float, step: float) -> Iterator[float]:
    """Multiples of ``step`` from ``low`` to ``high``."""
    first = ceil(low / step - 1e-9)
    for number in range(first, floor(high / step + 1e-9) + 1):
        yield number * step
