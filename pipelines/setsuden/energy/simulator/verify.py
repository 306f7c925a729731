"""The method's own errors, against simulated machines whose true joules are known.

Machines are drawn, not chosen: curves over the whole published range, neighbours, rates and run
lengths over what an edge board or a shared server sees. What it cannot show: how far a real
sensor's boundary is from the plug, and instructions that take more power than others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, fsum
from random import Random
from statistics import median
from typing import NamedTuple

from setsuden.energy.attribution.attribute import UNCALIBRATED_EXPONENT, Attributor, attribute
from setsuden.energy.attribution.intervals import RelativeError
from setsuden.energy.metering.baseline import CALIBRATED_FACTOR
from setsuden.energy.metering.ledger import RunLedger, WorkKey
from setsuden.energy.metering.settle import ClosedWindow, MeterFacts, settle
from setsuden.energy.sensors.factors import FACTORS, ErrorClass
from setsuden.energy.simulator import CounterFile, Neighbours, Pattern, PowerModel, Requests, Scene
from setsuden.energy.simulator.observe import (
    SensorName,
    SettledRequest,
    SimulatedRun,
    calibrate,
    observe,
)
from setsuden.schemas.energy import Boundary, Method, Quality, Source
from setsuden.schemas.windows import Counts

WINDOW_SECONDS = 0.25
_KEY = WorkKey("simulated", "simulated/model", "")
MACHINES = 20
"""Of each pattern, for the errors."""
COVERAGE_MACHINES = 200
"""One machine's sensor and baseline err the same way in all its spans: machines count here."""
SENSOR_FACTOR = FACTORS[ErrorClass.PACKAGE].value
"""What the meter states of the counter it reads here."""
_UNITS_UJ = (15.2587890625, 61.03515625)
_NEAR_WRAP_JOULES = 50.0


class VerifiedFigure(NamedTuple):
    """One figure and what it was to be."""

    name: str
    value: float | None
    """None where nothing was measured."""
    target: float | None
    """None for a figure that is only reported."""
    of: str
    """What it is a figure of."""
    at_least: bool = False
    """True when more is better."""

    @property
    def holds(self) -> bool | None:
        """None without a target; a figure that could not be measured misses it."""
        if self.target is None:
            return None
        if self.value is None:
            return False
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True, slots=True)
class Verification:
    """All figures, and how much they stand on."""

    figures: tuple[VerifiedFigure, ...]
    seed: int
    seconds: float
    """Simulated time for each machine."""
    machines: int
    spans: int
    windows: int

    @property
    def ok(self) -> bool:
        """No target was missed."""
        return not any(figure.holds is False for figure in self.figures)


class Job(NamedTuple):
    """One machine to be measured in one way."""

    group: str
    scene: Scene
    window_seconds: float = WINDOW_SECONDS
    sensor: SensorName = "rapl"
    exponent: float | None = None
    """Taken in place of the calibrated one; 1 shares by CPU-seconds alone."""
    calibrated_on: Scene | None = None
    """The same machine as it was when it was calibrated, where that differs."""


