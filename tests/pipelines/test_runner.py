"""Where models run, what their runs may cost, and who is blamed when a process dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.support import bad_models as bad
from tests.support import ml
from tests.support.meters import meter

from setsuden.energy import Meter
from setsuden.pipelines import bundle as bundles
from setsuden.pipelines.models import forked_trial, loading
from setsuden.pipelines.models.apart import RestartPolicy
from setsuden.pipelines.models.failure import FailureKind
from setsuden.pipelines.models.run_record import RunRecord, key_of
from setsuden.pipelines.models.runner import ModelRunner, ModelTier, RunOutcome
from setsuden.pipelines.models.watchdog import Watchdog
from setsuden.schemas.energy import Method
from setsuden.schemas.pipeline import Limits

TIER = ModelTier(quick_seconds=0.05, restarts=RestartPolicy(3, seconds_each=30.0, waits=False))
LIMITS = Limits(run_seconds=0.5)
HERE, THREAD, APART = "here", "thread", "apart"


def observation(first: float = 1.0) -> np.ndarray[Any, Any]:
    return np.array([first, 0, 0, 0], np.float32)


def label(outcome: RunOutcome) -> str:
    assert outcome.output is not None, outcome.failure
    return ml.CLASSES[int(outcome.output[0].argmax())]


class Rig:
    """Runners on one meter, closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meter: Meter = meter(folder)
        self.runners: list[ModelRunner] = []
        self.watchdogs: list[Watchdog] = []
        self._others = {child.pid for child in psutil.Process().children()}

    def children(self) -> list[psutil.Process]:
        """Processes of these runners' models."""
        return [each for each in psutil.Process().children() if each.pid not in self._others]

    def close(self) -> None:
        for runner in self.runners:
            runner.close()
        for watchdog in self.watchdogs:
            watchdog.close()

    def runner(
        self,
        content: bytes | None = None,
        *,
        tier: ModelTier = TIER,
        limits: Limits = LIMITS,
        watchdog: Watchdog | None = None,
        patience: float = 20.0,
        **changes: str,
    ) -> ModelRunner:
        folder = bad.bundle(self.folder / f"b{len(self.runners)}", None, content, **changes)
        dog = watchdog or Watchdog()
        self.watchdogs.append(dog)
        made = ModelRunner(
            bundles.load(folder),
            "teacher",
            "rig",
            limits=limits,
            meter=self.meter,
            tier=tier,
            watchdog=dog,
        )
        self.runners.append(made)
        loading.load([made], dog, patience)
        return made


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


@pytest.fixture
def threaded() -> Iterator[None]:
    """A process with another thread, which cannot fork safely: a Ray replica, for one."""
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    yield
    stop.set()
    other.join()


def where(runner: ModelRunner) -> str:
    if runner.why_apart is not None:
        return APART
    return HERE if runner.quick(1) else THREAD


# -- placing ------------------------------------------------------------------------------------


def test_a_bounded_quick_model_runs_here_and_costs_no_thread_and_no_process(rig: Rig) -> None:
    runner = rig.runner(bad.linear())
    assert where(runner) == HERE
    outcome = runner.run_now([observation(), observation()])
    assert outcome is not None
    assert label(outcome) == "low"
    assert outcome.method is Method.THREAD
    assert rig.children() == []


