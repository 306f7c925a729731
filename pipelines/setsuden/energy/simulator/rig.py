"""Measures the plant as a real machine would be: from its files alone, window by window."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import fsum, log
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol

from setsuden.energy.attribution.attribute import Attribution, HostWindow, ProcessUse, RunUse, Share
from setsuden.energy.attribution.intervals import dynamic_factor, idle_part_factor
from setsuden.energy.host.cpu import HostCpuReader
from setsuden.energy.simulator.machine import Machine, Neighbours, Requests
from setsuden.energy.simulator.plant import COUNTER, POWER, Plant, PlantProcess, Scene
from setsuden.energy.simulator.schedule import Request
from setsuden.energy.simulator.tree import CounterFile
from setsuden.schemas.energy import Method

Attributor = Callable[[HostWindow, ProcessUse, Sequence[RunUse]], Attribution | None]
_CALIBRATION_SECONDS = 10.0
_POWER_EVERY_SECONDS = 0.1


class Calibration(NamedTuple):
    """What `setsuden energy calibrate` finds: idle, half and full load on the machine's meter."""

    idle_watts: float
    exponent: float
    sensor_factor: float = 1.0
    """95 % factors that the intervals stand on."""
    idle_factor: float = 1.0


@dataclass(slots=True, eq=False)
class Span:
    """One request as measured, beside its truth."""

    request: Request
    dynamic: float = 0.0
    idle: float = 0.0
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    """False while it is open."""


class Window(NamedTuple):
    """Joules of all requests in one window."""

    found: float
    true: float
    leak: float
    """What its buckets and shares fail to add up to, and what they have below 0, as a part of its
    joules."""


@dataclass(slots=True)
class Observation:
    """One plant, measured."""

    spans: list[Span] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    seconds: float = 0.0
    """Plant time."""
    cpu_seconds: float = 0.0
    """What reading and attributing took of a real core."""


class Reader(Protocol):
    """Joules of the window since the last call, from the plant's files."""

    def advance(self, seconds: float) -> None:
        """Let the plant run on for one window, sampling what must be sampled."""
        ...

    def joules(self) -> float:
        """Since the last call."""
        ...

    def close(self) -> None:
        """Let the file go."""
        ...


