"""Calibration: what is fitted, what is refused, and that the load always ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.command import Command

from setsuden.cli.energy import calibrate as command
from setsuden.energy import EnergyOptions
from setsuden.energy.calibration import load
from setsuden.energy.calibration.calibrate import (
    CURVE_FACTOR,
    CalibrationError,
    ReferenceMeter,
    calibration,
    fit,
)
from setsuden.energy.calibration.load import LoadLevel
from setsuden.energy.calibration.measure import Watts, meter_of, opened
from setsuden.energy.calibration.measure import points as measured
from setsuden.energy.domain import Candidate, Domain, DomainKind, Reading
from setsuden.energy.host.system import Clock, Host, SysRoot
from setsuden.energy.power_curve import Calibration, Point, stored_calibration
from setsuden.energy.sensors.model import probe_calibrated, probe_table
from setsuden.schemas.energy import Boundary, Source
from setsuden.schemas.errors import ConfigError

PLUG = ReferenceMeter("plug", Source.MEASURED, Boundary.WALL_AC, 1.05)


def point(utilisation: float, watts: float, cv: float = 0.01) -> Point:
    return Point(utilisation=utilisation, watts=watts, seconds=60, cv=cv)


GOOD = (point(0.02, 3.0), point(0.5, 6.0), point(0.99, 8.0))


# -- the fit -----------------------------------------------------------------------------------


def test_idle_watts_are_those_of_no_load_at_all() -> None:
    _, idle, _ = fit(GOOD, 1.05)
    assert idle == pytest.approx(3.0 - 0.02 * 3.0 / 0.48)


def test_the_factor_holds_the_curve_the_meter_and_the_noise() -> None:
    _, _, least = fit([p.model_copy(update={"cv": 0.0}) for p in GOOD], 1.0)
    _, _, noisy = fit([p.model_copy(update={"cv": 0.1}) for p in GOOD], 1.0)
    _, _, poor = fit(GOOD, 1.5)
    assert least == pytest.approx(CURVE_FACTOR)
    assert least < noisy < poor


@pytest.mark.parametrize(
    ("three", "words"),
    [
        ((point(0.02, 8), point(0.5, 6), point(0.99, 3)), "not above"),
        ((point(0.02, 5), point(0.5, 5), point(0.99, 5)), "not above"),
        ((point(0.02, 5, 0.2), point(0.5, 5.5, 0.2), point(0.99, 6, 0.2)), "scatter"),
        ((point(0.02, 3, 0.4), point(0.5, 6), point(0.99, 8)), "scatter by 40%"),
        ((point(0.30, 3), point(0.6, 6), point(0.99, 8)), "30% busy"),
        ((point(0.02, 3), point(0.3, 6), point(0.5, 8)), "50%"),
        ((point(0.02, 3), point(0.95, 6), point(0.99, 8)), "too near"),
        ((point(0.02, 3), point(0.5, 9), point(0.99, 8)), "outside"),
        ((point(0.02, 3), point(0.5, 2), point(0.99, 8)), "outside"),
    ],
)
def test_nonsense_is_refused_with_words_and_a_remedy(three: Sequence[Point], words: str) -> None:
    with pytest.raises(CalibrationError, match=words) as refused:
        fit(three, 1.05)
    assert refused.value.remedy


def test_a_half_that_dips_within_noise_is_made_monotone() -> None:
    fitted, idle, _ = fit((point(0.02, 3.0), point(0.5, 8.1), point(0.99, 8.0)), 1.05)
    assert fitted[1].watts == 8.0
    assert idle < 3.0


@given(
    st.tuples(st.floats(0, 0.2), st.floats(0.1, 0.9), st.floats(0.6, 1.05)),
    st.tuples(*[st.floats(0.01, 1000)] * 3),
    st.floats(0, 0.3),
)
def test_what_is_not_refused_rises_and_can_be_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    loads: tuple[float, float, float],
    watts: tuple[float, float, float],
    cv: float,
) -> None:
    three = [point(u, w, cv) for u, w in zip(loads, watts, strict=True)]
    host = Host(SysRoot(tmp_path_factory.getbasetemp()))
    try:
        made = calibration(three, PLUG, "a test", host)
    except CalibrationError:
        return
    assert 0 <= made.idle_watts <= watts[0]
    steps = [made.curve.watts(u / 10) for u in range(11)]
    assert all(low <= high + 1e-9 for low, high in pairwise(steps))
    assert 0.2 <= made.exponent <= 2
    assert made.factor >= CURVE_FACTOR
    assert Calibration.model_validate_json(made.model_dump_json()) == made


def test_the_bend_is_the_exponent_that_made_the_points(tmp_path: Path) -> None:
    three = [point(u, 3 + 5 * u**0.55, 0) for u in (0.0, 0.5, 1.0)]
    assert calibration(three, PLUG, "", Host(SysRoot(tmp_path))).exponent == pytest.approx(0.55)


# -- the file ----------------------------------------------------------------------------------


def tree(root: Path, cores: int = 4, machine_id: str = "a" * 32, cpu: str = "Some CPU") -> Host:
    for name, text in (
        (
            "proc/stat",
            "cpu  0 0 0 0 0 0 0 0\n" + "".join(f"cpu{i} 0 0 0 0\n" for i in range(cores)),
        ),
        ("proc/cpuinfo", f"model name\t: {cpu}\n"),
        ("etc/machine-id", machine_id + "\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return Host(SysRoot(root))


def kept(root: Path, host: Host) -> EnergyOptions:
    """Options that name a calibration of this machine."""
    file = root / "calibration.json"
    command.write(calibration(GOOD, PLUG, "a test", host), file)
    return EnergyOptions(calibration=str(file))


def test_a_calibration_of_this_machine_is_a_source_with_the_meters_boundary(
    tmp_path: Path,
) -> None:
    host = tree(tmp_path)
    found = probe_calibrated(kept(tmp_path, host), host)
    (domain,) = found.domains
    assert (domain.source, domain.boundary) == (Source.CALIBRATED_MODEL, Boundary.WALL_AC)
    assert CURVE_FACTOR < domain.factor < 1.4
    assert found.idle_watts == pytest.approx(2.875)
    assert "plug" in found.origin


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"cores": 8}, "4 CPUs on line, this one 8"),
        ({"machine_id": "b" * 32}, "machine id"),
        ({"cpu": "Another CPU"}, "Another CPU"),
    ],
)
def test_a_calibration_of_another_machine_is_refused(
    tmp_path: Path, other: dict[str, object], words: str
) -> None:
    options = kept(tmp_path, tree(tmp_path))
    found = probe_calibrated(options, tree(tmp_path, **other))  # type: ignore[arg-type]  # named above
    assert not found.available
    assert words in found.reason
    assert "calibrate" in found.remedy


def test_the_machines_id_itself_is_not_in_the_file(tmp_path: Path) -> None:
    """machine-id(5) asks to keep it confidential."""
    kept(tmp_path, tree(tmp_path))
    assert "a" * 32 not in (tmp_path / "calibration.json").read_text(encoding="utf-8")


def damaged(text: str, **changes: object) -> str:
    return json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"idle_watts": 9.0},
        {"idle_watts": float("nan")},
        {"factor": 0.5},
        {"points": []},
        {"version": 2},
        {"surprise": 1},
        {"boundary": "moon"},
    ],
)
def test_a_damaged_file_is_reported_and_not_used(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    host = tree(tmp_path)
    options = kept(tmp_path, host)
    file = Path(options.calibration)
    file.write_text(damaged(file.read_text(encoding="utf-8"), **changes), encoding="utf-8")
    found = stored_calibration(options, host)
    assert found.calibration is None
    assert "is no calibration" in found.reason


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", "{" * 70_000])
def test_a_file_that_is_no_json_is_reported_and_not_used(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(text, encoding="latin-1")
    assert (
        stored_calibration(EnergyOptions(calibration=str(file)), tree(tmp_path)).calibration is None
    )


def test_a_missing_file_and_a_folder_are_reported(tmp_path: Path) -> None:
    for place in (tmp_path / "none.json", tmp_path):
        found = stored_calibration(EnergyOptions(calibration=str(place)), tree(tmp_path))
        assert found.calibration is None
        assert found.remedy


# -- measuring ---------------------------------------------------------------------------------


class World(Clock):
    """A machine whose power is known: time passes only when somebody waits."""

    def __init__(self, root: Path, cores: int = 4, background: float = 0.02) -> None:
        self.host = Host(tree(root, cores).root, self)
        self.cores, self.background = cores, background
        self.now, self.busy, self.joules, self.loaded = 0, 0.0, 0.0, 0.0
        self.works: list[LoadLevel] = []

    def monotonic_ns(self) -> int:
        return self.now

    def watts(self) -> float:
        return 3.0 + 5.0 * float(self.used() ** 0.55)

    def used(self) -> float:
        return min(1.0, self.loaded + self.background)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.now += round(seconds * 1e9)
        self.busy += self.used() * self.cores * seconds
        self.joules += self.watts() * seconds
        lines = [f"cpu  {round(self.busy * 100)} 0 0 0 0 0 0 0"]
        lines += [f"cpu{i} 0 0 0 0" for i in range(self.cores)]
        self.host.root.path.joinpath("proc/stat").write_text("\n".join(lines))
        return False

    @contextmanager
    def running(self, work: LoadLevel) -> Iterator[None]:
        self.works.append(work)
        self.loaded = len(work.cpus) * work.duty / self.cores
        yield
        self.loaded = 0.0


class Plug:
    """A meter of that world."""

    def __init__(self, world: World, kind: DomainKind, source: Source = Source.MEASURED) -> None:
        self.world, self.kind = world, kind
        domain = Domain("plug", "plug", "enclosure", kind, source, Boundary.WALL_AC, 1.05)
        self.domains: tuple[Domain, ...] = (domain,)
        self.broken = False
        self.closed = False

    def read(self) -> list[Reading]:
        value = self.world.joules if self.kind is DomainKind.COUNTER else self.world.watts()
        if self.broken:
            return [Reading("plug", self.world.now, None, "gone")]
        return [Reading("plug", self.world.now, value)]

    def close(self) -> None:
        self.closed = True

    @property
    def candidate(self) -> Candidate:
        return Candidate(
            "plug", True, "a test", domains=self.domains, primary=("plug",), open=lambda: self
        )


def points(watts: Watts, world: World, seconds: float) -> list[tuple[str, Point]]:
    """The three points, each told of when its load was on."""
    begun: list[str] = []
    found = list(
        measured(watts, WORK, world.running, world.host, seconds=seconds, begun=begun.append)
    )
    assert begun == [step for step, _ in found] == list(WORK)
    assert world.loaded == 0
    return found


WORK = {"idle": LoadLevel(()), "half": LoadLevel((0, 2)), "full": LoadLevel((0, 1, 2, 3))}


@pytest.mark.parametrize("kind", DomainKind)
def test_a_known_curve_is_found_again_by_every_kind_of_meter(
    tmp_path: Path, kind: DomainKind
) -> None:
    world = World(tmp_path)
    plug = Plug(world, kind)
    with opened(plug.candidate, world.host) as watts:
        found = dict(points(watts, world, 60))
    assert plug.closed
    made = calibration(list(found.values()), watts.meter, "a test", world.host)
    for step, load_, used in (("idle", 0, 0.02), ("half", 2, 0.52), ("full", 4, 1.0)):
        assert found[step].utilisation == pytest.approx(used, abs=0.001), load_
        assert found[step].watts == pytest.approx(3 + 5 * used**0.55, rel=0.01)
        assert found[step].cv < 0.01
    assert made.meter_source is Source.MEASURED
    assert made.exponent < 0.9


def test_utilisation_is_what_was_seen_not_what_was_meant(tmp_path: Path) -> None:
    """A neighbour of a tenth of the machine is in both figures."""
    world = World(tmp_path, background=0.1)
    with opened(Plug(world, DomainKind.COUNTER).candidate, world.host) as watts:
        found = dict(points(watts, world, 20))
    assert found["half"].utilisation == pytest.approx(0.6, abs=0.001)


def test_a_meter_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    world = World(tmp_path)
    plug = Plug(world, DomainKind.COUNTER)
    plug.broken = True
    with (
        opened(plug.candidate, world.host) as watts,
        pytest.raises(CalibrationError, match="0 of 20 parts"),
    ):
        points(watts, world, 60)
    assert plug.closed


def test_a_model_cannot_calibrate_a_model(tmp_path: Path) -> None:
    host = tree(tmp_path)
    for candidate in (
        probe_table(EnergyOptions(), host),
        probe_calibrated(kept(tmp_path, host), host),
    ):
        with pytest.raises(CalibrationError, match="cannot calibrate a model") as refused:
            meter_of(candidate)
        assert "human" in refused.value.remedy


def test_no_source_at_all_cannot_calibrate_either() -> None:
    with pytest.raises(CalibrationError, match="no joules"):
        meter_of(Candidate("none", True, "switched off"))


# -- a person at a plug ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "watts", "step"),
    [("3", 3, 1), ("3.1", 3.1, 0.1), ("3,10 W", 3.1, 0.01), ("12e1", 120, 10)],
)
def test_the_last_digit_of_an_answer_says_how_fine_the_plug_is(
    text: str, watts: float, step: float
) -> None:
    found, rounding = command.watts_read(text)
    assert found == pytest.approx(watts)
    assert rounding == pytest.approx(step / 12**0.5)


@pytest.mark.parametrize("text", ["", "none", "0", "-3", "nan", "inf", "1e9", "3 4"])
def test_an_answer_that_is_no_power_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        command.watts_read(text)


def test_a_person_with_a_plug_calibrates_a_machine(tmp_path: Path) -> None:
    world = World(tmp_path)
    asked = []

    def ask(step: str) -> str:
        asked.append(step)
        return f"{world.watts():.1f}"

    label = ReferenceMeter("human", Source.MEASURED, Boundary.WALL_AC, 1.05)
    watts = command.HumanWatts(label, ask, world.host)
    found = points(watts, world, 60)
    made = calibration([point for _, point in found], label, "a test", world.host)
    assert asked == ["idle", "half", "full"]
    assert (made.meter, made.boundary) == ("human", Boundary.WALL_AC)
    assert made.points[2].watts == pytest.approx(8.0, abs=0.05)
    assert "full" in command.table(made)


def test_the_command_tells_each_step_and_keeps_a_file_that_is_found_again(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, cores=len(load.allowed()))
    told: list[str] = []
    with opened(Plug(world, DomainKind.COUNTER).candidate, world.host) as watts:
        made = command.measure(watts, world.running, world.host, 60, told.append)
    target = tmp_path / "state" / "calibration.json"
    command.write(made, target)
    found = stored_calibration(EnergyOptions(calibration=str(target)), world.host)
    assert found.calibration == made
    assert [line.split(":")[0] for line in told[1:]] == [s for s in WORK for _ in range(2)]
    assert [line.split()[0] for line in command.table(made).splitlines()[1:4]] == list(WORK)
    assert [place.name for place in target.parent.iterdir()] == ["calibration.json"]


def test_a_machine_in_use_is_refused_before_its_load_is_begun(tmp_path: Path) -> None:
    world = World(tmp_path, background=0.3)
    with (
        opened(Plug(world, DomainKind.COUNTER).candidate, world.host) as watts,
        pytest.raises(CalibrationError, match="30% busy"),
    ):
        command.measure(watts, world.running, world.host, 60, print)
    assert world.works == [LoadLevel(())]


# -- the load ----------------------------------------------------------------------------------


def siblings(root: Path, pairs: dict[int, str]) -> SysRoot:
    for cpu, text in pairs.items():
        place = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        place.parent.mkdir(parents=True)
        place.write_text(text + "\n", encoding="utf-8")
    return SysRoot(root)


@pytest.mark.parametrize(
    ("cpus", "pairs", "half"),
    [
        ((0, 1, 2, 3), {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, LoadLevel((0, 1))),
        ((0, 1, 2, 3), {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, LoadLevel((0, 2))),
        ((0, 1, 2, 3), {}, LoadLevel((0, 2))),
        ((0, 1, 2, 3), {0: "0", 1: "1", 2: "2", 3: "3"}, LoadLevel((0, 2))),
        ((3,), {}, LoadLevel((3,), 0.5)),
        ((0, 1), {0: "0-1", 1: "0-1"}, LoadLevel((0,))),
    ],
)
def test_half_load_is_one_thread_of_every_core_or_every_second_cpu(
    tmp_path: Path, cpus: tuple[int, ...], pairs: dict[int, str], half: LoadLevel
) -> None:
    found = load.steps(cpus, siblings(tmp_path, pairs))
    assert found == {"idle": LoadLevel(()), "half": half, "full": LoadLevel(cpus)}


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@contextmanager
def ending(pids: Sequence[int]) -> Iterator[None]:
    """They live now and have ended within 20 s after the block."""
    descriptors = [os.pidfd_open(pid) for pid in pids]
    try:
        yield
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], 20)[0], "a busy process was left behind"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_the_load_ends_with_its_block_and_with_ctrl_c() -> None:
    cpu = load.allowed()[0]
    with load.running(LoadLevel((cpu,), 0.1)) as pids:
        assert not gone(pids[0])
    assert gone(pids[0])
    with pytest.raises(KeyboardInterrupt), load.running(LoadLevel((cpu,), 0.1)) as pids:
        signal.raise_signal(signal.SIGINT)
    assert gone(pids[0])


def test_a_load_that_died_fails_the_step() -> None:
    def fails() -> None:
        with load.running(LoadLevel((load.allowed()[0],), 0.1)) as pids:
            os.kill(pids[0], signal.SIGKILL)
            os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)

    with pytest.raises(CalibrationError, match="ended by itself"):
        fails()


def test_the_load_ends_when_whoever_began_it_is_killed() -> None:
    code = (
        "from setsuden.energy.calibration import load\n"
        "with load.running(load.LoadLevel((load.allowed()[0],), 0.1)) as pids:\n"
        "    print(*pids, flush=True)\n"
        "    input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        pids = [int(word) for word in parent.stdout.readline().split()]
        with ending(pids):
            parent.kill()
            parent.wait()
    assert len(pids) == 1


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_answers_without_a_person_to_give_them_are_refused(setsuden: Command) -> None:
    assert setsuden("energy", "calibrate", "--watts", "1,2,3").code == 2
    ended = setsuden("energy", "calibrate", "--meter", "human", "--watts", "1,2")
    assert ended.code == 2
    assert "three figures" in ended.err


def test_a_place_that_cannot_be_written_is_refused_before_the_minutes_are_spent(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        command.check_writable(tmp_path / "file" / "c.json")
    command.check_writable(tmp_path / "new" / "folder" / "c.json")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    made = calibration(GOOD, PLUG, "a test", tree(tmp_path))
    target = tmp_path / "c.json"
    target.mkdir()
    with pytest.raises(ConfigError):
        command.write(made, target)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["c.json", "etc", "proc"]


ON_AN_IDLE_MACHINE = """
import sys
from pathlib import Path
from setsuden.cli.main import run
from setsuden.energy.host.system import SysRoot
SysRoot.__init__.__defaults__ = (Path(sys.argv[1]),)
sys.exit(run(sys.argv[2:]))
"""
"""The command itself, on a folder whose ``/proc/stat`` stands still: this machine may be busy."""


def test_ctrl_c_in_the_middle_leaves_nothing_running_and_writes_nothing(
    tmp_path: Path,
) -> None:
    tree(tmp_path / "machine")
    line = [sys.executable, "-c", ON_AN_IDLE_MACHINE, str(tmp_path / "machine")]
    line += ["energy", "calibrate", "--seconds", "1", "--meter", "human", "--out", "c.json"]
    with subprocess.Popen(
        line,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("3.0\n")
        process.stdin.flush()
        for told in process.stderr:
            if "half: " in told:
                break
        children = _children(process.pid)
        with ending(children):
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
    assert process.returncode == 130
    assert children
    assert [place.name for place in tmp_path.iterdir()] == ["machine"]


def _children(pid: int) -> list[int]:
    place = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in place.read_text(encoding="ascii").split()]
