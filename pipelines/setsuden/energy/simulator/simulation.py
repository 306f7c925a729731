"""The machine in motion: its clock, its files, and what each request truly used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import Random

from setsuden.energy.attribution.attribute import Buckets
from setsuden.energy.host.system import Clock, Host, SysRoot
from setsuden.energy.simulator.machine import Neighbours, PowerModel, Requests
from setsuden.energy.simulator.schedule import SimulatedRequest, changes, requests
from setsuden.energy.simulator.tree import CounterFile, PowerFile, Tree

COUNTER = "sys/class/powercap/intel-rapl:0"
POWER = "sys/class/hwmon/hwmon0"
EPOCH_NS = 1_700_000_000 * 10**9
"""The machine's midnight, so that its wall clock is the same in every run."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a simulation is."""

    machine: PowerModel = PowerModel()
    neighbours: Neighbours = Neighbours()
    load: Requests = Requests()
    seconds: float = 20.0
    """How long requests and neighbours come; the machine runs on without them."""
    seed: int = 0
    reserved_share: float = 1.0
    """The part of the idle power for which the metered process answers."""
    overhead_cores: float = 0.02
    """What the metered process takes beside its runs."""
    counter: CounterFile = CounterFile()
    power: PowerFile = PowerFile()


class SimulatedMachine:
    """A machine whose true joules per request are known.

    Truth, at every moment: the idle watts go by reserved share, to the open runs equally, or to
    nobody while none is open. The watts above idle go by CPU share of that moment: whoever keeps
    one of ``n`` busy cores busy gets ``1/n`` of them. So on a concave curve a core is dear while
    few are busy and cheap while many are, for whoever uses it; nobody is charged a marginal watt.

    Simulated time moves only in :meth:`advance` and in ``clock.wait``; no real time passes. The
    files are as the kernel's would be at that moment. ``on_open`` and ``on_close`` are called at
    the moment a run opens and closes, ``clock`` saying that moment; the files may then be older.
    Deterministic: the same scene gives the same files and the same truth.
    """

    def __init__(self, path: Path, scene: Scene) -> None:
        """ValueError when neighbours and workers may want more cores than there are."""
        workers = scene.load.workers if scene.load.per_second > 0 else 0
        if scene.neighbours.peak_cores + workers + scene.overhead_cores > scene.machine.cores:
            raise ValueError(f"more load than {scene.machine.cores} cores")
        self.scene, self.machine, self._overhead = scene, scene.machine, scene.overhead_cores
        random = Random(scene.seed)  # noqa: S311  # a simulation: the same for the same seed
        self.requests = requests(scene.load, scene.seconds, random)
        self._changes = changes(scene.neighbours, scene.seconds, random)
        self._edges = sorted(
            [(request.opened_ns, 1, request) for request in self.requests]
            + [(request.closed_ns, 0, request) for request in self.requests],
            key=lambda edge: edge[:2],
        )
        self.on_open: Callable[[SimulatedRequest], None] = lambda _: None
        self.on_close: Callable[[SimulatedRequest], None] = lambda _: None
        self.now_ns = 0
        self._open: list[SimulatedRequest] = []
        self._cores, self._edge, self._change = 0.0, 0, 0
        self._busy = self._process = self._joules = 0.0
        self._true = [0.0] * 5
        self._counter, self._power = scene.counter, scene.power
        self._published_ns, self._published_joules, self._mean = 0, 0.0, 0.0
        self._tree = Tree(path, scene.machine.cores)
        self.clock = SimulatedClock(self)
        self.host = Host(root=SysRoot(path), clock=self.clock)
        self._prepare()
        self._turn()
        self._write()

    @property
    def joules(self) -> float:
        """True joules since the beginning."""
        return self._joules

    @property
    def true_buckets(self) -> Buckets:
        """Where they truly went."""
        return Buckets(*self._true)

    @property
    def process_seconds(self) -> float:
        """CPU time of the metered process: its runs, and what it does beside them."""
        return self._process

    def advance(self, seconds: float) -> None:
        """Let so much simulated time pass, then write the files."""
        self._advance_to(self.now_ns + round(seconds * 1e9), None)

    def close(self) -> None:
        """Let its files go."""
        self._tree.close()

    def _advance_to(self, end_ns: int, event: threading.Event | None) -> None:
        """Go on to this moment, or to the one at which the event is set."""
        while self.now_ns < end_ns and not (event is not None and event.is_set()):
            self._pass(min(end_ns, self._next_ns()))
            self._turn()
        self._write()

    def _next_ns(self) -> int:
        """When the load changes next, or the power file."""
        edge = self._edges[self._edge][0] if self._edge < len(self._edges) else inf
        changed = self._changes[self._change].at_ns if self._change < len(self._changes) else inf
        return int(min(edge, changed, self._published_ns + self._power.interval_seconds * 1e9))

    def _pass(self, moment_ns: int) -> None:
        """Time passes, all loads staying as they are."""
        seconds = (moment_ns - self.now_ns) / 1e9
        self.now_ns = moment_ns
        runs = len(self._open)
        busy = runs + self._overhead + self._cores
        dynamic = self.machine.watts_above_idle(busy) * seconds
        idle = self.machine.idle_watts * seconds
        self._busy += busy * seconds
        self._process += (runs + self._overhead) * seconds
        self._joules += dynamic + idle
        self._share(dynamic / busy if busy > 0 else 0.0, idle)

    def _share(self, per_core: float, idle: float) -> None:
        """The truth about these joules."""
        runs, ours = len(self._open), idle * self.scene.reserved_share
        for request in self._open:
            request.dynamic += per_core
            request.idle += ours / runs
        self._true[0] += runs * per_core
        self._true[1 if runs else 3] += ours
        self._true[2] += self._overhead * per_core
        self._true[4] += self._cores * per_core + idle - ours

    def _turn(self) -> None:
        """Everything that happens at this moment."""
        while (
            self._change < len(self._changes) and self._changes[self._change].at_ns <= self.now_ns
        ):
            self._cores = self._changes[self._change].cores
            self._change += 1
        while self._edge < len(self._edges) and self._edges[self._edge][0] <= self.now_ns:
            _, opens, request = self._edges[self._edge]
            self._edge += 1
            (self._opened if opens else self._closed)(request)
        since = (self.now_ns - self._published_ns) / 1e9
        if since >= self._power.interval_seconds:
            self._mean = (self._joules - self._published_joules) / since
            self._published_ns, self._published_joules = self.now_ns, self._joules

    def _opened(self, request: SimulatedRequest) -> None:
        self._open.append(request)
        self.on_open(request)

    def _closed(self, request: SimulatedRequest) -> None:
        self._open.remove(request)
        self.on_close(request)

    def _prepare(self) -> None:
        """Files that do not change."""
        self._tree.write(f"{COUNTER}/name", "package-0")
        self._tree.write(f"{COUNTER}/max_energy_range_uj", str(self._counter.max_uj))
        self._tree.write(f"{POWER}/name", "ina226")
        self._tree.write(f"{POWER}/shunt_resistor", "10000")
        interval = round(self._power.interval_seconds * 1e3)
        self._tree.write(f"{POWER}/update_interval", str(interval))
        self._mean = self.machine.idle_watts

    def _write(self) -> None:
        """Files as they are now."""
        self._tree.write(f"{COUNTER}/energy_uj", str(self._counter.microjoules(self._joules)))
        self._tree.write(f"{POWER}/power1_input", str(self._power.microwatts(self._mean)))
        self._tree.stat(self._busy, self.now_ns / 1e9)


class SimulatedClock(Clock):
    """The machine's time; waiting lets it pass."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    def monotonic_ns(self) -> int:
        """Since the machine's beginning."""
        return self._machine.now_ns

    def wall_ns(self) -> int:
        """UTC, in the year 2023."""
        return EPOCH_NS + self._machine.now_ns

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Simulated time passes until the event is set or the time is over."""
        self._machine._advance_to(self._machine.now_ns + round(seconds * 1e9), event)
        return event.is_set()


class SimulatedProcess:
    """CPU time of the metered process, as ``time.process_time_ns`` would tell it."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    def seconds(self) -> float:
        """Since the machine's beginning."""
        return self._machine.process_seconds
