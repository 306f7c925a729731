"""Watts and utilisation of a machine under three steady loads, by any meter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from math import fsum, sqrt
from typing import NamedTuple, Protocol

from setsuden.energy.calibration.calibrate import CalibrationError, ReferenceMeter
from setsuden.energy.calibration.load import LoadLevel
from setsuden.energy.domain import Candidate, Sensor
from setsuden.energy.host.cpu import HostCpuReader, cores
from setsuden.energy.host.system import Host
from setsuden.energy.power_curve import Point
from setsuden.energy.sensors.counter import Track
from setsuden.schemas.energy import Quality, Source

SLICES = 20
"""Parts of a step whose scatter is its noise."""
LEAST_KNOWN = 0.5
"""Part of the slices that must be readable."""
SETTLE_SECONDS = 5.0
"""Before each step: clocks, fans and a plug's own average follow the load (a judgement)."""
_HUMAN = "setsuden energy calibrate --meter human"
_METERS = frozenset({Source.MEASURED, Source.DERIVED, Source.RELAYED})


class Mean(NamedTuple):
    """Watts under one load."""

    watts: float
    cv: float
    """Standard deviation over mean."""


class Watts(Protocol):
    """Any way to learn watts, a person at a plug included."""

    meter: ReferenceMeter

    def mean(self, step: str, seconds: float) -> Mean:
        """Under the load of this step, which is on already, over so many seconds."""
        ...


Running = Callable[[LoadLevel], AbstractContextManager[object]]


def points(
    watts: Watts,
    work: Mapping[str, LoadLevel],
    running: Running,
    host: Host,
    *,
    seconds: float,
    begun: Callable[[str], None],
) -> Iterator[tuple[str, Point]]:
    """A point of each step, as it is measured; ``begun`` is called when the step's load is on.

    Raises CalibrationError.

    Utilisation is what ``/proc/stat`` saw, not what was meant: others use the machine too.
    """
    stat, count = HostCpuReader(host.root), cores(host.root)
    try:
        for step, load in work.items():
            with running(load):
                begun(step)
                host.clock.sleep(settle_seconds(seconds))
                began, before = host.clock.monotonic_ns(), stat.read().busy_seconds
                found = watts.mean(step, seconds)
                took = (host.clock.monotonic_ns() - began) / 1e9
                busy = stat.read().busy_seconds - before
            yield step, _point(found, max(0.0, busy) / (took * count), took)
    finally:
        stat.close()


def settle_seconds(seconds: float) -> float:
    """What is waited before a step of so many seconds."""
    return min(SETTLE_SECONDS, seconds / 4)


def _point(found: Mean, utilisation: float, seconds: float) -> Point:
    if found.watts <= 0:
        raise CalibrationError("the meter shows 0 W", remedy="setsuden energy doctor")
    return Point(utilisation=min(utilisation, 1.2), watts=found.watts, seconds=seconds, cv=found.cv)


def meter_of(candidate: Candidate) -> ReferenceMeter:
    """What a calibration says it was measured with; raises CalibrationError when that is no meter.

    A model knows nothing of this machine, so a curve through its figures would be the model again
    under a better name.
    """
    primary = [domain for domain in candidate.domains if domain.id in candidate.primary]
    if not primary:
        raise CalibrationError(f"{candidate.name} gives no joules", remedy=_HUMAN)
    sources = {domain.source for domain in primary}
    if not sources <= _METERS:
        reason = f"{candidate.name} is a model, and a model cannot calibrate a model"
        raise CalibrationError(reason, remedy=_HUMAN)
    boundaries = {domain.boundary for domain in primary}
    if len(boundaries) != 1:
        named = ", ".join(sorted(boundaries))
        raise CalibrationError(
            f"{candidate.name} sums up unlike boundaries: {named}", remedy=_HUMAN
        )
    return ReferenceMeter(
        candidate.name,
        max(sources, key=tuple(Source).index),
        boundaries.pop(),
        max(domain.factor for domain in primary),
    )


class SensorWatts:
    """Watts from an energy source of this machine."""

    def __init__(self, candidate: Candidate, sensor: Sensor, host: Host) -> None:
        self.meter = meter_of(candidate)
        self._sensor, self._clock = sensor, host.clock
        self._tracks = {
            domain.id: Track(domain) for domain in sensor.domains if domain.id in candidate.primary
        }
        own = [track.domain.interval_seconds for track in self._tracks.values()]
        self._interval = min(own)
        self._slice_at_least = 2 * max(own)

    def mean(self, step: str, seconds: float) -> Mean:
        """The mean over the slices that could be read; raises CalibrationError."""
        length = max(seconds / SLICES, self._slice_at_least)
        self._read()
        self._take()
        slices, known = 0, []
        end = self._clock.monotonic_ns() + int(seconds * 1e9)
        while self._clock.monotonic_ns() < end:
            self._wait(min(length, (end - self._clock.monotonic_ns()) / 1e9))
            slices += 1
            known += self._take()
        if len(known) < LEAST_KNOWN * slices:
            raise CalibrationError(
                f"{self.meter.name} could be read in {len(known)} of {slices} parts of the {step} "
                "step",
                remedy="setsuden energy doctor",
            )
        return _mean(known)

    def _wait(self, seconds: float) -> None:
        end = self._clock.monotonic_ns() + int(seconds * 1e9)
        while (left := (end - self._clock.monotonic_ns()) / 1e9) > 0:
            self._clock.sleep(min(left, self._interval))
            self._read()

    def _read(self) -> None:
        for reading in self._sensor.read():
            if reading.domain in self._tracks:
                self._tracks[reading.domain].add(reading)

    def _take(self) -> list[tuple[float, float]]:
        """Watts and seconds since the last time; nothing where a domain is not known."""
        deltas = [track.take() for track in self._tracks.values()]
        watts, length = 0.0, 0.0
        for delta in deltas:
            if delta.joules is None or delta.start_ns is None or delta.end_ns is None:
                return []
            length = (delta.end_ns - delta.start_ns) / 1e9
            if length <= 0 or delta.quality is Quality.QUARANTINED:
                return []
            watts += delta.joules / length
        return [(watts, length)]


def _mean(known: list[tuple[float, float]]) -> Mean:
    """Weighted by time; ``known`` is not empty."""
    total = fsum(seconds for _, seconds in known)
    mean = fsum(watts * seconds for watts, seconds in known) / total
    spread = fsum((watts - mean) ** 2 * seconds for watts, seconds in known) / total
    return Mean(mean, sqrt(spread) / mean if mean > 0 else 0.0)


@contextmanager
def opened(candidate: Candidate, host: Host) -> Iterator[SensorWatts]:
    """The candidate as a way to learn watts; raises CalibrationError, and OSError at its device."""
    meter_of(candidate)
    if candidate.open is None:
        raise CalibrationError(candidate.reason, remedy=candidate.remedy)
    sensor = candidate.open()
    try:
        yield SensorWatts(candidate, sensor, host)
    finally:
        sensor.close()
