"""What a bundle's models cost on this machine: measured in turns, compared by ratios alone."""

from __future__ import annotations

import json
import threading
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from benchmarks.models import (
    BATCH,
    DECLARED,
    DEFAULT,
    ONE_THREAD,
    TURNS,
    Bench,
    Loaded,
    Turn,
    Way,
    grouped,
    inputs,
    main,
    ratios,
    subjects,
    ways,
)
from tests.support import ml

from setsuden.energy.host.system import Clock
from setsuden.pipelines import bundle as bundles
from setsuden.pipelines.models import session as sessions
from setsuden.schemas.bundle import Observation
from setsuden.schemas.errors import BundleError

RATE = 20.0


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


def bench(machine: Machine, seconds: float = 3.0) -> Bench:
    return Bench(RATE, seconds, machine, lambda: machine.cpu)


def test_paced_runs_keep_their_rate_and_pay_for_what_spins_between_them() -> None:
    machine = Machine()
    turn = bench(machine).block(lambda: machine.work(2.0, spin_ms=30.0), 1.0, paced=True)
    assert turn.runs == RATE
    assert turn.cpu_ms == pytest.approx(32.0)
    assert turn.wall_ms == pytest.approx(2.0)
    assert machine.now == 10**9


def test_runs_longer_than_their_interval_follow_each_other_without_catching_up() -> None:
    machine = Machine()
    turn = bench(machine).block(lambda: machine.work(80.0), 0.4, paced=True)
    assert turn.runs == 5
    assert turn[1:] == pytest.approx((80.0, 80.0))


def test_a_block_has_at_least_one_run() -> None:
    machine = Machine()
    assert bench(machine).block(lambda: machine.work(9000.0), 0.1, paced=False).runs == 1


def test_what_pausing_takes_is_taken_off_and_never_leaves_less_than_nothing() -> None:
    machine = Machine(pause_us=100.0)
    loaded = [
        Loaded("one", Way(DECLARED, 1), lambda: machine.work(0.5)),
        Loaded("none", Way(DECLARED, 1), lambda: machine.work(0.001)),
    ]
    one, none = bench(machine).measure(loaded)
    assert one.paced
    assert one.paced[0].cpu_ms == pytest.approx(0.5)
    assert none.paced
    assert none.paced[0].cpu_ms == pytest.approx(0.001)
    assert min(turn.cpu_ms for turn in one.paced + none.paced) >= 0


def test_threads_that_still_spin_are_not_billed_to_the_next_block() -> None:
    machine = Machine()
    loaded = [
        Loaded("spins", Way(DEFAULT, 0, spinning=True), lambda: machine.work(1.0, spin_ms=500.0)),
        Loaded("calm", Way(DECLARED, 1), lambda: machine.work(1.0)),
    ]
    spins, calm = bench(machine).measure(loaded)
    assert calm.paced
    assert calm.paced[0].cpu_ms == pytest.approx(1.0)
    assert spins.paced
    assert spins.paced[0].cpu_ms == pytest.approx(50.0, rel=0.05)


def test_blocks_take_turns_there_and_back_and_batches_are_not_paced() -> None:
    machine = Machine()
    order: list[str] = []

    def work(name: str, milliseconds: float) -> None:
        machine.work(milliseconds)
        if order[-1:] != [name]:
            order.append(name)

    loaded = [
        Loaded("a", Way(DECLARED, 1), lambda: work("a", 1.0)),
        Loaded("b", Way(BATCH, 1, items=8), lambda: work("b", 4.0)),
    ]
    one, two = bench(machine).measure(loaded)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert len(one.paced) == TURNS
    assert two.paced == []
    assert two.back_to_back[0].cpu_ms == pytest.approx(4.0)


def test_ratios_are_taken_turn_by_turn_and_not_of_a_clock_that_saw_nothing() -> None:
    of = [Turn(1, 2.0, 1.0), Turn(1, 9.0, 1.0), Turn(1, 1.0, 1.0)]
    by = [Turn(1, 1.0, 1.0), Turn(1, 3.0, 1.0), Turn(1, 0.0, 1.0)]
    assert ratios(of, by) == [2.0, 3.0]
    assert ratios([], by) == []


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
        against = [(other, "student")]
        groups = grouped(subjects(bundles.load(folder), [], against), against)
    assert [[one.name for one in group] for group in groups] == [
        ["student", str(other)],
        ["teacher", "teacher-int8"],
    ]
    assert [one.quantised for one in groups[1]] == [False, True]


def test_only_the_named_models_and_those_compared_with_files_are_measured(tiny: Path) -> None:
    bundle = bundles.load(tiny)
    assert [one.name for one in subjects(bundle, ["student"], [])] == ["student"]
    against = ((tiny / "student.onnx", "teacher"),)
    found = subjects(bundle, ["student"], against)
    assert [one.name for one in found] == ["student", "teacher", str(tiny / "student.onnx")]


def test_a_model_that_is_not_there_is_named(tiny: Path) -> None:
    bundle = bundles.load(tiny)
    with pytest.raises(BundleError, match="no model 'judge'"):
        subjects(bundle, ["judge"], [])
    with pytest.raises(BundleError, match="no model 'judge'"):
        subjects(bundle, [], [(tiny / "student.onnx", "judge")])
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        subjects(bundle, [], [(Path("none.onnx"), "teacher")])


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


# -- the script -----------------------------------------------------------------------------------


def test_the_built_in_bundle_is_measured_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--seconds", "0.2", "--rate", "100"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    measured = [line for line in lines if line["benchmark"] == "model_way"]
    compared = [line for line in lines if line["benchmark"] == "model_precision"]
    assert {line["model"] for line in measured} == {"student", "teacher", "teacher-int8"}
    assert [(line["model"], line["against"]) for line in compared] == [("teacher", "teacher-int8")]
    for line in measured:
        assert line["back_to_back"]["runs"] >= TURNS
        assert line["back_to_back"]["cpu_ms"] > 0
        assert len(line["back_to_back"]["cpu_ms_by_turn"]) == TURNS
        assert (line["paced"] is None) == (line["name"] == BATCH)


@pytest.mark.parametrize("wrong", ["teacher-int8.onnx", ":teacher", "file:"])
def test_a_comparison_that_names_no_model_is_refused(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--against", wrong])
    assert "FILE:MODEL" in capsys.readouterr().err
