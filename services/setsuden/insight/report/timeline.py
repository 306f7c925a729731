"""The run over time: hours for the books, curves for the eye."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import fsum, isnan
from typing import NamedTuple

from setsuden.insight.report.amounts import JOULES_PER_KWH, ratio
from setsuden.insight.report.assumptions import Site
from setsuden.insight.report.model import MAX_POINTS, Amount, Curve, HourReport, Part, Series
from setsuden.insight.report.network import carried
from setsuden.insight.report.run import Metered, Run

HOUR_NS = 3_600_000_000_000
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200)
"""Seconds; longer runs take whole days."""
DAY = 86_400


class Piece(NamedTuple):
    """The part of a window that lies in one interval."""

    slot: int
    seconds: float
    joules: float
    """NaN: unknown."""
    finals: float
    wire: float


def pieces_of(one: Metered, length_ns: int) -> Iterator[Piece]:
    """The meter's windows cut at multiples of ``length_ns``, each part by its time."""
    line = one.sums.timeline
    for place in line.order():
        start, seconds = line.start_ns[place], line.seconds[place]
        values = (seconds, line.ours[place], line.finals[place], line.wire[place])
        for slot, part in _cut(start, round(seconds * 1e9), length_ns):
            yield Piece(slot, *(value * part for value in values))


def _cut(start: int, length: int, slot_ns: int) -> Iterator[tuple[int, float]]:
    first, last = start // slot_ns, max(start, start + length - 1) // slot_ns
    if first == last:
        yield first, 1.0
        return
    for slot in range(first, last + 1):
        begin, end = max(start, slot * slot_ns), min(start + length, (slot + 1) * slot_ns)
        yield slot, (end - begin) / length


# -- hours ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Hour:
    site: Site
    seconds: list[float] = field(default_factory=list)
    joules: list[tuple[float, float, float]] = field(default_factory=list)
    """Mid, low, high."""
    finals: list[float] = field(default_factory=list)
    complete: bool = True


def hours_of(run: Run) -> tuple[HourReport, ...]:
    """Joules by UTC hour, site and component; the network's at the device's site."""
    found: dict[tuple[int, str, Part], _Hour] = {}
    for one in run.meters:
        meter = one.sums.meter
        name, site = run.assumptions.site_name(meter), run.assumptions.site(meter)
        rates = run.assumptions.network.get(meter.access)
        bounds = _bounds(one.joules.whole)
        counts_wire = one.network.joules is not None and rates is not None
        for piece in pieces_of(one, HOUR_NS):
            hour = found.setdefault((piece.slot, name, one.part), _Hour(site))
            _add(hour, piece, bounds)
            if counts_wire and rates is not None and piece.wire:
                net = found.setdefault((piece.slot, name, Part.NETWORK), _Hour(site))
                sent = carried(piece.wire, rates)
                net.joules.append((sent.joules or 0.0, sent.low or 0.0, sent.high or 0.0))
    return tuple(_hour(*key, found[key]) for key in sorted(found))


def _bounds(whole: Amount) -> tuple[float, float]:
    """Low and high of one joule of the meter."""
    if not whole.joules or whole.low is None or whole.high is None:
        return 1.0, 1.0
    return whole.low / whole.joules, whole.high / whole.joules


def _add(hour: _Hour, piece: Piece, bounds: tuple[float, float]) -> None:
    hour.seconds.append(piece.seconds)
    hour.finals.append(piece.finals)
    if isnan(piece.joules):
        hour.complete = False
        return
    low, high = bounds
    hour.joules.append((piece.joules, piece.joules * low, piece.joules * high))


def hour_name(slot: int) -> str:
    """The hour that is so many after 1970 began, as a report names it."""
    return datetime.fromtimestamp(slot * 3600, UTC).strftime("%Y-%m-%dT%H:%MZ")


def _hour(slot: int, site: str, part: Part, hour: _Hour) -> HourReport:
    mid, low, high = (
        [fsum(column) for column in zip(*hour.joules, strict=True)]
        if hour.joules
        else [None, None, None]
    )
    name = hour_name(slot)
    return HourReport(
        hour=name,
        site=site,
        component=part,
        seconds=fsum(hour.seconds),
        joules=mid,
        low=low,
        high=high,
        complete=hour.complete,
        inferences=fsum(hour.finals),
        operational_g=_grams(hour.site, name, part, mid),
    )


def _grams(site: Site, hour: str, part: Part, joules: float | None) -> float | None:
    grid = site.at(hour)
    if joules is None or grid is None:
        return None
    pue = site.profile.pue if site.profile is not None and part is not Part.NETWORK else 1.0
    return joules / JOULES_PER_KWH * pue * grid.g_per_kwh


# -- curves -----------------------------------------------------------------------------------


def series_of(run: Run) -> Series:
    """Mean watts of each component with machines, and inferences a second."""
    step = step_of(run.start_ns, run.end_ns)
    first = run.start_ns // (step * 10**9)
    points = max(run.end_ns - 1, run.start_ns) // (step * 10**9) - first + 1
    finals: list[list[float]] = [[] for _ in range(points)]
    curves = []
    for part in Part:
        meters = run.of(part)
        if meters:
            watts = _watts(
                meters, step, first, points, lambda p: finals[p.slot - first].append(p.finals)
            )
            curves.append(Curve(component=part, watts=watts))
    return Series(
        start_ns=first * step * 10**9,
        step_seconds=float(step),
        curves=tuple(curves),
        inferences_per_second=tuple(fsum(found) / step for found in finals),
    )


def step_of(start_ns: int, end_ns: int) -> int:
    """The shortest step with which the run has at most ``MAX_POINTS`` points."""
    days = (end_ns - start_ns) // (DAY * 10**9 * (MAX_POINTS - 2)) + 1
    for step in (*STEPS, DAY * days):
        if (end_ns - start_ns) / (step * 1e9) <= MAX_POINTS - 2:
            return step
    return DAY * days


def _watts(
    meters: list[Metered], step: int, first: int, points: int, tell: Callable[[Piece], None]
) -> tuple[float | None, ...]:
    """Sum over machines of their mean power in each step; one machine's lives are one machine."""
    machines: defaultdict[str, list[Metered]] = defaultdict(list)
    for one in meters:
        machines[one.sums.meter.name].append(one)
    sums: list[list[float]] = [[] for _ in range(points)]
    for lives in machines.values():
        joules: defaultdict[int, list[float]] = defaultdict(list)
        seconds: defaultdict[int, list[float]] = defaultdict(list)
        for one in lives:
            for piece in pieces_of(one, step * 10**9):
                tell(piece)
                if not isnan(piece.joules):
                    joules[piece.slot - first].append(piece.joules)
                    seconds[piece.slot - first].append(piece.seconds)
        for slot, found in joules.items():
            sums[slot].append(ratio(fsum(found), fsum(seconds[slot])) or 0.0)
    return tuple(fsum(found) if found else None for found in sums)
