"""The bars of a report: parts of each component, the three ways, their differences, and shares."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from setsuden.insight.report.model import (
    Amount,
    ComponentReport,
    Counterfactual,
    Difference,
    Report,
)
from setsuden.insight.report.page import svg as draw
from setsuden.insight.report.page.basis import Basis
from setsuden.insight.report.page.numbers import Unit, percent
from setsuden.insight.report.page.svg import Scale
from setsuden.insight.report.page.words import COMPONENTS, SCENARIOS, signed

_ROW, _BAR, _TOP = 62.0, 22.0, 24.0
"""Pixels: one row, the bar in it, and the bar's distance from the row's top."""
PARTS = (("dynamic", "s-dynamic"), ("idle", "s-idle"), ("overhead", "s-overhead"))


class Piece(NamedTuple):
    """One part of a stacked bar."""

    size: float
    kind: str


class Row(NamedTuple):
    """One bar with its name and figures; ``amount`` None or unknown is said, not drawn."""

    name: str
    pieces: Sequence[Piece]
    amount: Amount | None
    breaks: Sequence[float] = ()
    """Where one component ends and the next begins."""
    strong: bool = False


def pieces(component: ComponentReport, basis: Basis) -> list[Piece]:
    """The known parts of one component."""
    found = [(basis.of(getattr(component, part)), kind) for part, kind in PARTS]
    return [
        Piece(known.joules, kind)
        for known, kind in found
        if known is not None and known.joules is not None
    ]


def components(report: Report, basis: Basis) -> str:
    """Joules of the whole and of each component, by part; empty when none are known."""
    each = [(component, pieces(component, basis)) for component in report.components]
    every = [piece for _, parts in each for piece in parts]
    ends = [sum(piece.size for piece in parts) for _, parts in each if parts]
    breaks = [sum(ends[: place + 1]) for place in range(len(ends) - 1)]
    rows = [Row("Whole", every, basis.of(report.whole), breaks, strong=True)]
    rows += [
        Row(COMPONENTS[component.component], parts, basis.of(component.whole))
        for component, parts in each
    ]
    title = f"Joules by component and part, {basis.words}"
    return _bars("parts", title, rows, basis)


def ways(report: Report, basis: Basis) -> str:
    """The cascade and both other ways on one scale."""
    cascade = basis.of(report.whole)
    rows = [Row("Cascade, as it ran", _one(cascade, "s-dynamic"), cascade, strong=True)]
    rows += [
        Row(SCENARIOS[other.scenario], _one(other.per_1000, "s-other"), other.per_1000)
        for other in (report.all_cloud, report.all_edge)
    ]
    return _bars("ways", f"Joules of the three ways, {basis.words}", rows, basis)


def _one(known: Amount | None, kind: str) -> list[Piece]:
    return [] if known is None or known.joules is None else [Piece(known.joules, kind)]


def _bars(name: str, title: str, rows: Sequence[Row], basis: Basis) -> str:
    most = max((_reach(row) for row in rows), default=0.0) / basis.unit.size
    if most <= 0:
        return ""
    scale = Scale(0.0, most * basis.unit.size)
    below = len(rows) * _ROW
    marks = _axis(scale, basis.unit, below) + "".join(
        _bar(row, place * _ROW, scale, basis) for place, row in enumerate(rows)
    )
    described = "; ".join(f"{row.name} {_in_words(row.amount, basis)}" for row in rows)
    return draw.svg(name, title, described, below + 20, marks)


def _reach(row: Row) -> float:
    high = row.amount.high if row.amount is not None else None
    return max(high or 0.0, sum(piece.size for piece in row.pieces))


def _in_words(known: Amount | None, basis: Basis) -> str:
    between = basis.between(known)
    return basis.mid(known) + (f" ({between})" if between else "")


def _axis(scale: Scale, unit: Unit, below: float) -> str:
    most = scale.high / unit.size
    return "".join(
        draw.line(scale.at(value * unit.size), 0, scale.at(value * unit.size), below, "rule")
        + draw.tick(scale.at(value * unit.size), below + 15, draw.round_number(value))
        for value in draw.steps(0.0, most, draw.nice(most))
    )


def _bar(row: Row, top: float, scale: Scale, basis: Basis) -> str:
    known = row.amount
    kind = "name strong" if row.strong else "name"
    between = basis.between(known)
    shown = (
        draw.words(0, top + 16, row.name, kind)
        + draw.figures(top + 16, basis.mid(known), between)
        + _stack(row, top + _TOP, scale)
    )
    if known is None or known.low is None or known.high is None:
        return shown
    return shown + draw.whisker(scale.at(known.low), scale.at(known.high), top + _TOP + _BAR / 2)


def _stack(row: Row, y: float, scale: Scale) -> str:
    marks, start = "", 0.0
    for piece in row.pieces:
        left, right = scale.at(start), scale.at(start + piece.size)
        marks += draw.rect(left, y, right - left, _BAR, piece.kind)
        start += piece.size
    cuts = (draw.line(scale.at(at), y - 1, scale.at(at), y + _BAR + 1, "cut") for at in row.breaks)
    return marks + "".join(cuts)


def differences(others: Sequence[Counterfactual], basis: Basis) -> str:
    """What each other way would use more or less, around 0; empty when none is known."""
    found = [
        (SCENARIOS[other.scenario], other.difference)
        for other in others
        if other.difference is not None and other.difference.joules is not None
    ]
    if not found:
        return ""
    scale = _around_zero([one for _, one in found])
    below = len(found) * _ROW
    zero = scale.at(0)
    marks = draw.line(zero, 0, zero, below, "zero") + _sides(zero, below + 15)
    for place, (name, one) in enumerate(found):
        marks += _difference(name, one, place * _ROW, scale, basis.unit)
    described = "; ".join(f"{name} {_span(one, basis.unit)}" for name, one in found)
    title = "Joules per 1,000 inferences that the other ways would use more or less"
    return draw.svg("differences", title, described, below + 20, marks)


def _around_zero(found: Sequence[Difference]) -> Scale:
    values = [v for one in found for v in (one.low, one.joules, one.high) if v is not None]
    low, high = min(*values, 0.0), max(*values, 0.0)
    room = 0.08 * ((high - low) or 1.0)
    return Scale(low - room, high + room)


def _sides(zero: float, y: float) -> str:
    """What each side of 0 means, where it has room."""
    less = draw.words(zero - 4, y, "uses less", "tick", "end") if zero > 17 else ""
    more = draw.words(zero + 4, y, "uses more", "tick") if zero < 83 else ""
    return draw.words(zero, y, "0", "tick", "middle") + less + more


def _difference(name: str, one: Difference, top: float, scale: Scale, unit: Unit) -> str:
    y = top + _TOP + _BAR / 2 - 2
    low = 0.0 if one.low is None else scale.at(one.low)
    high = 100.0 if one.high is None else scale.at(one.high)
    ends = (draw.arrow(0, y, left=True) if one.low is None else "") + (
        draw.arrow(100, y, left=False) if one.high is None else ""
    )
    caps = "".join(
        draw.line(x, y - 6, x, y + 6, "whisker")
        for x, bound in ((low, one.low), (high, one.high))
        if bound is not None
    )
    return (
        draw.words(0, top + 16, name, "name halo-text")
        + draw.figures(top + 16, signed(one.joules, unit), _ends(one, unit))
        + draw.line(low, y, high, y, "whisker")
        + caps
        + ends
        + draw.dot(scale.at(one.joules or 0.0), y)
    )


def _ends(one: Difference, unit: Unit) -> str:
    low = "no lower bound" if one.low is None else signed(one.low, unit)
    high = "no upper bound" if one.high is None else signed(one.high, unit)
    return f"{low} to {high}"


def _span(one: Difference, unit: Unit) -> str:
    return f"{signed(one.joules, unit)} ({_ends(one, unit)})"


class Share(NamedTuple):
    """A part of 1 with its name."""

    name: str
    share: float | None
    kind: str
    said: str = ""
    """Its figure for those who do not see it, when that is not the share."""


def shares(name: str, title: str, parts: Sequence[Share]) -> str:
    """One bar of parts that sum to 1; empty when none is known."""
    known = [part for part in parts if part.share]
    if not known:
        return ""
    ends = [0.0]
    for part in known:
        ends.append(ends[-1] + (part.share or 0.0))
    scale = Scale(0.0, max(1.0, ends[-1]))
    marks = "".join(
        draw.rect(scale.at(left), 0, scale.at(right) - scale.at(left), 28, part.kind)
        for part, (left, right) in zip(known, pairwise(ends), strict=True)
    )
    described = "; ".join(f"{part.name} {part.said or percent(part.share)}" for part in parts)
    return draw.svg(name, title, described, 29, marks)


def nested(name: str, title: str, rows: Sequence[tuple[str, Sequence[Share]]]) -> str:
    """Bars from 0 to all of it, the parts of each inside one another, the widest first."""
    scale = Scale(0.0, 1.0)
    marks = ""
    for place, (label, parts) in enumerate(rows):
        top = place * 50.0
        marks += draw.words(0, top + 14, label, "name") + draw.rect(
            0, top + 22, 100, 14, "track-all"
        )
        known = sorted((part for part in parts if part.share), key=lambda part: -(part.share or 0))
        marks += "".join(
            draw.rect(0, top + 22, scale.at(part.share or 0.0), 14, part.kind) for part in known
        )
    described = "; ".join(
        f"{label}: " + ", ".join(f"{part.name} {percent(part.share)}" for part in parts)
        for label, parts in rows
    )
    return draw.svg(name, title, described, len(rows) * 50.0, marks)
