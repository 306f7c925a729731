"""Energy that the processor counts itself, through the kernel's perf subsystem.

On x86 these are the RAPL counters by another door: no root is needed, CAP_PERFMON is. On Fujitsu's
Arm processors they are events of the core's own PMU.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Container, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from math import fsum
from typing import NamedTuple

from setsuden.energy.domain import Candidate, Domain, DomainKind, Reading
from setsuden.energy.host.system import Host, SysRoot
from setsuden.energy.options import EnergyOptions
from setsuden.energy.sensors.factors import FACTORS, ErrorClass
from setsuden.energy.sensors.pmu import (
    CORE_FACTOR,
    CORE_PMUS,
    RAPL_ORIGIN,
    CoreEvent,
    CorePmu,
    EventScope,
    Pmu,
    PmuEvent,
)
from setsuden.schemas.energy import Boundary, Source

NAME = "perf"
_DEVICES = "sys/bus/event_source/devices"
_POWER = f"{_DEVICES}/power"
_RAPL = {
    # event: (hw_type, boundary, events that hold it, the nearest first)
    "energy-psys": ("enclosure", Boundary.HOST, ()),
    "energy-pkg": ("cpu", Boundary.CPU_PACKAGE, ("energy-psys",)),
    "energy-cores": ("cpu", Boundary.CPU_CORE, ("energy-pkg", "energy-psys")),
    "energy-gpu": ("gpu", Boundary.CPU_PACKAGE, ("energy-pkg", "energy-psys")),
    "energy-ram": ("memory", Boundary.CPU_PACKAGE, ("energy-psys",)),
}
_PRIMARY_EVENTS = ("energy-pkg", "energy-ram")
"""Not psys, though it holds both: on some generations it reads above the wall (Kaby Lake: 12.2 W
against 9.3 W of battery discharge)."""
_STILL_SECONDS = 0.02
_CAP_SYS_ADMIN, _CAP_PERFMON = 21, 38
"""Bits of ``CapEff``: include/uapi/linux/capability.h."""


class Counter(NamedTuple):
    """One domain and the events whose sum it is."""

    domain: Domain
    kind: int
    config: int
    joules_per_count: float
    cpus: tuple[int, ...]


def probe(options: EnergyOptions, host: Host, pmu: Pmu | None = None) -> Candidate:
    """RAPL events, else those of a known core PMU; each is opened once to see whether it may."""
    del options
    pmu = pmu or Pmu()
    primary: tuple[str, ...] = _PRIMARY_EVENTS
    counters, origin = power_counters(host.root), RAPL_ORIGIN
    if not counters:
        core = core_pmu(host.root)
        if core is None:
            return _absent()
        if not core.known:
            return _unknown(core)
        counters, origin = core_counters(host.root, core), core.origin
        primary = core.primary
    if not counters:
        return _refused("its files in /sys could not be understood", "")
    return _tried(counters, primary, origin, host, pmu)


def _tried(
    counters: Sequence[Counter], primary: Iterable[str], origin: str, host: Host, pmu: Pmu
) -> Candidate:
    try:
        with closing(PerfSensor(counters, host, pmu)) as sensor:
            still = _is_guest(host.root) and _stands_still(sensor)
    except OSError as error:
        return _refused(why(error, host.root), remedy(error))
    if still:
        return _refused(
            "its counters stand still: the hypervisor shows the events and counts nothing",
            "a meter of the host through the relay, or a plug",
        )
    domains = tuple(counter.domain for counter in counters)
    chosen = tuple(domain.id for domain in domains if domain.name.split("@")[0] in primary)
    return Candidate(
        NAME,
        available=True,
        reason=f"counts {', '.join(domain.name for domain in domains)}",
        domains=domains,
        primary=chosen or (domains[0].id,),
        open=lambda: PerfSensor(counters, host, pmu),
        origin=origin,
    )


def _is_guest(root: SysRoot) -> bool:
    return "hypervisor" in (root.text_or_none("proc/cpuinfo") or "")


def _stands_still(sensor: PerfSensor) -> bool:
    """True when a busy machine uses no energy at all; real counters move every millisecond."""
    before = [reading.value for reading in sensor.read()]
    until = time.monotonic() + _STILL_SECONDS
    while time.monotonic() < until:
        pass
    return [reading.value for reading in sensor.read()] == before


def _absent() -> Candidate:
    return Candidate(
        NAME,
        available=False,
        reason="the kernel offers no PMU that counts energy (a virtual machine has none)",
        remedy="on bare metal: load the module rapl (x86)",
    )


def _unknown(core: CorePmu) -> Candidate:
    names = ", ".join(event.name for event in core.events)
    return Candidate(
        NAME,
        available=False,
        reason=f"{core.name} counts energy ({names}), but no public document says how many joules "
        "one count is",
        remedy="a meter that tells joules: a plug, the ACPI power meter, or Redfish",
        origin=core.origin,
    )


def _refused(reason: str, what: str) -> Candidate:
    return Candidate(
        NAME, available=False, reason=reason, remedy=what or "report the files under /sys to us"
    )


def why(error: OSError, root: SysRoot) -> str:
    """What an open that failed means, in words."""
    if error.errno not in {errno.EACCES, errno.EPERM}:
        return f"the energy event cannot be opened: {error.strerror or error}"
    if may_open(root):
        return "the energy event may not be opened, although this process has the right: a sandbox"
    level = root.text_or_none("proc/sys/kernel/perf_event_paranoid") or "unknown"
    return f"this process may not open it: perf_event_paranoid is {level}, and no CAP_PERFMON"


def remedy(error: OSError) -> str:
    """What to do about it."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return (
            "give the service CAP_PERFMON (systemd: AmbientCapabilities=CAP_PERFMON; container: "
            "cap_add PERFMON and a seccomp profile with perf_event_open)"
        )
    if error.errno == errno.EBUSY:
        return "end other profilers on this machine"
    return "another source, such as rapl or a plug"


