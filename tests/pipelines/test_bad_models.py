"""A model that misbehaves harms itself: its neighbours, the process and the clock go on."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.support import bad_models as bad
from tests.support import ml, processes, site
from tests.support.agent import DEVICE, AgentProcess, config

from setsuden.link import JetStream, Link
from setsuden.schemas import subjects
from setsuden.schemas.event import Event
from setsuden.schemas.result import Tier
from setsuden.testing.broker import LocalBroker

FINE = ml.observation(1)
POISON = ml.observation(1, first=ml.POISON)
LEAST = np.array([bad.LEAST_INT64, 1, 0, 0], np.float32).tobytes()
QUICK = "limits = { run_seconds = 1.0 }"

Start = Callable[..., AgentProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts agents with a healthy pipeline and a bad one, and kills what is left of them."""
    started: list[AgentProcess] = []

    def begin(
        content: bytes,
        *,
        broker: LocalBroker | None = None,
        limits: str = QUICK,
        link: bool = False,
        environment: dict[str, str] | None = None,
        **changes: str,
    ) -> AgentProcess:
        folder = tmp_path / "agent"
        good = bad.bundle(tmp_path / "good", student=bad.linear())
        evil = bad.bundle(tmp_path / "evil", content, None, **changes)
        text = config(broker=broker, bundle=good, pipeline="good", pipeline_extra="")
        text += f'[[pipelines]]\nname = "evil"\nbundle = "{evil}"\n{limits}\n'
        agent = AgentProcess(folder, text, environment)
        started.append(agent)
        agent.start(link=link)
        return agent

    yield begin
    for agent in started:
        agent.kill()


def ask(agent: AgentProcess, pipeline: str, body: bytes) -> dict[str, Any]:
    status, result = agent.event(body, pipeline=pipeline)
    assert status in {200, 202}, result
    return result


def reason(result: dict[str, Any]) -> str:
    return str(result["decision"]["reason"])


class Asking(threading.Thread):
    """One request that takes its time."""

    def __init__(self, agent: AgentProcess, body: bytes) -> None:
        super().__init__(daemon=True)
        self._agent, self._body = agent, body
        self.result: dict[str, Any] = {}
        self.start()

    def run(self) -> None:
        with suppress(OSError, ValueError):  # the agent died of it
            _, self.result = self._agent.event(self._body, pipeline="evil")


# -- on the device ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "body", "why"),
    [
        (bad.endless(poison=True), POISON, "student_timed_out"),
        (bad.memory(poison=True), POISON, "student_out_of_memory"),
        (bad.divides(), LEAST, "student_crashed"),
        (bad.not_a_number(), POISON, "student_not_finite"),
        (ml.linear(ml.WEIGHTS * 9, poisoned=True), POISON, "student_raised"),
    ],
)
def test_a_poison_event_escalates_with_its_reason_and_the_next_is_judged(
    start: Start, content: bytes, body: bytes, why: str
) -> None:
    agent = start(content)
    poisoned = ask(agent, "evil", body)
    assert (poisoned["status"], reason(poisoned)) == ("provisional", why)
    assert "answer" not in poisoned
    assert reason(ask(agent, "evil", FINE)) == "confident"
    assert reason(ask(agent, "good", FINE)) == "confident"
    report = agent.ready()
    assert report is not None
    assert report["checks"]["models"]["ok"]


@pytest.mark.parametrize(
    ("content", "changes", "why"),
    [
        (bad.endless(poison=False), {}, "student_timed_out"),
        (bad.memory(poison=False), {}, "student_out_of_memory"),
        (ml.linear(np.full_like(ml.WEIGHTS, np.nan)), {}, "student_not_finite"),
        (bad.one_row(), {}, "student_wrong_shape"),
        (bad.probabilities(), {}, "student_unusable"),
        (bad.linear(), {"kind": '"probs"'}, "student_unusable"),
        (b"no model", {}, "student_unusable"),
    ],
)
def test_a_student_that_cannot_be_used_costs_its_own_pipeline_alone(
    start: Start, content: bytes, changes: dict[str, str], why: str
) -> None:
    agent = start(content, **changes)
    escalated = ask(agent, "evil", FINE)
    assert (escalated["status"], reason(escalated)) == ("provisional", why)
    assert reason(ask(agent, "good", FINE)) == "confident"
    report = agent.ready()
    assert report is not None
    assert report["ready"]
    assert report["status"] == "degraded"
    assert list(report["checks"]["models"]["without_student"]) == ["evil"]
    assert "model_unusable" in agent.log()


