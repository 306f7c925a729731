"""The labelled table model: joules = CPU-seconds x watts of one busy core, with its spread.

Watts are wall power at full load per core of published SPECpower_ssj2008 results (retrieved
2026-03-09). Spread: a factor of 2 either way covers 91 to 96 % of
78 published points for such a model, 3 when the machine is a guest whose host is unknown
(the points are CodeCarbon's published CPU load profiles; the factor 3 is a judgement).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from setsuden.schemas.base import Model, trusted
from setsuden.schemas.energy import Boundary, EnergyReading, Method, Quality, Source

GUEST_FACTOR = 3.0
HOST_FACTOR = 2.0


class EnergyOptions(Model):
    """The ``[energy]`` table: what the person knows better than our table."""

    watts_per_core: float | None = Field(default=None, gt=0, le=1000)
    """Wall power of one busy core; replaces the table, and is labelled ``declared``."""
    factor: float = Field(default=2.0, ge=1, le=100)
    """Spread of a declared figure: low is divided by it, high multiplied."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; the needle stands in ``/proc/cpuinfo``.

    Arm tells part numbers there: 0xd4f is Neoverse V2, 0xd0c Neoverse N1.
    """

    needle: str
    watts_per_core: float
    origin: str


ROWS = (
    Row("AMD EPYC", 2.67, "median of 91 EPYC 9xxx results"),
    Row("0xd4f", 4.30, "NVIDIA Grace Superchip, 144 cores, 619 W"),
    Row("0xd0c", 1.75, "Altra Q80-30, 80 cores, 140 W"),
    Row("aarch64", 1.75, "Altra Q80-30, 80 cores, 140 W, taken for any Arm server"),
    Row("", 5.46, "median of all 393 results since 2021"),
)


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """How this machine turns CPU-seconds into joules."""

    watts_per_core: float
    factor: float
    source: Source
    origin: str

    def reading(self, cpu_seconds: float, method: Method) -> EnergyReading:
        """Joules with low and high of this much CPU time."""
        joules = cpu_seconds * self.watts_per_core
        # Built by us a thousand times a second: its rules hold by construction.
        return trusted(
            EnergyReading,
            joules=joules,
            joules_low=joules / self.factor,
            joules_high=joules * self.factor,
            cpu_seconds=cpu_seconds,
            source=self.source,
            boundary=Boundary.WALL_AC,
            method=method,
            quality=Quality.PROVISIONAL,
        )


def choose(options: EnergyOptions, root: Path = Path("/")) -> EnergyModel:
    """The declared figure, else the table's row for the CPU found under ``root``."""
    if options.watts_per_core is not None:
        return EnergyModel(
            options.watts_per_core, options.factor, Source.DECLARED, "energy.watts_per_core"
        )
    cpuinfo = _read(root / "proc/cpuinfo")
    cpu = f"{cpuinfo} {platform.machine()}"
    row = next(row for row in ROWS if row.needle in cpu)
    factor = GUEST_FACTOR if "hypervisor" in cpuinfo or not _has_sensor(root) else HOST_FACTOR
    return EnergyModel(row.watts_per_core, factor, Source.TABLE_MODEL, row.origin)


def _has_sensor(root: Path) -> bool:
    return any((root / "sys/class" / kind).is_dir() for kind in ("powercap", "hwmon"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:65_536]
    except OSError:
        return ""
