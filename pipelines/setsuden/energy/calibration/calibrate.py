"""A power curve fitted to three measured points: idle, half and full load."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import hypot
from typing import NamedTuple

from setsuden.energy.attribution.intervals import RelativeError, combine
from setsuden.energy.host.cpu import cores, cpu_name
from setsuden.energy.host.system import Host
from setsuden.energy.power_curve import Calibration, Point, machine_hash
from setsuden.schemas.energy import Boundary, Source
from setsuden.schemas.errors import SetsudenError

CURVE_FACTOR = 1.35
"""Of a three-point curve between its points: 33 % was the worst of 78 published points."""
IDLE_AT_MOST = 0.15
FULL_AT_LEAST = 0.75
APART = 0.15
"""Least distance of half load from the others, as utilisation."""
NOISE_AT_MOST = 0.25
LOAD_SEEN = 2.0
"""Watts of full over idle load, in standard deviations of both, that say a meter sees the load."""
DIP = 0.03
"""A half that is so little outside idle..full is noise, and is moved to the nearer one."""


class CalibrationError(SetsudenError):
    """Points of which no curve can be made."""

    code = "calibration_failed"


class ReferenceMeter(NamedTuple):
    """What the watts of a calibration were measured with."""

    name: str
    source: Source
    boundary: Boundary
    factor: float


def fit(points: Sequence[Point], meter_factor: float) -> tuple[tuple[Point, ...], float, float]:
    """Idle, half and full made monotone; idle watts at no load; the 95 % factor.

    Raises CalibrationError, in words, for points that are noise or no rising load.
    """
    idle, half, full = points
    _check_loads(idle, half, full)
    _check_watts(idle, half, full)
    half = half.model_copy(update={"watts": min(max(half.watts, idle.watts), full.watts)})
    slope = (half.watts - idle.watts) / (half.utilisation - idle.utilisation)
    at_rest = max(0.0, idle.watts - slope * idle.utilisation)
    noise = RelativeError(max(point.cv for point in points))
    spread = combine(RelativeError.of(CURVE_FACTOR), RelativeError.of(meter_factor), noise)
    return (idle, half, full), at_rest, spread.factor


def check_idle(idle: Point) -> None:
    """Refuse a machine that others use, before the other steps are spent on it."""
    if idle.utilisation > IDLE_AT_MOST:
        raise CalibrationError(
            f"the idle machine was {idle.utilisation:.0%} busy, over {IDLE_AT_MOST:.0%}",
            remedy="stop what else runs on it, then calibrate again",
        )


def _check_loads(idle: Point, half: Point, full: Point) -> None:
    check_idle(idle)
    if full.utilisation < FULL_AT_LEAST:
        raise CalibrationError(
            f"full load reached {full.utilisation:.0%} of the machine's CPUs only",
            remedy="run it on the machine itself, outside any cgroup, cpuset or quota",
        )
    if min(half.utilisation - idle.utilisation, full.utilisation - half.utilisation) < APART:
        raise CalibrationError(
            f"half load was {half.utilisation:.0%} busy, between {idle.utilisation:.0%} and "
            f"{full.utilisation:.0%}: too near one of them",
            remedy="stop what else runs on the machine, then calibrate again",
        )


def _check_watts(idle: Point, half: Point, full: Point) -> None:
    noisy = max((idle, half, full), key=lambda point: point.cv)
    if noisy.cv > NOISE_AT_MOST:
        raise CalibrationError(
            f"watts at {noisy.utilisation:.0%} load scatter by {noisy.cv:.0%}",
            remedy="more --seconds, a finer meter, or a machine on which nothing else runs",
        )
    if full.watts - idle.watts <= LOAD_SEEN * hypot(idle.cv * idle.watts, full.cv * full.watts):
        raise CalibrationError(
            f"{full.watts:.4g} W at full load is not above {idle.watts:.4g} W at idle by more "
            "than their scatter",
            remedy="see that the meter is of this machine, and give it more --seconds",
        )
    if not idle.watts * (1 - DIP) <= half.watts <= full.watts * (1 + DIP):
        raise CalibrationError(
            f"{half.watts:.4g} W at half load lies outside {idle.watts:.4g} to {full.watts:.4g} W",
            remedy="give each step more --seconds: the machine or the meter had not settled",
        )


def calibration(
    points: Sequence[Point], meter: ReferenceMeter, load: str, host: Host
) -> Calibration:
    """The file's content for this machine, now; raises CalibrationError."""
    fitted, idle_watts, factor = fit(points, meter.factor)
    at = datetime.fromtimestamp(host.clock.wall_ns() // 10**9, UTC)
    return Calibration(
        machine=machine_hash(host.root),
        cpu=cpu_name(host.root),
        cores=cores(host.root),
        at=at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        meter=meter.name,
        meter_source=meter.source,
        meter_factor=meter.factor,
        boundary=meter.boundary,
        load=load,
        points=fitted,
        idle_watts=idle_watts,
        factor=factor,
        software=f"setsuden {version('setsuden')}",
    )