def test_a_hanging_student_holds_up_neither_neighbours_nor_health_nor_the_end(
    start: Start,
) -> None:
    agent = start(bad.endless(poison=True), limits="limits = { run_seconds = 60.0 }")
    hanging = Asking(agent, POISON)
    agent.until(lambda: bool(busy_children(agent)))
    for _ in range(20):
        assert reason(ask(agent, "good", FINE)) == "confident"
        assert agent.get("/livez")[0] == 200
    assert hanging.is_alive()
    began = time.monotonic()
    assert agent.terminate() == 0
    assert time.monotonic() - began < 8
    hanging.join(10)
    assert hanging.result["error"]["code"] == "broker_unavailable"


def busy_children(agent: AgentProcess) -> list[psutil.Process]:
    assert agent.process is not None
    children = psutil.Process(agent.process.pid).children(recursive=True)
    return [child for child in children if child.cpu_percent(0.1) > 20]


def test_deadlines_are_kept_while_a_student_hangs(start: Start) -> None:
    """A student's run leaves the cloud half of the pipeline's deadline."""
    limits = "deadline_seconds = 2.0\nlimits = { run_seconds = 60.0 }"
    agent = start(bad.endless(poison=True), limits=limits)
    began = time.monotonic()
    status, result = agent.event(POISON, pipeline="evil", wait=10)
    assert (status, result["status"]) == (200, "expired")
    assert reason(result) == "student_timed_out"
    assert time.monotonic() - began < 4


def test_a_student_that_keeps_dying_rests_and_its_events_go_on(start: Start) -> None:
    agent = start(bad.divides())
    reasons = Counter(reason(ask(agent, "evil", LEAST)) for _ in range(60))
    assert reasons["student_crashed"] >= 20
    assert reasons["student_suspended"] >= 1
    assert sum(reasons.values()) == 60
    assert agent.log().count("student_failed") <= 2
    assert reason(ask(agent, "good", FINE)) == "confident"


def test_a_process_that_died_of_one_model_runs_only_that_one_apart(
    start: Start, tmp_path: Path
) -> None:
    """Its graph is bounded, so it ran in the agent; a fault of onnxruntime ends the agent."""
    agent = start(bad.linear(), environment=processes.aborting(tmp_path / "abort"))
    assert children(agent) == 0
    Asking(agent, ml.observation(1, first=666.0))
    assert agent.process is not None
    assert agent.process.wait(timeout=20) == -signal.SIGABRT
    agent.start(link=False)
    assert "died_of_signal" in agent.log()
    assert children(agent) == 1
    poisoned = ask(agent, "evil", ml.observation(1, first=666.0))
    assert reason(poisoned) == "student_crashed"
    assert reason(ask(agent, "evil", FINE)) == "confident"
    assert reason(ask(agent, "good", FINE)) == "confident"


def children(agent: AgentProcess) -> int:
    assert agent.process is not None
    return len(psutil.Process(agent.process.pid).children())


@pytest.mark.slow
def test_a_model_that_cannot_be_ended_makes_the_agent_start_again_in_place(
    start: Start, tmp_path: Path
) -> None:
    apart = bad.bundle(tmp_path / "apart", bad.endless(poison=True), None)
    agent = start(
        bad.linear(),
        limits=f'{QUICK}\n[[pipelines]]\nname = "apart"\nbundle = "{apart}"',
        environment=processes.aborting(tmp_path / "hang"),
    )
    before = ask(agent, "good", FINE)
    assert agent.process is not None
    (old,) = psutil.Process(agent.process.pid).children()
    hanging = ml.observation(1, first=667.0)
    Asking(agent, hanging)
    agent.until(lambda: agent.log().count("agent_ready") == 2, seconds=30)
    agent.until(lambda: agent.ready() is not None)
    assert "model_hangs" in agent.log()
    assert reason(ask(agent, "evil", hanging)) == "student_timed_out"
    assert reason(ask(agent, "evil", FINE)) == "confident"
    assert not psutil.pid_exists(old.pid)
    known, _ = agent.get(f"/events/{before['event_id']}")
    assert known == 200


