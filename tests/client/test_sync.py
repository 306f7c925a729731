"""The synchronous client: the same protocol from ordinary threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.fake_agent import FakeAgent, hard

from setsuden.client import AsyncClient, AsyncHandle, Client, Handle, Status
from setsuden.link import JetStream, Link
from setsuden.schemas.errors import (
    InvalidEventError,
    ResultTimeoutError,
    UnavailableError,
)
from setsuden.testing.broker import LocalBroker

DEVICE = "dev-1"


@pytest.fixture
async def agent(link: Link, jetstream: JetStream) -> AsyncIterator[FakeAgent]:
    """An agent that finds every event hard."""
    running = FakeAgent(link, jetstream, DEVICE, hard)
    await running.start()
    yield running
    await running.stop()


def told_by(broker: LocalBroker) -> list[Status]:
    with Client(broker.url, device=DEVICE) as client:
        handle = client.submit("digits", b"abc")
        told = [update.status for update in handle]
        assert handle.result(timeout=10).event_id == handle.event_id
        assert handle.done
        assert (len(handle.trace_id), handle.superseded) == (32, None)
        return told


async def test_a_thread_submits_iterates_and_waits(broker: LocalBroker, agent: FakeAgent) -> None:
    assert await asyncio.to_thread(told_by, broker) == [Status.PROVISIONAL, Status.FINAL]


def from_many_threads(broker: LocalBroker) -> list[str]:
    with Client(broker.url, device=DEVICE) as client, ThreadPoolExecutor(8) as pool:
        submits = [pool.submit(client.submit, "digits", bytes(n)) for n in range(64)]
        return [future.result().result(timeout=30).event_id for future in submits]


async def test_many_threads_share_one_client(broker: LocalBroker, agent: FakeAgent) -> None:
    assert len(set(await asyncio.to_thread(from_many_threads, broker))) == 64


def errors_of(broker: LocalBroker) -> Handle:
    with Client(broker.url, device=DEVICE) as client:
        with pytest.raises(InvalidEventError):
            client.submit("a b", b"abc")
        handle = client.submit("digits", b"abc")
        with pytest.raises(ResultTimeoutError) as caught:
            handle.result(timeout=0.05)
        assert caught.value.trace_id == handle.trace_id
        handle.close()
    return handle


async def test_errors_come_through_typed(
    broker: LocalBroker, agent: FakeAgent, jetstream: JetStream
) -> None:
    agent.judge = lambda _: ()
    agent.deaf = True
    handle = await asyncio.to_thread(errors_of, broker)
    with pytest.raises(UnavailableError, match="closed"):
        await asyncio.to_thread(handle.result)


def waits_while_closed(broker: LocalBroker) -> BaseException:
    client = Client(broker.url, device=DEVICE)
    client.start()
    handle = client.submit("digits", b"abc")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handle.result)
        client.close()
        error = waiting.exception(timeout=30)
    assert error is not None
    return error


async def test_closing_wakes_a_thread_that_waits(
    broker: LocalBroker, agent: FakeAgent, jetstream: JetStream
) -> None:
    agent.judge = lambda _: (Status.PROVISIONAL,)
    error = await asyncio.to_thread(waits_while_closed, broker)
    assert isinstance(error, UnavailableError)
    assert "setsuden-client" not in {thread.name for thread in threading.enumerate()}


def test_a_client_outside_its_block_says_so(broker: LocalBroker) -> None:
    client = Client(broker.url, device=DEVICE)
    with pytest.raises(UnavailableError, match="with block"):
        client.submit("digits", b"abc")
    with client:
        pass
    client.close()
    with pytest.raises(UnavailableError, match="with block"):
        client.submit("digits", b"abc")


@pytest.mark.parametrize(("sync", "asynchronous"), [(Client, AsyncClient), (Handle, AsyncHandle)])
def test_both_clients_have_the_same_methods(sync: type, asynchronous: type) -> None:
    def signatures(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and name != "update"
        }

    assert signatures(sync) == signatures(asynchronous)
