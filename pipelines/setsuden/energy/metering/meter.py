"""The meter of one process: closes windows, has their joules attributed, settles its runs.

A window is short while runs begin and long while nothing happens: an idle process wakes rarely.
A run's joules are settled when the last window it lies in has closed; until then its answer
carries a provisional value, from the rate of the newest settled window.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from setsuden.energy.host.cpu import HostCpuReader, OwnCpu, ProcessCpu
from setsuden.energy.host.system import Host
from setsuden.energy.metering.baseline import Baseline
from setsuden.energy.metering.journal import Journal
from setsuden.energy.metering.ledger import MeteredRun, RunLedger, WorkKey
from setsuden.energy.metering.policy import PATIENCE_SECONDS, OpenWindow, WindowPolicy
from setsuden.energy.metering.provisional import ProvisionalEstimator
from setsuden.energy.metering.sampler import EnergySampler
from setsuden.energy.metering.settle import ClosedWindow, MeterFacts, settle
from setsuden.energy.metering.totals import Totals
from setsuden.schemas.energy import WORST_LAST, EnergyReading, Method, Quality
from setsuden.schemas.log import get_logger
from setsuden.schemas.windows import Counts, WindowRow

log = get_logger(__name__)
_COST_WEIGHT = 0.2
_LOOK_SECONDS = 0.25
"""How often a source that has said nothing new is asked again at a window's end."""


class WindowBoundary(NamedTuple):
    """Cumulative figures between two windows."""

    at_ns: int
    wall_ns: int
    busy: float
    steal: float
    process: float
    counts: Counts


