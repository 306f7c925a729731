"""The run over time: hours for accounting, curves to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import fsum, isnan
from typing import NamedTuple

from setsuden.insight.carbon.intensity import JOULES_PER_KWH
from setsuden.insight.carbon.series import IntensitySeries
from setsuden.insight.report.assumptions import SiteAssumptions, hour_name, with_hours
from setsuden.insight.report.model import MAX_POINTS, Amount, Curve, HourReport, Part, Series
from setsuden.insight.report.totals.amounts import ratio
from setsuden.insight.report.totals.meters import transfer
from setsuden.insight.report.totals.run import MeterTotals, RunTotals

HOUR_NS = 3_600_000_000_000
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200)
"""Seconds; longer runs take whole days."""
DAY = 86_400


class WindowSlice(NamedTuple):
    """The part of a window that lies in one interval."""

    slot: int
    seconds: float
    joules: float
    """NaN: unknown."""
    finals: float
    wire: float


def slices_of(meter: MeterTotals, length_ns: int) -> Iterator[WindowSlice]:
    """The meter's windows cut at multiples of ``length_ns``, each part by its time."""
    windows = meter.sums.timeline
    for place in windows.order():
        start, seconds = windows.start_ns[place], windows.seconds[place]
        values = (seconds, windows.ours[place], windows.finals[place], windows.wire[place])
        for slot, part in _cut(start, round(seconds * 1e9), length_ns):
            yield WindowSlice(slot, *(value * part for value in values))


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
    site: SiteAssumptions
    seconds: list[float] = field(default_factory=list)
    joules: list[tuple[float, float, float]] = field(default_factory=list)
    """Mid, low, high."""
    finals: list[float] = field(default_factory=list)
    complete: bool = True


def hours_of(run: RunTotals) -> tuple[HourReport, ...]:
    """Joules by UTC hour, site and component; the network's at the device's site."""
    hours: dict[tuple[int, str, Part], _Hour] = {}
    for meter in run.meters:
        name, site = run.assumptions.site_name(meter.row), run.assumptions.site(meter.row)
        rates = run.assumptions.network.get(meter.row.access)
        bounds = _bounds(meter.joules.whole)
        counts_wire = meter.network.joules is not None and rates is not None
        for window in slices_of(meter, HOUR_NS):
            hour = hours.setdefault((window.slot, name, meter.part), _Hour(site))
            _add(hour, window, bounds)
            if counts_wire and rates is not None and window.wire:
                net = hours.setdefault((window.slot, name, Part.NETWORK), _Hour(site))
                sent = transfer(window.wire, rates)
                net.joules.append((sent.joules or 0.0, sent.low or 0.0, sent.high or 0.0))
    return tuple(_hour(*key, hours[key]) for key in sorted(hours))


def with_hourly_grid(run: RunTotals, series: IntensitySeries) -> tuple[RunTotals, tuple[str, ...]]:
    """The run with the series' figure for each of its hours; its zones the series does not cover.

    Only hours with rows: a clock that was years off must not look up all years between.
    """
    hours: defaultdict[str, set[int]] = defaultdict(set)
    for meter in run.meters:
        slots = (window.slot for window in slices_of(meter, HOUR_NS))
        hours[run.assumptions.site_name(meter.row)].update(slots)
    assumptions, missing = with_hours(run.assumptions, series, hours)
    return replace(run, assumptions=assumptions), missing


def _bounds(whole: Amount) -> tuple[float, float]:
    """Low and high for each joule of the meter."""
    if not whole.joules or whole.low is None or whole.high is None:
        return 1.0, 1.0
    return whole.low / whole.joules, whole.high / whole.joules


def _add(hour: _Hour, window: WindowSlice, bounds: tuple[float, float]) -> None:
    hour.seconds.append(window.seconds)
    hour.finals.append(window.finals)
    if isnan(window.joules):
        hour.complete = False
        return
    low, high = bounds
    hour.joules.append((window.joules, window.joules * low, window.joules * high))


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


def _grams(site: SiteAssumptions, hour: str, part: Part, joules: float | None) -> float | None:
    grid = site.at(hour)
    if joules is None or grid is None:
        return None
    pue = site.profile.pue if site.profile is not None and part is not Part.NETWORK else 1.0
    return joules / JOULES_PER_KWH * pue * grid.g_per_kwh


# -- curves -----------------------------------------------------------------------------------


def series_of(run: RunTotals) -> Series:
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
        inferences_per_second=tuple(fsum(counts) / step for counts in finals),
    )


def step_of(start_ns: int, end_ns: int) -> int:
    """The shortest step with which the run has at most ``MAX_POINTS`` points."""
    days = (end_ns - start_ns) // (DAY * 10**9 * (MAX_POINTS - 2)) + 1
    for step in (*STEPS, DAY * days):
        if (end_ns - start_ns) / (step * 1e9) <= MAX_POINTS - 2:
            return step
    return DAY * days


def _watts(
    meters: list[MeterTotals],
    step: int,
    first: int,
    points: int,
    visit: Callable[[WindowSlice], None],
) -> tuple[float | None, ...]:
    """Sum over machines of their mean power in each step; restarts of a meter are one machine."""
    machines: defaultdict[str, list[MeterTotals]] = defaultdict(list)
    for meter in meters:
        machines[meter.row.name].append(meter)
    sums: list[list[float]] = [[] for _ in range(points)]
    for lives in machines.values():
        joules: defaultdict[int, list[float]] = defaultdict(list)
        seconds: defaultdict[int, list[float]] = defaultdict(list)
        for meter in lives:
            for window in slices_of(meter, step * 10**9):
                visit(window)
                if not isnan(window.joules):
                    joules[window.slot - first].append(window.joules)
                    seconds[window.slot - first].append(window.seconds)
        for slot, parts in joules.items():
            sums[slot].append(ratio(fsum(parts), fsum(seconds[slot])) or 0.0)
    return tuple(fsum(watts) if watts else None for watts in sums)
