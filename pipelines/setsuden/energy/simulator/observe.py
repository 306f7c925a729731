"""The product's own meter on a simulated machine, its figures held against the truth."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from setsuden.energy.attribution.attribute import (
    Attribution,
    Attributor,
    HostWindow,
    ProcessUse,
    RunShare,
    RunUse,
)
from setsuden.energy.calibration.calibrate import ReferenceMeter as CalibrationMeter
from setsuden.energy.calibration.calibrate import calibration
from setsuden.energy.metering.ledger import MeteredRun, WorkKey
from setsuden.energy.metering.meter import Meter
from setsuden.energy.metering.sampler import EnergySampler
from setsuden.energy.open import Identity, open_meter
from setsuden.energy.options import EnergyOptions
from setsuden.energy.power_curve import Calibration, Point
from setsuden.energy.sensors.detect import detect
from setsuden.energy.simulator.machine import Neighbours, PowerModel, Requests
from setsuden.energy.simulator.schedule import SimulatedRequest
from setsuden.energy.simulator.simulation import Scene, SimulatedMachine, SimulatedProcess
from setsuden.energy.simulator.tree import CounterFile
from setsuden.schemas.energy import Boundary, Method, Source
from setsuden.schemas.windows import Component, WindowRow

SensorName = Literal["rapl", "ina226"]
"""The simulated machine's energy counter, or its averaged watts."""
_CALIBRATION_SECONDS = 10.0
_POWER_EVERY_SECONDS = 0.1
_KEY = WorkKey("simulated", "simulated/model", "")
_IDENTITY = Identity(Component.EDGE, "simulated", "simulated", "0" * 64)


class SettledRequest(NamedTuple):
    """One request as the meter settled it, beside its truth."""

    request: SimulatedRequest
    run: MeteredRun


class SettledWindow(NamedTuple):
    """Joules of all requests in one window."""

    measured: float
    true: float
    leak: float
    """What its buckets and shares fail to add up to, and what they have below 0, as a part of its
    joules."""


@dataclass(slots=True)
class SimulatedRun:
    """One simulated machine, measured."""

    spans: list[SettledRequest] = field(default_factory=list)
    windows: list[SettledWindow] = field(default_factory=list)
    seconds: float = 0.0
    """Simulated time."""
    cpu_seconds: float = 0.0
    """What the meter took of a real core."""


def calibrate(machine: PowerModel, counter: CounterFile) -> Calibration:
    """What ``setsuden energy calibrate`` would store: idle, half and full load on this counter."""
    with TemporaryDirectory(prefix="setsuden-simulated-") as folder:
        points = [_point(Path(folder) / str(load), machine, load, counter) for load in (0, 0.5, 1)]
        simulated = SimulatedMachine(Path(folder) / "machine", Scene(machine))
        meter = CalibrationMeter("rapl", Source.MEASURED, Boundary.CPU_PACKAGE, 1.0)
        stored = calibration(points, meter, "simulated neighbours", simulated.host)
        simulated.close()
        return stored


def _point(folder: Path, machine: PowerModel, load: float, counter: CounterFile) -> Point:
    others = Neighbours(load * machine.cores)
    scene = Scene(machine, others, Requests(per_second=0), overhead_cores=0.0, counter=counter)
    simulated = SimulatedMachine(folder, scene)
    sampler = EnergySampler(detect(EnergyOptions(sensor="rapl"), simulated.host).chosen)
    sampler.read()
    simulated.advance(_CALIBRATION_SECONDS)
    sampler.read()
    watts = (sampler.take(simulated.now_ns).joules or 0.0) / _CALIBRATION_SECONDS
    sampler.close()
    simulated.close()
    return Point(utilisation=load, watts=watts, seconds=_CALIBRATION_SECONDS, cv=0.0)


def observe(
    scene: Scene,
    stored: Calibration,
    window_seconds: float,
    attribute: Attributor,
    sensor: SensorName = "rapl",
    *,
    exponent: float | None = None,
) -> SimulatedRun:
    """A machine of this scene, measured to the end of its schedule.

    ``exponent`` is taken in place of the calibrated one.
    """
    with TemporaryDirectory(prefix="setsuden-simulated-") as name:
        folder = Path(name)
        simulated = SimulatedMachine(folder / "tree", scene)
        meter = _opened(folder, simulated, stored, sensor)
        if exponent is not None:
            meter.facts = replace(meter.facts, exponent=exponent)
        observation = _Observer(simulated, meter, attribute).run(window_seconds)
        meter.close()
        simulated.close()
        return observation


