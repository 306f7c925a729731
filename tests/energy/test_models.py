"""What a bundle's models cost on this machine: measured in turns, judged by ratios alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.support import ml

from setsuden.cli.energy.models import models as command
from setsuden.energy import EnergyOptions
from setsuden.energy.host.system import Clock, Host, SysRoot
from setsuden.insight.model_energy.findings import (
    BATCH,
    BATCH_GAIN,
    DECLARED,
    DEFAULT,
    INT8_RATIO,
    ONE_THREAD,
    OWN_CHOICE,
    SPINNING_RATIO,
    THREADS_CPU_RATIO,
    THREADS_GAIN,
    Comparison,
    Figures,
    ModelFigures,
    ModelFinding,
    Rhythm,
    Turn,
    Way,
    at_least,
    below,
    findings,
)
from setsuden.insight.model_energy.measured import (
    Wanted,
    grouped,
    inputs,
    power_rate,
    reading,
    subjects,
    usable_cpus,
    ways,
)
from setsuden.insight.model_energy.rig import TURNS, Loaded, Rig
from setsuden.pipelines import bundle as bundles
from setsuden.pipelines.models import session as sessions
from setsuden.schemas.bundle import Observation
from setsuden.schemas.energy import Boundary, Source
from setsuden.schemas.errors import BundleError

RATE, CPUS = 20.0, 4


def rhythm(*cpu_ms: float, wall_ms: float = 1.0) -> Rhythm:
    turns = cpu_ms if len(cpu_ms) == TURNS else cpu_ms[:1] * TURNS
    return Rhythm(tuple(Turn(12, cpu, wall_ms) for cpu in turns))


def figures(
    name: str, threads: int = 1, *cpu_ms: float, wall_ms: float = 1.0, items: int = 1
) -> Figures:
    way = Way(name, threads, spinning=name == DEFAULT, items=items)
    measured = rhythm(*(cpu_ms or (1.0,)), wall_ms=wall_ms)
    return Figures(way, None if name == BATCH else measured, measured)


def model(
    *of: Figures, name: str = "student", threads: int = 1, quantised: bool = False
) -> ModelFigures:
    return ModelFigures(name, f"{name}.onnx", threads, quantised, of or (figures(DECLARED),))


def found(*of: ModelFigures, compared: Sequence[Comparison] = ()) -> dict[str, ModelFinding]:
    return {one.code: one for one in findings(of, compared, RATE, CPUS)}


# -- findings from given figures ------------------------------------------------------------------


def test_ways_that_cost_the_same_show_nothing() -> None:
    same = model(figures(DECLARED), figures(DEFAULT, OWN_CHOICE))
    assert found(same) == {}


@pytest.mark.parametrize(
    ("default", "told"),
    [
        ((1.01 * SPINNING_RATIO,), True),
        ((0.99 * SPINNING_RATIO,), False),
        ((0.9, 20.0, 20.0, 20.0, 20.0), True),
        ((0.9, 0.9, 20.0, 20.0, 20.0), False),
    ],
)
def test_what_onnxruntime_would_burn_is_evidence_that_spinning_is_off(
    default: tuple[float, ...], told: bool
) -> None:
    one = found(model(figures(DECLARED), figures(DEFAULT, OWN_CHOICE, *default))).get("spinning")
    assert (one is not None) == told
    if one is not None:
        assert one.severity == "info"
        assert "spinning is off" in one.words
        assert one.evidence["rate"] == RATE


@pytest.mark.parametrize(("threads", "told"), [(CPUS, False), (CPUS + 1, True)])
def test_more_threads_than_cpus_are_warned_of(threads: int, told: bool) -> None:
    one = found(model(threads=threads)).get("threads_over_cores")
    assert (one is not None) == told
    if one is not None:
        assert one.severity == "warning"
        assert one.advice.startswith("models.student.threads = 4")


@pytest.mark.parametrize(
    ("cpu", "wall", "told"),
    [
        (1.01 * THREADS_CPU_RATIO, 1.0, True),
        (0.99 * THREADS_CPU_RATIO, 1.0, False),
        (2.0, 0.99 / THREADS_GAIN, False),
        (2.0, 1.01 / THREADS_GAIN, True),
    ],
)
def test_threads_that_use_more_and_answer_hardly_sooner_are_warned_of(
    cpu: float, wall: float, told: bool
) -> None:
    many = model(figures(DECLARED, 2, cpu, wall_ms=wall), figures(ONE_THREAD), threads=2)
    one = found(many).get("threads_waste_cpu")
    assert (one is not None) == told
    if one is not None:
        assert "threads = 1" in one.advice


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("cpu", "told"), [(1.01 * INT8_RATIO, True), (0.99 * INT8_RATIO, False), (0.5, False)]
)
def test_int8_that_uses_more_than_full_precision_is_warned_of_whichever_is_named_first(
    cpu: float, told: bool, swapped: bool
) -> None:
    small = model(figures(DECLARED, 1, cpu), name="teacher-int8", quantised=True)
    large = model(name="teacher")
    compared = Comparison(small, large) if swapped else Comparison(large, small)
    one = found(small, large, compared=[compared]).get("int8_slower")
    assert (one is not None) == told
    if one is not None:
        assert one.words.startswith("teacher-int8 is int8")
        assert one.evidence["cpu_ratio"] == pytest.approx(cpu)


def test_two_models_of_one_precision_are_compared_without_a_finding() -> None:
    one, two = model(name="one"), model(figures(DECLARED, 1, 3.0), name="two")
    assert found(one, two, compared=[Comparison(one, two)]) == {}
    assert Comparison(one, two).paced == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("gain", "told"), [(1.01 * BATCH_GAIN, False), (0.99 * BATCH_GAIN, True), (13.0, False)]
)
def test_batches_that_gain_nothing_are_told(gain: float, told: bool) -> None:
    batch = figures(BATCH, 1, 32 / gain, items=32)
    one = found(model(figures(DECLARED), batch)).get("batch_buys_nothing")
    assert (one is not None) == told
    if one is not None:
        assert one.evidence["cpu_gain"] == pytest.approx(gain)


def test_warnings_come_before_what_is_only_told() -> None:
    both = model(figures(DECLARED), figures(DEFAULT, OWN_CHOICE, 20.0), threads=9)
    told = [one.severity for one in findings([both], [], RATE, CPUS)]
    assert told == ["warning", "info"]


ratios = st.lists(st.floats(0, 100), min_size=TURNS, max_size=TURNS)


@given(ratios, st.floats(0.01, 100))
def test_one_turn_of_five_may_say_otherwise_and_no_more(turns: list[float], bound: float) -> None:
    reached = sum(turn >= bound for turn in turns)
    assert at_least(turns, bound) == (reached >= TURNS - 1)
    assert below(turns, bound) == (reached <= 1)


milliseconds = st.floats(0, 1e4)


@given(st.lists(st.tuples(*[milliseconds] * 6), min_size=TURNS, max_size=TURNS))
def test_any_figures_are_judged_even_where_a_clock_saw_nothing(
    turns: list[tuple[float, ...]],
) -> None:
    columns = list(zip(*turns, strict=True))
    one = model(
        figures(DECLARED, 2, *columns[0], wall_ms=turns[0][5]),
        figures(ONE_THREAD, 1, *columns[1]),
        figures(DEFAULT, OWN_CHOICE, *columns[2]),
        figures(BATCH, 2, *columns[3], items=32),
        threads=2,
    )
    other = model(figures(DECLARED, 1, *columns[4]), name="student-int8", quantised=True)
    for finding in findings([one, other], [Comparison(one, other)], RATE, CPUS):
        json.dumps(finding._asdict())
        assert finding.words


# -- blocks ---------------------------------------------------------------------------------------


class Machine(Clock):
    """A clock that only work and waiting move; waiting lets threads that spin burn CPU."""

    def __init__(self, pause_us: float = 0.0) -> None:
        self.now, self.cpu, self.spins_until, self.threads = 0, 0, 0, 1
        self._pause_ns = round(pause_us * 1e3)

    def monotonic_ns(self) -> int:
        return self.now

    def work(self, milliseconds: float, *, spin_ms: float = 0.0) -> None:
        self.now += round(milliseconds * 1e6)
        self.cpu += round(milliseconds * 1e6)
        self.spins_until = self.now + round(spin_ms * 1e6)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        end = self.now + max(0, round(seconds * 1e9))
        self.cpu += max(0, min(end, self.spins_until) - self.now) + self._pause_ns
        self.now = end
        return event.is_set()


def rig(machine: Machine, seconds: float = 3.0) -> Rig:
    return Rig(RATE, seconds, machine, lambda: machine.cpu)


def test_paced_runs_keep_their_rate_and_pay_for_what_spins_between_them() -> None:
    machine = Machine()
    turn = rig(machine).block(lambda: machine.work(2.0, spin_ms=30.0), 1.0, paced=True)
    assert turn.runs == RATE
    assert turn.cpu_ms == pytest.approx(32.0)
    assert turn.wall_ms == pytest.approx(2.0)
    assert machine.now == 10**9


def test_runs_longer_than_their_interval_follow_each_other_without_catching_up() -> None:
    machine = Machine()
    turn = rig(machine).block(lambda: machine.work(80.0), 0.4, paced=True)
    assert turn.runs == 5
    assert turn[1:] == pytest.approx((80.0, 80.0))


def test_a_block_has_at_least_one_run() -> None:
    machine = Machine()
    assert rig(machine).block(lambda: machine.work(9000.0), 0.1, paced=False).runs == 1


def test_what_pausing_takes_is_taken_off_and_never_leaves_less_than_nothing() -> None:
    machine = Machine(pause_us=100.0)
    loaded = [
        Loaded("one", Way(DECLARED, 1), lambda: machine.work(0.5)),
        Loaded("none", Way(DECLARED, 1), lambda: machine.work(0.001)),
    ]
    one, none = rig(machine).measure(loaded, lambda _: None)
    assert one.paced is not None
    assert one.paced.cpu_ms == pytest.approx(0.5)
    assert none.paced is not None
    assert none.paced.cpu_ms == pytest.approx(0.001)
    dearer = Rig(RATE, 3.0, machine, lambda: machine.cpu)._paced(lambda: machine.work(0.05), 0.2)
    assert dearer.cpu_ms == 0.0


def test_threads_that_still_spin_are_not_billed_to_the_next_block() -> None:
    machine = Machine()
    loaded = [
        Loaded("spins", Way(DEFAULT, 0, spinning=True), lambda: machine.work(1.0, spin_ms=500.0)),
        Loaded("calm", Way(DECLARED, 1), lambda: machine.work(1.0)),
    ]
    spins, calm = rig(machine).measure(loaded, lambda _: None)
    assert calm.paced is not None
    assert calm.paced.cpu_ms == pytest.approx(1.0)
    assert spins.paced is not None
    assert spins.paced.cpu_ms == pytest.approx(50.0, rel=0.05)


def test_blocks_take_turns_there_and_back_and_batches_are_not_paced() -> None:
    machine = Machine()
    told: list[str] = []
    loaded = [
        Loaded("a", Way(DECLARED, 1), lambda: machine.work(1.0)),
        Loaded("b", Way(BATCH, 1, items=8), lambda: machine.work(4.0)),
    ]
    one, two = rig(machine).measure(loaded, told.append)
    assert told == ["a", "b", "b", "a", "a", "b", "b", "a", "a", "b"]
    assert one.paced is not None
    assert len(one.paced.turns) == TURNS
    assert two.paced is None
    assert two.back_to_back.cpu_ms == pytest.approx(4.0)


# -- what is measured -----------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return ml.write_bundle(tmp_path / "tiny", student=True)


def with_threads(folder: Path, threads: int) -> Path:
    manifest = folder / bundles.MANIFEST
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(
        text.replace('file = "teacher.onnx"', f'file = "teacher.onnx"\nthreads = {threads}'),
        encoding="utf-8",
    )
    return folder


def test_a_model_with_threads_also_runs_with_one_and_never_spins_as_declared(tiny: Path) -> None:
    bundle = bundles.load(with_threads(tiny, 2))
    names = {way.name: way for way in ways(bundle.spec("teacher"))}
    assert set(names) == {DECLARED, ONE_THREAD, DEFAULT, BATCH}
    assert [name for name, way in names.items() if way.spinning] == [DEFAULT]
    assert ONE_THREAD not in {way.name for way in ways(bundle.spec("student"))}


def test_twins_of_a_bundle_and_files_beside_it_are_measured_in_turns_with_their_model() -> None:
    with as_file(files("setsuden.pipelines.workloads") / "digits") as folder:
        other = folder / "teacher-int8.onnx"
        wanted = Wanted(against=((other, "student"),))
        groups = grouped(subjects(bundles.load(folder), wanted), wanted.against)
    assert [[one.name for one in group] for group in groups] == [
        ["student", str(other)],
        ["teacher", "teacher-int8"],
    ]
    assert [one.quantised for one in groups[1]] == [False, True]


def test_only_the_named_models_and_those_compared_with_files_are_measured(tiny: Path) -> None:
    bundle = bundles.load(tiny)
    assert [one.name for one in subjects(bundle, Wanted(models=("student",)))] == ["student"]
    against = ((tiny / "student.onnx", "teacher"),)
    found = subjects(bundle, Wanted(models=("student",), against=against))
    assert [one.name for one in found] == ["student", "teacher", str(tiny / "student.onnx")]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted(models=("judge",)), "no model 'judge'"),
        (Wanted(against=((Path("none.onnx"), "teacher"),)), r"none\.onnx"),
        (Wanted(against=((Path("none.onnx"), "judge"),)), "no model 'judge'"),
    ],
)
def test_what_is_not_there_is_named(tiny: Path, wanted: Wanted, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        subjects(bundles.load(tiny), wanted)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "bool"])
def test_inputs_are_the_same_each_time_and_not_all_zero(dtype: str) -> None:
    observation = Observation(dtype=dtype, shape=[28, 28])  # type: ignore[arg-type]  # as TOML has it
    one, two = inputs(observation, 2)
    assert one.dtype == dtype
    assert one.shape == (28, 28)
    assert one.any()
    assert (one != two).any()
    assert (inputs(observation, 1)[0] == one).all()


def test_the_opener_spins_only_when_asked_to(tiny: Path) -> None:
    bundle = bundles.load(tiny)
    content, ref = bundle.read("teacher")
    spec = bundle.spec("teacher")
    entry = "session.intra_op.allow_spinning"
    for spinning, value in ((False, "0"), (True, "1")):
        opened = sessions.opened(content, spec, ref, 3, spinning=spinning)
        options = opened.native.session.get_session_options()
        assert options.get_session_config_entry(entry) == value
    options = sessions.load(bundle, "teacher").native.session.get_session_options()
    assert options.get_session_config_entry(entry) == "0"


# -- joules ---------------------------------------------------------------------------------------


def test_joules_of_a_cpu_second_are_the_models_slope_above_idle(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  1 0 0 0\ncpu0 1 0 0 0\ncpu1 0 0 0 0\n")
    options = EnergyOptions(watts_per_core=5.0, idle_watts_per_core=2.0, factor=2.0)
    host = Host(root=SysRoot(tmp_path))
    power = power_rate(options, host)
    assert power is not None
    assert power.joules == pytest.approx(3.0)
    found = reading(0.002, power)
    assert found is not None
    assert (found.joules, found.joules_low, found.joules_high) == pytest.approx(
        (0.006, 0.003, 0.012)
    )
    assert (found.source, found.boundary) == (Source.DECLARED, Boundary.WALL_AC)
    assert found.cpu_seconds == 0.002


def test_without_a_model_joules_are_unknown_and_not_zero(tmp_path: Path) -> None:
    assert power_rate(EnergyOptions(sensor="none"), Host()) is None
    assert power_rate(EnergyOptions(), Host(root=SysRoot(tmp_path))) is None
    assert reading(1.0, None) is None


def test_cpus_are_those_that_may_be_kept_busy() -> None:
    assert 1 <= usable_cpus(Host()) <= (os.cpu_count() or 1)


# -- the command ----------------------------------------------------------------------------------


def invoke(*arguments: object) -> Any:
    ended = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended


SHORT = ("--seconds", "0.2", "--rate", "100")


def test_the_built_in_bundle_is_measured_and_told_as_json() -> None:
    with as_file(files("setsuden.pipelines.workloads") / "digits") as folder:
        told = json.loads(invoke(folder, *SHORT, "--json").stdout)
    assert {one["model"] for one in told["models"]} == {"student", "teacher", "teacher-int8"}
    assert [(one["model"], one["against"]) for one in told["comparisons"]] == [
        ("teacher", "teacher-int8")
    ]
    for one in told["models"]:
        assert one["quantised"] == (one["model"] == "teacher-int8")
        for way in one["ways"]:
            assert way["back_to_back"]["runs"] >= TURNS
            assert way["back_to_back"]["cpu_ms"] > 0
            assert (way["paced"] is None) == (way["name"] == BATCH)
            assert len(way["back_to_back"]["cpu_ms_by_turn"]) == TURNS
            if way["paced"] is not None and told["power"] is not None:
                assert way["energy_above_idle"]["source"] == told["power"]["source"]
    for finding in told["findings"]:
        assert set(finding) == {"code", "severity", "words", "advice", "evidence"}


def test_a_person_sees_every_way_and_every_comparison(tiny: Path) -> None:
    other = tiny / "student.onnx"
    told = invoke(tiny, *SHORT, "--model", "teacher", "--against", f"{other}:teacher").stdout
    assert "as declared" in told
    assert "onnxruntime's default" in told
    assert "in batches of 32" in told
    assert "against teacher: " in " ".join(told.split())
    assert "student " not in told


def test_declared_threads_above_the_cpus_are_found_on_this_machine(tiny: Path) -> None:
    threads = usable_cpus(Host()) + 1
    told = json.loads(
        invoke(with_threads(tiny, threads), *SHORT, "--model", "teacher", "--json").stdout
    )
    codes = {one["code"] for one in told["findings"]}
    assert "threads_over_cores" in codes


@pytest.mark.parametrize("wrong", ["teacher-int8.onnx", ":teacher", "file:"])
def test_a_comparison_that_names_no_model_is_refused(tiny: Path, wrong: str) -> None:
    ended = invoke(tiny, "--against", wrong)
    assert ended.exit_code == click.UsageError.exit_code
    assert "teacher-int8.onnx:teacher" in ended.stderr


def test_a_folder_without_a_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.toml"):
        invoke(tmp_path)


def test_ctrl_c_ends_it_at_once_and_prints_nothing(tiny: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from setsuden.cli.energy import models as cli\n"
        "def begun(done, of, name): print('begun', file=sys.stderr, flush=True)\n"
        "cli._progress = begun\n"
        "cli.models.main([sys.argv[1], '--seconds', '60'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tiny)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert out == ""
    assert "Aborted" in err
    assert "Traceback" not in err
    assert process.returncode == 1
