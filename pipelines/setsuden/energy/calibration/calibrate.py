"""A machine's own power curve from three points: idle, half and full load.

Three points are worth more than any table: over four published CPUs a curve through about 10, 50
and 100 % was 6 to 16 % off in the mean and 33 % at worst, where models from tables were 34 to
52 % off. Measured curves bend downwards (exponents 0.3 to 0.8), so two points are not enough.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import hypot, log
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from setsuden.energy.attribution.intervals import Spread, combine
from setsuden.energy.metering.hostcpu import cores
from setsuden.energy.options import EnergyOptions
from setsuden.energy.roots import Doors, SysRoot
from setsuden.energy.sensors.table import cpu_name
from setsuden.schemas.base import Model, ShortText
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
MAX_BYTES = 65_536
_REMEDY = "setsuden energy calibrate"
_BENDS = (0.2, 2.0)


class CalibrationError(SetsudenError):
    """Points of which no curve can be made."""

    code = "calibration_failed"


class Point(Model):
    """The machine under one steady load."""

    utilisation: float = Field(ge=0, le=1.2)
    """Busy part of all its CPUs as ``/proc/stat`` told; ticks may carry it a little past 1."""
    watts: float = Field(gt=0, le=1e6)
    """Mean."""
    seconds: float = Field(gt=0)
    """How long it was measured."""
    cv: float = Field(ge=0)
    """Standard deviation over mean of the parts of that time; of a figure that a person read,
    what its last digit rounds away."""


class Curve(NamedTuple):
    """Watts over utilisation: straight between its points, which begin at 0."""

    points: tuple[tuple[float, float], ...]

    def watts(self, utilisation: float) -> float:
        """At this utilisation; past the last point the last slope goes on."""
        inner = self.points[1:-1]
        place = sum(utilisation > point[0] for point in inner)
        (left, low), (right, high) = self.points[place : place + 2]
        return low + (high - low) * (max(utilisation, 0.0) - left) / (right - left)

    @property
    def idle(self) -> float:
        """Watts of no load at all."""
        return self.points[0][1]


class Calibration(Model):
    """The file that ``setsuden energy calibrate`` writes."""

    version: Literal[1] = 1
    machine: str | None = Field(default=None, max_length=64)
    """A hash of the machine's id; None where it has none."""
    cpu: ShortText
    cores: int = Field(ge=1)
    """Logical CPUs on line."""
    at: ShortText
    """When, in UTC."""
    meter: ShortText
    """The source it was measured with, as ``setsuden energy doctor`` names it."""
    meter_source: Source
    meter_factor: float = Field(ge=1)
    boundary: Boundary
    """What the meter measures, and so what this curve gives."""
    load: ShortText
    """What kept the CPUs busy; other instructions take other power."""
    points: Annotated[tuple[Point, ...], Field(min_length=3, max_length=3)]
    """Idle, half, full."""
    idle_watts: float = Field(ge=0)
    """At no load at all: the idle point is never quite idle."""
    factor: float = Field(ge=1)
    """95 % factor of the curve as energy of the boundary."""
    software: ShortText

    @model_validator(mode="after")
    def _rises(self) -> Self:
        loads = [0.0, *(point.utilisation for point in self.points[1:])]
        watts = [self.idle_watts, *(point.watts for point in self.points[1:])]
        if loads != sorted(set(loads)) or watts != sorted(watts) or watts[0] == watts[-1]:
            raise ValueError("watts must rise with utilisation")
        return self

    @property
    def curve(self) -> Curve:
        """Idle power at 0, then the half and the full point."""
        rest = tuple((point.utilisation, point.watts) for point in self.points[1:])
        return Curve(((0.0, self.idle_watts), *rest))

    @property
    def bend(self) -> float:
        """The exponent of ``(u / u_full) ** bend`` through the half point; 1 is straight."""
        return bend(self.curve)


class Meter(NamedTuple):
    """What the watts of a calibration were measured with."""

    name: str
    source: Source
    boundary: Boundary
    factor: float


def bend(curve: Curve) -> float:
    """Exponent of dynamic power over utilisation, within 0.2 to 2; 1 where it cannot be told."""
    (_, idle), (half, at_half), (full, at_full) = curve.points
    if not idle < at_half < at_full:
        return 1.0
    found = log((at_half - idle) / (at_full - idle)) / log(half / full)
    return min(max(found, _BENDS[0]), _BENDS[1])


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
    noise = Spread(max(point.cv for point in points))
    spread = combine(Spread.of(CURVE_FACTOR), Spread.of(meter_factor), noise)
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


def calibration(points: Sequence[Point], meter: Meter, load: str, doors: Doors) -> Calibration:
    """The file's content for this machine, now; raises CalibrationError."""
    fitted, idle_watts, factor = fit(points, meter.factor)
    at = datetime.fromtimestamp(doors.clock.wall_ns() // 10**9, UTC)
    return Calibration(
        machine=machine_hash(doors.root),
        cpu=cpu_name(doors.root),
        cores=cores(doors.root),
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


def machine_hash(root: SysRoot) -> str | None:
    """A hash of ``/etc/machine-id``, which machine-id(5) wants kept to the machine itself."""
    found = root.text_or_none("etc/machine-id")
    if not found:
        return None
    return hmac.new(found.encode(), b"setsuden calibration", hashlib.sha256).hexdigest()[:32]


class Lookup(NamedTuple):
    """The calibration of this machine, or why there is none."""

    calibration: Calibration | None
    reason: str
    remedy: str = ""


def find(options: EnergyOptions, doors: Doors) -> Lookup:
    """The calibration in ``options.calibration`` when it is of this very machine."""
    path = Path(options.calibration)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
        read = Calibration.model_validate_json(data)
    except FileNotFoundError:
        return Lookup(None, f"there is no {path}", _REMEDY)
    except OSError as error:
        return Lookup(None, f"{path}: {error.strerror}", f"ls -l {path}")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Lookup(None, f"{path} is no calibration: {where} {first['msg']}".strip(), _REMEDY)
    other = _difference(read, doors.root)
    if other is not None:
        return Lookup(None, f"{path} is of another machine: {other}", _REMEDY)
    return Lookup(read, f"{path} of {read.at}, measured with {read.meter}")


def _difference(read: Calibration, root: SysRoot) -> str | None:
    """What tells this machine from the calibrated one; cloned images share a machine id."""
    machine, cpu, count = machine_hash(root), cpu_name(root), cores(root)
    if read.machine is not None and machine is not None and read.machine != machine:
        return "its machine id differs"
    if read.cpu != cpu:
        return f"it has the CPU {read.cpu!r}, this one {cpu!r}"
    if read.cores != count:
        return f"it has {read.cores} CPUs on line, this one {count}"
    return None