class Meter:
    """One process's energy. All but ``begin``, ``finish`` and ``provisional`` is its thread's."""

    def __init__(
        self,
        host: Host,
        *,
        sampler: EnergySampler,
        baseline: Baseline,
        facts: MeterFacts,
        journal: Journal,
        estimator: ProvisionalEstimator,
        window_seconds: float,
        max_core_share: float,
        idle_seconds: float = 10.0,
        process: ProcessCpu | None = None,
        counts: Callable[[], Counts] = Counts,
    ) -> None:
        self.ledger = RunLedger(host.clock.monotonic_ns)
        self.totals = Totals()
        self.facts = facts
        self.journal = journal
        self._clock = host.clock
        self._sampler, self._baseline, self._estimator = sampler, baseline, estimator
        self._policy = WindowPolicy(
            window_seconds,
            max(idle_seconds, window_seconds),
            max(PATIENCE_SECONDS, 3 * sampler.slowest_seconds),
            max_core_share,
        )
        self.on_row: Callable[[WindowRow], None] = lambda _: None
        """Called with each settled window, in the meter's thread."""
        self._helpers = OwnCpu()
        self._process = process or self._helpers
        self.counts = counts
        """What happened to events so far; asked at each window's end."""
        self._cost = 0.0
        self._slowed = False
        """True once it was logged that the source is too costly to read as often as wanted."""
        self._pending: deque[ClosedWindow] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
        self._host = HostCpuReader(host.root)
        self._sampler.read()
        self._sampler.take(self._clock.monotonic_ns())
        self._boundary = self._now()

    # -- from any thread ----------------------------------------------------------------------

    def begin(self, key: WorkKey) -> MeteredRun:
        """A run of this model begins."""
        return self.ledger.begin(key)

    def finish(self, run: MeteredRun, items: int, cpu_seconds: float, method: Method) -> None:
        """It has ended: ``items`` observations for so much CPU time."""
        self.ledger.finish(run, items, cpu_seconds, method)

    def abandon(self, run: MeteredRun) -> None:
        """It failed: its CPU time is overhead."""
        self.ledger.abandon(run)

    def follow(self, pid: int) -> None:
        """A process that works for ours was started: its CPU time is ours too."""
        self._helpers.follow(pid)

    def ended(self, pid: int, cpu_seconds: float) -> None:
        """It has ended and used so much in all."""
        self._helpers.ended(pid, cpu_seconds)

    def provisional(self, run: MeteredRun, items: int | None = None) -> EnergyReading:
        """What one item of an ended run used, as far as the last window can say."""
        return self._estimator.reading(run, items or run.items)

    def domain_joules(self) -> dict[str, float]:
        """Joules of each domain of the source since the start, parents and children alike."""
        return self._sampler.domain_joules()

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to close windows."""
        self._thread.start()

    def close(self) -> None:
        """Close the last window and settle what has ended."""
        self._stop.set()
        self.ledger.began.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self.turn(last=True)
        self._sampler.close()
        self._host.close()
        self.journal.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wait()
            try:
                self.turn()
            except Exception as error:  # a sensor may fail in any way; the work must go on
                log.exception("energy_window_failed", detail=type(error).__name__)
                self._clock.wait(self._stop, self._policy.window_seconds)  # still open: no spinning

    def _wait(self) -> None:
        """Until the window is to be closed; reads power on the way where power is what is read."""
        first_run = False
        while not self._stop.is_set():
            idle = not self.ledger.began.is_set()
            seconds = self._policy.wait_seconds(self._open_window(idle=idle, first_run=first_run))
            if seconds <= 0:
                return
            woken = self._clock.wait(self.ledger.began if idle else self._stop, seconds)
            first_run = idle and woken
            if not first_run:
                self.sample()

    def _open_window(self, *, idle: bool, first_run: bool) -> OpenWindow:
        sampler = self._sampler
        return OpenWindow(
            self._since(self._boundary.at_ns),
            idle,
            first_run,
            self._cost,
            sampler.cost,
            sampler.interval_seconds if sampler.sampled else None,
            sampler.lag_seconds,
        )

    def sample(self) -> None:
        """Read the source inside a window, where power is what is read."""
        if not self._sampler.sampled:
            return
        self._sampler.read()
        wanted = self._sampler.interval_seconds
        affordable = self._policy.sample_seconds(self._sampler.cost, wanted)
        if affordable > 2 * wanted and not self._slowed:
            self._slowed = True
            log.warning("energy_source_dear", seconds=affordable, wanted=wanted)

    def _since(self, at_ns: int) -> float:
        return (self._clock.monotonic_ns() - at_ns) / 1e9

    # -- one window ---------------------------------------------------------------------------

    def turn(self, *, last: bool = False) -> None:
        """Close the window that is open and settle those whose runs have all ended."""
        began = time.thread_time()
        self._sampler.read()
        open_seconds = self._since(self._boundary.at_ns)
        if self._sampler.blind and not last and self._policy.waits_for_source(open_seconds):
            # The window goes on: a counter has the whole stretch when it can be read again.
            self._clock.wait(self._stop, min(self._policy.window_seconds, _LOOK_SECONDS))
            return
        self.ledger.began.clear()
        before, self._boundary = self._boundary, self._now()
        self._pending.append(self._closed(before, self._boundary))
        while self._pending and (last or not self._waits(self._pending[0])):
            self._settle(self._pending.popleft())
        if self.ledger.oldest_open_ns() is not None:
            self.ledger.began.set()
        self._cost += _COST_WEIGHT * (time.thread_time() - began - self._cost)

    def _now(self) -> WindowBoundary:
        host = self._host.read()
        return WindowBoundary(
            self._clock.monotonic_ns(),
            self._clock.wall_ns(),
            host.busy_seconds,
            host.steal_seconds,
            self._process.seconds(),
            self.counts(),
        )

    def _closed(self, before: WindowBoundary, now: WindowBoundary) -> ClosedWindow:
        energy = self._sampler.take(now.at_ns)
        self.totals.stray(energy.stray)
        seconds = (now.at_ns - before.at_ns) / 1e9
        quality, idle = energy.quality, self._baseline.watts
        if energy.joules is not None and seconds > 0:
            idle = self._baseline.observe(energy.joules, seconds)
            if not self._baseline.sure:
                quality = max(quality, Quality.DEGRADED, key=WORST_LAST.index)
        return ClosedWindow(
            before.at_ns,
            now.at_ns,
            before.wall_ns,
            energy.joules,
            idle,
            quality,
            max(0.0, now.busy - before.busy),
            max(0.0, now.steal - before.steal),
            max(0.0, now.process - before.process),
            difference(now.counts, before.counts),
        )

    def _waits(self, closed: ClosedWindow) -> bool:
        """True while a run that began in the window may still say what it used."""
        oldest = self.ledger.oldest_open_ns()
        if oldest is None or oldest >= closed.end_ns:
            return False
        return self._policy.waits_for_runs(self._since(closed.end_ns))

    def _settle(self, closed: ClosedWindow) -> None:
        row = settle(closed, self.ledger, self.facts)
        self._estimator.learn(closed, self.facts)
        self.totals.add(row)
        self.journal.add(row)
        self.on_row(row)


def difference(now: Counts, before: Counts) -> Counts:
    """What happened in between."""
    return Counts(
        **{name: getattr(now, name) - getattr(before, name) for name in Counts.model_fields}
    )
