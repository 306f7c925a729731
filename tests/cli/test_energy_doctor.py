"""``setsuden energy doctor``: the choice, its reason, its cost, and what would be better."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import pytest
from tests.support.command import Command

from setsuden.cli.energy import calibrate as calibrating
from setsuden.cli.energy import doctor
from setsuden.energy import EnergyOptions
from setsuden.energy.calibration.calibrate import CalibrationError
from setsuden.energy.domain import Candidate, Detection, Domain, DomainKind, Reading
from setsuden.energy.host.system import Clock, Host, Runner, SysRoot
from setsuden.schemas.energy import Boundary, Source

GOLDEN = Path(__file__).parents[1] / "golden/energy_doctor_bare_vm.txt"
CPUINFO = "model name\t: AMD EPYC\nsiblings\t: 2\ncpu cores\t: 2\nflags\t\t: fpu hypervisor\n"
STAT = "cpu  100 0 20 900 0 0 0 30 0 0\ncpu0 50 0 10 450 0\ncpu1 50 0 10 450 0\n"


class Steady(Clock):
    """Passes 20 µs at every look, and what is waited for."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic_ns(self) -> int:
        self.now += 20_000
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.now += round(seconds * 1e9)
        return False


class NoPrograms(Runner):
    """The search starts none."""

    def run(self, command: Sequence[str], timeout_seconds: float) -> str:
        raise AssertionError(f"{command[0]} was started")


def host(root: Path) -> Host:
    return Host(SysRoot(root), Steady(), NoPrograms())


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual machine with nothing in it but two files of /proc."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(STAT, encoding="utf-8")
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return tmp_path


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_a_bare_virtual_machine_gets_this_report(bare: Path) -> None:
    """Golden: UPDATE_GOLDEN=1 writes what is told now, for a person to read and keep."""
    found = doctor.examine(EnergyOptions(), host(bare))
    told = click.unstyle(doctor.text(found)) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(told, encoding="utf-8")
    assert told == GOLDEN.read_text(encoding="utf-8")


def test_a_bare_virtual_machine_gets_a_label_and_not_a_bare_watt(bare: Path) -> None:
    told = doctor.document(doctor.examine(EnergyOptions(), host(bare)))
    chosen = told["chosen"]
    assert isinstance(chosen, dict)
    (domain,) = chosen["primary"]
    assert (chosen["name"], domain["source"], domain["factor"]) == ("table", "table_model", 3.0)
    assert chosen["origin"]
    assert told["problems"] == []
    assert told["better"]


def test_every_source_that_is_not_there_says_why_and_what_to_do(bare: Path) -> None:
    for candidate in doctor.examine(EnergyOptions(), host(bare)).detection.candidates:
        assert candidate.reason, candidate.name
        assert candidate.available or candidate.remedy, candidate.name


def test_lines_fit_a_terminal_of_a_hundred_columns(bare: Path) -> None:
    told = click.unstyle(doctor.text(doctor.examine(EnergyOptions(), host(bare))))
    assert max(len(line) for line in told.splitlines()) <= 100


def test_a_model_of_a_bare_machine_is_refused_as_a_meter(bare: Path) -> None:
    with (
        pytest.raises(CalibrationError, match="a model cannot calibrate a model"),
        calibrating.chosen("auto", "wall_ac", EnergyOptions(), host(bare), ask=str),
    ):
        raise AssertionError("it was opened")


# -- the chosen source tried -------------------------------------------------------------------


class Slow:
    """Answers only after a few looks, as what is asked in the background does."""

    def __init__(self, domain: Domain, looks: int) -> None:
        self.domains: tuple[Domain, ...] = (domain,)
        self.looks = looks
        self.closed = False

    def read(self) -> list[Reading]:
        self.looks -= 1
        if self.looks > 0:
            return [Reading(self.domains[0].id, 0, None, "no answer yet")]
        return [Reading(self.domains[0].id, 0, 5.0)]

    def close(self) -> None:
        self.closed = True


