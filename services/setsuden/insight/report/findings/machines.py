"""Machines of a run as findings look at them: every meter of one component on one host together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import fsum
from typing import NamedTuple

from setsuden.insight.report.model import Part
from setsuden.insight.report.run import PARTS, Metered, Run
from setsuden.insight.traces.units import clean

LEAST_SECONDS = 60.0
"""Under meters, before anything is said of a machine's power or load: MLPerf Power asks for as much
of a whole system."""
_SHOWN = 3


class Machine(NamedTuple):
    """One component on one host."""

    part: Part
    meters: tuple[Metered, ...]

    @property
    def name(self) -> str:
        """As its meters are called."""
        return listed(one.sums.meter.name for one in self.meters)

    @property
    def seconds(self) -> float:
        """Time under meters: lives of one follow each other, different ones are side by side."""
        lives: defaultdict[str, list[float]] = defaultdict(list)
        for one in self.meters:
            lives[one.sums.meter.name].append(one.sums.seconds.value)
        return max(fsum(values) for values in lives.values())

    @property
    def outside_cpu(self) -> float:
        """CPU-seconds of our processes outside their runs."""
        return fsum(outside_of(one) for one in self.meters)

    @property
    def run_cpu(self) -> float:
        """CPU-seconds of runs."""
        return fsum(one.sums.run_cpu.value for one in self.meters)

    @property
    def items(self) -> float:
        """Observations in them, of a broker messages."""
        return fsum(work.items.value for one in self.meters for work in one.sums.work.values())

    @property
    def known(self) -> bool:
        """True when any of its joules are."""
        return any(one.joules.whole.joules is not None for one in self.meters)

    def joules(self, name: str) -> float:
        """One part of its known joules; means nothing when none are."""
        return fsum(getattr(one.joules, name).joules or 0.0 for one in self.meters)


def outside_of(one: Metered) -> float:
    """CPU-seconds of one meter's process outside its runs."""
    return max(0.0, one.sums.process_cpu.value - one.sums.run_cpu.value)


def machines_of(run: Run) -> list[Machine]:
    """Every machine of every component that has some, in the order of components."""
    found: defaultdict[tuple[Part, str], list[Metered]] = defaultdict(list)
    for one in run.meters:
        found[one.part, one.sums.meter.host_id].append(one)
    order = list(Part)
    places = sorted(found, key=lambda place: (order.index(place[0]), place[1]))
    return [Machine(part, tuple(found[part, host])) for part, host in places]


def by_part(machines: Iterable[Machine]) -> Iterator[tuple[Part, list[Machine]]]:
    """The machines of each component that has some."""
    found = list(machines)
    for part in PARTS:
        of = [machine for machine in found if machine.part is part]
        if of:
            yield part, of


def of_machines(machines: Sequence[Machine], among: int) -> str:
    """``worker-0`` or ``dev-1, dev-2 and 5 more (7 of 24 machines)``."""
    names = listed(one.sums.meter.name for machine in machines for one in machine.meters)
    return names if among == 1 else f"{names} ({len(machines)} of {among} machines)"


def listed(names: Iterable[str]) -> str:
    """A few names, the rest as a number."""
    found = sorted({clean(name, 64) for name in names})
    if len(found) <= _SHOWN:
        return ", ".join(found)
    return f"{', '.join(found[: _SHOWN - 1])} and {len(found) - _SHOWN + 1} more"
