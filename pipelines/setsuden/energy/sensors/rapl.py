"""RAPL through powercap: energy counters of CPU packages, on Intel and AMD under the same names.

What no row can say stands here: zones that hold others, the same counters a second time under
``intel-rapl-mmio``, and packages that show one counter twice.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from setsuden.energy.domain import Candidate, Domain, DomainKind
from setsuden.energy.host.system import Host, SysRoot
from setsuden.energy.options import EnergyOptions
from setsuden.energy.sensors.factors import FACTORS, ErrorClass
from setsuden.energy.sensors.files import (
    FileChannel,
    FileSensor,
    Number,
    number_in,
    permission_remedy,
    why,
)
from setsuden.schemas.energy import Boundary, Source

NAME = "rapl"
POWERCAP = "sys/class/powercap"
MICROJOULE = 1e-6
PACKAGE_WATTS = 1_000.0
"""Taken for the rated power of a package that tells none."""
_ORIGIN = "Linux Documentation/power/powercap/powercap.rst; energy of the package alone, no wall"
_ABSENT = (
    "guests see no RAPL: use a model, or a meter of the host through energy.relay; "
    "on bare metal load intel_rapl_msr"
)
_DENIED = frozenset({errno.EACCES, errno.EPERM})


class Zone(NamedTuple):
    """One powercap zone."""

    zone: str
    """``intel-rapl:0:2``."""
    name: str
    """``package-0``, ``dram``, ``core``, ``uncore``, ``psys``."""
    microjoules: int | None
    problem: str = ""
    denied: bool = False

    @property
    def mmio(self) -> bool:
        """True for a counter read another way."""
        return self.zone.startswith("intel-rapl-mmio")

    @property
    def package(self) -> bool:
        """True for a package or one of its dies."""
        return self.name.startswith("package")

    @property
    def above(self) -> str:
        """The zone in whose folder it stands; empty at the top."""
        return self.zone.rpartition(":")[0] if self.zone.count(":") > 1 else ""


def probe(options: EnergyOptions, host: Host) -> Candidate:
    """Every readable zone; packages and DRAM are summed."""
    del options
    zones = unduplicated(_zones(host.root))
    if not zones:
        return _refused("no intel-rapl zone in /sys/class/powercap", _ABSENT)
    summed = [zone for zone in zones if zone.package or zone.name == "dram"]
    if any(zone.denied for zone in summed):
        files = f"{POWERCAP}/intel-rapl*/energy_uj"
        return _refused(f"may not read /{files}", permission_remedy(files, perf=True))
    return _summed(zones, host)


def _refused(reason: str, remedy: str) -> Candidate:
    return Candidate(NAME, False, reason, remedy, origin=_ORIGIN)


def _summed(zones: Sequence[Zone], host: Host) -> Candidate:
    packages = [zone for zone in zones if zone.package]
    broken = [zone for zone in packages if zone.microjoules is None]
    if broken or not packages:
        problems = "; ".join(f"{zone.name}: {zone.problem}" for zone in broken) or "no package zone"
        return _refused(problems, "a kernel that knows this CPU is needed; see dmesg for rapl")
    twins = mirrored(packages, _zones(host.root))
    # DRAM, where the package has none, and others of the kind stand at 0 for ever.
    live = [zone for zone in zones if zone.package or zone.microjoules]
    kept = [zone for zone in live if zone.zone not in twins and zone.above not in twins]
    return _available(kept, twins, host)


def _available(zones: Sequence[Zone], twins: dict[str, str], host: Host) -> Candidate:
    channels = tuple(_channel(zone, zones, host.root) for zone in zones)
    primary = [zone for zone in zones if zone.package or zone.name == "dram"]
    return Candidate(
        NAME,
        available=True,
        reason="; ".join(_reasons(primary, twins, host.root)),
        domains=tuple(channel.domain for channel in channels),
        primary=tuple(zone.zone for zone in primary),
        open=partial(FileSensor, channels, host),
        origin=_ORIGIN,
    )


# -- which zones count ------------------------------------------------------------------------


def unduplicated(zones: Sequence[Zone]) -> list[Zone]:
    """Without zones of ``intel-rapl-mmio`` that ``intel-rapl`` has too: one counter."""
    names = {_full_name(zone, zones) for zone in zones if not zone.mmio}
    return [zone for zone in zones if not (zone.mmio and _full_name(zone, zones) in names)]


def _full_name(zone: Zone, zones: Sequence[Zone]) -> str:
    """``package-0/dram``: DRAM zones of all packages have one name."""
    above = next((other.name for other in zones if other.zone == zone.above), "")
    return f"{above}/{zone.name}"


def mirrored(packages: Sequence[Zone], later: Sequence[Zone]) -> dict[str, str]:
    """Packages that show another's counter, each with that other.

    Read in order A, B, A: a B between two readings of A is A. Two counters of their own started
    together at boot, but are joules apart soon after. (A Threadripper 1950X shows its one counter
    as two packages; their sum is twice the energy.)
    """
    again = {zone.zone: zone.microjoules for zone in later}
    twins: dict[str, str] = {}
    for index, zone in enumerate(packages):
        for other in packages[:index]:
            if other.zone not in twins and _between(other, zone, again.get(other.zone)):
                twins[zone.zone] = other.zone
                break
    return twins


def _between(first: Zone, second: Zone, after: int | None) -> bool:
    if not first.microjoules or not second.microjoules or after is None:
        return False
    return first.microjoules <= second.microjoules <= after


# -- what is read -----------------------------------------------------------------------------


def _zones(root: SysRoot) -> list[Zone]:
    folders = root.glob(f"{POWERCAP}/intel-rapl*:*")
    names = ((folder, root.text_or_none(f"{folder}/name")) for folder in folders)
    return [_zone(root, folder, name) for folder, name in names if name is not None]


def _zone(root: SysRoot, folder: str, name: str) -> Zone:
    zone = folder.rsplit("/", 1)[1]
    file = f"{folder}/energy_uj"
    try:
        return Zone(zone, name, int(number_in(file, root.text(file))))
    except OSError as error:
        return Zone(zone, name, None, f"/{file}: {why(error)}", error.errno in _DENIED)
    except ValueError as error:
        return Zone(zone, name, None, str(error))


def _channel(zone: Zone, zones: Sequence[Zone], root: SysRoot) -> FileChannel:
    folder = f"{POWERCAP}/{zone.zone}"
    most = _number(root, f"{folder}/max_energy_range_uj")
    rated = _number(root, f"{folder}/constraint_0_max_power_uw")
    domain = Domain(
        id=zone.zone,
        name=zone.name,
        hw_type="memory" if zone.name == "dram" else "enclosure" if zone.name == "psys" else "cpu",
        kind=DomainKind.COUNTER,
        source=Source.MEASURED,
        boundary=_boundary(zone.name),
        factor=FACTORS[ErrorClass.PACKAGE].value,
        parent=parent(zone, zones),
        max_joules=most * MICROJOULE if most else None,
        max_watts=rated * MICROJOULE if rated else PACKAGE_WATTS,
    )
    return FileChannel(domain, (Number(f"{folder}/energy_uj", MICROJOULE),))


def parent(zone: Zone, zones: Sequence[Zone]) -> str | None:
    """The zone whose counter holds this one's: psys all, a package its core and uncore.

    DRAM stands in its package's folder and yet is not in its counter.
    """
    platform = next((other.zone for other in zones if other.name == "psys"), None)
    if zone.name == "psys":
        return None
    if zone.name == "dram" or not any(other.zone == zone.above for other in zones):
        return platform
    return zone.above


def _boundary(name: str) -> Boundary:
    """Of psys: the platform as its vendor wired it, which is no whole host."""
    return {"core": Boundary.CPU_CORE, "psys": Boundary.BOARD_DC}.get(name, Boundary.CPU_PACKAGE)


def _number(root: SysRoot, file: str) -> float | None:
    """The number in the file; None where there is none, and for 0, which means unknown."""
    try:
        return number_in(file, root.text(file)) or None
    except (OSError, ValueError):
        return None


# -- words ------------------------------------------------------------------------------------


def _reasons(primary: Sequence[Zone], twins: dict[str, str], root: SysRoot) -> Iterable[str]:
    yield f"sums {' + '.join(f'{zone.name} ({zone.zone})' for zone in primary)}"
    for twin, first in twins.items():
        yield f"{twin} shows the counter of {first} again and is left out"
    if " sgx" in (root.text_or_none("proc/cpuinfo") or ""):
        yield "this CPU has SGX: with energy filtering on, figures are skewed by up to 50 %"
