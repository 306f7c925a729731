"""An agent whose broker is full, or whose cloud is away: nothing is lost, doubled or silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support import cloud, ml
from tests.support.agent import DEVICE, AgentProcess, config

from setsuden.client import AsyncClient
from setsuden.link import JetStream, Link
from setsuden.schemas.result import Status, Tier
from setsuden.testing.broker import LocalBroker


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[AgentProcess]]:
    """Killed at the end."""
    started: list[AgentProcess] = []
    yield started
    for agent in started:
        agent.kill()


async def started(
    agents: list[AgentProcess],
    tmp_path: Path,
    broker: LocalBroker,
    threshold: float,
    escalation: str = "lookup_seconds = 1.0",
) -> AgentProcess:
    folder = ml.write_bundle(tmp_path / "bundle", student=True)
    gate = f"gate = {{ threshold = {threshold} }}"
    text = config(
        broker=broker,
        bundle=folder,
        pipeline=cloud.PIPELINE,
        pipeline_extra=gate,
        escalation=escalation,
    )
    agents.append(AgentProcess(tmp_path / "agent", text))
    await asyncio.to_thread(agents[-1].start)
    return agents[-1]


@asynccontextmanager
async def without_room(jetstream: JetStream, stream: str) -> AsyncIterator[None]:
    """The stream takes nothing until the end."""
    declared = (await jetstream.api(f"STREAM.INFO.{stream}"))["config"]
    await jetstream.api(f"STREAM.UPDATE.{stream}", declared | {"max_bytes": 1})
    yield
    await jetstream.api(f"STREAM.UPDATE.{stream}", declared)


async def messages(jetstream: JetStream, stream: str) -> int:
    return int((await jetstream.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


async def test_events_that_wait_for_a_worker_have_one_copy_each_and_run_once(
    agents: list[AgentProcess], tmp_path: Path, broker: LocalBroker, jetstream: JetStream
) -> None:
    often = "lookup_seconds = 0.1\nredrive_seconds = 0.1"
    agent = await started(agents, tmp_path, broker, 1.0, escalation=often)
    for index in range(10):
        await asyncio.to_thread(agent.event, ml.observation(index))
    await asyncio.to_thread(
        agent.until, lambda: agent.metric("setsuden_escalations_sent_total") >= 40
    )
    assert await messages(jetstream, "ESC") == 10
    async with cloud.bench(tmp_path / "cloud", broker) as bench:
        worker = await bench.start()
        records = await cloud.results(jetstream, 10)
        await cloud.until_settled(jetstream)
        assert worker.counters.answered == 10
    assert {record.status for record in records} == {Status.FINAL}


async def test_a_full_escalation_stream_is_said_and_its_events_wait(
    agents: list[AgentProcess], tmp_path: Path, broker: LocalBroker, jetstream: JetStream
) -> None:
    agent = await started(agents, tmp_path, broker, 1.0)
    async with without_room(jetstream, "ESC"):
        status, _ = await asyncio.to_thread(agent.event, ml.observation(0))
        assert status == 202
        refuses = "setsuden_broker_refuses"
        await asyncio.to_thread(agent.until, lambda: agent.metric(refuses) == 1)
        told = await asyncio.to_thread(agent.ready)
        assert told is not None
        assert (told["ready"], told["status"]) == (True, "degraded")
        assert not told["checks"]["broker"]["ok"]
        assert "broker_stores_no_more" in agent.log()
    async with cloud.bench(tmp_path / "cloud", broker) as bench:
        await bench.start()
        (record,) = await cloud.results(jetstream, 1)
    assert record.tier is Tier.CLOUD
    await asyncio.to_thread(agent.until, lambda: agent.metric(refuses) == 0)


async def test_easy_finals_that_a_full_stream_refused_are_stored_when_there_is_room(
    agents: list[AgentProcess], tmp_path: Path, broker: LocalBroker, jetstream: JetStream
) -> None:
    agent = await started(agents, tmp_path, broker, 0.0)
    async with AsyncClient(options=broker.options, device=DEVICE) as client:
        async with without_room(jetstream, "RES"):
            handle = await client.submit(cloud.PIPELINE, ml.observation(0))
            result = await handle.result(timeout=20)
            assert (result.status, result.tier) == (Status.FINAL, Tier.EDGE)
            await asyncio.to_thread(
                agent.until, lambda: agent.metric("setsuden_broker_refuses") == 1
            )
            assert await messages(jetstream, "RES") == 0
        (record,) = await cloud.results(jetstream, 1)
    assert record.event_id == result.event_id


async def test_an_event_that_is_refused_and_has_nobody_to_tell_is_a_dead_letter(
    agents: list[AgentProcess],
    tmp_path: Path,
    broker: LocalBroker,
    jetstream: JetStream,
    link: Link,
) -> None:
    """Plain publishers of other languages read no answer: what was wrong must stand somewhere."""
    await started(agents, tmp_path, broker, 0.0)
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "plc", "ce-type": "reading"}
    await link.store(f"evt.{cloud.PIPELINE}.{DEVICE}", b"three", headers=headers)

    async def buried() -> bool:
        return await messages(jetstream, "DEAD") == 1

    await cloud.eventually(buried, 20)
    (letter,) = await cloud.stored(jetstream, "DEAD", "dead.>")
    assert b"observation" in letter.data or b"bytes" in letter.data, letter.data


async def test_a_store_that_was_wiped_is_noticed_by_its_device(
    agents: list[AgentProcess],
    tmp_path: Path,
    broker: LocalBroker,
    jetstream: JetStream,
    link: Link,
) -> None:
    agent = await started(agents, tmp_path, broker, 0.0)
    declared = (await jetstream.api("STREAM.INFO.EVT"))["config"]
    async with AsyncClient(options=broker.options, device=DEVICE) as client:
        before = await (await client.submit(cloud.PIPELINE, ml.observation(0))).result(timeout=20)
        await jetstream.api("STREAM.DELETE.EVT")
        await jetstream.api("STREAM.CREATE.EVT", declared)
        after = await (await client.submit(cloud.PIPELINE, ml.observation(1))).result(timeout=60)
    assert after.status is Status.FINAL
    assert before.answer is not None
    assert after.answer is not None
    assert before.answer.label != after.answer.label
    records = await cloud.records(jetstream)
    assert {record.event_id for record in records} == {before.event_id, after.event_id}
    assert await asyncio.to_thread(agent.metric, "setsuden_streams_replaced_total") == 1
    assert "events_stream_is_new" in agent.log()


async def test_what_a_new_stream_held_before_it_was_noticed_is_accepted_once(
    agents: list[AgentProcess], tmp_path: Path, broker: LocalBroker, jetstream: JetStream
) -> None:
    """Its first event looks like the first of the stream before it: nobody can tell them apart."""
    agent = await started(agents, tmp_path, broker, 0.0)
    declared = (await jetstream.api("STREAM.INFO.EVT"))["config"]
    await jetstream.api("STREAM.DELETE.EVT")
    await jetstream.api("STREAM.CREATE.EVT", declared)
    async with AsyncClient(options=broker.options, device=DEVICE) as client:
        await (await client.submit(cloud.PIPELINE, ml.observation(0))).result(timeout=20)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await (await client.submit(cloud.PIPELINE, ml.observation(1))).result(timeout=60)
    assert await asyncio.to_thread(agent.metric, "setsuden_streams_replaced_total") == 1
    assert await asyncio.to_thread(agent.metric, "setsuden_accepted_events_total") == 2
    assert len(await cloud.results(jetstream, 2)) == 2