def test_a_trial_in_a_fork_leaves_no_thread_and_no_process(tmp_path: Path) -> None:
    """In a process of its own: others' tests leave threads behind."""
    code = f"""
import threading
from pathlib import Path
import psutil
from tests.pipelines.test_runner import Rig, bad
from setsuden.pipelines.models import forked_trial
assert forked_trial.possible()
rig = Rig(Path({str(tmp_path)!r}))
assert rig.runner(bad.linear()).quick(1)
assert [thread.name for thread in threading.enumerate()] == ["MainThread", "watchdog"]
assert psutil.Process().children() == []
rig.close()
assert forked_trial.possible()
for content, kind in ((bad.memory(poison=False), "out_of_memory"), (b"none", "unusable")):
    problem = rig.runner(content).problem
    assert problem is not None and problem.kind == kind, problem
    rig.close()
assert rig.children() == []
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


async def test_a_process_with_other_threads_places_it_the_same(rig: Rig, threaded: None) -> None:
    assert not forked_trial.possible()
    runner = rig.runner(bad.linear())
    assert where(runner) == HERE
    assert label(await runner.run([observation()])) == "low"


async def test_a_bounded_slow_model_runs_in_a_thread(rig: Rig) -> None:
    tier = TIER._replace(quick_seconds=0.001)
    runner = rig.runner(ml.linear(ml.WEIGHTS, repeats=60), tier=tier, limits=Limits())
    assert where(runner) == THREAD
    assert runner.run_now([observation()]) is None
    assert label(await runner.run([observation()])) == "low"
    assert rig.children() == []


async def test_an_unbounded_model_runs_in_a_process_of_its_own(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=True))
    assert where(runner) == APART
    assert runner.why_apart is not None
    assert "Loop" in runner.why_apart
    outcome = await runner.run([observation(), observation()])
    assert label(outcome) == "low"
    assert outcome.method is Method.THREAD
    assert outcome.cpu_seconds > 0
    (child,) = rig.children()
    assert child.nice() > psutil.Process().nice()


async def test_its_cpu_time_is_the_meters_too(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=True))
    process = rig.meter._helpers
    before = process.seconds() - time.process_time()
    failed = await runner.run([observation(ml.POISON)])
    assert failed.failure is not None
    burned = process.seconds() - time.process_time() - before
    assert burned > 0.02  # the rest of its time it may have waited for a core
    assert process.seconds() - time.process_time() >= before + burned


def test_models_are_tried_at_the_same_time_and_none_holds_up_a_start(rig: Rig) -> None:
    began = time.monotonic()
    runner = rig.runner(bad.endless(poison=False), limits=Limits(), patience=1.0)
    assert time.monotonic() - began < 5.0
    assert not runner.quick(1)


async def test_what_a_trial_in_the_background_finds_is_every_runs_reason(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=False), patience=0.0)
    outcome = await runner.run([observation()])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.TIMED_OUT
    assert runner.problem is not None
    assert runner.quick(1)  # nobody waits for it any more


@pytest.mark.parametrize("patience", [20.0, 0.0])
def test_a_model_too_large_for_its_limits_is_unusable_and_nothing_worse(
    rig: Rig, patience: float
) -> None:
    """Its graph is bounded: only the trial shows what it costs."""
    runner = rig.runner(bad.memory(poison=False), patience=patience)
    if patience:
        assert runner.problem is not None
        assert runner.problem.kind is FailureKind.OUT_OF_MEMORY
    assert psutil.Process().memory_info().rss < 1 << 30


# -- runs that go wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "poison", "kind"),
    [
        (bad.endless(poison=True), ml.POISON, FailureKind.TIMED_OUT),
        (bad.memory(poison=True), ml.POISON, FailureKind.OUT_OF_MEMORY),
        (bad.divides(), bad.LEAST_INT64, FailureKind.CRASHED),
        (ml.linear(ml.WEIGHTS, poisoned=True), ml.POISON, FailureKind.RAISED),
    ],
)
async def test_a_poisoned_run_fails_with_its_reason_and_the_next_one_is_fine(
    rig: Rig, content: bytes, poison: float, kind: FailureKind
) -> None:
    runner = rig.runner(content)
    failed = await runner.run([observation(), observation(poison)])
    assert failed.output is None
    assert failed.failure is not None
    assert failed.failure.kind is kind
    assert label(await runner.run([observation()])) == "low"


async def test_a_run_is_ended_at_its_limit(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=True))
    began = time.monotonic()
    await runner.run([observation(ml.POISON)])
    assert LIMITS.run_seconds <= time.monotonic() - began < LIMITS.run_seconds + 2


async def test_the_loop_goes_on_while_a_model_hangs(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=True))
    hanging = asyncio.create_task(runner.run([observation(ml.POISON)]))
    turns = 0
    while not hanging.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 50


async def test_a_model_that_keeps_ending_its_process_rests(rig: Rig) -> None:
    runner = rig.runner(bad.divides())
    kinds = []
    for _ in range(5):
        outcome = await runner.run([observation(bad.LEAST_INT64)])
        assert outcome.failure is not None
        kinds.append(outcome.failure.kind)
    assert kinds == [FailureKind.CRASHED] * 3 + [FailureKind.SUSPENDED] * 2


async def test_a_model_that_hangs_on_everything_is_not_waited_for_each_time(rig: Rig) -> None:
    policy = RestartPolicy(2, seconds_each=1.0, waits=False)
    runner = rig.runner(bad.endless(poison=True), tier=TIER._replace(restarts=policy))
    began, kinds = time.monotonic(), []
    for _ in range(20):
        outcome = await runner.run([observation(ml.POISON)])
        assert outcome.failure is not None
        kinds.append(outcome.failure.kind)
    assert kinds[:2] == [FailureKind.TIMED_OUT] * 2
    assert set(kinds[2:]) == {FailureKind.SUSPENDED}
    assert time.monotonic() - began < 2.5 * LIMITS.run_seconds + 1


async def test_a_model_with_threads_of_its_own_is_ended_too(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=True), input='"x"\nthreads = 2')
    outcome = await runner.run([observation(ml.POISON)])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.TIMED_OUT
    outcome = await runner.run([observation()])
    assert label(outcome) == "low"
    assert outcome.method is Method.EXCLUSIVE


async def test_a_file_that_changed_is_not_run_again(rig: Rig) -> None:
    runner = rig.runner(bad.divides())
    (runner.bundle.folder / "teacher.onnx").write_bytes(bad.linear())
    runner.apart.process.close()
    outcome = await runner.run([observation()])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.UNUSABLE
    assert "has changed" in outcome.failure.message


async def test_a_machine_without_room_for_a_process_fails_the_run_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = rig.runner(bad.divides())
    runner.apart.process.close()
    monkeypatch.setattr("setsuden.pipelines.models.model_process._COMMAND", ["/nowhere/python"])
    outcome = await runner.run([observation()])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.SUSPENDED
    assert "cannot be started" in outcome.failure.message


async def test_a_service_without_room_for_the_runner_fails_the_run_alone(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = rig.runner(bad.divides())
    runner.apart.process.close()
    full = """