def verify(
    seed: int = 0,
    seconds: float = 20.0,
    *,
    machines: int = MACHINES,
    coverage_machines: int = COVERAGE_MACHINES,
    method: Attributor = attribute,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Verification:
    """Simulate, measure, attribute and compare; the same for the same seed but for its timings.

    ``progress`` is called with how many machines of how many are done; ``method`` is what is
    verified.
    """
    jobs = list(_jobs(seed, seconds, machines, coverage_machines))
    seen: dict[str, list[SimulatedRun]] = {}
    for done, job in enumerate(jobs):
        progress(done, len(jobs))
        seen.setdefault(job.group, []).append(_measured(job, method))
    progress(len(jobs), len(jobs))
    everything = [observation for group in seen.values() for observation in group]
    return Verification(
        tuple(_figures(seen, method)),
        seed,
        seconds,
        len(jobs),
        sum(len(observation.spans) for observation in everything),
        sum(len(observation.windows) for observation in everything),
    )


def _jobs(seed: int, seconds: float, machines: int, coverage_machines: int) -> Iterator[Job]:
    """Every measurement; the same machines for each way of measuring them."""
    random = Random(seed)  # noqa: S311  # a simulation: the same for the same seed
    for pattern in Pattern:
        for scene in [draw(random, pattern, seconds) for _ in range(machines)]:
            yield Job(pattern, scene)
            yield Job(f"{pattern}_by_cpu", scene, exponent=1.0)
            yield Job(f"{pattern}_uncalibrated", scene, exponent=UNCALIBRATED_EXPONENT)
            if pattern is Pattern.BURSTY:
                yield Job("power_file", scene, sensor="ina226")
    for place in range(coverage_machines):
        pattern = tuple(Pattern)[place % 2]
        scene = draw(random, pattern, seconds / 4)
        yield _erring(random, scene)


def draw(random: Random, pattern: Pattern, seconds: float) -> Scene:
    """A machine with neighbours and requests."""
    bursty = pattern is Pattern.BURSTY
    return Scene(
        PowerModel(exponent=random.uniform(0.3, 0.8), straight=random.uniform(0.0, 0.4)),
        Neighbours(random.uniform(0.0, 1.25 if bursty else 2.5), pattern, random.uniform(0.5, 4.0)),
        Requests(
            random.uniform(2.0, 30.0),
            pattern,
            cpu_seconds=10 ** random.uniform(-3.0, -1.3),
            period_seconds=random.uniform(0.5, 4.0),
        ),
        seconds=seconds,
        seed=random.getrandbits(32),
        reserved_share=random.choice((0.25, 0.5, 1.0)),
        counter=_counter(random.choice(_UNITS_UJ)),
    )


def _counter(unit_uj: float, scale: float = 1.0) -> CounterFile:
    """A counter that wraps while it is watched."""
    whole = (1 << 32) * unit_uj / 1e6
    return CounterFile(unit_uj, start_joules=whole - _NEAR_WRAP_JOULES, scale=scale)


def _erring(random: Random, scene: Scene) -> Job:
    """The same scene with a sensor and a baseline as wrong as their factors say."""
    scale = exp(random.gauss(0.0, RelativeError.of(SENSOR_FACTOR).sigma))
    moved = exp(random.gauss(0.0, RelativeError.of(CALIBRATED_FACTOR).sigma))
    erring = replace(scene, counter=_counter(scene.counter.unit_uj, scale))
    machine = replace(scene.machine, idle_watts=scene.machine.idle_watts * moved)
    return Job("coverage", replace(erring, machine=machine), calibrated_on=erring)


def _measured(job: Job, method: Attributor) -> SimulatedRun:
    then = job.calibrated_on or job.scene
    stored = calibrate(then.machine, then.counter)
    return observe(job.scene, stored, job.window_seconds, method, job.sensor, exponent=job.exponent)


def _figures(seen: dict[str, list[SimulatedRun]], method: Attributor) -> Iterator[VerifiedFigure]:
    both = [found for pattern in Pattern for found in seen.get(pattern, [])]
    steady, bursty = (_spans(seen.get(pattern, [])) for pattern in Pattern)
    power, drawn = _spans(seen.get("power_file", [])), _spans(seen.get("coverage", []))
    yield VerifiedFigure("span_error_steady", span_error(steady), 0.05, _MAPE)
    yield VerifiedFigure("span_error_bursty", span_error(bursty), 0.10, _MAPE)
    yield VerifiedFigure("span_error_power_file", span_error(power), 0.10, _POWER)
    yield VerifiedFigure("window_error", window_error(both), 0.02, _WAPE)
    yield VerifiedFigure("coverage_95", coverage(drawn), 0.95, _COVERAGE, at_least=True)
    yield VerifiedFigure("conservation_error", conservation_error(seen), 1e-9, _CONSERVATION)
    yield VerifiedFigure("meter_core_share", core_share(both), 0.002, _CORE)
    yield VerifiedFigure("us_per_span", microseconds_per_span(method), 10.0, _MICROSECONDS)
    yield from _without_target(seen)


def _without_target(seen: dict[str, list[SimulatedRun]]) -> Iterator[VerifiedFigure]:
    """Figures without a target."""
    width = interval_factor(_spans(seen.get("coverage", [])))
    yield VerifiedFigure("interval_factor", width, None, _WIDTH)
    for pattern in Pattern:
        found = seen.get(pattern, [])
        by_cpu = _spans(seen.get(f"{pattern}_by_cpu", []))
        yield VerifiedFigure(f"window_error_{pattern}", window_error(found), None, _WAPE)
        dynamic = span_error(_spans(found), dynamic=True)
        yield VerifiedFigure(f"dynamic_error_{pattern}", dynamic, None, _DYNAMIC)
        yield VerifiedFigure(f"by_cpu_error_{pattern}", span_error(by_cpu), None, _BY_CPU)
        bent = _spans(seen.get(f"{pattern}_uncalibrated", []))
        yield VerifiedFigure(f"uncalibrated_error_{pattern}", span_error(bent), None, _BENT)


_MAPE = "mean over requests of |found - true| / true, of a request's joules"
_POWER = "the same on the bursty machines, with averaged watts for a sensor"
_WAPE = "sum over windows of |found - true| / sum of true, of all requests' joules in a window"
_COVERAGE = "requests whose 95 % interval holds the true joules; sensor and baseline are off"
_WIDTH = "median over requests of joules / low: what coverage_95 is paid with"
_CONSERVATION = "worst window: joules lost, made up or below 0, as a part of its joules"
_CORE = "CPU time of reading and attributing, as a part of one core"
_MICROSECONDS = "CPU time of attributing one run, of 100 in a window"
_DYNAMIC = "mean over requests of |found - true| / true, of the part above idle alone"
_BENT = f"span_error with the exponent {UNCALIBRATED_EXPONENT} of a machine nobody calibrated"
_BY_CPU = "span_error without a calibrated curve: by CPU-seconds alone"


def _spans(found: Iterable[SimulatedRun]) -> list[SettledRequest]:
    return [span for observation in found for span in observation.spans]


def _worst(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)


def span_error(spans: Sequence[SettledRequest], *, dynamic: bool = False) -> float | None:
    """Mean absolute relative error over requests, of their joules or the dynamic part alone."""
    errors = []
    for span in spans:
        true = span.request.dynamic + (0.0 if dynamic else span.request.idle)
        measured = span.run.dynamic + (0.0 if dynamic else span.run.idle)
        errors.append(abs(measured - true) / true)
    return fsum(errors) / len(errors) if errors else None


def window_error(observations: Iterable[SimulatedRun]) -> float | None:
    """Joules of requests that each window has too many or too few, as a part of the true ones."""
    windows = [window for observation in observations for window in observation.windows]
    true = fsum(window.true for window in windows)
    return (
        fsum(abs(window.measured - window.true) for window in windows) / true if true > 0 else None
    )


def coverage(spans: Sequence[SettledRequest]) -> float | None:
    """Part of the requests whose interval holds their true joules."""
    held = [
        span.run.low <= span.request.dynamic + span.request.idle <= span.run.high for span in spans
    ]
    return sum(held) / len(held) if held else None


def interval_factor(spans: Sequence[SettledRequest]) -> float | None:
    """Median 95 % factor of the requests' joules."""
    runs = [span.run for span in spans if span.run.low > 0]
    wide = [(run.dynamic + run.idle) / run.low for run in runs]
    return median(wide) if wide else None


def conservation_error(seen: dict[str, list[SimulatedRun]]) -> float | None:
    """The worst window of all."""
    found = [observation for group in seen.values() for observation in group]
    return _worst(window.leak for observation in found for window in observation.windows)


def core_share(observations: Sequence[SimulatedRun]) -> float | None:
    """Real CPU-seconds for each second of simulated time."""
    seconds = fsum(observation.seconds for observation in observations)
    return fsum(seen.cpu_seconds for seen in observations) / seconds if seconds > 0 else None


def microseconds_per_span(method: Attributor = attribute, runs: int = 100) -> float:
    """CPU time of settling one of ``runs`` runs in a window; the median of 50 windows."""
    facts = MeterFacts(
        "meter", Source.MEASURED, Boundary.CPU_PACKAGE, 1.1, 1.05, 1.0, 0.55, attribute=method
    )
    taken = []
    for _ in range(50):
        moments = iter(
            moment for place in range(runs) for moment in (9_000_000 * place, 9_000_000 * place + 4)
        )
        ledger = RunLedger(moments.__next__)
        for _ in range(runs):
            ledger.finish(ledger.begin(_KEY), 1, 0.004, Method.EXCLUSIVE)
        closed = ClosedWindow(0, 10**9, 0, 5.0, 2.7, Quality.OK, 1.2, 0.0, 0.5, Counts())
        began = time.thread_time_ns()
        settle(closed, ledger, facts)
        taken.append((time.thread_time_ns() - began) / 1e3 / runs)
    return median(taken)
