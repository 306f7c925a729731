"""The real client: its wire format, and how brokers refuse it; test_contract.py has the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.support.fake_agent import FakeAgent, hard, result_of

from setsuden.client import AsyncClient, LinkOptions, Status
from setsuden.link import JetStream, Link
from setsuden.schemas import subjects
from setsuden.schemas.errors import (
    ConfigError,
    ForbiddenError,
    NotDurableError,
    ResultTimeoutError,
    StreamFullError,
    UnavailableError,
)
from setsuden.schemas.streams import StreamBounds, events
from setsuden.testing.broker import LocalBroker

DEVICE = "dev-1"


@pytest.fixture
async def agent(link: Link, jetstream: JetStream) -> AsyncIterator[FakeAgent]:
    """An agent that finds every event easy."""
    running = FakeAgent(link, jetstream, DEVICE)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def client(broker: LocalBroker, jetstream: JetStream) -> AsyncIterator[AsyncClient]:
    """A client of the same broker."""
    async with AsyncClient(broker.url, device=DEVICE) as ready:
        yield ready


# -- the main path ------------------------------------------------------------------------------


async def test_the_event_on_the_wire_has_every_argument(
    client: AsyncClient, agent: FakeAgent
) -> None:
    handle = await client.submit(
        "digits",
        b"\x00\xff",
        device=DEVICE,
        content_type="image/png",
        deadline=timedelta(seconds=90),
        idempotency_key="order 7",
        priority=5,
    )
    await handle.result(timeout=10)
    event = agent.events[0]
    assert (event.data, event.content_type, event.priority) == (b"\x00\xff", "image/png", 5)
    assert (event.idempotency_key, event.tensor_header_bytes) == ("order 7", None)
    assert event.trace_id == handle.trace_id
    assert (event.deadline, event.ttl_ms) == (None, 90_000)
    assert event.reply is not None
    assert subjects.is_reply_of(event.reply, DEVICE)


async def test_the_applications_own_trace_goes_on(client: AsyncClient, agent: FakeAgent) -> None:
    context = f"00-{'ab' * 16}-{'cd' * 8}-01"
    handle = await client.submit("digits", b"abc", traceparent=context)
    assert handle.trace_id == "ab" * 16
    assert (await handle.result(timeout=10)).trace_id == "ab" * 16
    assert (agent.events[0].traceparent, agent.events[0].trace_id) == (context, None)


async def test_a_malformed_traceparent_starts_a_new_trace(
    client: AsyncClient, agent: FakeAgent
) -> None:
    handle = await client.submit("digits", b"abc", traceparent="00-zz")
    assert (await handle.result(timeout=10)).trace_id == handle.trace_id == agent.events[0].trace_id


async def test_a_thousand_submits_at_once_end_in_a_thousand_results(
    client: AsyncClient, agent: FakeAgent
) -> None:
    agent.judge = hard
    handles = await asyncio.gather(*(client.submit("digits", bytes(n)) for n in range(1000)))
    results = await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
    assert [result.answer and result.answer.index for result in results] == list(range(1000))
    assert len({result.event_id for result in results}) == 1000


# -- refusals and limits ------------------------------------------------------------------------


async def test_no_result_in_time_raises_with_the_trace_id_and_may_be_waited_for_again(
    client: AsyncClient, agent: FakeAgent
) -> None:
    agent.judge = lambda _: (Status.PROVISIONAL,)
    handle = await client.submit("digits", b"abc")
    with pytest.raises(ResultTimeoutError) as caught:
        await handle.result(timeout=timedelta(milliseconds=50))
    assert caught.value.trace_id == handle.trace_id
    await agent.seen(1)
    (provisional,) = agent.results.values()
    await agent.store(provisional.model_copy(update={"status": Status.FINAL}))
    assert (await handle.result(timeout=30)).is_final


async def test_a_full_stream_refuses_with_the_trace_id(
    client: AsyncClient, jetstream: JetStream
) -> None:
    await jetstream.apply_stream(events(StreamBounds(events_max_bytes=1 << 16)))
    await client.submit("digits", bytes(40_000))
    with pytest.raises(StreamFullError) as caught:
        await client.submit("digits", bytes(40_000))
    assert caught.value.trace_id is not None


async def test_an_observation_over_max_payload_is_refused_and_the_link_stays(
    client: AsyncClient, agent: FakeAgent
) -> None:
    with pytest.raises(ForbiddenError, match="max_payload") as caught:
        await client.submit("digits", bytes(1_048_576))
    assert caught.value.trace_id is not None
    with pytest.raises(ForbiddenError, match="max_payload"):
        await client.submit("digits", bytes(1_048_570))  # fits without its headers
    assert (await (await client.submit("digits", b"abc")).result(timeout=10)).is_final


async def test_without_a_broker_submit_ends_at_its_timeout_with_a_remedy(
    broker: LocalBroker,
) -> None:
    broker.kill()
    async with AsyncClient(broker.url, device=DEVICE, submit_timeout_seconds=0.3) as client:
        with pytest.raises(UnavailableError, match="idempotency_key='mine'") as caught:
            await client.submit("digits", b"abc", idempotency_key="mine")
    assert caught.value.trace_id is not None


async def test_without_a_stream_submit_says_so(broker: LocalBroker) -> None:
    async with AsyncClient(broker.url, device=DEVICE, submit_timeout_seconds=0.5) as client:
        with pytest.raises(UnavailableError, match="no stream"):
            await client.submit("digits", b"abc")


async def test_strict_options_are_kept(broker: LocalBroker) -> None:
    strict = LinkOptions(urls=(broker.url,))
    async with AsyncClient(options=strict, device=DEVICE) as client:
        with pytest.raises(NotDurableError, match="monitor_url") as caught:
            await client.submit("digits", b"abc")
    assert caught.value.trace_id is not None


def test_a_wrong_address_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="nats://"):
        AsyncClient("http://127.0.0.1:4222")


async def test_a_foreign_message_on_the_reply_subject_is_ignored(
    client: AsyncClient, agent: FakeAgent, link: Link
) -> None:
    agent.judge = lambda _: (Status.PROVISIONAL,)
    handle = await client.submit("digits", b"abc")
    await anext(aiter(handle))
    event = agent.events[0]
    assert event.reply is not None
    prefix = event.reply.rsplit(".", 1)[0]
    for subject in (event.reply, f"{prefix}.zz", f"{prefix}.1-x"):
        for body in (b"", b"{", b"[]", b'{"error": 7}', b"\xff" * 100, bytes(1 << 19)):
            await link.send(subject, body)
    final = result_of(event, handle.event_id or "", Status.FINAL)
    await link.send(event.reply, final.model_dump_json().encode())
    assert (await handle.result(timeout=10)).status is Status.FINAL