def _opened(
    folder: Path, simulated: SimulatedMachine, stored: Calibration, sensor: SensorName
) -> Meter:
    """The meter as a configuration and a stored calibration open it."""
    curve = folder / "calibration.json"
    curve.write_text(stored.model_copy(update={"meter": sensor}).model_dump_json(), "utf-8")
    options = EnergyOptions(
        sensor=sensor,
        calibration=str(curve),
        rows=str(folder / "rows"),
        reserved_share=simulated.scene.reserved_share,
    )
    process = SimulatedProcess(simulated)
    return open_meter(options, _IDENTITY, host=simulated.host, process=process)


class _Observer:
    """Begins and finishes the simulated requests at the meter, and keeps what it says of them."""

    def __init__(self, simulated: SimulatedMachine, meter: Meter, attribute: Attributor) -> None:
        self._simulated, self._meter, self._attribute = simulated, meter, attribute
        self._attribution: Attribution | None = None
        self._runs: dict[SimulatedRequest, MeteredRun] = {}
        self._true: deque[float | None] = deque()
        """True joules of the requests in each window not settled yet; None past the schedule."""
        self._observation = SimulatedRun(seconds=simulated.scene.seconds)
        simulated.on_open, simulated.on_close = self._opened, self._closed

    def run(self, window_seconds: float) -> SimulatedRun:
        """Every window of the schedule, and as many more as its last requests need to end."""
        end_ns = self._simulated.scene.seconds * 1e9
        spent, own = 0.0, (self._meter.facts, self._meter.on_row)
        self._meter.facts = replace(self._meter.facts, attribute=self._attributed)
        self._meter.on_row = self._compare
        while (within := self._simulated.now_ns < end_ns) or self._true:
            before = self._request_joules()
            self._advance(window_seconds)
            self._true.append(self._request_joules() - before if within else None)
            began = time.thread_time()
            self._meter.turn()
            spent += (time.thread_time() - began) * within
        self._meter.facts, self._meter.on_row = own
        self._observation.cpu_seconds = spent
        self._observation.spans = [
            SettledRequest(request, run)
            for request, run in self._runs.items()
            if request.closed_ns <= end_ns and run.settled_by is not None
        ]
        return self._observation

    def _advance(self, seconds: float) -> None:
        """One window passes; power is sampled inside it as the meter's thread would."""
        parts = max(1, round(seconds / _POWER_EVERY_SECONDS))
        for _ in range(parts):
            self._simulated.advance(seconds / parts)
            self._meter.sample()

    def _request_joules(self) -> float:
        true = self._simulated.true_buckets
        return true.request_dynamic + true.request_idle

    def _opened(self, request: SimulatedRequest) -> None:
        self._runs[request] = self._meter.begin(_KEY)

    def _closed(self, request: SimulatedRequest) -> None:
        self._meter.finish(self._runs[request], 1, request.cpu_seconds, Method.EXCLUSIVE)

    def _attributed(
        self, window: HostWindow, process: ProcessUse, runs: Sequence[RunUse]
    ) -> Attribution | None:
        self._attribution = self._attribute(window, process, runs)
        return self._attribution

    def _compare(self, row: WindowRow) -> None:
        true = self._true.popleft()
        if true is None or row.request_dynamic is None or row.request_idle is None:
            return
        if row.joules is None or self._attribution is None:
            return
        measured = row.request_dynamic + row.request_idle
        window = SettledWindow(measured, true, leak(row.joules, self._attribution))
        self._observation.windows.append(window)


def leak(joules: float, attribution: Attribution) -> float:
    """Joules lost, made up or below 0 in this attribution, as a part of the window's."""
    if joules <= 0:
        return 0.0
    buckets, shares = attribution.buckets, attribution.shares
    requests = buckets.request_dynamic + buckets.request_idle
    shared = fsum(part for share in shares for part in share)
    below = -min(0.0, *buckets, *(min(share) for share in shares or (RunShare(0, 0),)))
    return max(abs(fsum(buckets) - joules), abs(shared - requests), below) / joules