import os
def refuse():
    raise BlockingIOError(11, 'no more processes')
os.fork = refuse
"""
    (tmp_path / "sitecustomize.py").write_text(full, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        outcome = await runner.run([observation()])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.SUSPENDED
    assert "no more processes" in outcome.failure.message
    assert label(await runner.run([observation()])) == "low"


async def test_a_service_without_room_for_a_thread_fails_the_run_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = rig.runner(bad.linear())
    start = threading.Thread.start

    def full(thread: threading.Thread) -> None:
        if thread.name.endswith("-rig"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        outcome = await runner.run_alone(observation())
        other = rig.runner(bad.endless(poison=True))
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.SUSPENDED
    assert label(await runner.run_alone(observation())) == "low"
    assert other.problem is not None
    assert other.problem.kind is FailureKind.SUSPENDED
    assert "TasksMax" in other.problem.remedy


LIAR = """
import json, os, time
def answer(text):
    request = os.read(0, 1 << 16)
    number = str(int.from_bytes(request[8:16], "little"))
    os.write(1, text.replace("NUMBER", number).encode("latin-1"))
opened = {"inputs": ["x"], "outputs": ["y"], "runner": os.getpid(), "limited": True}
answer('{"number": NUMBER, ' + json.dumps(opened)[1:] + "\\n")
answer(REPLY)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "reply",
    [
        "[1]\n",
        "7\n",
        "\xff\xfe\n",
        "[" * 12_000 + "\n",
        "x" * 20_000,
        '{"number": NUMBER}\n',
        '{"number": NUMBER, "bytes": Infinity}\n',
        '{"number": NUMBER, "bytes": 2, "dtype": "int8", "cpu_seconds": 0, "wall_seconds": 0}\n12',
        '{"number": NUMBER, "bytes": 12, "dtype": [], "cpu_seconds": 0, "wall_seconds": 0}\n'
        + "0" * 12,
        '{"number": NUMBER, "bytes": 12, "dtype": "int32", "cpu_seconds": NaN, "wall_seconds": 0}\n'
        + "0" * 12,
        '{"number": NUMBER, "kind": "nonsense", "message": 1}\n',
        '{"number": NUMBER, "died": "x"}\n',
        '{"number": 0}\n',
    ],
)
async def test_a_process_that_writes_anything_else_has_crashed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    runner = rig.runner(bad.divides())
    runner.apart.process.close()
    program = LIAR.replace("REPLY", repr(reply))
    monkeypatch.setattr(
        "setsuden.pipelines.models.model_process._COMMAND", [sys.executable, "-c", program]
    )
    outcome = await runner.run([observation()])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.CRASHED
    assert "no proper reply" in outcome.failure.message
    assert not rig.children()


