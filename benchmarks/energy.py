"""What the meter costs: at rest, while runs come and go, and for each of them.

One JSON line for each finding. ``python benchmarks/energy.py``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit

from setsuden.energy import EnergyOptions, Meter, MeteredRun, WorkKey
from setsuden.energy.metering.assembly import Identity, open_meter
from setsuden.schemas.energy import Method
from setsuden.schemas.windows import Component

KEY = WorkKey("digits", "digits/student", "0" * 64)
REST_SECONDS, BUSY_SECONDS, RATE = 20.0, 10.0, 200.0
RUNS, ROUNDS = 1000, 9


def opened(folder: Path, **options: float) -> Meter:
    """A meter of this process with the best source of this machine."""
    chosen = EnergyOptions(rows=str(folder), **options)  # type: ignore[arg-type]  # floats all
    return open_meter(chosen, Identity(Component.EDGE, "bench", "host", "0" * 64))


def at_rest(folder: Path) -> float:
    """Part of a core that a meter takes in a process that does nothing."""
    meter = opened(folder / "rest")
    meter.start()
    before = time.process_time()
    time.sleep(REST_SECONDS)
    used = time.process_time() - before
    meter.close()
    return used / REST_SECONDS


def thread_cpu() -> float:
    """CPU of this process besides the calling thread."""
    return time.process_time() - time.thread_time()


def under_load(folder: Path) -> float:
    """Part of a core that its thread takes while runs come and go."""
    meter = opened(folder / "load")
    meter.start()
    before, started = thread_cpu(), time.monotonic()
    while time.monotonic() - started < BUSY_SECONDS:
        run = meter.begin(KEY)
        meter.finish(run, 1, 0.001, Method.THREAD)
        time.sleep(1 / RATE)
    used = thread_cpu() - before
    meter.close()
    return used / BUSY_SECONDS


def per_run(folder: Path) -> tuple[float, float]:
    """CPU microseconds of one run: where it runs, and where its window is settled."""
    meter = opened(folder / "runs")
    here, there = [], []
    for _ in range(ROUNDS):
        began = time.thread_time()
        runs: list[MeteredRun] = []
        for _ in range(RUNS):
            run = meter.begin(KEY)
            meter.finish(run, 1, 1e-5, Method.THREAD)
            runs.append(run)
        middle = time.thread_time()
        meter.turn()
        here.append((middle - began) / RUNS * 1e6)
        there.append((time.thread_time() - middle) / RUNS * 1e6)
    meter.close()
    return min(here), min(there)


def main() -> None:
    """All findings."""
    with tempfile.TemporaryDirectory(prefix="setsuden-bench-") as name:
        folder = Path(name)
        here, there = per_run(folder)
        emit("energy_run", begin_and_finish_us=here, settled_us=there, us_per_span=here + there)
        emit("energy_meter", core_share_at_rest=at_rest(folder), runs_per_s=RATE,
             core_share_under_load=under_load(folder))  # fmt: skip


if __name__ == "__main__":
    main()
