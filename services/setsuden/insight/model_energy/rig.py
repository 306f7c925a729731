"""Blocks of runs in turns, and their CPU time.

Blocks of all ways take turns, there and back: what slows the machine for a while slows each of
them. Paced runs are billed for the pauses between them too, as that is where threads spin; what
pausing itself takes is measured in the same turns and taken off. A block tells medians: a
neighbour's burst makes a few of its runs dear.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from setsuden.energy.host.system import Clock
from setsuden.insight.model_energy.findings import Figures, Rhythm, Turn, Way

TURNS = 5
BACK_TO_BACK_PART = 1 / 6
"""Of the time of paced runs: it holds many more runs."""
PAUSE_SECONDS = 0.3
"""Of each turn at most, for the pauses alone: they scatter little."""
QUIET_NS, QUIET_SECONDS, QUIET_TRIES = 1_000_000, 0.01, 100
"""Below a millisecond of CPU in ten of time no thread spins any more; after a second be it so."""
CHUNK_NS = 25_000_000
"""Runs whose CPU time is read together: the kernel books that of a thread that is still running at
its ticks, up to 10 ms apart, so a single run of a spinning pool shows next to nothing."""
Run = Callable[[], object]


class Loaded(NamedTuple):
    """A model, loaded for one way of running it."""

    name: str
    way: Way
    run: Run


class Mark(NamedTuple):
    """A look at the clocks."""

    at_ns: int
    cpu_ns: int
    runs: int
    """Until then."""


def per_run_ns(marks: Sequence[Mark]) -> float:
    """CPU time of one run: the median of the pieces between marks, each a mean."""
    pieces = [(two.cpu_ns - one.cpu_ns) / (two.runs - one.runs) for one, two in pairwise(marks)]
    return median(pieces)


@dataclass(frozen=True, slots=True)
class Rig:
    """Runs blocks between looks at two clocks."""

    rate: float
    """Paced runs a second."""
    seconds: float
    """Paced runs of each way, over all turns."""
    clock: Clock
    cpu_ns: Callable[[], int] = time.process_time_ns
    """Of the whole process: a pool's threads are in no other clock."""

    def measure(self, loaded: Sequence[Loaded], told: Callable[[str], None]) -> list[Figures]:
        """Figures of each, in the order given; ``told`` hears whose block is next."""
        paced: defaultdict[int, list[Turn]] = defaultdict(list)
        dense: defaultdict[int, list[Turn]] = defaultdict(list)
        for turn in range(TURNS):
            least = min(self._part(1.0), PAUSE_SECONDS)
            pause = self.block(lambda: None, least, paced=True).cpu_ms
            places = range(len(loaded))
            for place in places if turn % 2 == 0 else reversed(places):
                one = loaded[place]
                told(one.name)
                if one.way.items == 1:
                    paced[place].append(self._paced(one.run, pause))
                dense[place].append(self._dense(one.run))
        return [
            Figures(
                one.way,
                Rhythm(tuple(paced[place])) if place in paced else None,
                Rhythm(tuple(dense[place])),
            )
            for place, one in enumerate(loaded)
        ]

    def _part(self, part: float) -> float:
        return self.seconds / TURNS * part

    def _paced(self, run: Run, pause_ms: float) -> Turn:
        found = self.block(run, self._part(1.0), paced=True)
        self._quiet()
        return found._replace(cpu_ms=max(0.0, found.cpu_ms - pause_ms))

    def _dense(self, run: Run) -> Turn:
        found = self.block(run, self._part(BACK_TO_BACK_PART), paced=False)
        self._quiet()
        return found

    def block(self, run: Run, seconds: float, *, paced: bool) -> Turn:
        """Runs for so long, at least one; each is billed for the pause behind it too."""
        now, pauses = self.clock.monotonic_ns, threading.Event()
        interval = round(1e9 / self.rate) if paced else 0
        walls: list[int] = []
        due = now()
        end = due + round(seconds * 1e9)
        marks = [Mark(due, self.cpu_ns(), 0)]
        while not walls or due < end:
            began = now()
            run()
            walls.append(now() - began)
            due = max(due + interval, now())
            if paced:
                self.clock.wait(pauses, (due - now()) / 1e9)
            if now() - marks[-1].at_ns >= CHUNK_NS or due >= end:
                marks.append(Mark(now(), self.cpu_ns(), len(walls)))
        return Turn(len(walls), per_run_ns(marks) / 1e6, median(walls) / 1e6)

    def _quiet(self) -> None:
        """Wait until no thread of the block before spins."""
        for _ in range(QUIET_TRIES):
            before = self.cpu_ns()
            self.clock.wait(threading.Event(), QUIET_SECONDS)
            if self.cpu_ns() - before < QUIET_NS:
                return