class CounterReader:
    """The energy counter, read at each window's end."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._file = plant.host.root.open(f"{COUNTER}/energy_uj")
        self._span = int(plant.host.root.text(f"{COUNTER}/max_energy_range_uj")) + 1
        self._last = int(self._file.text())

    def advance(self, seconds: float) -> None:
        """Nothing needs to be read on the way."""
        self._plant.advance(seconds)

    def joules(self) -> float:
        """Since the last call; a smaller value is a wrap, the plant never resets."""
        now = int(self._file.text())
        moved, self._last = now - self._last, now
        return (moved if moved >= 0 else moved + self._span) / 1e6

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


class PowerReader:
    """The power file, ten times a second; each value stands for the time since the one before.

    The file says a mean over time gone by already: a trapezoid would take half of each value from
    the time before once more. With bursty load and windows of 0.25 s that was an error of 10.9 %
    of a request's joules instead of 7.4 %.
    """

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._file = plant.host.root.open(f"{POWER}/power1_input")
        self._sum = 0.0

    def advance(self, seconds: float) -> None:
        """Read on the way."""
        parts = max(1, round(seconds / _POWER_EVERY_SECONDS))
        for _ in range(parts):
            self._plant.advance(seconds / parts)
            self._sum += int(self._file.text()) / 1e6 * seconds / parts

    def joules(self) -> float:
        """Since the last call."""
        found, self._sum = self._sum, 0.0
        return found

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def calibrate(machine: Machine, counter: CounterFile) -> Calibration:
    """Idle, half and full load on this machine's own counter.

    Three points fix the two unknowns of ``idle + a * u ** exponent`` beside the idle power.
    """
    idle, half, full = (_watts(machine, part, counter) for part in (0.0, 0.5, 1.0))
    return Calibration(idle, log((half - idle) / (full - idle)) / log(0.5))


def _watts(machine: Machine, load: float, counter: CounterFile) -> float:
    with TemporaryDirectory(prefix="setsuden-plant-") as folder:
        scene = Scene(
            machine,
            Neighbours(load * machine.cores),
            Requests(per_second=0),
            overhead_cores=0.0,
            counter=counter,
        )
        plant = Plant(Path(folder), scene)
        reader = CounterReader(plant)
        reader.advance(_CALIBRATION_SECONDS)
        joules = reader.joules()
        reader.close()
        plant.close()
        return joules / _CALIBRATION_SECONDS


def observe(
    scene: Scene,
    calibration: Calibration,
    window_seconds: float,
    attribute: Attributor,
    reader: type[CounterReader | PowerReader] = CounterReader,
) -> Observation:
    """A plant of this scene, measured to the end of its schedule."""
    with TemporaryDirectory(prefix="setsuden-plant-") as folder:
        plant = Plant(Path(folder), scene)
        rig = Rig(plant, calibration, attribute, reader)
        seen = rig.run(window_seconds)
        rig.close()
        plant.close()
        return seen


class Rig:
    """Reads a plant's files as a meter does, and attributes each window."""

    def __init__(
        self,
        plant: Plant,
        calibration: Calibration,
        attribute: Attributor,
        reader: type[CounterReader | PowerReader],
    ) -> None:
        self._plant, self._calibration, self._attribute = plant, calibration, attribute
        self._joules: Reader = reader(plant)
        self._host = HostCpuReader(plant.host.root)
        self._process = PlantProcess(plant)
        self._before = self._host.read().busy_seconds, self._process.seconds()
        self._true = plant.true_buckets
        self._live: list[Span] = []
        self.seen = Observation()
        plant.on_open = lambda request: self._live.append(Span(request))

    def run(self, window_seconds: float) -> Observation:
        """Every window until the plant's schedule is over."""
        while self._plant.now_ns < self._plant.scene.seconds * 1e9:
            self._window(window_seconds)
        self.seen.seconds = self._plant.now_ns / 1e9
        return self.seen

    def close(self) -> None:
        """Let the files go."""
        self._joules.close()
        self._host.close()

    def _window(self, seconds: float) -> None:
        start_ns = self._plant.now_ns
        self._joules.advance(seconds)
        began = time.thread_time()
        joules = self._joules.joules()
        now = self._host.read().busy_seconds, self._process.seconds()
        window = HostWindow(
            seconds,
            joules,
            self._calibration.idle_watts,
            now[0] - self._before[0],
            self._calibration.exponent,
        )
        process = ProcessUse(now[1] - self._before[1], self._plant.scene.reserved_share)
        uses = [_use(span.request, start_ns, self._plant.now_ns) for span in self._live]
        found = self._attribute(window, process, uses)
        self._before = now
        if found is not None:
            self._give(window, found)
        self.seen.cpu_seconds += time.thread_time() - began
        if found is not None:
            self._compare(joules, found)
        self._let_go()

    def _give(self, window: HostWindow, found: Attribution) -> None:
        """Each run's joules with their interval; bounds add linearly over its windows."""
        by_dynamic, by_idle = factors(window, self._calibration)
        for span, share in zip(self._live, found.shares, strict=True):
            span.dynamic += share.dynamic
            span.idle += share.idle
            span.low += share.dynamic / by_dynamic + share.idle / by_idle
            span.high += share.dynamic * by_dynamic + share.idle * by_idle

    def _compare(self, joules: float, found: Attribution) -> None:
        true = self._plant.true_buckets
        moved = true.request_dynamic + true.request_idle
        moved -= self._true.request_dynamic + self._true.request_idle
        self._true = true
        requests = found.buckets.request_dynamic + found.buckets.request_idle
        self.seen.windows.append(Window(requests, moved, leak(joules, found)))

    def _let_go(self) -> None:
        """Runs that have ended are whole spans."""
        for span in self._live:
            span.whole = span.request.closed_ns <= self._plant.now_ns
        self.seen.spans += [span for span in self._live if span.whole]
        self._live = [span for span in self._live if not span.whole]


def factors(window: HostWindow, calibration: Calibration) -> tuple[float, float]:
    """95 % factors of dynamic and idle joules in this window."""
    joules = window.joules or 0.0
    idle = min(joules, window.idle_watts * window.seconds)
    sensor, baseline = calibration.sensor_factor, calibration.idle_factor
    return (
        dynamic_factor(sensor, baseline, idle, joules - idle, Method.EXCLUSIVE),
        idle_part_factor(sensor, baseline),
    )


def leak(joules: float, found: Attribution) -> float:
    """Joules lost, made up or below 0 in this attribution, as a part of the window's."""
    if joules <= 0:
        return 0.0
    requests = found.buckets.request_dynamic + found.buckets.request_idle
    shared = fsum(part for share in found.shares for part in share)
    below = -min(0.0, *found.buckets, *(min(share) for share in found.shares or (Share(0, 0),)))
    return max(abs(fsum(found.buckets) - joules), abs(shared - requests), below) / joules


def _use(request: Request, start_ns: int, end_ns: int) -> RunUse:
    opened = max(request.opened_ns, start_ns) - start_ns
    closed = max(opened, min(request.closed_ns, end_ns) - start_ns)
    return RunUse((closed - opened) / 1e9, opened / 1e9, closed / 1e9)
