"""The stored power curve of this machine, as ``setsuden energy calibrate`` wrote it.

Three points are worth more than any table: over four published CPUs a curve through about 10, 50
and 100 % was 6 to 16 % off in the mean and 33 % at worst, where models from tables were 34 to
52 % off. Measured curves bend downwards (exponents 0.3 to 0.8), so two points are not enough.
"""

from __future__ import annotations

import hashlib
import hmac
from math import log
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from setsuden.energy.host.cpu import cores, cpu_name
from setsuden.energy.host.system import Host, SysRoot
from setsuden.energy.options import EnergyOptions
from setsuden.schemas.base import Model, ShortText
from setsuden.schemas.energy import Boundary, Source

MAX_BYTES = 65_536
_REMEDY = "setsuden energy calibrate"
_EXPONENTS = (0.2, 2.0)


class Point(Model):
    """The machine under one steady load."""

    utilisation: float = Field(ge=0, le=1.2)
    """Busy part of all its CPUs by ``/proc/stat``; ticks may carry it a little past 1."""
    watts: float = Field(gt=0, le=1e6)
    """Mean."""
    seconds: float = Field(gt=0)
    """How long it was measured."""
    cv: float = Field(ge=0)
    """Standard deviation over mean of the parts of that time; of a figure that a person read,
    what its last digit rounds away."""


class PowerCurve(NamedTuple):
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
    def curve(self) -> PowerCurve:
        """Idle power at 0, then the half and the full point."""
        rest = tuple((point.utilisation, point.watts) for point in self.points[1:])
        return PowerCurve(((0.0, self.idle_watts), *rest))

    @property
    def exponent(self) -> float:
        """The ``e`` of ``(u / u_full) ** e`` through the half point; 1 is straight."""
        return exponent(self.curve)


def exponent(curve: PowerCurve) -> float:
    """Exponent of dynamic power over utilisation, within 0.2 to 2; 1 where it is undefined."""
    (_, idle), (half, at_half), (full, at_full) = curve.points
    if not idle < at_half < at_full:
        return 1.0
    fitted = log((at_half - idle) / (at_full - idle)) / log(half / full)
    return min(max(fitted, _EXPONENTS[0]), _EXPONENTS[1])


def machine_hash(root: SysRoot) -> str | None:
    """A hash of ``/etc/machine-id``, which machine-id(5) wants kept to the machine itself."""
    found = root.text_or_none("etc/machine-id")
    if not found:
        return None
    return hmac.new(found.encode(), b"setsuden calibration", hashlib.sha256).hexdigest()[:32]


class CalibrationLookup(NamedTuple):
    """The calibration of this machine, or why there is none."""

    calibration: Calibration | None
    reason: str
    remedy: str = ""


def stored_calibration(options: EnergyOptions, host: Host) -> CalibrationLookup:
    """The calibration in ``options.calibration`` when it is of this very machine."""
    path = Path(options.calibration)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
        read = Calibration.model_validate_json(data)
    except FileNotFoundError:
        return CalibrationLookup(None, f"there is no {path}", _REMEDY)
    except OSError as error:
        return CalibrationLookup(None, f"{path}: {error.strerror}", f"ls -l {path}")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return CalibrationLookup(
            None, f"{path} is no calibration: {where} {first['msg']}".strip(), _REMEDY
        )
    other = _difference(read, host.root)
    if other is not None:
        return CalibrationLookup(None, f"{path} is of another machine: {other}", _REMEDY)
    return CalibrationLookup(read, f"{path} of {read.at}, measured with {read.meter}")


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
