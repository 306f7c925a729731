"""The client when messages, links and brokers are lost: one result for each event, never two."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from tests.support.fake_agent import FakeAgent, hard, result_of
from tests.support.proxy import Proxy

from setsuden.client import AsyncClient, AsyncHandle, Status, _follower
from setsuden.link import JetStream, Link
from setsuden.schemas.energy import EnergyReading
from setsuden.schemas.errors import UnavailableError
from setsuden.schemas.event import Event
from setsuden.schemas.refusal import Refusal
from setsuden.schemas.result import Energy, Result
from setsuden.testing.broker import LocalBroker

DEVICE = "dev-1"


@pytest.fixture
async def agent(link: Link, jetstream: JetStream) -> AsyncIterator[FakeAgent]:
    """An agent that finds every event hard."""
    running = FakeAgent(link, jetstream, DEVICE, hard)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def proxy(broker: LocalBroker) -> AsyncIterator[Proxy]:
    """Stands between client and broker."""
    async with Proxy(broker.port) as ready:
        yield ready


@pytest.fixture
async def client(proxy: Proxy, jetstream: JetStream) -> AsyncIterator[AsyncClient]:
    """A client behind the proxy."""
    async with AsyncClient(proxy.url, device=DEVICE, submit_timeout_seconds=30) as ready:
        yield ready


async def results_of(handles: list[AsyncHandle]) -> list[Result]:
    return list(await asyncio.gather(*(handle.result(timeout=120) for handle in handles)))


async def test_a_broker_killed_in_the_middle_loses_and_doubles_nothing(
    broker: LocalBroker, agent: FakeAgent, jetstream: JetStream
) -> None:
    async with AsyncClient(broker.url, device=DEVICE, submit_timeout_seconds=60) as client:
        submits = [asyncio.create_task(client.submit("digits", bytes(n))) for n in range(100)]
        await agent.seen(20)
        submits += [asyncio.create_task(client.submit("digits", bytes(n))) for n in range(100, 200)]
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        results = await results_of(list(await asyncio.gather(*submits)))
    assert [result.status for result in results] == [Status.FINAL] * 200
    assert [result.answer and result.answer.index for result in results] == list(range(200))
    assert len({result.event_id for result in results}) == 200
    # An id is stored once; a copy submitted again has its own id and the same key.
    assert len(agent.results) == 200
    names = Counter(f"{event.id} {event.reply}" for event in agent.events)
    assert max(names.values()) == 1


async def test_a_link_cut_before_the_agent_answered_is_recovered(
    client: AsyncClient, proxy: Proxy, agent: FakeAgent
) -> None:
    agent.deaf = True
    handle = await client.submit("digits", b"abc")
    await agent.seen(1)
    agent.deaf = False
    proxy.reset()
    result = await handle.result(timeout=30)
    assert result.status is Status.FINAL
    assert len(agent.results) == 1
    assert [event.idempotency_key for event in agent.events[:2]] == [handle.idempotency_key] * 2


async def test_an_event_whose_ack_was_lost_is_stored_once(
    client: AsyncClient, proxy: Proxy, agent: FakeAgent, jetstream: JetStream
) -> None:
    await (await client.submit("digits", b"first")).result(timeout=10)
    proxy.mute()
    submit = asyncio.create_task(client.submit("digits", b"second"))
    await agent.seen(2)
    proxy.reset()
    proxy.heal()
    await submit
    again = await client.submit("digits", b"third")
    await again.result(timeout=30)
    ids = [event.reply for event in agent.events]
    assert len(ids) == len(set(ids))
    assert (await (await client.submit("digits", b"4")).result(timeout=30)).is_final
    assert len(agent.results) == 4


async def test_a_reconnect_is_enough_to_recover_missed_updates(
    client: AsyncClient, proxy: Proxy, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No check comes due by itself here."""
    monkeypatch.setattr(_follower, "FIRST_CHECK_SECONDS", 1e6)
    monkeypatch.setattr(_follower, "LONGEST_CHECK_SECONDS", 1e6)
    agent.deaf = True
    unheard = await client.submit("digits", b"a")
    await agent.seen(1)
    agent.deaf = False
    agent.judge = lambda _: (Status.PROVISIONAL,)
    half = await client.submit("digits", b"bc")
    provisional = await anext(aiter(half))
    await agent.store(provisional.model_copy(update={"status": Status.FINAL}))
    proxy.reset()
    results = await results_of([unheard, half])
    assert [result.answer and result.answer.index for result in results] == [1, 2]


