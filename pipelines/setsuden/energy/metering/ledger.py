"""Runs of models between their beginning and the closing of the windows they lie in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from setsuden.schemas.energy import EnergyReading, Method, Quality


class WorkKey(NamedTuple):
    """Whose runs they are."""

    pipeline: str
    model: str
    """bundle/model."""
    digest: str


@dataclass(slots=True, eq=False)
class MeteredRun:
    """One ``session.run``, to which windows add joules as they close."""

    key: WorkKey
    start_ns: int
    """On the monotonic clock, like ``end_ns``."""
    end_ns: int = 0
    items: int = 1
    cpu_seconds: float = 0.0
    method: Method = Method.EXCLUSIVE
    dynamic: float = 0.0
    """Joules so far."""
    idle: float = 0.0
    low: float = 0.0
    high: float = 0.0
    quality: Quality | None = None
    """Worst of its windows; None while none had joules."""
    unknown: bool = False
    """True when a window of it has no joules."""
    late: bool = False
    """True when a window of it closed before it did: that part went to the overhead."""
    settled_by: Callable[[MeteredRun, int], EnergyReading] | None = None
    """Set once every window it lies in has closed: most readings are asked for by nobody."""

    @property
    def settled(self) -> EnergyReading | None:
        """Of one item; None until it is settled."""
        return None if self.settled_by is None else self.settled_by(self, self.items)

    @property
    def settled_whole(self) -> EnergyReading | None:
        """Of all items together; None until it is settled."""
        return None if self.settled_by is None else self.settled_by(self, 1)

    def share_in(self, start_ns: int, end_ns: int) -> float:
        """Part of the run in this interval; an instant belongs to the window that holds it."""
        whole = self.end_ns - self.start_ns
        if whole <= 0:
            return float(start_ns <= self.start_ns < end_ns)
        return max(0, min(self.end_ns, end_ns) - max(self.start_ns, start_ns)) / whole


class RunLedger:
    """Who is running, and who has run since windows were last settled. Thread-safe."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.began = threading.Event()
        """Set at the first run after it was cleared."""
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._open: set[MeteredRun] = set()
        self._closed: list[MeteredRun] = []

    def begin(self, key: WorkKey) -> MeteredRun:
        """A run begins now."""
        run = MeteredRun(key, self._now_ns())
        with self._lock:
            self._open.add(run)
        if not self.began.is_set():
            self.began.set()
        return run

    def finish(self, run: MeteredRun, items: int, cpu_seconds: float, method: Method) -> None:
        """It has ended, and used so much."""
        run.items, run.cpu_seconds, run.method = items, cpu_seconds, method
        run.end_ns = self._now_ns()
        with self._lock:
            self._open.discard(run)
            self._closed.append(run)

    def abandon(self, run: MeteredRun) -> None:
        """It failed: its CPU time is the process's overhead."""
        with self._lock:
            self._open.discard(run)

    def oldest_open_ns(self) -> int | None:
        """When the oldest run that has not ended began."""
        with self._lock:
            return min((run.start_ns for run in self._open), default=None)

    def closed_in(self, start_ns: int, end_ns: int) -> list[tuple[MeteredRun, float]]:
        """Ended runs that lie in this interval, each with its part inside, above 0 to 1."""
        found = []
        with self._lock:
            for run in self._closed:
                if start_ns <= run.start_ns and run.end_ns < end_ns:
                    found.append((run, 1.0))
                elif (share := run.share_in(start_ns, end_ns)) > 0:
                    found.append((run, share))
        return found

    def forget_before(self, end_ns: int) -> list[MeteredRun]:
        """Runs that ended by then; the ledger lets them go."""
        with self._lock:
            done = [run for run in self._closed if run.end_ns <= end_ns]
            self._closed = [run for run in self._closed if run.end_ns > end_ns]
            return done

    def late_in(self, end_ns: int) -> list[MeteredRun]:
        """Open runs that began before then."""
        with self._lock:
            return [run for run in self._open if run.start_ns < end_ns]
