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

from setsuden.energy.metering.baseline import Baseline
from setsuden.energy.metering.hostcpu import HostCpuReader, OwnCpu, ProcessCpu
from setsuden.energy.metering.journal import Journal
from setsuden.energy.metering.ledger import MeteredRun, RunLedger, WorkKey
from setsuden.energy.metering.provisional import Rate
from setsuden.energy.metering.sampler import Sampler
from setsuden.energy.metering.settle import Closed, Labels, settle
from setsuden.energy.metering.totals import Totals
from setsuden.energy.roots import Doors
from setsuden.schemas.energy import WORST_LAST, EnergyReading, Method, Quality
from setsuden.schemas.log import get_logger
from setsuden.schemas.windows import Counts, WindowRow

log = get_logger(__name__)
PATIENCE_SECONDS = 10.0
"""How long a window waits for a source that cannot be read just now."""
LEAST_SECONDS = 0.1
"""A shorter window says nothing: ``/proc/stat`` ticks every 10 ms."""
SLACK_SECONDS = 10.0
"""A window waits so long for runs that began in it to end."""
LONGEST_SECONDS = 60.0
"""Of a window that a slow source makes longer."""
_LATE_FACTOR = 4.0
_COST_WEIGHT = 0.2
_LOOK_SECONDS = 0.25
"""How often a source that has said nothing new is asked again at a window's end."""


class Edge(NamedTuple):
    """Cumulative figures at the border between two windows."""

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
        doors: Doors,
        *,
        sampler: Sampler,
        baseline: Baseline,
        labels: Labels,
        journal: Journal,
        rate: Rate,
        window_seconds: float,
        max_core_share: float,
        idle_seconds: float = 10.0,
        process: ProcessCpu | None = None,
        counts: Callable[[], Counts] = Counts,
    ) -> None:
        self.ledger = RunLedger(doors.clock.monotonic_ns)
        self.totals = Totals()
        self.labels = labels
        self.journal = journal
        self._clock = doors.clock
        self._sampler, self._baseline, self._rate = sampler, baseline, rate
        self._window = window_seconds
        self._patience = max(PATIENCE_SECONDS, 3 * sampler.slowest_seconds)
        self._max_core_share = max_core_share
        self.on_row: Callable[[WindowRow], None] = lambda _: None
        """Called with each settled window, in the meter's thread."""
        self._idle_seconds = max(idle_seconds, window_seconds)
        self._helpers = OwnCpu()
        self._process = process or self._helpers
        self.counts = counts
        """What happened to events so far; asked at each window's end."""
        self._cost = 0.0
        self._slowed = False
        """True once it was told that the source is too dear to read as often as it should be."""
        self._pending: deque[Closed] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
        self._host = HostCpuReader(doors.root)
        self._sampler.read()
        self._sampler.take(self._clock.monotonic_ns())
        self._edge = self._now()

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
        return self._rate.reading(run, items or run.items)

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
                self._clock.wait(self._stop, self._window)  # its window is still open: no spinning

    def _wait(self) -> None:
        """Until the window is over; reads power on the way where power is what is read."""
        # News that are old when they come are joules of an earlier stretch than our CPU time:
        # a window of four times that keeps what is out of step below a quarter.
        late = min(_LATE_FACTOR * self._sampler.lag_seconds, LONGEST_SECONDS)
        length = max(self._window, self._cost / self._max_core_share, late)
        began = self._edge.at_ns
        while not self._stop.is_set():
            idle = not self.ledger.began.is_set()
            left = (self._idle_seconds if idle else length) - self._since(began)
            if left <= 0:
                return
            step = min(left, self._step())
            if idle:
                if self._clock.wait(self.ledger.began, step) and self._since(began) > LEAST_SECONDS:
                    return
            else:
                self._clock.wait(self._stop, step)
            if self._sampler.sampled:
                self._sampler.read()

    def _step(self) -> float:
        """Seconds to the next reading of power; a dear one is read less often."""
        if not self._sampler.sampled:
            return LONGEST_SECONDS
        wanted = self._sampler.interval_seconds
        affordable = self._sampler.cost / self._max_core_share
        if affordable > 2 * wanted and not self._slowed:
            self._slowed = True
            log.warning("energy_source_dear", seconds=affordable, wanted=wanted)
        return max(wanted, affordable)

    def _since(self, at_ns: int) -> float:
        return (self._clock.monotonic_ns() - at_ns) / 1e9

    # -- one window ---------------------------------------------------------------------------

    def turn(self, *, last: bool = False) -> None:
        """Close the window that is open and settle those whose runs have all ended."""
        began = time.thread_time()
        self._sampler.read()
        if self._sampler.blind and not last and self._since(self._edge.at_ns) < self._patience:
            # The window goes on: a counter has the whole stretch when it can be read again.
            self._clock.wait(self._stop, min(self._window, _LOOK_SECONDS))
            return
        self.ledger.began.clear()
        before, self._edge = self._edge, self._now()
        self._pending.append(self._closed(before, self._edge))
        while self._pending and (last or not self._waits(self._pending[0])):
            self._settle(self._pending.popleft())
        if self.ledger.oldest_open_ns() is not None:
            self.ledger.began.set()
        self._cost += _COST_WEIGHT * (time.thread_time() - began - self._cost)

    def _now(self) -> Edge:
        host = self._host.read()
        return Edge(
            self._clock.monotonic_ns(),
            self._clock.wall_ns(),
            host.busy_seconds,
            host.steal_seconds,
            self._process.seconds(),
            self.counts(),
        )

    def _closed(self, before: Edge, now: Edge) -> Closed:
        energy = self._sampler.take(now.at_ns)
        self.totals.stray(energy.stray)
        seconds = (now.at_ns - before.at_ns) / 1e9
        quality, idle = energy.quality, self._baseline.watts
        if energy.joules is not None and seconds > 0:
            idle = self._baseline.observe(energy.joules, seconds)
            if not self._baseline.sure:
                quality = max(quality, Quality.DEGRADED, key=WORST_LAST.index)
        return Closed(
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

    def _waits(self, closed: Closed) -> bool:
        """True while a run that began in the window may still say what it used."""
        oldest = self.ledger.oldest_open_ns()
        if oldest is None or oldest >= closed.end_ns:
            return False
        return self._since(closed.end_ns) < SLACK_SECONDS

    def _settle(self, closed: Closed) -> None:
        row = settle(closed, self.ledger, self.labels)
        self._rate.learn(closed, self.labels)
        self.totals.add(row)
        self.journal.add(row)
        self.on_row(row)


def difference(now: Counts, before: Counts) -> Counts:
    """What happened in between."""
    return Counts(
        **{name: getattr(now, name) - getattr(before, name) for name in Counts.model_fields}
    )
