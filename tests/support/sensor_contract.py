"""What every energy source keeps: plain functions that take a candidate, to call from any test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

from setsuden.energy.domain import Candidate, Domain, DomainKind, Reading, Sensor
from setsuden.schemas.energy import Source


def nothing() -> None:
    """For a source whose device needs no help to go on."""


def assert_kept(
    candidate: Candidate,
    *,
    advance: Callable[[], None] = nothing,
    vanish: Callable[[], None] | None = None,
) -> None:
    """The whole contract.

    ``advance`` lets the device run on so that counters grow; ``vanish`` makes every later read of
    it fail.
    """
    assert_described(candidate)
    if not candidate.available or not candidate.domains:
        return
    assert_readable(candidate, advance)
    if vanish is not None:
        assert_failure_is_told(candidate, vanish)


def assert_described(candidate: Candidate) -> None:
    """Words for a person whatever was found, and domains that cannot be counted twice."""
    assert candidate.name
    assert candidate.reason
    if candidate.available:
        assert_domains(candidate.domains, candidate.primary)
        assert (candidate.open is None) == (not candidate.domains), candidate.name
    else:
        assert candidate.remedy, f"{candidate.name} is not available and nobody is told what to do"
        assert candidate.open is None


def assert_domains(domains: Sequence[Domain], primary: Sequence[str]) -> None:
    """Unique ids, parents that exist, and primaries of which none holds another."""
    known = {domain.id: domain for domain in domains}
    assert len(known) == len(domains), "two domains of one id"
    assert set(primary) <= set(known), "a primary domain that does not exist"
    assert len(set(primary)) == len(primary)
    assert bool(primary) == bool(domains), "domains, none of which is attributed"
    for domain in domains:
        assert domain.id
        assert domain.name
        assert domain.hw_type
        assert isfinite(domain.factor)
        assert domain.factor >= 1
        assert domain.source is not Source.NONE
        assert domain.interval_seconds > 0
        assert domain.max_joules is None or domain.max_joules > 0
        assert domain.max_watts is None or domain.max_watts > 0
        assert domain.parent is None or domain.parent in known, f"{domain.id}: no such parent"
        assert not set(_ancestors(domain, known)) & set(primary) or domain.id not in primary, (
            f"{domain.id} is attributed twice: its parent holds it already"
        )


def _ancestors(domain: Domain, known: dict[str, Domain]) -> list[str]:
    found: list[str] = []
    parent = domain.parent
    while parent is not None:
        assert parent not in found, f"{domain.id} is its own ancestor"
        found.append(parent)
        parent = known[parent].parent
    return found


def assert_readable(candidate: Candidate, advance: Callable[[], None]) -> None:
    """One reading of each domain in their order, later ones later, and counters that grow."""
    sensor = opened(candidate)
    try:
        assert tuple(sensor.domains) == candidate.domains
        first = checked(sensor)
        advance()
        second = checked(sensor)
        for domain, before, after in zip(sensor.domains, first, second, strict=True):
            assert before.problem is None, before
            assert after.problem is None, after
            assert after.at_ns >= before.at_ns
            if domain.kind is DomainKind.COUNTER and domain.max_joules is None:
                assert (after.value or 0) >= (before.value or 0)
    finally:
        sensor.close()
        sensor.close()


def assert_failure_is_told(candidate: Candidate, vanish: Callable[[], None]) -> None:
    """Once the device is gone: no value, never 0, and a problem in words; nothing is raised."""
    sensor = opened(candidate)
    try:
        checked(sensor)
        vanish()
        for reading in checked(sensor):
            assert reading.value is None, reading
            assert reading.problem
    finally:
        sensor.close()
        sensor.close()


def opened(candidate: Candidate) -> Sensor:
    """The open sensor of an available candidate."""
    assert candidate.available, candidate.reason
    assert candidate.open is not None
    return candidate.open()


def checked(sensor: Sensor) -> list[Reading]:
    """The readings, each of the right domain and either a value or a problem."""
    readings = sensor.read()
    assert [reading.domain for reading in readings] == [domain.id for domain in sensor.domains]
    for reading in readings:
        assert (reading.value is None) == (reading.problem is not None), reading
        assert reading.value is None or (isfinite(reading.value) and reading.value >= 0), reading
    return readings