async def test_two_hundred_deaths_leave_no_descriptor_and_no_process(rig: Rig) -> None:
    many = TIER._replace(restarts=RestartPolicy(1000, seconds_each=0.01, waits=True))
    runner = rig.runner(bad.divides(), tier=many)
    await runner.run([observation(bad.LEAST_INT64)])
    before = psutil.Process().num_fds()
    for number in range(200):
        if number % 20 == 0:
            kill_child(rig)
        outcome = await runner.run([observation(bad.LEAST_INT64)])
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.CRASHED
    assert psutil.Process().num_fds() == before
    assert len(psutil.Process(rig.children()[0].pid).children()) == 1
    assert len(rig.children()) == 1


async def test_a_stopped_process_is_late_and_the_next_run_finds_another(rig: Rig) -> None:
    runner = rig.runner(bad.divides())
    (child,) = rig.children()
    (inner,) = child.children()
    inner.suspend()
    outcome = await runner.run([observation()])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.TIMED_OUT
    assert label(await runner.run([observation()])) == "low"
    (child,) = rig.children()
    child.suspend()
    child.children()[0].suspend()
    outcome = await runner.run([observation()])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.TIMED_OUT
    assert label(await runner.run([observation()])) == "low"
    assert child.pid not in psutil.pids()


def test_a_child_is_told_no_password(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETSUDEN_NATS__PASSWORD", "hush")
    rig.runner(bad.endless(poison=True))
    (child,) = rig.children()
    assert "hush" not in child.environ().values()
    assert "hush" not in child.children()[0].environ().values()


async def test_a_model_that_may_wait_is_started_again_when_it_may(rig: Rig) -> None:
    policy = RestartPolicy(1, seconds_each=0.3, waits=True)
    runner = rig.runner(bad.divides(), tier=TIER._replace(restarts=policy))
    for _ in range(3):
        outcome = await runner.run([observation(bad.LEAST_INT64)])
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.CRASHED


def kill_child(rig: Rig) -> None:
    (child,) = rig.children()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


async def test_a_process_that_died_in_its_sleep_is_nobodys_failure(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=True))
    kill_child(rig)
    assert label(await runner.run([observation()])) == "low"


async def test_a_runner_that_died_in_its_sleep_is_nobodys_failure(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=True))
    (child,) = rig.children()
    for _ in range(3):
        (inner,) = child.children()
        inner.kill()
        inner.wait(10)
        assert label(await runner.run([observation()])) == "low"
        assert label(await runner.run([observation()])) == "low"


async def test_observations_that_do_not_fit_are_named(rig: Rig) -> None:
    content = bad.model([bad.node("Cast", "x", "f", to=1), bad.node("MatMul", "f w", "y")], dtype=3)
    runner = rig.runner(content, dtype='"int8"')
    outcome = await runner.run([np.array([1000, 0, 0, 0], np.int16)])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.UNFIT_INPUT
    assert "do not fit int8" in outcome.failure.message


async def test_a_suspect_runs_alone_beside_all_others(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=True), limits=Limits(run_seconds=2.0))
    alone = asyncio.create_task(runner.run_alone(observation(ml.POISON)))
    for _ in range(5):
        assert label(await runner.run([observation()])) == "low"
    assert not alone.done()
    outcome = await alone
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.TIMED_OUT


async def test_a_model_that_runs_here_can_run_alone_too(rig: Rig) -> None:
    runner = rig.runner(bad.linear())
    assert label(await runner.run_alone(observation())) == "low"
    (child,) = rig.children()
    runner.close()
    assert await asyncio.to_thread(psutil.wait_procs, [child], 5) == ([child], [])