def may_open(root: SysRoot) -> bool:
    """True when the kernel itself lets us count what runs on a whole CPU (perf-security.rst)."""
    level = root.text_or_none("proc/sys/kernel/perf_event_paranoid")
    if level is not None and level.lstrip("-").isdecimal() and int(level) <= 0:
        return True
    for line in (root.text_or_none("proc/self/status") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            bits = _hex(value)
            return bool(bits >> _CAP_PERFMON & 1 or bits >> _CAP_SYS_ADMIN & 1)
    return False


def _hex(value: str) -> int:
    try:
        return int(value.strip(), 16)
    except ValueError:
        return 0


# -- the x86 power PMU ----------------------------------------------------------------------------


def power_counters(root: SysRoot) -> tuple[Counter, ...]:
    """One counter for each RAPL event and package; empty without any."""
    kind = _number(root, f"{_POWER}/type")
    cpus = cpu_list(root.text_or_none(f"{_POWER}/cpumask") or "")
    if kind is None or not cpus:
        return ()
    scales = {name: scale for name in _RAPL if (scale := joules_per_count(root, name))}
    return tuple(
        Counter(_rapl_domain(name, cpu, cpus[0], scales), kind, config, scale, (cpu,))
        for name, scale in scales.items()
        if (config := event_config(root.text_or_none(f"{_POWER}/events/{name}"))) is not None
        # One platform, whatever the number of packages; each would tell its figure again.
        for cpu in (cpus[:1] if name == "energy-psys" else cpus)
    )


def _rapl_domain(name: str, cpu: int, first: int, found: Container[str]) -> Domain:
    hw_type, boundary, holders = _RAPL[name]
    parent = next((holder for holder in holders if holder in found), None)
    return Domain(
        id=_rapl_id(name, cpu),
        name=f"{name}@{cpu}",
        hw_type=hw_type,
        kind=DomainKind.COUNTER,
        source=Source.MEASURED,
        boundary=boundary,
        factor=FACTORS[ErrorClass.PACKAGE].value,
        parent=parent and _rapl_id(parent, first if parent == "energy-psys" else cpu),
        interval_seconds=1.0,
    )


def _rapl_id(name: str, cpu: int) -> str:
    return f"perf:power/{name}@{cpu}"


def event_config(described: str | None) -> int | None:
    """``event=0x02`` as the number it is; the power PMU has no other field."""
    name, _, value = (described or "").partition("=")
    try:
        return int(value, 0) if name == "event" else None
    except ValueError:
        return None


def joules_per_count(root: SysRoot, name: str) -> float | None:
    """The event's scale, when its unit is joules and its code is known."""
    if event_config(root.text_or_none(f"{_POWER}/events/{name}")) is None:
        return None
    if root.text_or_none(f"{_POWER}/events/{name}.unit") != "Joules":
        return None
    try:
        scale = float(root.text_or_none(f"{_POWER}/events/{name}.scale") or "")
    except ValueError:
        return None
    return scale if 0 < scale < 1 else None


def cpu_list(text: str) -> tuple[int, ...]:
    """``0,2-4`` as its numbers; empty for what is no such list."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            return ()
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def _number(root: SysRoot, name: str) -> int | None:
    text = root.text_or_none(name) or ""
    return int(text) if text.isdecimal() else None


# -- PMUs of Arm cores ----------------------------------------------------------------------------


def core_pmu(root: SysRoot) -> CorePmu | None:
    """The row of this processor, by its MIDR_EL1."""
    text = root.text_or_none("sys/devices/system/cpu/cpu0/regs/identification/midr_el1") or ""
    midr = _hex(text)
    cores = len(cpu_list(root.text_or_none("sys/devices/system/cpu/present") or ""))
    for row in CORE_PMUS:
        if row.is_it(midr, cores):
            return row
    return None


def core_counters(root: SysRoot, core: CorePmu) -> tuple[Counter, ...]:
    """One counter for each event, summed over the cores that count it."""
    kinds = [_number(root, f"{name}/type") for name in root.glob(f"{_DEVICES}/armv8_pmuv3*")]
    online = cpu_list(root.text_or_none("sys/devices/system/cpu/online") or "")
    if not kinds or kinds[0] is None or not online:
        return ()
    groups = [
        tuple(cpu for cpu in cpu_list(root.text_or_none(name) or "") if cpu in online)
        for name in root.glob("sys/devices/system/node/node*/cpulist")
    ]
    firsts = tuple(group[0] for group in groups if group)
    counters = [
        _core_counter(event, kinds[0], online if event.spread is EventScope.CORE else firsts)
        for event in core.events
    ]
    return tuple(counters) if all(counter.cpus for counter in counters) else ()


def _core_counter(event: CoreEvent, kind: int, cpus: tuple[int, ...]) -> Counter:
    domain = Domain(
        id=f"perf:core/{event.name}",
        name=event.name,
        hw_type=event.hw_type,
        kind=DomainKind.COUNTER,
        source=Source.MEASURED,
        boundary=Boundary.CPU_PACKAGE,
        factor=CORE_FACTOR,
        interval_seconds=1.0,
    )
    return Counter(domain, kind, event.code, event.joules_per_count or 0.0, cpus)


# -- reading --------------------------------------------------------------------------------------


class PerfSensor:
    """Open counters; they begin at 0 when opened and never wrap."""

    def __init__(self, counters: Sequence[Counter], host: Host, pmu: Pmu) -> None:
        """Raises OSError when one of them cannot be opened; then none stays open."""
        self.domains = tuple(counter.domain for counter in counters)
        self._counters, self._clock = counters, host.clock
        with ExitStack() as undo:
            self._events: list[list[PmuEvent]] = []
            for counter in counters:
                opened: list[PmuEvent] = []
                self._events.append(opened)
                for cpu in counter.cpus:
                    event = pmu.open(counter.kind, counter.config, cpu)
                    undo.callback(event.close)
                    opened.append(event)
            self._close = undo.pop_all()

    def read(self) -> list[Reading]:
        """Joules since the opening, of each domain."""
        return [
            self._reading(counter, events)
            for counter, events in zip(self._counters, self._events, strict=True)
        ]

    def _reading(self, counter: Counter, events: list[PmuEvent]) -> Reading:
        at_ns = self._clock.monotonic_ns()
        try:
            joules = fsum(event.count() * counter.joules_per_count for event in events)
        except OSError as error:
            return Reading(counter.domain.id, at_ns, None, error.strerror or str(error))
        return Reading(counter.domain.id, at_ns, joules)

    def close(self) -> None:
        """Let the counters go."""
        with suppress(OSError):
            self._close.close()
