"""CPUs of the machine, and CPU time of it and of one process, in seconds since some moment."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from setsuden.energy.host.system import Host, SysRoot

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_BUSY = (0, 1, 2, 5, 6)
"""user, nice, system, irq, softirq of proc(5); guest time is inside user."""
_STEAL = 7
_PROCESS_CLOCK = 2
"""CPUCLOCK_SCHED of another process: the clock id that clock_getcpuclockid(3) makes of its id."""


class HostCpu(NamedTuple):
    """Of all cores together."""

    busy_seconds: float
    steal_seconds: float
    """Taken by the hypervisor for other guests."""


class HostCpuReader:
    """``/proc/stat``, held open; its clock ticks 100 times a second."""

    def __init__(self, root: SysRoot) -> None:
        self._stat = root.open("proc/stat")

    def read(self) -> HostCpu:
        """Now; raises OSError."""
        return host_cpu(self._stat.text())

    def close(self) -> None:
        """Let the file go."""
        self._stat.close()


def host_cpu(stat: str) -> HostCpu:
    """The sums in the first line of ``/proc/stat``; raises OSError for anything else."""
    if not stat.startswith("cpu "):
        raise OSError("/proc/stat does not begin with its sums")
    fields = [int(field) for field in stat.split("\n", 1)[0].split()[1:]]
    steal = fields[_STEAL] if len(fields) > _STEAL else 0
    return HostCpu(sum(fields[i] for i in _BUSY) / TICKS_PER_SECOND, steal / TICKS_PER_SECOND)


def cores(root: SysRoot) -> int:
    """Cores that are on line, from ``/proc/stat``; 1 where it cannot be read."""
    lines = (root.text_or_none("proc/stat") or "").splitlines()
    return max(1, sum(line.startswith("cpu") and not line.startswith("cpu ") for line in lines))


class ProcessCpu(Protocol):
    """CPU time of the metered process, dead threads included."""

    def seconds(self) -> float:
        """Since some moment; raises OSError when the process is gone."""
        ...


class OwnCpu:
    """Our own process and those that work for it: exact to a microsecond."""

    def __init__(self) -> None:
        self._helpers: dict[int, float] = {}
        """By process id, what each had used when it was last looked at."""
        self._ended = 0.0
        self._lock = threading.Lock()

    def follow(self, pid: int) -> None:
        """A process that works for ours was started."""
        with self._lock:
            self._helpers[pid] = 0.0

    def ended(self, pid: int, cpu_seconds: float) -> None:
        """It was waited for, and used so much in all."""
        with self._lock:
            self._ended += max(cpu_seconds, self._helpers.pop(pid, 0.0))

    def seconds(self) -> float:
        """Since they began."""
        with self._lock:
            for pid, before in self._helpers.items():
                self._helpers[pid] = max(before, _cpu_of(pid))
            helpers = self._ended + sum(self._helpers.values())
        return time.process_time_ns() / 1e9 + helpers


def _cpu_of(pid: int) -> float:
    """By the kernel's clock of that process; 0 when it is gone."""
    try:
        return time.clock_gettime(~pid << 3 | _PROCESS_CLOCK)
    except OSError:
        return 0.0


class FollowedCpu:
    """Other processes, found again each time, in ticks of 10 ms; never falls when some end."""

    def __init__(self, root: SysRoot, find: Callable[[], Iterable[int]]) -> None:
        self._root, self._find = root, find
        self._running: dict[int, float] = {}
        self._ended = 0.0

    def seconds(self) -> float:
        """Of all of them and their threads, user and system, since each was first seen."""
        now = {pid: cpu for pid in self._find() if (cpu := self._of(pid)) is not None}
        for pid, before in self._running.items():
            if now.get(pid, -1.0) < before:  # it ended, or another has its number
                self._ended += before
        self._running = now
        return self._ended + sum(now.values())

    def _of(self, pid: int) -> float | None:
        stat = self._root.text_or_none(f"proc/{pid}/stat")
        if stat is None:
            return None
        # The name, in brackets, may hold anything: fields are counted from behind it.
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def named(root: SysRoot, name: str) -> list[int]:
    """Processes of this name, as ``/proc/PID/comm`` has it."""
    found = root.glob("proc/[0-9]*/comm")
    return [int(path.split("/")[1]) for path in found if root.text_or_none(path) == name[:15]]


def reserved_share(host: Host) -> tuple[float, str]:
    """The machine's part that this process may use, and why: affinity and ``cpu.max``."""
    total = cores(host.root)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    share, why = min(1.0, allowed / total), f"affinity {allowed} of {total} cores"
    quota = _quota(host.root)
    if quota is not None and quota / total < share:
        share, why = quota / total, f"cgroup cpu.max allows {quota:g} of {total} cores"
    return share, why


def _quota(root: SysRoot) -> float | None:
    """Cores of this process's own cgroup (version 2)."""
    for line in (root.text_or_none("proc/self/cgroup") or "").splitlines():
        number, _, name = line.split(":", 2)
        if number == "0":
            limit = root.text_or_none(f"sys/fs/cgroup/{name.strip('/')}/cpu.max") or ""
            amount, _, period = limit.partition(" ")
            return int(amount) / int(period) if amount.isdigit() and period.isdigit() else None
    return None


def threads_per_core(root: SysRoot) -> float:
    """Logical CPUs of one core, as x86 lists them in ``/proc/cpuinfo``; 1 where nothing does."""
    cpuinfo = root.text_or_none("proc/cpuinfo") or ""
    siblings, own = (
        re.search(rf"^{name}\s*:\s*(\d+)$", cpuinfo, re.MULTILINE)
        for name in ("siblings", "cpu cores")
    )
    if siblings is None or own is None or int(own[1]) == 0:
        return 1.0
    return max(1.0, int(siblings[1]) / int(own[1]))


def cpu_name(root: SysRoot) -> str:
    """The CPU as ``/proc/cpuinfo`` names it: a model, else Arm's implementer and part."""
    found: dict[str, str] = {}
    for line in (root.text_or_none("proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name") or found.get("Model")
    arm = f"{found.get('CPU implementer', '')} {found.get('CPU part', '')}".strip()
    return (name or arm or f"unknown {platform.machine()}")[:128]
