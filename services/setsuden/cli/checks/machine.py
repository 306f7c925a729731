"""The machine as the checks see it, and what a check says."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

COMMAND_SECONDS = 60.0
STA_UNSYNC = 0x0040
"""Kernel clock status: no time daemon has set the clock lately (adjtimex(2))."""
_TIMEX_BYTES = 208
_TIMEX_MAXERROR, _TIMEX_STATUS = 24, 40


class CheckStatus(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class CheckResult(NamedTuple):
    """What one check saw, why that matters, and the one thing to do."""

    name: str
    status: CheckStatus
    seen: str
    cause: str = ""
    remedy: str = ""


class Completed(NamedTuple):
    """A command that ended; a negative code is the signal that killed it."""

    code: int
    output: str
    errors: str


class KernelClock(NamedTuple):
    """What adjtimex tells."""

    synchronised: bool
    max_error_seconds: float


Run = Callable[[Sequence[str]], Completed | None]


def run_command(command: Sequence[str]) -> Completed | None:
    """The command's end; None when there is no such program."""
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return Completed(124, "", f"no end within {COMMAND_SECONDS:g} s")
    return Completed(ended.returncode, ended.stdout, ended.stderr)


def libc_version() -> str:
    """``glibc 2.36``, or an empty text where the C library has no such answer."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def installed(name: str) -> str | None:
    """The version of an installed distribution; nothing is imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def kernel_clock() -> KernelClock | None:
    """The kernel's own word on its clock; None where it gives none (64-bit Linux does)."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    if adjtimex is None or ctypes.sizeof(ctypes.c_long) != 8 or adjtimex(timex) < 0:
        return None
    max_error = int.from_bytes(timex.raw[_TIMEX_MAXERROR:][:8], sys.byteorder, signed=True)
    status = int.from_bytes(timex.raw[_TIMEX_STATUS:][:4], sys.byteorder)
    return KernelClock(not status & STA_UNSYNC, max_error / 1e6)


@dataclass(frozen=True, slots=True)
class CheckedMachine:
    """Files under ``root``, commands, versions and clocks of one machine."""

    root: Path = Path("/")
    run: Run = run_command
    python: tuple[int, int, int] = (sys.version_info[0], sys.version_info[1], sys.version_info[2])
    libc: Callable[[], str] = libc_version
    installed: Callable[[str], str | None] = installed
    kernel_clock: Callable[[], KernelClock | None] = kernel_clock
    readable: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK)
    writable: Callable[[Path], bool] = lambda path: os.access(path, os.W_OK | os.X_OK)

    def text(self, path: str) -> str:
        """A file under the root, as text; empty when it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
