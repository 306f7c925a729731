"""What a sensor measures and what reading it gives: the contract every energy source keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from setsuden.schemas.energy import Boundary, Source


class DomainKind(StrEnum):
    """What one value of a domain is."""

    COUNTER = "counter"
    """Joules since some moment; wraps, and may be reset."""
    AVERAGE_POWER = "average_power"
    """Watts, averaged by the device since about the last reading."""
    INSTANT_POWER = "instant_power"
    """Watts at one moment: what happened between two readings is not seen."""


@dataclass(frozen=True, slots=True)
class Domain:
    """One counter or power figure of one sensor."""

    id: str
    """Stable over reboots where the kernel's names are, e.g. ``intel-rapl:0``."""
    name: str
    """As the device names it, e.g. ``package-0``, ``VDD_IN``."""
    hw_type: str
    """``hw.type`` of OpenTelemetry: cpu, memory, gpu, battery, enclosure, …"""
    kind: DomainKind
    source: Source
    boundary: Boundary
    factor: float
    """The true energy inside ``boundary`` lies within reading / factor and reading x factor in
    95 % of cases."""
    parent: str | None = None
    """The domain whose figure already holds this one's."""
    max_joules: float | None = None
    """A counter's range: it wraps to 0 past it. None: unknown, a fall is a reset."""
    max_watts: float | None = None
    """Rated power; a window above three times it is no energy but a fault. None: unknown."""
    interval_seconds: float = 1.0
    """How often it is worth reading."""


class Reading(NamedTuple):
    """One value of one domain."""

    domain: str
    at_ns: int
    """On the monotonic clock."""
    value: float | None
    """Joules of a counter, else watts; None when it could not be read, never 0 for that."""
    problem: str | None = None
    """Why there is no value."""


class Sensor(Protocol):
    """An opened energy source."""

    domains: tuple[Domain, ...]

    def read(self) -> list[Reading]:
        """One reading of each domain, in their order; never raises for a failed read."""
        ...

    def close(self) -> None:
        """Let its files go."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the search for one kind of source found on this machine."""

    name: str
    """Also what ``energy.sensor`` names it by."""
    available: bool
    reason: str
    """Why it can, or cannot, be read: words for a person."""
    remedy: str = ""
    """What to do about it; empty when nothing is wrong."""
    domains: tuple[Domain, ...] = ()
    primary: tuple[str, ...] = ()
    """Ids of domains that do not overlap; their sum is the candidate's energy."""
    open: Callable[[], Sensor] | None = None
    """Opens it; set when available."""
    idle_watts: float | None = None
    """Idle power of the primary domains together where the source itself knows it (a model)."""
    origin: str = ""
    """Which row, coefficient or calibration it comes from, with its citation."""


class Detection(NamedTuple):
    """The choice, and every candidate in the order of worth."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