async def test_a_closed_runner_leaves_no_process(rig: Rig) -> None:
    runner = rig.runner(bad.endless(poison=True), limits=Limits())
    hanging = asyncio.create_task(runner.run([observation(ml.POISON)]))
    (child,) = rig.children()
    await asyncio.sleep(0)
    runner.close()
    assert await asyncio.to_thread(psutil.wait_procs, [child], 5) == ([child], [])
    hanging.cancel()


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    folder = bad.bundle(tmp_path / "b", teacher=bad.endless(poison=True))
    code = f"""
import os, sys
from pathlib import Path
from tests.pipelines.test_runner import Rig, LIMITS
rig = Rig(Path({str(tmp_path / "rig")!r}))
from tests.support import bad_models as bad
rig.runner(bad.endless(poison=True))
import psutil
print(psutil.Process().children()[0].pid, flush=True)
os.kill(os.getpid(), 9)
"""
    (tmp_path / "rig").mkdir()
    assert folder.exists()
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    pid = int(ended.stdout)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not psutil.pid_exists(pid)


def test_a_child_holds_nothing_of_its_parents(rig: Rig, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)  # its only parameter
        rig.runner(bad.endless(poison=True))
        (child,) = rig.children()
        held = [str(fd.readlink()) for fd in Path(f"/proc/{child.pid}/fd").iterdir()]
    assert not any("secret" in name or "socket" in name for name in held)
    limits = Path(f"/proc/{child.pid}/limits").read_text(encoding="ascii")
    assert "Max core file size        0" in limits


