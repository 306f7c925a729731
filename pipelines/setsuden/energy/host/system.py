"""All access to the operating system: files, clock and programs; tests bring their own."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_BYTES = 65_536
"""The longest file read: none of the kernel's power files is a thousandth of it."""


class FileHandle:
    """An open file read again from its start: 2 µs instead of 32 for opening it each time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def text(self) -> str:
        """What it says now; raises OSError."""
        return os.pread(self._descriptor, MAX_BYTES, 0).decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)


class SysRoot:
    """A machine's files, under a folder that is ``/`` outside tests."""

    def __init__(self, path: Path = Path("/")) -> None:
        self.path = path

    def open(self, name: str) -> FileHandle:
        """The file ``name`` (relative, such as ``proc/stat``) for many reads; raises OSError."""
        return FileHandle(os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC))

    def text(self, name: str) -> str:
        """What the file says, without the blanks around it; raises OSError."""
        handle = self.open(name)
        try:
            return handle.text()
        finally:
            handle.close()

    def text_or_none(self, name: str) -> str | None:
        """What the file says; None where it cannot be read."""
        try:
            return self.text(name)
        except OSError:
            return None

    def glob(self, pattern: str) -> list[str]:
        """Names that match, relative and sorted; links to folders are followed by name."""
        return sorted(str(found.relative_to(self.path)) for found in self.path.glob(pattern))

    def exists(self, name: str) -> bool:
        """True for a file or folder that is there."""
        return (self.path / name).exists()


class Clock:
    """Time, and waiting for it."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some moment; never steps back."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, UTC."""
        return time.time_ns()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for the event or the time; True when the event is set."""
        return event.wait(seconds)

    def sleep(self, seconds: float) -> None:
        """Wait for the time alone."""
        self.wait(threading.Event(), seconds)


class Runner:
    """Runs a program and takes what it prints."""

    def run(self, command: Sequence[str], timeout_seconds: float) -> str:
        """Standard output; raises OSError when it cannot start, fails, or takes too long."""
        try:
            ended = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{command[0]} took over {timeout_seconds:g} s") from error
        if ended.returncode:
            last = ended.stderr.strip().splitlines()[-1:] or [f"exit code {ended.returncode}"]
            raise OSError(f"{command[0]}: {last[0][:200]}")
        return ended.stdout[:MAX_BYTES]


@dataclass(frozen=True, slots=True)
class Host:
    """A machine: its files, its clock, its programs."""

    root: SysRoot = field(default_factory=SysRoot)
    clock: Clock = field(default_factory=Clock)
    runner: Runner = field(default_factory=Runner)
