"""What an agent does, and says, when its disk, its clock or its broker is not as it should be."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.edge_agent.test_outbox_damage import fill
from tests.support import cloud, ml
from tests.support.agent import AgentProcess, config
from tests.support.command import Command

from setsuden.link import JetStream, Link
from setsuden.schemas.result import Result, Status
from setsuden.schemas.streams import StreamBounds, all_streams
from setsuden.testing.broker import LocalBroker

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
SKEWED = """
import time
_true = time.time_ns
time.time_ns = lambda: _true() + ({skew})
_seconds = time.time
time.time = lambda: _seconds() + ({skew}) / 1e9
"""
HOUR_NS = 3600 * 10**9
Start = Callable[..., AgentProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the agent of this test; all are killed at the end."""
    with ExitStack() as ends:

        def started(
            *,
            broker: LocalBroker | None = None,
            threshold: float = 1.0,
            folder: Path | None = None,
            skew_ns: int = 0,
            pipeline_extra: str = "",
            **more: str,
        ) -> AgentProcess:
            bundle = ml.write_bundle(tmp_path / "bundle", student=True)
            text = config(
                broker=broker,
                bundle=bundle,
                pipeline=cloud.PIPELINE,
                pipeline_extra=f"gate = {{ threshold = {threshold} }}\n{pipeline_extra}",
                **more,  # type: ignore[arg-type]  # texts
            )
            clock = tmp_path / f"clock{skew_ns}"
            clock.mkdir(exist_ok=True)
            (clock / "sitecustomize.py").write_text(SKEWED.format(skew=skew_ns))
            agent = AgentProcess(folder or tmp_path / "agent", text, {"PYTHONPATH": str(clock)})
            ends.callback(agent.kill)
            agent.start(link=broker is not None)
            return agent

        yield started


def waiting(agent: AgentProcess, count: int, **headers: Any) -> list[Result]:
    """Hard events that were accepted, as they are answered for the time being."""
    found = []
    for index in range(count):
        status, told = agent.event(ml.observation(index), **headers)
        assert status == 202
        found.append(Result.model_validate(told, strict=False))
    return found


def stands(agent: AgentProcess, event_id: str) -> Result:
    return Result.model_validate_json(agent.get(f"/events/{event_id}")[1])


# -- a state folder that is damaged ---------------------------------------------------------------