def test_requests_beyond_a_lanes_room_go_on_without_the_student(start: Start) -> None:
    agent = start(bad.endless(poison=True), limits="limits = { run_seconds = 3.0 }")
    with (agent.folder / "agent.toml").open(encoding="utf-8") as file:
        assert "max_waiting" not in file.read()
    waiting = [Asking(agent, POISON) for _ in range(6)]
    for each in waiting:
        each.join(30)
    reasons = Counter(reason(each.result) for each in waiting)
    assert set(reasons) <= {"student_timed_out", "student_busy"}
    assert reasons["student_busy"] >= 1


# -- events of the broker -----------------------------------------------------------------------


async def publish(link: Link, pipeline: str, bodies: list[bytes], first: int = 0) -> None:
    for number, body in enumerate(bodies, first):
        event = Event(
            id=f"{pipeline}-{number}", source="test", pipeline=pipeline, device=DEVICE, data=body
        )
        await link.store(subjects.event(pipeline, DEVICE), body, event.headers())


def accepted(agent: AgentProcess) -> dict[str, list[str]]:
    """Reasons of the accepted events by pipeline, in the order of acceptance."""
    with closing(sqlite3.connect(agent.folder / "state" / "outbox.db")) as outbox:
        rows = outbox.execute("SELECT pipeline, result FROM events ORDER BY sequence").fetchall()
    found: dict[str, list[str]] = {}
    for pipeline, result in rows:
        found.setdefault(pipeline, []).append(json.loads(result)["decision"]["reason"])
    return found


def sources(agent: AgentProcess, pipeline: str) -> list[str]:
    with closing(sqlite3.connect(agent.folder / "state" / "outbox.db")) as outbox:
        sql = "SELECT result FROM events WHERE pipeline=? ORDER BY sequence"
        rows = outbox.execute(sql, (pipeline,)).fetchall()
    return [str(json.loads(result)["source_id"]) for (result,) in rows]


