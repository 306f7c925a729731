"""What every client does: the real one with broker and agent, and the fake one of testing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_agent import FakeAgent, Judge, easy, hard

from setsuden.client import (
    Answer,
    AsyncClient,
    Client,
    Handle,
    InvalidEventError,
    InvalidTensorError,
    ResultTimeoutError,
    SetsudenError,
    Status,
    UnavailableError,
    UnknownPipelineError,
)
from setsuden.link import JetStream, Link
from setsuden.schemas.streams import StreamBounds, all_streams
from setsuden.testing import Event, FakeAsyncClient, FakeClient, LocalBroker

DEVICES = ("dev-1", "dev-2")
DEVICE = DEVICES[0]


class Implementation:
    """Makes clients of one implementation, whose events ``judge`` answers."""

    def __init__(
        self, client: Callable[..., AsyncClient], sync_client: Callable[..., Client]
    ) -> None:
        self.client = client
        self.sync_client = sync_client
        self.judge: Judge = easy

    def statuses(self, event: Event) -> Iterable[Status]:
        return self.judge(event)

    def answers(self, event: Event) -> dict[Status, Answer | None]:
        size = len(event.data)
        answer = Answer(label=str(size), index=size, confidence=0.9)
        return dict.fromkeys(self.statuses(event), answer)


async def real(folder: Path, ends: AsyncExitStack) -> Implementation:
    """Clients of a real broker, at which an agent of the wire protocol listens."""
    broker = ends.enter_context(LocalBroker(folder / "nats"))
    link = Link(broker.options, "test")
    ends.push_async_callback(link.close)
    link.start()
    jetstream = JetStream(link)
    await jetstream.start()
    await link.wait_up(10)
    for stream in all_streams(StreamBounds()):
        await jetstream.apply_stream(stream)
    made = Implementation(
        lambda **options: AsyncClient(broker.url, **options),
        lambda **options: Client(broker.url, **options),
    )
    for device in DEVICES:
        agent = FakeAgent(link, jetstream, device, made.statuses)
        await agent.start()
        ends.push_async_callback(agent.stop)
    return made


async def fake(_folder: Path, _ends: AsyncExitStack) -> Implementation:
    """Clients that answer by themselves."""
    made = Implementation(
        lambda **options: FakeAsyncClient(made.answers, **options),
        lambda **options: FakeClient(made.answers, **options),
    )
    return made


@pytest.fixture(params=[real, fake], ids=["real", "fake"])
async def implementation(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Implementation]:
    """Each implementation in turn."""
    async with AsyncExitStack() as ends:
        yield await request.param(tmp_path, ends)


@pytest.fixture
async def client(implementation: Implementation) -> AsyncIterator[AsyncClient]:
    """A started client."""
    async with implementation.client(device=DEVICE) as started:
        yield started


# -- results ------------------------------------------------------------------------------------


async def test_an_easy_event_ends_in_its_final_result(client: AsyncClient) -> None:
    handle = await client.submit("digits", b"abc")
    result = await handle.result(timeout=10)
    assert (result.status, result.pipeline, result.device) == (Status.FINAL, "digits", DEVICE)
    assert result.answer is not None
    assert result.answer.index == len(b"abc")
    assert (handle.event_id, handle.trace_id) == (result.event_id, result.trace_id)
    assert result.idempotency_key == handle.idempotency_key
    assert handle.done


async def test_a_hard_event_gives_its_provisional_answer_then_its_final_one(
    client: AsyncClient, implementation: Implementation
) -> None:
    implementation.judge = hard
    handle = await client.submit("digits", b"abc")
    statuses = [update.status async for update in handle]
    assert statuses == [Status.PROVISIONAL, Status.FINAL]
    assert [update.status async for update in handle] == statuses


async def test_the_trace_of_a_traceparent_goes_on(client: AsyncClient) -> None:
    handle = await client.submit("digits", b"", traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
    assert (await handle.result(timeout=10)).trace_id == handle.trace_id == "ab" * 16


async def test_a_repeated_key_gives_the_first_events_result(client: AsyncClient) -> None:
    first = await (await client.submit("digits", b"abc", idempotency_key="k")).result(timeout=10)
    handle = await client.submit("digits", b"abc", idempotency_key="k")
    second = await handle.result(timeout=10)
    assert second.event_id == first.event_id
    assert handle.trace_id == first.trace_id


async def test_equal_observations_without_a_key_are_two_events(client: AsyncClient) -> None:
    handles = [await client.submit("digits", b"abc") for _ in range(2)]
    results = [await handle.result(timeout=10) for handle in handles]
    assert results[0].event_id != results[1].event_id


async def test_one_client_serves_many_devices(client: AsyncClient) -> None:
    handles = [await client.submit("digits", b"abc", device=device) for device in DEVICES]
    results = [await handle.result(timeout=10) for handle in handles]
    assert [result.device for result in results] == list(DEVICES)


async def test_a_dead_final_is_a_result(
    client: AsyncClient, implementation: Implementation
) -> None:
    implementation.judge = lambda _: (Status.DEAD,)
    result = await (await client.submit("digits", b"abc")).result(timeout=10)
    assert result.status is Status.DEAD


async def test_a_late_answer_is_kept_beside_the_expired_final(
    client: AsyncClient, implementation: Implementation
) -> None:
    implementation.judge = lambda _: (Status.PROVISIONAL, Status.SUPERSEDED, Status.EXPIRED)
    handle = await client.submit("digits", b"abc", deadline=timedelta(minutes=1))
    assert (await handle.result(timeout=10)).status is Status.EXPIRED
    statuses = [update.status async for update in handle]
    assert statuses == [Status.PROVISIONAL, Status.EXPIRED, Status.SUPERSEDED]
    assert handle.superseded is not None


# -- refusals and limits ------------------------------------------------------------------------


def refuse(event: Event) -> Iterable[Status]:
    raise UnknownPipelineError("no pipeline 'x' here", field="pipeline", remedy="use digits")


async def test_a_refused_event_raises_its_typed_error_with_the_trace_id(
    client: AsyncClient, implementation: Implementation
) -> None:
    implementation.judge = refuse
    handle = await client.submit("x", b"abc")
    with pytest.raises(UnknownPipelineError, match="use digits") as caught:
        await handle.result(timeout=10)
    assert (caught.value.field, caught.value.trace_id) == ("pipeline", handle.trace_id)
    with pytest.raises(UnknownPipelineError):
        [update async for update in handle]


async def test_no_result_in_time_raises_with_the_trace_id(
    client: AsyncClient, implementation: Implementation
) -> None:
    implementation.judge = lambda _: ()
    handle = await client.submit("digits", b"abc")
    for _ in range(2):
        with pytest.raises(ResultTimeoutError) as caught:
            await handle.result(timeout=timedelta(milliseconds=50))
    assert caught.value.trace_id == handle.trace_id
    assert not handle.done


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
async def test_an_invalid_argument_is_refused_at_once(
    client: AsyncClient, arguments: dict[str, object], field: str
) -> None:
    submission: dict[str, Any] = {"pipeline": "digits", "data": b"abc"} | arguments
    with pytest.raises(InvalidEventError) as caught:
        await client.submit(**submission)
    assert caught.value.field == field
    assert caught.value.trace_id is not None


async def test_a_client_without_a_device_asks_for_one(implementation: Implementation) -> None:
    async with implementation.client() as client:
        with pytest.raises(InvalidEventError, match="device"):
            await client.submit("digits", b"abc")


async def test_text_is_refused_as_an_observation(client: AsyncClient) -> None:
    with pytest.raises(InvalidTensorError, match="neither bytes nor an array"):
        await client.submit("digits", "text")  # type: ignore[arg-type]  # wrong on purpose


async def test_above_the_bound_of_open_handles_submit_waits(implementation: Implementation) -> None:
    implementation.judge = lambda _: (Status.PROVISIONAL,)
    async with implementation.client(device=DEVICE, max_open_handles=1) as client:
        first = await client.submit("digits", b"abc")
        second = asyncio.create_task(client.submit("digits", b"abc"))
        await anext(aiter(first))
        assert not second.done()
        first.close()
        assert not (await second).done
        with pytest.raises(SetsudenError, match="closed"):
            await first.result()


async def test_waiting_for_a_free_handle_ends_at_the_submit_timeout(
    implementation: Implementation,
) -> None:
    implementation.judge = lambda _: (Status.PROVISIONAL,)
    async with implementation.client(
        device=DEVICE, max_open_handles=1, submit_timeout_seconds=0.5
    ) as client:
        await client.submit("digits", b"abc")
        with pytest.raises(UnavailableError, match="max_open_handles"):
            await client.submit("digits", b"abc")


async def test_a_name_that_does_not_fit_into_a_subject_is_refused(
    implementation: Implementation,
) -> None:
    with pytest.raises(InvalidEventError):
        implementation.client(name="my app")


async def test_a_client_that_was_not_started_says_so(implementation: Implementation) -> None:
    with pytest.raises(UnavailableError, match="async with"):
        await implementation.client(device=DEVICE).submit("digits", b"abc")


async def test_closing_wakes_a_task_that_waits_and_leaves_no_task(
    implementation: Implementation,
) -> None:
    before = asyncio.all_tasks()
    implementation.judge = lambda _: (Status.PROVISIONAL,)
    async with implementation.client(device=DEVICE) as client:
        handle = await client.submit("digits", b"abc")
        waiting = asyncio.create_task(handle.result())
        await anext(aiter(handle))
    with pytest.raises(UnavailableError, match="closed") as caught:
        await waiting
    assert caught.value.trace_id == handle.trace_id
    assert asyncio.all_tasks() <= before


# -- from threads -------------------------------------------------------------------------------


async def test_a_thread_submits_iterates_and_waits(implementation: Implementation) -> None:
    implementation.judge = hard

    def statuses() -> list[Status]:
        with implementation.sync_client(device=DEVICE) as client:
            handle = client.submit("digits", b"abc")
            updates = [update.status for update in handle]
            assert handle.result(timeout=10).event_id == handle.event_id
            assert handle.done
            assert (len(handle.trace_id), handle.superseded) == (32, None)
            return updates

    assert await asyncio.to_thread(statuses) == [Status.PROVISIONAL, Status.FINAL]


async def test_many_threads_share_one_client(implementation: Implementation) -> None:
    def event_ids() -> list[str]:
        with implementation.sync_client(device=DEVICE) as client, ThreadPoolExecutor(8) as pool:
            submits = [pool.submit(client.submit, "digits", bytes(n)) for n in range(64)]
            return [future.result().result(timeout=30).event_id for future in submits]

    assert len(set(await asyncio.to_thread(event_ids))) == 64


async def test_a_thread_gets_typed_errors(implementation: Implementation) -> None:
    implementation.judge = lambda _: ()

    def closed_handle() -> Handle:
        with implementation.sync_client(device=DEVICE) as client:
            with pytest.raises(InvalidEventError):
                client.submit("a b", b"abc")
            handle = client.submit("digits", b"abc")
            with pytest.raises(ResultTimeoutError) as caught:
                handle.result(timeout=0.05)
            assert caught.value.trace_id == handle.trace_id
            handle.close()
        return handle

    handle = await asyncio.to_thread(closed_handle)
    with pytest.raises(UnavailableError, match="closed"):
        await asyncio.to_thread(handle.result)


async def test_closing_wakes_a_thread_that_waits(implementation: Implementation) -> None:
    implementation.judge = lambda _: (Status.PROVISIONAL,)

    def error_of_waiting() -> BaseException | None:
        client = implementation.sync_client(device=DEVICE)
        client.start()
        handle = client.submit("digits", b"abc")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(handle.result)
            client.close()
            return waiting.exception(timeout=30)

    assert isinstance(await asyncio.to_thread(error_of_waiting), UnavailableError)


async def test_a_client_outside_its_block_says_so(implementation: Implementation) -> None:
    client = implementation.sync_client(device=DEVICE)

    def refused() -> None:
        with pytest.raises(UnavailableError, match="with block"):
            client.submit("digits", b"abc")

    await asyncio.to_thread(refused)
    await asyncio.to_thread(client.start)
    await asyncio.to_thread(client.close)
    await asyncio.to_thread(client.close)
    await asyncio.to_thread(refused)
