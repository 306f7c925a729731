"""Counters of the kernel's perf subsystem, opened by the system call itself.

``perf_event_open(2)``; structure and constants are those of ``include/uapi/linux/perf_event.h``.
"""

from __future__ import annotations

import errno
import os
import platform
import struct

SYSCALLS = {"x86_64": 298, "aarch64": 241}
"""The call's number: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h."""
_ATTR_BYTES = 64
"""PERF_ATTR_SIZE_VER0: all that counting needs, known to every kernel."""
_PINNED = 1 << 2
"""Always on its counter. Without it a busy PMU would count a part of the time only, and that part
would look like less energy."""
_CLOEXEC = 1 << 3


class Event:
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

    def open(self, kind: int, config: int, cpu: int) -> Event:
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
        return Event(int(descriptor))


def attr(kind: int, config: int) -> bytes:
    """``struct perf_event_attr`` for counting: type, size, config, and the pinned flag."""
    return struct.pack("=IIQQQQQIIQ", kind, _ATTR_BYTES, config, 0, 0, 0, _PINNED, 0, 0, 0)