def test_a_damaged_outbox_is_said_until_it_was_salvaged(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = start()
    events = waiting(agent, 5)
    agent.kill()
    (agent.folder / "state" / "outbox.db").write_bytes(b"")
    agent.start(link=False)
    told = agent.ready()
    assert told is not None
    assert (told["ready"], told["status"]) == (True, "degraded")
    assert len(told["checks"]["outbox"]["set_aside"]) == 1
    assert agent.metric("setsuden_outbox_set_aside") == 1
    assert agent.terminate() == 0
    ended = Command(capsys)("agent", "salvage", "-c", agent.path, "--json")
    assert ended.code == 0, ended
    agent.start(link=False)
    told = agent.ready()
    assert told is not None
    assert told["checks"]["outbox"]["set_aside"] == []
    assert {stands(agent, event.event_id).status for event in events} == {Status.PROVISIONAL}


async def test_a_damaged_row_is_a_dead_letter_with_its_reason_and_the_others_go_on(
    start: Start, broker: LocalBroker, jetstream: JetStream
) -> None:
    agent = await asyncio.to_thread(start)
    one, other = await asyncio.to_thread(waiting, agent, 2)
    agent.kill()
    with closing(sqlite3.connect(agent.folder / "state" / "outbox.db")) as outbox, outbox:
        outbox.execute("UPDATE events SET data = ? WHERE event_id = ?", (bytes(16), one.event_id))
    await asyncio.to_thread(start, broker=broker, threshold=1.0)

    async def buried() -> bool:
        return bool(await cloud.stored(jetstream, "DEAD", "dead.>"))

    await cloud.eventually(buried, 20)
    dead = await asyncio.to_thread(stands, agent, one.event_id)
    assert (dead.status, dead.error and dead.error.code) == (Status.DEAD, "outbox_row_damaged")
    assert (await asyncio.to_thread(stands, agent, other.event_id)).status is Status.PROVISIONAL
    (letter,) = await cloud.stored(jetstream, "DEAD", "dead.>")
    assert b"outbox_row_damaged" in letter.data


# -- a disk that takes nothing --------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@ROOT
def test_on_a_full_disk_easy_events_are_answered_where_that_is_wanted_and_said_to_be_so(
    start: Start, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        extra = "outbox = { answer_when_full = true }"
        agent = start(threshold=0.0, folder=disk / "agent", extra=extra)
        fill(disk / "ballast")
        agent.until(lambda: agent.event(ml.observation(0))[1].get("durable") is False)
        status, told = agent.event(ml.observation(1))
        assert (status, told["status"], told["durable"]) == (200, "final", False)
        assert agent.metric("setsuden_undurable_answers_total") >= 2
        (disk / "ballast").unlink()
        agent.until(lambda: agent.event(ml.observation(2))[1]["durable"] is True)
        agent.kill()


@ROOT
def test_on_a_full_disk_a_hard_event_is_refused_with_path_and_bytes_and_taken_when_there_is_room(
    start: Start, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        agent = start(folder=disk / "agent")
        fill(disk / "ballast")
        agent.until(lambda: agent.event(ml.observation(0))[0] == 503)
        _, told = agent.event(ml.observation(1))
        assert told["error"]["code"] == "outbox_unwritable"
        assert str(disk) in told["error"]["message"]
        (disk / "ballast").unlink()
        agent.until(lambda: agent.event(ml.observation(2))[0] == 202)
        agent.kill()


@ROOT
async def test_a_broker_whose_disk_is_full_is_said_and_no_event_is_lost(
    start: Start, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk, LocalBroker(disk / "nats") as broker:
        link = Link(broker.options, "test")
        link.start()
        await link.wait_up(10)
        jetstream = JetStream(link)
        await jetstream.start()
        for stream in all_streams(StreamBounds()):
            await jetstream.apply_stream(stream)
        brief = "publish_timeout_seconds = 1.0"
        agent = await asyncio.to_thread(start, broker=broker, nats=brief)
        fill(disk / "ballast")
        events = await asyncio.to_thread(waiting, agent, 20)
        refuses = "setsuden_broker_refuses"
        await asyncio.to_thread(agent.until, lambda: agent.metric(refuses) == 1)
        told = await asyncio.to_thread(agent.ready)
        assert told is not None
        assert (told["ready"], told["checks"]["broker"]["ok"]) == (True, False)
        assert "broker_stores_no_more" in agent.log()
        (disk / "ballast").unlink()
        await asyncio.to_thread(broker.kill)  # it takes nothing more until it was restarted
        await asyncio.to_thread(broker.start)

        async def all_there() -> bool:
            state = (await jetstream.api("STREAM.INFO.ESC"))["state"]
            return int(state["messages"]) == len(events)

        await link.wait_up(20)
        await cloud.eventually(all_there, 60)
        await asyncio.to_thread(agent.until, lambda: agent.metric(refuses) == 0)
        agent.kill()
        await link.close()


# -- a broker that lacks our streams --------------------------------------------------------------


def test_a_broker_without_our_streams_is_said_with_the_remedy_and_few_lines(
    start: Start, broker: LocalBroker
) -> None:
    """Strict durability cannot be proven to it there, but it answers all the same."""
    agent = start(threshold=0.0)
    agent.kill()
    agent.path.write_text(
        agent.path.read_text(encoding="utf-8")
        .replace("nats://127.0.0.1:9", broker.url)
        .replace("http://127.0.0.1:9", broker.monitor_url),
        encoding="utf-8",
    )
    agent.start(link=False)

    def told() -> str:
        return str((agent.ready() or {"checks": {}})["checks"])

    agent.until(lambda: "setsuden cloud streams" in told())
    assert agent.event(ml.observation(0))[1]["status"] == "final"
    assert (agent.ready() or {})["status"] == "degraded"
    assert len(agent.log().splitlines()) < 12


# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew_ns", [-HOUR_NS, HOUR_NS])
async def test_a_deadline_by_the_worlds_clock_is_kept_by_a_device_whose_clock_is_an_hour_off(
    start: Start, broker: LocalBroker, jetstream: JetStream, link: Link, skew_ns: int
) -> None:
    agent = await asyncio.to_thread(start, broker=broker, skew_ns=skew_ns)
    await asyncio.to_thread(
        agent.until, lambda: bool(((agent.ready() or {}).get("checks") or {})["clock"]["known"])
    )
    at = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    (event,) = await asyncio.to_thread(waiting, agent, 1, deadline=at)
    path = f"/events/{event.event_id}"
    began = asyncio.get_running_loop().time()
    await asyncio.to_thread(agent.until, lambda: agent.get(path)[0] == 200)
    assert 1.5 < asyncio.get_running_loop().time() - began < 10
    assert (await asyncio.to_thread(stands, agent, event.event_id)).status is Status.EXPIRED


def test_a_deadline_by_a_clock_that_nobody_confirmed_is_said(start: Start) -> None:
    agent = start()
    waiting(agent, 1, deadline="2058-01-01T00:00:00Z")
    told = agent.ready()
    assert told is not None
    assert told["checks"]["clock"] == {"ok": False, "known": False, "unverified_deadlines": 1}
    assert agent.metric("setsuden_deadlines_unverified") == 1


def test_a_restart_after_a_jump_of_two_days_expires_nothing_and_forgets_no_key(
    start: Start,
) -> None:
    agent = start(pipeline_extra="deadline_seconds = 600")
    (event,) = waiting(agent, 1, idempotencykey="k")
    assert agent.terminate() == 0
    agent = start(pipeline_extra="deadline_seconds = 600", skew_ns=48 * HOUR_NS)
    assert stands(agent, event.event_id).status is Status.PROVISIONAL
    for _ in range(70):
        agent.event(ml.observation(1))
    again = agent.event(ml.observation(0), idempotencykey="k")[1]
    assert again["event_id"] == event.event_id