async def test_a_pipelines_events_wait_for_its_student_and_nobody_elses_do(
    start: Start, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    agent = start(
        bad.endless(poison=True),
        broker=broker,
        link=True,
        limits="limits = { run_seconds = 60.0 }",
    )
    await publish(link, "evil", [POISON])
    agent.until(lambda: bool(busy_children(agent)))
    await publish(link, "evil", [FINE] * 20, first=1)
    await publish(link, "good", [FINE] * 50)
    agent.until(lambda: len(accepted(agent).get("good", [])) == 50)
    assert "evil" not in accepted(agent)
    agent.kill()  # in the middle of the hanging run
    agent.path.write_text(
        agent.path.read_text(encoding="utf-8").replace("60.0", "1.0"), encoding="utf-8"
    )
    agent.start()
    agent.until(lambda: len(accepted(agent).get("evil", [])) == 21)
    assert sources(agent, "evil") == [f"evil-{number}" for number in range(21)]
    assert sources(agent, "good") == [f"good-{number}" for number in range(50)]
    assert accepted(agent)["evil"] == ["student_timed_out", *["confident"] * 20]
    assert set(accepted(agent)["good"]) == {"confident"}


async def test_more_events_than_a_lane_holds_stay_on_the_broker_in_order(
    start: Start, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    """None is given to the cloud for want of room, none is lost, none is judged twice."""
    agent = start(bad.endless(poison=True), broker=broker, link=True)
    await publish(link, "evil", [POISON, *[FINE] * 1700])
    await publish(link, "good", [FINE] * 20)
    agent.until(lambda: len(accepted(agent).get("good", [])) == 20)
    agent.until(lambda: len(accepted(agent).get("evil", [])) == 1701, seconds=60)
    assert sources(agent, "evil") == [f"evil-{number}" for number in range(1701)]
    assert Counter(accepted(agent)["evil"]) == {"student_timed_out": 1, "confident": 1700}


async def test_events_wait_on_the_broker_while_the_outbox_is_full_of_a_lanes_hard_cases(
    tmp_path: Path, broker: LocalBroker
) -> None:
    """Room for six observations, forty hard cases of a student that runs apart."""
    folder = bad.bundle(tmp_path / "hard", bad.endless(poison=True), bad.linear())
    async with site.site(
        tmp_path,
        broker,
        bundle_folder=folder,
        pipeline="hard",
        gate="gate = { threshold = 1.0 }",
        extra="outbox = { max_bytes = 4096, max_events = 6 }",
    ) as up:
        finals = await up.submit_all([ml.observation(number) for number in range(40)])
        assert {final.tier for final in finals} == {Tier.CLOUD}
        assert len(await up.records()) == 40
        assert up.agent.metric("setsuden_refused_events_total") == 0


# -- beside a healthy pipeline ------------------------------------------------------------------

SECONDS = 8.0
INTERVAL = 0.1
FLOOR = 0.010
"""Below it a p99 is the machine's own noise."""
ROUNDS = 3
"""Of which one must hold: what else the machine does can only make a round worse."""


def p99_of(ask_once: Callable[[], None], seconds: float = SECONDS) -> float:
    """Of ten a second, sent whether or not the one before was answered."""
    taken: list[float] = []
    failed: list[str] = []
    threads: list[threading.Thread] = []

    def one() -> None:
        began = time.monotonic()
        try:
            ask_once()
        except (AssertionError, OSError, ValueError) as error:
            failed.append(repr(error))
        taken.append(time.monotonic() - began)

    begin = time.monotonic()
    for number in range(int(seconds / INTERVAL)):
        time.sleep(max(0.0, begin + number * INTERVAL - time.monotonic()))
        threads.append(threading.Thread(target=one))
        threads[-1].start()
    for each in threads:
        each.join(60)
    assert failed == []
    return sorted(taken)[int(len(taken) * 0.99) - 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "body"),
    [
        (bad.endless(poison=False), FINE),
        (bad.endless(poison=True), POISON),
        (bad.memory(poison=False), FINE),
        (bad.memory(poison=True), POISON),
        (bad.loop(3_000_000, poison=True), POISON),
        (bad.divides(), LEAST),
        (bad.not_a_number(), POISON),
        (bad.one_row(), FINE),
    ],
    ids=["endless", "endless-poison", "2gb", "2gb-poison", "slow", "sigfpe", "nan", "one-row"],
)
def test_the_p99_of_a_healthy_pipeline_stays_within_twice_its_own(
    start: Start, content: bytes, body: bytes
) -> None:
    agent = start(content, limits="")

    def good() -> None:
        assert reason(ask(agent, "good", FINE)) == "confident"

    p99_of(good, 3.0)  # everything was used once
    lines = []
    for _ in range(ROUNDS):
        before = p99_of(good)
        with tormented(agent, body):
            beside = p99_of(good)
        after = p99_of(good)
        alone = f"{before * 1e3:.1f} and {after * 1e3:.1f} ms"
        lines.append(f"p99 alone {alone}, beside {beside * 1e3:.1f} ms")
        print(lines[-1])  # noqa: T201  # for -s
        if beside <= 2 * max(before, after, FLOOR):
            return
    raise AssertionError(lines)


@contextmanager
def tormented(agent: AgentProcess, body: bytes) -> Iterator[None]:
    """Five events a second for the bad pipeline, whether or not they are answered."""
    stop = threading.Event()

    def one() -> None:
        with suppress(OSError, ValueError):  # at the end some are left without an answer
            agent.event(body, pipeline="evil")

    def all_of_them() -> None:
        while not stop.wait(0.2):
            threading.Thread(target=one, daemon=True).start()

    tormentor = threading.Thread(target=all_of_them)
    tormentor.start()
    try:
        yield
    finally:
        stop.set()
        tormentor.join()
