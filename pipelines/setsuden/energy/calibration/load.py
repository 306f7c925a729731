"""Steady load on chosen CPUs: one busy process each, which ends when whoever began it does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

from setsuden.energy.calibration.calibrate import CalibrationError
from setsuden.energy.host.system import SysRoot

# Its life hangs on its parent's, looked at every turn: no signal, crash or kill -9 of the parent
# leaves a busy process behind. Ctrl-C reaches the whole group, so it is the parent's to answer.
_PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
parent, cpu, duty, numpy_too = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
if cpu >= 0:
    os.sched_setaffinity(0, {cpu})
if numpy_too == "numpy":
    import numpy
    one, two = numpy.random.default_rng(0).random((2, 192, 192), dtype=numpy.float32)
    out = numpy.empty_like(one)
    def work(): numpy.matmul(one, two, out)
else:
    def work(): sum(i * i for i in range(2000))
turn = 0.02
while os.getppid() == parent:
    began = time.perf_counter()
    while time.perf_counter() - began < turn * duty:
        work()
    if duty < 1:
        time.sleep(turn * (1 - duty))
"""
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_END_SECONDS = 10.0


class LoadLevel(NamedTuple):
    """Which CPUs are kept busy, and for what part of the time."""

    cpus: tuple[int, ...]
    duty: float = 1.0


def kind() -> str:
    """What the processes do: products of matrices where numpy is, which is what inference does."""
    return "float32 matrix products" if find_spec("numpy") else "integer arithmetic in Python"


def steps(cpus: Sequence[int], root: SysRoot) -> dict[str, LoadLevel]:
    """Idle, half and full load for these CPUs.

    Half is one thread of every core, as the scheduler places it, else every second CPU: on a
    machine with two kinds of core that is half of each. A single CPU is busy half of the time.
    """
    everything = tuple(sorted(cpus))
    first = tuple(cpu for cpu in everything if _first_thread(cpu, root) in {cpu, None})
    half = LoadLevel(first if len(first) * 2 == len(everything) else everything[::2])
    if len(half.cpus) == len(everything):
        half = LoadLevel(everything, 0.5)
    return {"idle": LoadLevel(()), "half": half, "full": LoadLevel(everything)}


def _first_thread(cpu: int, root: SysRoot) -> int | None:
    """The first thread of this CPU's core; None where the machine does not tell."""
    name = f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    first = (root.text_or_none(name) or "").split(",")[0].split("-")[0]
    return int(first) if first.isdigit() else None


def allowed() -> tuple[int, ...]:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


@contextmanager
def running(work: LoadLevel) -> Iterator[tuple[int, ...]]:
    """Keep the CPUs busy inside; gives the processes' ids.

    None of them is left at the end, whatever the end. Raises CalibrationError when one had ended
    by itself.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for cpu in work.cpus:
            processes.append(_started(cpu, work.duty))  # noqa: PERF401  # each is known when made
        yield tuple(process.pid for process in processes)
        if any(process.poll() is not None for process in processes):
            raise CalibrationError("a process of the load ended by itself", remedy="free -m")
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait(_END_SECONDS)


def _started(cpu: int, duty: float) -> subprocess.Popen[bytes]:
    place = cpu if hasattr(os, "sched_setaffinity") else -1
    numpy_too = "numpy" if find_spec("numpy") else "python"
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _PROGRAM, str(os.getpid()), str(place), str(duty), numpy_too],
        env=os.environ | _ONE_THREAD,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
