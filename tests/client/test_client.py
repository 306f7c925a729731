"""The client against a real broker and a small agent that speaks our wire protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta

import pytest
from tests.support.fake_agent import FakeAgent, hard, result_of

from setsuden.client import AsyncClient, LinkOptions, Status
from setsuden.link import JetStream, Link
from setsuden.schemas import subjects
from setsuden.schemas.errors import (
    ConfigError,
    ForbiddenError,
    InvalidEventError,
    InvalidTensorError,
    NotDurableError,
    ResultTimeoutError,
    SetsudenError,
    StreamFullError,
    UnavailableError,
    UnknownPipelineError,
)
from setsuden.schemas.event import Event
from setsuden.schemas.streams import EVENTS, StreamBounds, events
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


async def stored_events(jetstream: JetStream) -> int:
    info = await jetstream.api(f"STREAM.INFO.{EVENTS}")
    return int(info["state"]["messages"])


# -- the main path ------------------------------------------------------------------------------


async def test_an_easy_event_ends_in_its_final_result(
    client: AsyncClient, agent: FakeAgent
) -> None:
    handle = await client.submit("digits", b"abc")
    result = await handle.result(timeout=10)
    assert (result.status, result.pipeline, result.device) == (Status.FINAL, "digits", DEVICE)
    assert result.answer is not None
    assert result.answer.index == len(b"abc")
    assert (handle.event_id, handle.trace_id) == (result.event_id, result.trace_id)
    assert handle.done


async def test_a_hard_event_gives_its_provisional_answer_then_its_final_one(
    client: AsyncClient, agent: FakeAgent
) -> None:
    agent.judge = hard
    handle = await client.submit("digits", b"abc")
    told = [update.status async for update in handle]
    assert told == [Status.PROVISIONAL, Status.FINAL]
    again = [update.status async for update in handle]
    assert again == told


async def test_the_event_on_the_wire_says_all_that_was_asked(
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


async def test_a_repeated_key_gives_the_first_events_result(
    client: AsyncClient, agent: FakeAgent
) -> None:
    first = await (await client.submit("digits", b"abc", idempotency_key="k")).result(timeout=10)
    handle = await client.submit("digits", b"abc", idempotency_key="k")
    second = await handle.result(timeout=10)
    assert second.event_id == first.event_id
    assert handle.trace_id == first.trace_id
    assert len(agent.results) == 1


async def test_equal_observations_without_a_key_are_two_events(
    client: AsyncClient, agent: FakeAgent
) -> None:
    handles = [await client.submit("digits", b"abc") for _ in range(2)]
    results = [await handle.result(timeout=10) for handle in handles]
    assert results[0].event_id != results[1].event_id


async def test_a_thousand_submits_at_once_end_in_a_thousand_results(
    client: AsyncClient, agent: FakeAgent
) -> None:
    agent.judge = hard
    handles = await asyncio.gather(*(client.submit("digits", bytes(n)) for n in range(1000)))
    results = await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
    assert [result.answer and result.answer.index for result in results] == list(range(1000))
    assert len({result.event_id for result in results}) == 1000


async def test_one_client_serves_many_devices(
    client: AsyncClient, agent: FakeAgent, link: Link, jetstream: JetStream
) -> None:
    other = FakeAgent(link, jetstream, "dev-2")
    await other.start()
    results = await asyncio.gather(
        *[(await client.submit("digits", b"abc", device=device)).result(timeout=10)
          for device in (DEVICE, "dev-2")]
    )  # fmt: skip
    assert [result.device for result in results] == [DEVICE, "dev-2"]
    await other.stop()


# -- refusals and limits ------------------------------------------------------------------------


async def test_a_refused_event_raises_its_typed_error_with_the_trace_id(
    client: AsyncClient, agent: FakeAgent
) -> None:
    def refuse(event: Event) -> Iterable[Status]:
        raise UnknownPipelineError("no pipeline 'x' here", field="pipeline", remedy="use digits")

    agent.judge = refuse
    handle = await client.submit("x", b"abc")
    with pytest.raises(UnknownPipelineError, match="use digits") as caught:
        await handle.result(timeout=10)
    assert (caught.value.field, caught.value.trace_id) == ("pipeline", handle.trace_id)
    with pytest.raises(UnknownPipelineError):
        [update async for update in handle]


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


async def test_a_dead_final_is_a_result(client: AsyncClient, agent: FakeAgent) -> None:
    agent.judge = lambda _: (Status.DEAD,)
    result = await (await client.submit("digits", b"abc")).result(timeout=10)
    assert result.status is Status.DEAD


async def test_a_late_answer_is_kept_beside_the_expired_final(
    client: AsyncClient, agent: FakeAgent
) -> None:
    agent.judge = lambda _: (Status.PROVISIONAL, Status.SUPERSEDED, Status.EXPIRED)
    handle = await client.submit("digits", b"abc", deadline=60)
    assert (await handle.result(timeout=10)).status is Status.EXPIRED
    told = [update.status async for update in handle]
    assert told == [Status.PROVISIONAL, Status.EXPIRED, Status.SUPERSEDED]
    assert handle.superseded is not None


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"pipeline": "a.b"}, "pipeline"),
        ({"pipeline": "digits\n"}, "pipeline"),
        ({"device": "*"}, "device"),
        ({"priority": 10}, "priority"),
        ({"deadline": -1.0}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"deadline": 1e300}, "deadline"),
        ({"deadline": 200 * 365.25 * 86_400}, "deadline"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "k" * 257}, "idempotency_key"),
        ({"content_type": "x" * 300}, "content_type"),
    ],
)
async def test_what_cannot_be_an_event_is_refused_at_once(
    client: AsyncClient, arguments: dict[str, object], field: str
) -> None:
    wanted: dict[str, object] = {"pipeline": "digits", "data": b"abc"} | arguments
    with pytest.raises(InvalidEventError) as caught:
        await client.submit(**wanted)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.field == field
    assert caught.value.trace_id is not None


async def test_a_client_without_a_device_asks_for_one(broker: LocalBroker) -> None:
    async with AsyncClient(broker.url) as client:
        with pytest.raises(InvalidEventError, match="device"):
            await client.submit("digits", b"abc")


async def test_what_is_no_observation_is_refused(client: AsyncClient) -> None:
    with pytest.raises(InvalidTensorError, match="neither bytes nor an array"):
        await client.submit("digits", "text")  # type: ignore[arg-type]  # wrong on purpose


async def test_over_the_bound_of_open_handles_submit_waits(
    broker: LocalBroker, agent: FakeAgent
) -> None:
    agent.judge = lambda _: (Status.PROVISIONAL,)
    async with AsyncClient(broker.url, device=DEVICE, max_open_handles=1) as client:
        first = await client.submit("digits", b"abc")
        second = asyncio.create_task(client.submit("digits", b"abc"))
        await anext(aiter(first))
        assert not second.done()
        first.close()
        assert not (await second).done
        with pytest.raises(SetsudenError, match="closed"):
            await first.result()


async def test_waiting_for_a_place_ends_at_the_submit_timeout(
    broker: LocalBroker, agent: FakeAgent
) -> None:
    agent.judge = lambda _: (Status.PROVISIONAL,)
    async with AsyncClient(
        broker.url, device=DEVICE, max_open_handles=1, submit_timeout_seconds=0.5
    ) as client:
        await client.submit("digits", b"abc")
        with pytest.raises(UnavailableError, match="max_open_handles"):
            await client.submit("digits", b"abc")


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


async def test_without_a_broker_submit_ends_at_its_timeout_with_the_way_on(
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


def test_a_wrong_address_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match="nats://"):
        AsyncClient("http://127.0.0.1:4222")


def test_a_name_that_cannot_stand_in_a_subject_is_told_at_once() -> None:
    with pytest.raises(InvalidEventError):
        AsyncClient(name="my app")


async def test_a_client_that_was_not_started_says_so() -> None:
    with pytest.raises(UnavailableError, match="async with"):
        await AsyncClient(device=DEVICE).submit("digits", b"abc")


async def test_closing_tells_whoever_waits_and_leaves_no_task(
    broker: LocalBroker, agent: FakeAgent
) -> None:
    before = asyncio.all_tasks()
    agent.judge = lambda _: (Status.PROVISIONAL,)
    async with AsyncClient(broker.url, device=DEVICE) as client:
        handle = await client.submit("digits", b"abc")
        waiting = asyncio.create_task(handle.result())
        await anext(aiter(handle))
    with pytest.raises(UnavailableError, match="closed") as caught:
        await waiting
    assert caught.value.trace_id == handle.trace_id
    assert asyncio.all_tasks() <= before


async def test_a_foreign_word_on_the_reply_subject_is_no_answer(
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
