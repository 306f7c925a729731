"""``setsuden energy doctor``: every energy source of this machine, which is used, and why."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import click

from setsuden.cli.energy.options import energy_config_option, energy_of
from setsuden.cli.failure import FAILED
from setsuden.cli.lazy import quiet_logs

if TYPE_CHECKING:
    from setsuden.energy.domain import Candidate, Detection, Domain, Reading, Sensor
    from setsuden.energy.host.system import Clock, Host
    from setsuden.energy.options import EnergyOptions

_READS = 5
_BUDGET_NS = 1_000_000_000
_PATIENCE_SECONDS, _PAUSE_SECONDS = 2.0, 0.05
_WIDTH = 98
_LABEL = 10


class Trial(NamedTuple):
    """A few readings of the chosen source."""

    microseconds: float | None
    """Median of one reading of all its domains; None where nothing is read."""
    problems: tuple[str, ...] = ()
    """Why it, or one of its domains, cannot be read now."""


class Diagnosis(NamedTuple):
    """All that is told."""

    detection: Detection
    trial: Trial
    window_seconds: float


@click.command()
@energy_config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def doctor(path: Path | None, as_json: bool) -> None:
    """Show which energy source is used and why, and what every other one lacks.

    Exit code 1 when the chosen source cannot be read now.
    """
    from setsuden.energy.host.system import Host  # noqa: PLC0415

    quiet_logs()
    found = examine(energy_of(path), Host())
    click.echo(json.dumps(document(found), indent=2) if as_json else text(found))
    if found.trial.problems:
        sys.exit(FAILED)


def examine(options: EnergyOptions, host: Host) -> Diagnosis:
    """The choice, every candidate, and what a reading costs; raises ConfigError."""
    from setsuden.energy.sensors.detect import detect  # noqa: PLC0415  # pydantic and more

    detection = detect(options, host)
    return Diagnosis(detection, try_out(detection.chosen, host.clock), options.window_seconds)


def try_out(candidate: Candidate, clock: Clock) -> Trial:
    """Read it up to five times within a second or so."""
    if candidate.open is None:
        return Trial(None)
    try:
        sensor = candidate.open()
    except OSError as error:
        return Trial(None, (f"it cannot be opened: {error}",))
    took: list[int] = []
    try:
        readings = _first(sensor, clock)
        while len(took) < _READS and sum(took) < _BUDGET_NS:
            began = clock.monotonic_ns()
            readings = sensor.read()
            took.append(clock.monotonic_ns() - began)
    finally:
        sensor.close()
    problems = [f"{reading.domain}: {reading.problem}" for reading in readings if reading.problem]
    return Trial(median(took) / 1e3, tuple(problems))


def _first(sensor: Sensor, clock: Clock) -> list[Reading]:
    """The first readings without a problem, or those at the end of patience.

    A plug or a controller is asked in the background: right after it is opened it has no answer.
    """
    patience = _PATIENCE_SECONDS + 2 * max(domain.interval_seconds for domain in sensor.domains)
    end = clock.monotonic_ns() + int(patience * 1e9)
    while True:
        readings = sensor.read()
        if clock.monotonic_ns() >= end or not any(reading.problem for reading in readings):
            return readings
        clock.sleep(_PAUSE_SECONDS)


def better(detection: Detection) -> Candidate | None:
    """The best source that would be worth more than the chosen one, and that can be helped."""
    for candidate in detection.candidates:
        if candidate.name == detection.chosen.name:
            return None
        if not candidate.available and candidate.remedy:
            return candidate
    return None


def domains(candidate: Candidate) -> tuple[list[Domain], list[Domain]]:
    """Those that are attributed, and those that are only told."""
    primary = [domain for domain in candidate.domains if domain.id in candidate.primary]
    return primary, [domain for domain in candidate.domains if domain not in primary]


def document(found: Diagnosis) -> dict[str, object]:
    """What is told, as JSON."""
    chosen = found.detection.chosen
    upward = better(found.detection)
    return {
        "chosen": _candidate(chosen),
        "window_seconds": found.window_seconds,
        "read_microseconds": found.trial.microseconds,
        "problems": list(found.trial.problems),
        "better": None if upward is None else {"name": upward.name, "remedy": upward.remedy},
        "candidates": [_candidate(candidate) for candidate in found.detection.candidates],
    }


def _candidate(candidate: Candidate) -> dict[str, object]:
    primary, others = domains(candidate)
    return {
        "name": candidate.name,
        "available": candidate.available,
        "reason": candidate.reason,
        "remedy": candidate.remedy,
        "origin": candidate.origin,
        "idle_watts": candidate.idle_watts,
        "primary": [_domain(domain) for domain in primary],
        "others": [_domain(domain) for domain in others],
    }


def _domain(domain: Domain) -> dict[str, object]:
    return {
        "id": domain.id,
        "name": domain.name,
        "hw_type": domain.hw_type,
        "kind": domain.kind.value,
        "source": domain.source.value,
        "boundary": domain.boundary.value,
        "factor": domain.factor,
        "parent": domain.parent,
    }


def text(found: Diagnosis) -> str:
    """What is told, for a person."""
    lines = [*_choice(found), "", "every source, best first:"]
    width = max((len(candidate.name) for candidate in found.detection.candidates), default=0)
    for candidate in found.detection.candidates:
        used = candidate.name == found.detection.chosen.name
        lines += _listed(candidate, width, used=used)
    return "\n".join(lines)


def _choice(found: Diagnosis) -> Iterator[str]:
    chosen, trial = found.detection.chosen, found.trial
    primary, others = domains(chosen)
    yield from _labelled("source", f"{chosen.name}: {_trust(primary)}", bold=True)
    yield from _labelled("reason", chosen.reason)
    if chosen.origin:
        yield from _labelled("origin", chosen.origin)
    if chosen.idle_watts is not None:
        yield from _labelled("idle", f"{chosen.idle_watts:.4g} W, as the source itself knows it")
    for domain in primary:
        yield from _labelled("primary", _words(domain))
    for domain in others:
        yield from _labelled("other", _words(domain))
    cost = "" if trial.microseconds is None else f"; one reading takes {trial.microseconds:.0f} µs"
    yield from _labelled("window", f"{found.window_seconds:g} s{cost}")
    for problem in trial.problems:
        yield from _labelled("problem", problem, fg="red")
    upward = better(found.detection)
    if upward is not None:
        yield from _labelled("better", f"{upward.name}: {upward.remedy}", bold=True)


def _trust(primary: list[Domain]) -> str:
    """Labels of the sum of these domains: the worst of each."""
    from setsuden.schemas.energy import Source  # noqa: PLC0415

    if not primary:
        return f"{Source.NONE.value}, joules are unknown"
    source = max((domain.source for domain in primary), key=tuple(Source).index)
    boundary = "+".join(sorted({domain.boundary.value for domain in primary}))
    factor = max(domain.factor for domain in primary)
    return f"{source.value}, {boundary}, within a factor of {factor:.3g} in 95 % of cases"


def _words(domain: Domain) -> str:
    inside = f", inside {domain.parent}" if domain.parent else ""
    return (
        f"{domain.id} ({domain.name}, {domain.hw_type}): {domain.kind.value}, "
        f"{domain.source.value}, {domain.boundary.value}, x/÷{domain.factor:.3g}{inside}"
    )


def _listed(candidate: Candidate, width: int, *, used: bool) -> Iterator[str]:
    mark, colour = ("used", "green") if used else ("yes", None)
    if not candidate.available:
        mark, colour = "no", "yellow"
    indent = " " * (width + 8)
    words = textwrap.wrap(candidate.reason, _WIDTH - len(indent), break_on_hyphens=False) or [""]
    yield f"{click.style(f'{mark:<4}', fg=colour)}  {candidate.name:<{width}}  {words[0]}"
    yield from (indent + line for line in words[1:])
    if candidate.remedy:
        yield from textwrap.wrap(
            f"remedy: {candidate.remedy}",
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + " " * len("remedy: "),
            break_on_hyphens=False,
        )


def _labelled(label: str, words: str, *, bold: bool = False, fg: str | None = None) -> list[str]:
    """The label, then the words, filled before they are styled: colours have no width."""
    filled = textwrap.wrap(words, _WIDTH - _LABEL, break_on_hyphens=False) or [""]
    lines = [click.style(line, bold=bold or None, fg=fg) for line in filled]
    return [f"{label:<{_LABEL}}{lines[0]}", *(" " * _LABEL + line for line in lines[1:])]
