"""Every process of one session, found by a mark in its environment or by its session id.

Ray's daemons outlive their parents and change process groups, and ``ray stop`` would stop every
Ray on the machine. The mark is inherited, but a process that renames itself may overwrite it;
the session id of its first ancestor stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "SETSUDEN_CLOUD_SESSION"
_PAUSE_SECONDS = 0.05


def marked(mark: str, *leaders: int, name: str = MARK) -> list[int]:
    """Process ids with this mark or in a session of these leaders, this process excepted."""
    needle = f"{name}={mark}".encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            pid = int(entry.name)
            if _alive(entry) and (
                os.getsid(pid) in leaders or needle in (entry / "environ").read_bytes().split(b"\0")
            ):
                pids.append(pid)
    return pids


def _alive(entry: Path) -> bool:
    """False for a zombie, which only its parent can remove."""
    return (entry / "stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[
        -1
    ].split()[0] != "Z"


def kill_marked(mark: str, *leaders: int, name: str = MARK, patience_seconds: float = 10.0) -> int:
    """SIGKILL all of a session until none is left; how many there were. Blocks."""
    seen: set[int] = set()
    deadline = time.monotonic() + patience_seconds
    while (pids := marked(mark, *leaders, name=name)) and time.monotonic() < deadline:
        seen.update(pids)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)
    return len(seen)
