"""A machine's power as a sensor where no meter is: idle power, and watts by busy CPU time.

Power follows a curve over the utilisation between two readings, the busy time of ``/proc/stat``
(steal excluded) over all CPUs on line. A measured curve bends downwards, so a longer interval
reads a little high under changing load; the straight line of a table gives the same joules
whatever the interval.

In a guest the machine is the guest: its CPUs' part of a host. A row is for a core with all its
threads. Where a guest shows no threads, one of its CPUs counts as a core, though most hosts give
it a thread: the figure is then up to twice too high, which lies within the factor of 3 and is why
that is not 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from setsuden.energy.domain import Candidate, Domain, DomainKind, Reading, Sensor
from setsuden.energy.host.cpu import HostCpuReader, cores, threads_per_core
from setsuden.energy.host.system import Host
from setsuden.energy.options import EnergyOptions
from setsuden.energy.power_curve import PowerCurve, stored_calibration
from setsuden.energy.sensors.table import GUEST_FACTOR, match
from setsuden.schemas.energy import Boundary, Source

IDLE_OF_BUSY = 0.3
"""Idle over full power where only the latter is declared: the median of published results since
2021 is 0.23, their 95th percentile 0.48."""
_CPU_BOUNDARIES = frozenset({Boundary.SOCKET, Boundary.CPU_PACKAGE, Boundary.CPU_CORE})
_TWICE = ", and where it gives threads for CPUs this is up to twice too much"
_NO_STAT = "/proc/stat cannot be read, and the model needs busy CPU time"


class ModelSensor:
    """Joules since it was opened; no reading but the CPU's own busy time."""

    def __init__(self, domain: Domain, curve: PowerCurve, cpus: int, host: Host) -> None:
        self.domains: tuple[Domain, ...] = (domain,)
        self._curve, self._cpus, self._clock = curve, cpus, host.clock
        self._host: HostCpuReader | None = HostCpuReader(host.root)
        self._joules = 0.0
        self._last: tuple[int, float] | None = None
        """Time and busy seconds of the newest reading that succeeded: a failed one leaves a longer
        interval, not a hole."""

    def read(self) -> list[Reading]:
        """The joules so far."""
        now = self._clock.monotonic_ns()
        name = self.domains[0].id
        try:
            busy = self._busy()
        except (OSError, ValueError, IndexError) as error:
            return [Reading(name, now, None, f"/proc/stat: {error}")]
        self._add(now, busy)
        return [Reading(name, now, self._joules)]

    def _busy(self) -> float:
        if self._host is None:
            raise OSError("it is closed")
        return self._host.read().busy_seconds

    def _add(self, now: int, busy: float) -> None:
        if self._last is not None and now > self._last[0]:
            seconds = (now - self._last[0]) / 1e9
            # A CPU that is put off line takes its time out of the sum: then nothing is known of
            # the interval but that it was not below idle.
            used = max(0.0, busy - self._last[1]) / (seconds * self._cpus)
            self._joules += self._curve.watts(used) * seconds
        self._last = (now, busy)

    def close(self) -> None:
        """Let the file go."""
        if self._host is not None:
            self._host.close()
            self._host = None


def probe_calibrated(options: EnergyOptions, host: Host) -> Candidate:
    """The curve of this very machine, in the file of ``setsuden energy calibrate``."""
    found = stored_calibration(options, host)
    read = found.calibration
    if read is None:
        return Candidate("calibrated", available=False, reason=found.reason, remedy=found.remedy)
    named = _Named(
        "calibrated",
        Source.CALIBRATED_MODEL,
        read.boundary,
        read.factor,
        f"a curve through idle, half and full load ({found.reason})",
        f"{found.reason} ({read.meter_source}, {read.boundary}); load: {read.load}",
    )
    return _candidate(named, read.curve, host)


def probe_declared(options: EnergyOptions, host: Host) -> Candidate:
    """Watts of a core as the configuration declares them."""
    full, idle = options.watts_per_core, options.idle_watts_per_core
    if full is None:
        reason = "energy.watts_per_core is not set"
        remedy = "set energy.watts_per_core and energy.idle_watts_per_core to what you know"
        return Candidate("declared", available=False, reason=reason, remedy=remedy)
    if idle is not None and idle >= full:
        reason = f"energy.idle_watts_per_core {idle:g} is not below energy.watts_per_core {full:g}"
        remedy = "set energy.idle_watts_per_core to the power of a core that does nothing"
        return Candidate("declared", available=False, reason=reason, remedy=remedy)
    idle_origin = "energy.idle_watts_per_core"
    if idle is None:
        idle, idle_origin = IDLE_OF_BUSY * full, f"{IDLE_OF_BUSY:g} of it idle"
    named = _Named(
        "declared",
        Source.DECLARED,
        Boundary.WALL_AC,
        options.factor,
        f"{full:g} W for each of {cores(host.root)} CPUs when busy, {idle:g} W when idle",
        f"energy.watts_per_core, {idle_origin}",
    )
    return _candidate(named, _straight(idle, full, cores(host.root)), host)


def probe_table(options: EnergyOptions, host: Host) -> Candidate:  # noqa: ARG001  # every probe's signature
    """Published wall power per core of this product, else of its like."""
    found = match(host.root)
    cpus, threads = cores(host.root), threads_per_core(host.root)
    row, count = found.row, cpus / threads
    counted = f"{cpus} CPUs as {count:g} cores" if threads > 1 else f"{cpus} CPUs, each as a core,"
    named = _Named(
        "table",
        Source.TABLE_MODEL,
        Boundary.WALL_AC,
        found.factor,
        f"{counted} of {row.idle_watts_per_core:g} W idle and {row.watts_per_core:g} W busy; "
        f"{found.why}{_TWICE if found.factor == GUEST_FACTOR and threads == 1 else ''}",
        found.origin,
    )
    return _candidate(named, _straight(row.idle_watts_per_core, row.watts_per_core, count), host)


@dataclass(frozen=True, slots=True)
class _Named:
    """What a model is called and how far it is to be trusted."""

    name: str
    source: Source
    boundary: Boundary
    factor: float
    reason: str
    origin: str


def _straight(idle: float, full: float, count: float) -> PowerCurve:
    return PowerCurve(((0.0, idle * count), (1.0, full * count)))


def _candidate(named: _Named, curve: PowerCurve, host: Host) -> Candidate:
    if not (host.root.text_or_none("proc/stat") or "").startswith("cpu "):
        remedy = "mount -t proc proc /proc"
        return Candidate(named.name, available=False, reason=_NO_STAT, remedy=remedy)
    domain = Domain(
        id=f"model:{named.name}",
        name="machine",
        hw_type="cpu" if named.boundary in _CPU_BOUNDARIES else "enclosure",
        kind=DomainKind.COUNTER,
        source=named.source,
        boundary=named.boundary,
        factor=named.factor,
        max_watts=curve.watts(1.0),
    )
    opening: Callable[[], Sensor] = partial(ModelSensor, domain, curve, cores(host.root), host)
    return Candidate(
        name=named.name,
        available=True,
        reason=named.reason,
        domains=(domain,),
        primary=(domain.id,),
        open=opening,
        idle_watts=curve.idle,
        origin=named.origin,
    )
