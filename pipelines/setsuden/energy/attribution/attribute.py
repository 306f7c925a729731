"""A window's joules, each in exactly one bucket; pure arithmetic, no I/O.

The idle part is the calibrated baseline, never a residual of utilisation: over published
SPECpower end points a split by utilisation is off by a factor of 0.4 to 4.3. The dynamic part goes
by CPU-seconds, the idle part by reserved share and by the time a run was open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum
from math import pow as power
from typing import NamedTuple

UNCALIBRATED_EXPONENT = 0.55
"""Of a measured machine that nobody has calibrated: the middle of the published 0.3 to 0.8.
``setsuden energy verify`` tells what it does to the error of a run's joules."""


class HostWindow(NamedTuple):
    """What the meter saw of the machine in one window."""

    seconds: float
    """Its length on the monotonic clock."""
    joules: float | None
    """Of the primary domains, never negative; None when it could not be read."""
    idle_watts: float
    """Baseline of the same domains."""
    busy_cpu_seconds: float
    """Of the whole machine; steal is not in it."""
    exponent: float = 1.0
    """Bend of dynamic power over utilisation, ``u ** exponent``, above 0; 1 shares joules by
    CPU-seconds alone. Published curves bend with 0.3 to 0.8: a calibration knows this machine's."""


class ProcessUse(NamedTuple):
    """What the metered process took."""

    cpu_seconds: float
    """Dead threads included."""
    reserved_share: float
    """Part of the machine's idle power that it answers for, 0 to 1."""


class RunUse(NamedTuple):
    """What one ``session.run`` took; its times are seconds into the window, clipped to it."""

    cpu_seconds: float
    opened: float
    closed: float


class RunShare(NamedTuple):
    """Joules of one run."""

    dynamic: float
    idle: float


class Buckets(NamedTuple):
    """Joules of one window. Their sum is the window's joules, to 1e-9 of them."""

    request_dynamic: float
    request_idle: float
    overhead: float
    """The process outside its runs: collector, link, telemetry, spinning, this meter."""
    idle_unused: float
    """The process's part of the idle power while no run was open."""
    other: float
    """Everyone else on the machine."""


class Attribution(NamedTuple):
    """A window's buckets, and each run's part in the order given."""

    buckets: Buckets
    shares: tuple[RunShare, ...]
    idle_seconds: tuple[float, ...]
    """Time open, shared equally with the other runs open at each moment."""


Attributor = Callable[[HostWindow, ProcessUse, Sequence[RunUse]], Attribution | None]
"""Any way to attribute a window; ``setsuden energy verify`` finds the wrong ones out."""


class _Split(NamedTuple):
    """Joules and CPU-seconds on which all shares stand."""

    idle: float
    dynamic: float
    busy: float
    process: float
    runs: float


def attribute(
    window: HostWindow, process: ProcessUse, runs: Sequence[RunUse]
) -> Attribution | None:
    """Buckets of the window and joules of each run; None when the window's joules are unknown.

    Its buckets are those that :func:`buckets` gives for the sums over ``runs``.
    """
    run_cpu = fsum(run[0] for run in runs)
    seconds = open_seconds(runs)
    found = buckets(window, process, run_cpu, fsum(seconds))
    if found is None:
        return None
    per_cpu = found.request_dynamic / run_cpu if run_cpu > 0 else 0.0
    open_total = fsum(seconds)
    per_open = found.request_idle / open_total if open_total > 0 else 0.0
    shares = [
        RunShare(run[0] * per_cpu, part * per_open) for run, part in zip(runs, seconds, strict=True)
    ]
    return Attribution(found, tuple(shares), tuple(seconds))


def buckets(
    window: HostWindow, process: ProcessUse, run_cpu_seconds: float, idle_seconds: float
) -> Buckets | None:
    """Buckets from the sums of a window alone: what an auditor of its row computes again.

    ``idle_seconds`` is the time in which any run was open. None when the joules are unknown.
    """
    if window.joules is None:
        return None
    split = _split(window, process, run_cpu_seconds)
    opened = _part(idle_seconds, window.seconds)
    ours = split.idle * process.reserved_share
    request_idle = ours * opened
    request = split.dynamic * _request_part(split, window, opened)
    overhead = (split.dynamic - request) * _part(
        split.process - split.runs, split.busy - split.runs
    )
    known = (request, request_idle, overhead, ours - request_idle)
    # The remainder, not a product of its own: so the sum is exact.
    return Buckets(*known, max(fsum((window.joules, *(-value for value in known))), 0.0))


def open_seconds(runs: Sequence[RunUse]) -> list[float]:
    """Time each run was open, shared equally among those open at each moment.

    One sweep in O(n log n): with F(t) the integral of 1/(runs open), a run's time is
    F(closed) - F(opened). A run that closes before it opens has none.
    """
    edges = [(run[1], 1, place) for place, run in enumerate(runs) if run[2] > run[1]]
    edges += [(run[2], -1, place) for place, run in enumerate(runs) if run[2] > run[1]]
    edges.sort()
    seconds = [0.0] * len(runs)
    count, before, integral = 0, 0.0, 0.0
    for moment, step, place in edges:
        if count:
            integral += (moment - before) / count
        seconds[place] -= step * integral
        count += step
        before = moment
    return seconds


def _split(window: HostWindow, process: ProcessUse, run_cpu_seconds: float) -> _Split:
    """Idle and dynamic joules; CPU-seconds such that runs <= process <= busy."""
    joules = window.joules or 0.0
    idle = min(joules, window.idle_watts * window.seconds)
    # /proc/stat counts ticks of 10 ms, the process's clock nanoseconds: it may seem to exceed it.
    busy = max(window.busy_cpu_seconds, process.cpu_seconds)
    runs = min(run_cpu_seconds, process.cpu_seconds)
    return _Split(idle, joules - idle, busy, process.cpu_seconds, runs)


def _request_part(split: _Split, window: HostWindow, opened: float) -> float:
    """The runs' part of the dynamic joules, 0 to 1.

    With exponent 1 it is their part of the CPU-seconds. Else the window has two states, with and
    without a run open, everyone else's load the same in both: dynamic joules go to the states by
    ``seconds * load ** exponent`` and within one by CPU-seconds. Without this a short run on a
    machine with steady neighbours is charged their dearer, lightly loaded joules: +26 % at
    exponent 0.55, neighbours of 0.8 and a run of 1 core in 4, open for a quarter of the time.
    """
    plain = _part(split.runs, split.busy)
    if window.exponent == 1.0 or not (0.0 < opened < 1.0 and 0.0 < plain < 1.0):
        return plain
    rest = split.busy - split.runs
    loaded = rest + split.runs / opened
    with_run = opened * power(loaded, window.exponent)
    without = (1.0 - opened) * power(rest, window.exponent)
    return with_run / (with_run + without) * (split.runs / opened / loaded)


def _part(of: float, whole: float) -> float:
    """``of / whole`` within 0 to 1; 0 of nothing."""
    return min(max(of / whole, 0.0), 1.0) if whole > 0 else 0.0
