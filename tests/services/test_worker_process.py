"""The plain worker process: killed, stopped, refused, poisoned."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest
from tests.support import cloud, ml, processes

from setsuden.link import JetStream, Link
from setsuden.schemas.result import Status
from setsuden.services.worker.assembly import STALLED_EXIT
from setsuden.testing.broker import LocalBroker


@pytest.mark.slow
async def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    config = processes.write_config(tmp_path, broker, repeats=200)
    await cloud.escalate(link, range(300))
    first = processes.worker_process(config)
    await cloud.results(jetstream, 40)
    first.kill()
    left = 300 - len(await cloud.records(jetstream))
    second = processes.worker_process(config)
    assert await cloud.once_each(jetstream, 300)
    await cloud.until_settled(jetstream)
    assert left > 0
    second.popen.send_signal(signal.SIGTERM)
    assert await second.ended() == 0


@pytest.mark.slow
async def test_an_aborting_model_ends_in_one_dead_letter_and_spares_its_neighbours(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    config = processes.write_config(tmp_path, broker)
    await cloud.escalate(link, range(20))
    await cloud.escalate(link, [20], first=666.0)
    await cloud.escalate(link, range(21, 40))
    environment = processes.aborting(tmp_path / "abort")
    deaths, running = 0, processes.worker_process(config, environment)

    async def keep_alive() -> None:
        nonlocal deaths, running
        while True:
            if await running.ended(300) == -signal.SIGABRT:
                deaths += 1
                running = processes.worker_process(config, environment)

    keeper = asyncio.create_task(keep_alive())
    found = {result.event_id: result for result in await cloud.results(jetstream, 40)}
    await cloud.until_settled(jetstream)
    keeper.cancel()
    running.popen.send_signal(signal.SIGTERM)
    dead = found.pop(cloud.event_id(20))
    assert dead.status is Status.DEAD
    assert dead.error is not None
    assert dead.error.code == "teacher_crashed"
    assert {result.status for result in found.values()} == {Status.FINAL}
    assert deaths == 1  # from its second delivery on the event runs where it can do no harm
    (letter,) = await cloud.stored(jetstream, "DEAD", "dead.*.*")
    assert json.loads(letter.data)["event_id"] == cloud.event_id(20)
    assert await running.ended() == 0


@pytest.mark.slow
async def test_a_hanging_model_costs_its_event_and_not_its_worker(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    config = processes.write_config(
        tmp_path, broker, hanging=True, pipeline_extra="limits = { run_seconds = 1.0 }\n"
    )
    await cloud.escalate(link, range(1, 10))
    await cloud.escalate(link, [0], first=ml.POISON)
    await cloud.escalate(link, range(10, 20))
    running = processes.worker_process(config)
    found = {result.event_id: result for result in await cloud.results(jetstream, 20)}
    dead = found.pop(cloud.event_id(0))
    assert dead.error is not None
    assert dead.error.code == "teacher_timed_out"
    assert {result.status for result in found.values()} == {Status.FINAL}
    await cloud.until_settled(jetstream)
    running.popen.send_signal(signal.SIGTERM)
    assert await running.ended() == 0


@pytest.mark.slow
async def test_a_worker_that_cannot_end_a_run_ends_itself_and_then_runs_it_apart(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    """Native code that hangs within one node: the watchdog stands outside the loop."""
    config = processes.write_config(
        tmp_path, broker, pipeline_extra="limits = { run_seconds = 1.0 }\n"
    )
    environment = processes.aborting(tmp_path / "hang")
    await cloud.escalate(link, [0], first=667.0)
    assert await processes.worker_process(config, environment).ended() == STALLED_EXIT
    running = processes.worker_process(config, environment)
    await cloud.escalate(link, range(1, 20))
    found = {result.event_id: result for result in await cloud.results(jetstream, 20)}
    dead = found.pop(cloud.event_id(0))
    assert dead.error is not None
    assert dead.error.code == "teacher_timed_out"
    assert {result.status for result in found.values()} == {Status.FINAL}
    running.popen.send_signal(signal.SIGTERM)
    assert await running.ended() == 0


@pytest.mark.slow
async def test_a_broker_that_cannot_prove_its_durability_is_refused(tmp_path: Path) -> None:
    with LocalBroker(tmp_path / "nats", sync="2m") as weak:
        config = processes.write_config(tmp_path, weak)
        refused = processes.worker_process(config)
        assert await refused.ended() == 1
    assert "sync_interval: always" in refused.log.read_text(encoding="utf-8")


@pytest.mark.slow
async def test_a_worker_started_before_its_broker_waits_for_it(
    tmp_path: Path, broker: LocalBroker
) -> None:
    broker.kill()
    running = processes.worker_process(processes.write_config(tmp_path, broker))
    await running.until("link_down")
    broker.start()
    await running.until("worker_ready")
    running.popen.send_signal(signal.SIGTERM)
    assert await running.ended() == 0
    assert running.events()[-1]["event"] in {"worker_stopped", "link_down"}
