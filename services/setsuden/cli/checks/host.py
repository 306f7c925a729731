"""Checks of the machine itself: Python, C library, CPU, disk, clock, power sensor."""

from __future__ import annotations

import os
import shutil
from errno import EACCES
from pathlib import Path

from setsuden.energy import EnergyOptions
from setsuden.energy.host.system import FileHandle, Host, SysRoot
from setsuden.energy.sensors.detect import detect
from setsuden.schemas.energy import Source

from .machine import CheckedMachine, CheckResult, CheckStatus

PYTHON_FLOOR = (3, 11)
GLIBC_FLOOR = (2, 28)
FEATURES = ("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "avx2", "avx512_vnni", "avx_vnni")
"""CPU features that decide how fast int8 and bf16 inference can be; ``asimddp`` is dotprod."""
_MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})
DENIED = "may not read"
"""How a source's reason begins that is there and closed to us."""


def python(machine: CheckedMachine) -> CheckResult:
    """3.11 or newer."""
    seen = ".".join(map(str, machine.python))
    if machine.python[:2] >= PYTHON_FLOOR:
        return CheckResult("python", CheckStatus.OK, seen)
    return CheckResult(
        "python", CheckStatus.FAIL, seen, "Python 3.11 or newer is needed", "apt install python3.11"
    )


def libc(machine: CheckedMachine) -> CheckResult:
    """Glibc 2.28 or newer: there is no onnxruntime for anything else."""
    version = machine.libc()
    name, _, number = version.partition(" ")
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    if name == "glibc" and parts >= GLIBC_FLOOR:
        return CheckResult("glibc", CheckStatus.OK, number)
    musl = any(machine.root.glob("lib/ld-musl-*"))
    seen = version or ("musl" if musl else "no glibc")
    cause = "onnxruntime has no wheel for it, or pip takes one of 2023"
    return CheckResult(
        "glibc", CheckStatus.FAIL, seen, cause, "docker run -it python:3.12-slim-bookworm"
    )


def cpu(machine: CheckedMachine) -> CheckResult:
    """For information: what inference can use here."""
    flags: set[str] = set()
    for line in machine.text("proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in {"flags", "features"}:
            flags.update(value.split())
    found = [name for name in FEATURES if name in flags]
    return CheckResult("cpu", CheckStatus.OK, " ".join(found) or "no feature we know of")


def disk(machine: CheckedMachine, folder: Path, *, needed_bytes: int, outbox: bool) -> CheckResult:
    """Room for what the configuration may write, on something that survives a reboot."""
    place = _existing(folder.absolute())
    free = shutil.disk_usage(place).free
    kind = _filesystem(machine, place)
    seen = f"{_size(free)} free for {folder} on {kind}"
    if not machine.writable(place):
        cause = f"user {os.geteuid()} may not write to {place}"
        remedy = f"sudo -u USER setsuden doctor …, or chown USER {place}"
        return CheckResult(
            "disk", CheckStatus.FAIL if needed_bytes else CheckStatus.WARN, seen, cause, remedy
        )
    if kind in _MEMORY_FILESYSTEMS:
        status = CheckStatus.FAIL if outbox else CheckStatus.WARN
        cause = "memory is lost at a reboot, and with it accepted events"
        return CheckResult(
            "disk", status, seen, cause, "setsuden agent run --set state=DIR_ON_A_DISK"
        )
    if free < needed_bytes:
        cause = f"the configuration allows {_size(needed_bytes)} of events and traces"
        return CheckResult("disk", CheckStatus.WARN, seen, cause, f"df -h {place}")
    return CheckResult("disk", CheckStatus.OK, seen)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110  # Path.exists raises where nobody may look


def _filesystem(machine: CheckedMachine, place: Path) -> str:
    """The type of the filesystem with the longest mount point above the place."""
    best, kind = "", "an unknown filesystem"
    for line in machine.text("proc/mounts").splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        above = place == Path(point) or Path(point) in place.parents
        if above and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def clock(machine: CheckedMachine) -> CheckResult:
    """Whether a time daemon keeps the clock; unknown is said as unknown."""
    told = machine.run(["timedatectl", "show", "--property", "NTPSynchronized", "--value"])
    if told is not None and told.code == 0 and told.output.strip() in {"yes", "no"}:
        return _clock(told.output.strip() == "yes", "timedatectl", "sudo timedatectl set-ntp true")
    install = "sudo apt install systemd-timesyncd"
    kernel = machine.kernel_clock()
    if kernel is not None:
        error = f", off by {kernel.max_error_seconds:.3g} s at most" if kernel.synchronised else ""
        return _clock(kernel.synchronised, f"kernel{error}", install)
    if (machine.root / "run/systemd/timesync/synchronized").exists():
        return _clock(synchronised=True, told_by="timesyncd", remedy="")
    cause = "neither timedatectl nor the kernel nor timesyncd tells"
    return CheckResult("clock", CheckStatus.WARN, "unknown", cause, install)


def _clock(synchronised: bool, told_by: str, remedy: str) -> CheckResult:
    if synchronised:
        return CheckResult("clock", CheckStatus.OK, f"synchronised ({told_by})")
    cause = "deadlines that applications set and times in traces are as wrong as this clock"
    return CheckResult("clock", CheckStatus.WARN, f"not synchronised ({told_by})", cause, remedy)


class _Readable(SysRoot):
    """The machine's files as far as it says that they may be read."""

    def __init__(self, machine: CheckedMachine) -> None:
        super().__init__(machine.root)
        self._readable = machine.readable

    def open(self, name: str) -> FileHandle:
        """The file; PermissionError for one that may not be read."""
        if not self._readable(self.path / name):
            raise PermissionError(EACCES, "Permission denied", name)
        return super().open(name)


def power(machine: CheckedMachine, options: EnergyOptions) -> CheckResult:
    """Where joules come from, and what stands in the way of better ones."""
    found = detect(options, Host(root=_Readable(machine)))
    chosen = found.chosen
    primary = [domain for domain in chosen.domains if domain.id in chosen.primary]
    if not primary:
        return CheckResult("power", CheckStatus.OK, "no joules: energy.sensor is 'none'")
    factor, source = max(domain.factor for domain in primary), primary[0].source
    how = f"{chosen.name} ({source}), within a factor of {factor:g}: {chosen.reason}"
    denied = next((one for one in found.candidates if one.reason.startswith(DENIED)), None)
    if denied is not None and found.candidates.index(denied) < found.candidates.index(chosen):
        cause = f"{denied.reason}; joules are from {how}"
        return CheckResult("power", CheckStatus.WARN, denied.name, cause, "setsuden energy doctor")
    modelled = source not in {Source.MEASURED, Source.DERIVED, Source.RELAYED}
    return CheckResult(
        "power", CheckStatus.OK, f"no sensor: joules are from {how}" if modelled else how
    )
