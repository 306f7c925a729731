"""Counters of the kernel's perf subsystem, and the energy events that CPUs' PMUs have.

``perf_event_open(2)``; structure and constants are those of ``include/uapi/linux/perf_event.h``.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

SYSCALLS = {"x86_64": 298, "aarch64": 241}
"""The call's number: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h."""
_ATTR_BYTES = 64
"""PERF_ATTR_SIZE_VER0: all that counting needs, known to every kernel."""
_PINNED = 1 << 2
"""Always on its counter. Without it a busy PMU would count a part of the time only, and that part
would look like less energy."""
_CLOEXEC = 1 << 3


class PmuEvent:
    """One counter of one PMU on one CPU, for whatever runs there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def count(self) -> int:
        """Counts since it was opened, 64 bits kept by the kernel; raises OSError."""
        data = os.read(self._descriptor, 8)
        if len(data) != 8:  # how the kernel says that a pinned event found no counter
            raise OSError(errno.EBUSY, "the PMU has no counter free")
        return int(struct.unpack("=Q", data)[0])

    def close(self) -> None:
        """Stop counting."""
        os.close(self._descriptor)


class Pmu:
    """The door to the perf subsystem; a test puts its own behind it."""

    def open(self, kind: int, config: int, cpu: int) -> PmuEvent:
        """Count ``config`` of the PMU numbered ``kind`` on this CPU; raises OSError."""
        import ctypes  # noqa: PLC0415  # 5 ms that machines without such a PMU need not pay

        number = SYSCALLS.get(platform.machine())
        if number is None:
            raise OSError(errno.ENOSYS, f"the call's number on {platform.machine()} is unknown")
        attributes = ctypes.create_string_buffer(attr(kind, config), _ATTR_BYTES)
        call = ctypes.CDLL(None, use_errno=True).syscall
        call.restype = ctypes.c_long
        descriptor = call(
            ctypes.c_long(number),
            attributes,
            ctypes.c_int(-1),
            ctypes.c_int(cpu),
            ctypes.c_int(-1),
            ctypes.c_ulong(_CLOEXEC),
        )
        if descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return PmuEvent(int(descriptor))


def attr(kind: int, config: int) -> bytes:
    """``struct perf_event_attr`` for counting: type, size, config, and the pinned flag."""
    return struct.pack("=IIQQQQQIIQ", kind, _ATTR_BYTES, config, 0, 0, 0, _PINNED, 0, 0, 0)


RAPL_ORIGIN = "RAPL events of the kernel's power PMU, scaled by its own .scale files"
CORE_FACTOR = 1.2
"""Our judgement: activity estimates of the processor, not a shunt; no accuracy was found."""


class EventScope(StrEnum):
    """Which cores count an event."""

    CORE = "core"
    """Each core its own."""
    GROUP = "group"
    """The cores of a memory group all the same: one of them is read."""


class CoreEvent(NamedTuple):
    """One energy event."""

    name: str
    code: int
    joules_per_count: float | None
    """None: no public document says."""
    spread: EventScope
    hw_type: str


@dataclass(frozen=True, slots=True)
class CorePmu:
    """The energy events of one processor."""

    name: str
    implementer: int
    part: int
    least_cores: int
    most_cores: int
    events: tuple[CoreEvent, ...]
    origin: str

    @property
    def known(self) -> bool:
        """True when counts can be converted to joules."""
        return all(event.joules_per_count for event in self.events)

    @property
    def primary(self) -> tuple[str, ...]:
        """Core, cache and memory do not overlap: together they are the processor."""
        return tuple(event.name for event in self.events)

    def is_it(self, midr: int, cores: int) -> bool:
        """True for the processor of this MIDR_EL1 and number of cores."""
        return (
            midr >> 24 & 0xFF == self.implementer
            and midr >> 4 & 0xFFF == self.part
            and self.least_cores <= cores <= self.most_cores
        )


_FUJITSU = 0x46
_NANO = 1e-9
_A64FX_ORIGIN = (
    "event codes: Linux tools/perf/pmu-events/arch/arm64/fujitsu/a64fx; joules per count: likwid "
    "groups/arm64fx/ENERGY.txt; that one core tells its whole memory group's L2 and HBM is "
    "unverified here"
)
_MONAKA_ORIGIN = "FUJITSU-MONAKA PMU Events 2.0 (April 2026), sections on core and uncore events"


def _a64fx(core_nano: float, cache_nano: float, least: int, most: int) -> CorePmu:
    return CorePmu(
        "A64FX",
        _FUJITSU,
        0x001,
        least,
        most,
        (
            CoreEvent("EA_CORE", 0x1E0, core_nano * _NANO, EventScope.CORE, "cpu"),
            CoreEvent("EA_L2", 0x3E0, cache_nano * _NANO, EventScope.GROUP, "cpu"),
            CoreEvent("EA_MEMORY", 0x3E8, 256 * _NANO, EventScope.GROUP, "memory"),
        ),
        _A64FX_ORIGIN,
    )


CORE_PMUS = (
    _a64fx(8, 32, 25, 64),
    _a64fx(9, 36, 1, 24),
    CorePmu(
        "FUJITSU-MONAKA",
        _FUJITSU,
        0x003,
        1,
        4096,
        (
            CoreEvent("EA_CORE", 0x1F0, None, EventScope.CORE, "cpu"),
            CoreEvent("EA_L3", 0x3F0, None, EventScope.GROUP, "cpu"),
            CoreEvent("EA_LDO_LOSS", 0x3F1, None, EventScope.GROUP, "cpu"),
        ),
        _MONAKA_ORIGIN,
    ),
)
"""MONAKA's memory and PCI controllers count energy too (``mac_iod*`` EA_MAC 0x80, EA_MEMORY 0x90,
EA_HA 0xA0; ``pci_iod*`` EA_PCI 0x80); none of its counts has a published unit."""
