"""The files of the simulated machine, written where the kernel has its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = 100
"""USER_HZ: in what ``/proc/stat`` counts on every architecture."""
_SYSTEM_PART = 0.15


@dataclass(frozen=True, slots=True)
class CounterFile:
    """A RAPL-like energy counter: 32 bits of a unit, shown in whole microjoules."""

    unit_uj: float = 61.03515625
    """2^-14 J as on Intel; 15.2587890625 (2^-16 J) on AMD."""
    bits: int = 32
    start_joules: float = 0.0
    """Where it stands at the beginning: near its end it wraps soon."""
    scale: float = 1.0
    """What it counts for one true joule."""

    @property
    def max_uj(self) -> int:
        """``max_energy_range_uj``."""
        return int(((1 << self.bits) - 1) * self.unit_uj)

    def microjoules(self, joules: float) -> int:
        """What the file says after so many true joules."""
        units = int((self.start_joules + joules * self.scale) * 1e6 / self.unit_uj)
        return int((units & ((1 << self.bits) - 1)) * self.unit_uj)


@dataclass(frozen=True, slots=True)
class PowerFile:
    """An INA226-like sensor: its mean power over the last interval, in steps."""

    interval_seconds: float = 0.14
    """16 averages of 2 x 4.156 ms conversions are 133 ms; the driver rounds."""
    step_uw: int = 2_500
    scale: float = 1.0

    def microwatts(self, watts: float) -> int:
        """What the file says for this mean power."""
        return round(watts * self.scale * 1e6 / self.step_uw) * self.step_uw


class Tree:
    """Files under a folder, rewritten in place: whoever holds one open reads on."""

    def __init__(self, path: Path, cores: int) -> None:
        self.path = path
        self._cores = cores
        self._files: dict[str, int] = {}

    def write(self, name: str, text: str) -> None:
        """The file now says this."""
        if name not in self._files:
            place = self.path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        data = f"{text}\n".encode()
        os.pwrite(self._files[name], data, 0)
        os.ftruncate(self._files[name], len(data))

    def stat(self, busy_seconds: float, total_seconds: float) -> None:
        """``proc/stat`` in whole ticks, each column rounded down by itself."""
        system = int(busy_seconds * _SYSTEM_PART * TICKS_PER_SECOND)
        user = int(busy_seconds * (1.0 - _SYSTEM_PART) * TICKS_PER_SECOND)
        idle = int(max(0.0, total_seconds - busy_seconds) * TICKS_PER_SECOND)
        one = f"{user // self._cores} 0 {system // self._cores} {idle // self._cores} 0 0 0 0 0 0"
        lines = [f"cpu  {user} 0 {system} {idle} 0 0 0 0 0 0"]
        lines += [f"cpu{core} {one}" for core in range(self._cores)]
        self.write("proc/stat", "\n".join(lines))

    def close(self) -> None:
        """Let the files go; they stay on disk."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