METER = Domain(
    "meter", "m", "enclosure", DomainKind.INSTANT_POWER, Source.MEASURED, Boundary.WALL_AC, 1.05
)
RAIL = replace(METER, id="rail", boundary=Boundary.MODULE, source=Source.DERIVED, parent="meter")


def candidate(sensor: Slow | None = None, *domains: Domain) -> Candidate:
    return Candidate(
        "meter",
        available=True,
        reason="a test",
        domains=domains,
        primary=tuple(domain.id for domain in domains[:1]),
        open=None if sensor is None else lambda: sensor,
    )


def test_a_source_that_needs_a_moment_gets_it() -> None:
    sensor = Slow(METER, looks=20)
    trial = doctor.try_out(candidate(sensor, METER), Steady())
    assert trial.problems == ()
    assert trial.microseconds == pytest.approx(20)
    assert sensor.closed


def test_a_source_that_never_answers_is_a_problem_after_some_seconds() -> None:
    sensor, clock = Slow(METER, looks=10**9), Steady()
    trial = doctor.try_out(candidate(sensor, METER), clock)
    assert trial.problems == ("meter: no answer yet",)
    assert 4 <= clock.now / 1e9 < 5
    assert sensor.closed


def test_a_source_that_cannot_be_opened_is_a_problem() -> None:
    def fails() -> Slow:
        raise PermissionError("not yours")

    found = replace(candidate(Slow(METER, 1), METER), open=fails)
    assert doctor.try_out(found, Steady()).problems == ("it cannot be opened: not yours",)


def test_domains_that_are_not_attributed_stand_apart() -> None:
    chosen = candidate(Slow(METER, 1), METER, RAIL)
    found = doctor.Diagnosis(Detection(chosen, (chosen,)), doctor.Trial(3.0), 1.0)
    told = click.unstyle(doctor.text(found))
    assert "primary   meter" in told
    assert "other     rail (m, enclosure): instant_power, derived, module" in told
    assert "inside meter" in told
    assert "better" not in told


def test_without_a_source_joules_are_unknown_and_nothing_is_wrong() -> None:
    chosen = Candidate("none", available=True, reason="switched off")
    trial = doctor.try_out(chosen, Steady())
    found = doctor.Diagnosis(Detection(chosen, (chosen,)), trial, 1.0)
    assert trial == doctor.Trial(None)
    assert "joules are unknown" in doctor.text(found)


def test_only_what_stands_above_the_choice_would_be_better() -> None:
    above = Candidate("above", available=False, reason="no", remedy="plug it in")
    able = Candidate("able", available=True, reason="yes")
    below = Candidate("below", available=False, reason="no", remedy="do not")
    chosen = candidate(None)
    assert doctor.better(Detection(chosen, (able, above, chosen, below))) == above
    assert doctor.better(Detection(chosen, (able, chosen, below))) is None


# -- the command -------------------------------------------------------------------------------


def plugged(folder: Path, number: str) -> Path:
    """A configuration whose plug writes this into a file."""
    (folder / "watts").write_text(number, encoding="utf-8")
    config = folder / "agent.toml"
    config.write_text(
        'device = "d"\n[[pipelines]]\nname = "p"\nbundle = "b"\n'
        '[energy]\nsensor = "plug"\n[energy.plug]\nkind = "file"\npath = "watts"\nseconds = 0.2\n'
    )
    return config


def test_a_plug_in_the_configuration_is_chosen_and_read(tmp_path: Path, setsuden: Command) -> None:
    ended = setsuden("energy", "doctor", "--config", plugged(tmp_path, "4.2"), "--json")
    assert ended.code == 0, ended.err
    assert ended.json["chosen"]["name"] == "plug"
    assert ended.json["better"] is None
    assert ended.json["read_microseconds"] > 0


def test_a_source_that_is_named_and_not_there_is_a_wrong_configuration(
    tmp_path: Path, setsuden: Command
) -> None:
    ended = setsuden("energy", "doctor", "--config", plugged(tmp_path, "no number"))
    assert ended.code == 78
    assert "remedy:" in ended.err