async def test_a_lost_final_is_found_in_the_results_stream(
    client: AsyncClient, agent: FakeAgent
) -> None:
    agent.judge = lambda _: (Status.PROVISIONAL,)
    handle = await client.submit("digits", b"abc")
    provisional = await anext(aiter(handle))
    final = provisional.model_copy(
        update={"status": Status.FINAL, "source_id": None, "idempotency_key": None}
    )
    await agent.store(final)
    result = await handle.result(timeout=30)
    assert (result.status, result.event_id) == (Status.FINAL, provisional.event_id)
    # The client adds what the cloud never knew.
    assert result.idempotency_key == handle.idempotency_key
    assert result.source_id == provisional.source_id
    assert len(agent.events) == 1


async def test_the_devices_expired_is_final_before_the_clouds_record(
    client: AsyncClient, agent: FakeAgent, link: Link
) -> None:
    agent.judge = lambda _: (Status.PROVISIONAL,)
    handle = await client.submit("digits", b"abc")
    provisional = await anext(aiter(handle))
    expired = provisional.model_copy(update={"status": Status.EXPIRED})
    late = provisional.place.late
    await link.store(late, expired.model_dump_json().encode())
    await agent.store(provisional.model_copy(update={"status": Status.FINAL}))
    assert (await handle.result(timeout=30)).status is Status.EXPIRED
    assert handle.superseded is not None


async def test_an_offline_device_gets_few_copies_and_all_its_answers(
    broker: LocalBroker, link: Link, jetstream: JetStream
) -> None:
    """50 events get no answer; one of them, submitted again, brings back all answers."""
    agent = FakeAgent(link, jetstream, DEVICE, hard)
    agent.deaf = True
    async with AsyncClient(broker.url, device=DEVICE) as client:
        handles = [await client.submit("digits", bytes(n)) for n in range(50)]
        await agent.start()
        await agent.seen(52)  # two copies while the agent is silent
        assert len(agent.events) < 56
        agent.deaf = False
        results = await results_of(handles)
    assert [result.answer and result.answer.index for result in results] == list(range(50))
    assert len(agent.results) == 50
    await agent.stop()


async def test_an_event_is_submitted_again_when_its_agent_was_stopping(
    client: AsyncClient, agent: FakeAgent, link: Link
) -> None:
    agent.deaf = True
    handle = await client.submit("digits", b"abc")
    await agent.seen(1)
    refusal = Refusal.of(UnavailableError("the agent is stopping"))
    reply = agent.events[0].reply
    assert reply is not None
    await link.send(reply, refusal.model_dump_json().encode())
    agent.deaf = False
    assert (await handle.result(timeout=30)).status is Status.FINAL


async def test_a_silent_network_is_noticed_and_every_answer_comes(
    client: AsyncClient, proxy: Proxy, agent: FakeAgent
) -> None:
    first = await client.submit("digits", b"a")
    await first.result(timeout=10)
    proxy.blackhole()
    waiting = asyncio.create_task(client.submit("digits", b"bc"))
    while proxy.accepted < 2:  # the client gave the dead connection up
        async with asyncio.timeout(30):
            await proxy.connected.wait()
            proxy.connected.clear()
    proxy.heal()
    assert (await (await waiting).result(timeout=60)).status is Status.FINAL
    assert len(agent.results) == 2


async def test_a_cloud_record_is_completed_with_the_devices_energy(
    client: AsyncClient, agent: FakeAgent
) -> None:
    def measured(event: Event, event_id: str) -> Result:
        reading = EnergyReading(cpu_seconds=0.25)
        return result_of(event, event_id, Status.PROVISIONAL).model_copy(
            update={"energy": Energy(edge=reading)}
        )

    agent.deaf = True
    handle = await client.submit("digits", b"abc")
    await agent.seen(1)
    event = agent.events[0]
    event_id = next(iter(agent.results.values())).event_id
    agent.results[handle.idempotency_key] = measured(event, event_id)
    agent.deaf = False
    result = await handle.result(timeout=30)
    assert result.status is Status.FINAL
    assert handle.event_id == event_id
