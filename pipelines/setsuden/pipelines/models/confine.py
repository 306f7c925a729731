"""Limits that a process sets on itself before it runs a model nobody vouches for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, linux/prctl.h
_LOAD_FACTOR = 4
"""Copies of a model's file that onnxruntime holds while it opens it: bytes, parsed, packed."""
_LARGEST_FILE = 1 << 16
"""A model has nothing to write; what the C++ library says of its death fits in here."""
_NICENESS = 10
"""A run that is not bounded gives way to work that is: a ninth of its weight, where both want more
than there is."""

_FIRST_TO_GO = 1000
"""When the machine runs out of memory the kernel ends this process before any other."""


def die_with_parent(parent: int) -> None:
    """SIGKILL when the thread that started this process ends, however it ends.

    A model that never returns would outlive a killed parent, at a full core.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def give_way() -> None:
    """Let everything else on the machine go first; called by the leader of a session.

    Linux shares cores between sessions first (autogroup), and niceness counts inside one only: a
    model that hangs in its parent's session would use up what its parent is due.
    """
    with contextlib.suppress(OSError):  # forbidden by a service's system call filter
        os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # wakes up without elbows
    _write("/proc/self/autogroup", _NICENESS)
    _write("/proc/self/oom_score_adj", _FIRST_TO_GO)


def _write(path: str, number: int) -> None:
    with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:  # noqa: PTH123  # as below
        file.write(str(number))


def forbid_files() -> None:
    """No files worth the name, and no core dumps: they would hold observations."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _LARGEST_FILE)


def limit_memory(extra_bytes: int) -> bool:
    """Allow this much more private memory than there is now; False where none can be set."""
    used = _data_bytes()
    return used is not None and _limit(resource.RLIMIT_DATA, used + extra_bytes)


def limit_loading(file_bytes: int, run_memory_bytes: int) -> bool:
    """Allow what opening a file of this size may take; False where no limit can be set."""
    return limit_memory(_LOAD_FACTOR * file_bytes + run_memory_bytes)


def limit_cpu(seconds: float) -> None:
    """SIGXCPU after so much more CPU time."""
    _limit(resource.RLIMIT_CPU, int(time.process_time() + seconds) + 1)


def _limit(what: int, soft: int) -> bool:
    """Set a soft limit within the hard one, which stays as it is."""
    try:
        _, hard = resource.getrlimit(what)
        within = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(what, (within, hard))
    except (OSError, ValueError):  # forbidden by a service's system call filter
        return False
    return True


def _data_bytes() -> int | None:
    """What RLIMIT_DATA counts: private writable memory, allocated or only mapped."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123  # pathlib costs a child 10 ms
            for line in file:
                if line.startswith("VmData:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # a root folder without /proc
        return None
    return None