async def test_a_service_that_forbids_limits_runs_without_and_says_so(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A system call filter without @resources answers EPERM to all of it."""
    forbidding = """
import os, resource
def refuse(*_):
    raise PermissionError
os.nice = os.sched_setscheduler = resource.getrlimit = resource.setrlimit = refuse
"""
    (tmp_path / "sitecustomize.py").write_text(forbidding, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    runner = rig.runner(bad.endless(poison=True))
    assert label(await runner.run([observation()])) == "low"
    assert "model_memory_unlimited" in caplog.text


async def test_a_machine_without_proc_runs_without_limit_and_says_so(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = """
import builtins
_open = builtins.open
def refuse(file, *rest, **more):
    if file == "/proc/self/status":
        raise FileNotFoundError(2, "No such file or directory", file)
    return _open(file, *rest, **more)
builtins.open = refuse
"""
    (tmp_path / "sitecustomize.py").write_text(hidden, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    runner = rig.runner(bad.endless(poison=True))
    assert label(await runner.run([observation()])) == "low"
    assert "model_memory_unlimited" in caplog.text


# -- the watchdog -------------------------------------------------------------------------------


def as_if_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the judgement of graphs be wrong: what follows is the second line of defence."""
    monkeypatch.setattr("setsuden.pipelines.models.graph.why_unbounded", lambda _: None)


async def test_a_run_in_the_loop_that_overruns_is_ended_and_done_again_apart(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_bounded(monkeypatch)
    runner = rig.runner(bad.endless(poison=True))
    assert where(runner) == HERE
    began = time.monotonic()
    assert runner.run_now([observation(ml.POISON)]) is None
    assert time.monotonic() - began < 2.0
    assert where(runner) == APART
    outcome = await runner.run([observation(ml.POISON)])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.TIMED_OUT
    assert label(await runner.run([observation()])) == "low"


async def test_a_run_in_the_thread_that_overruns_has_failed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_bounded(monkeypatch)
    runner = rig.runner(bad.endless(poison=True), tier=TIER._replace(quick_seconds=0.0))
    assert where(runner) == THREAD
    outcome = await runner.run([observation(ml.POISON)])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.TIMED_OUT
    assert where(runner) == APART


def test_a_run_that_cannot_be_ended_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native code that hangs within one node does not hear the order to end."""
    monkeypatch.setattr("setsuden.pipelines.models.watchdog.GRACE_SECONDS", 0.1)
    stuck: list[str] = []
    given_up, told = threading.Event(), threading.Event()

    def give_up(pipeline: str) -> None:
        stuck.append(pipeline)
        given_up.set()

    dog = Watchdog(on_stuck=give_up)
    watch = dog.watch("p", "digest", told.set)
    dog.start()
    watch.begin(0.1)
    assert told.wait(5)
    assert given_up.wait(5)
    assert stuck == ["p"]


def test_a_run_that_ends_in_time_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    dog = Watchdog()
    watch = dog.watch("p", "digest", told.set)
    dog.start()
    for _ in range(20):
        watch.begin(0.05)
        watch.finish()
    assert not told.wait(0.2)


def test_waiting_for_a_busy_machine_is_no_overrun() -> None:
    """A limit on CPU time: a process that was stopped, or gets no core, has used none."""
    told = threading.Event()
    dog = Watchdog()
    watch = dog.watch("p", "digest", told.set)
    dog.start()
    watch.begin(60.0, cpu_seconds=0.05)
    assert not told.wait(0.5)
    while not told.is_set():
        sum(range(10_000))
    watch.finish()


# -- who was running when the process died --------------------------------------------------------


def life(folder: Path, body: str) -> int:
    """A process with a record in this folder, and how it ended."""
    code = f"""
import os, signal
from pathlib import Path
from setsuden.pipelines.models.run_record import RunRecord, key_of
record = RunRecord(Path({str(folder)!r}))
one, two = (record.place(key_of(name, "d")) for name in ("one", "two"))
{body}
"""
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode


ONE, TWO = key_of("one", "d"), key_of("two", "d")


@pytest.mark.parametrize("number", [signal.SIGFPE, signal.SIGSEGV, signal.SIGABRT])
def test_the_model_that_ran_when_a_process_died_of_a_signal_is_suspect(
    tmp_path: Path, number: signal.Signals
) -> None:
    body = f"record.mark(one, running=True); os.kill(os.getpid(), {number.value})"
    assert life(tmp_path, body) == -number
    record = RunRecord(tmp_path)
    assert record.suspects == {ONE}
    record.close()
    assert life(tmp_path, "pass") == 0
    last = RunRecord(tmp_path)
    assert last.suspects == {ONE}, "it stays so until there is another model"
    last.close()


@pytest.mark.parametrize(
    "body",
    [
        "record.mark(one, running=True); os.kill(os.getpid(), signal.SIGKILL)",
        "record.mark(one, running=True); record.mark(one, running=False); os.abort()",
        "record.mark(one, running=True)",
    ],
)
def test_nobody_is_blamed_for_what_came_from_outside(tmp_path: Path, body: str) -> None:
    life(tmp_path, body)
    record = RunRecord(tmp_path)
    assert record.suspects == frozenset()
    record.close()


def test_a_model_that_was_given_up_is_suspect_however_the_process_ended(tmp_path: Path) -> None:
    assert life(tmp_path, "record.suspect(two); os.kill(os.getpid(), 9)") == -signal.SIGKILL
    record = RunRecord(tmp_path)
    assert record.suspects == {TWO}
    record.close()


@pytest.mark.parametrize("content", [b"", b"x" * 7, b"\xff" * 5120])
def test_a_damaged_record_is_started_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "running.bin").write_bytes(content)
    record = RunRecord(tmp_path)
    assert ONE not in record.suspects
    record.close()


def test_a_folder_that_cannot_be_written_costs_the_record_alone(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "nowhere")
    place = record.place(ONE)
    assert place is not None
    record.mark(place, running=True)
    assert record.suspects == frozenset()
    record.close()


def test_a_second_process_of_the_folder_leaves_the_first_ones_record_alone(tmp_path: Path) -> None:
    first = RunRecord(tmp_path)
    place = first.place(ONE)
    assert place is not None
    first.suspect(place)
    assert life(tmp_path, "record.suspect(two)") == 0
    first.close()
    later = RunRecord(tmp_path)
    assert later.suspects == {ONE}
    later.close()


def test_a_suspect_runs_apart_and_the_others_here(rig: Rig, tmp_path: Path) -> None:
    digest = (
        bundles.load(bad.bundle(tmp_path / "x", teacher=bad.linear())).read("teacher")[1].digest
    )
    (tmp_path / "state").mkdir()
    record = RunRecord(tmp_path / "state")
    place = record.place(key_of("rig", digest))
    assert place is not None
    record.suspect(place)
    record.close()
    dog = Watchdog(RunRecord(tmp_path / "state"))
    assert where(rig.runner(bad.linear(), watchdog=dog)) == APART
    assert where(rig.runner(bad.probabilities(), watchdog=dog, kind='"probs"')) == HERE
