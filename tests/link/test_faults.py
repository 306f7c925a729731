"""The link when servers die and networks go silent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from tests.support.proxy import Proxy

from setsuden.link import Incoming, JetStream, Link, LinkState, Stored
from setsuden.link.messages import Outcome
from setsuden.schemas.errors import UnavailableError
from setsuden.testing.broker import LocalBroker


@pytest.fixture
async def proxy(broker: LocalBroker) -> AsyncIterator[Proxy]:
    """Stands between link and broker."""
    async with Proxy(broker.port) as ready:
        yield ready


@pytest.fixture
async def through(broker: LocalBroker, jetstream: JetStream, proxy: Proxy) -> AsyncIterator[Link]:
    """A link behind the proxy, quick to notice."""
    options = broker.options.model_copy(
        update={
            "urls": (proxy.url,),
            "ping_interval_seconds": 0.3,
            "ping_timeout_seconds": 0.5,
            "connect_timeout_seconds": 1.0,
            "reconnect_max_seconds": 0.2,
        }
    )
    link = Link(options, "behind")
    link.start()
    await link.wait_up(10)
    yield link
    await link.close()


class States:
    """The states of a link as they come."""

    def __init__(self, link: Link) -> None:
        self._told: asyncio.Queue[LinkState] = asyncio.Queue()
        link.listen(self._told.put_nowait)

    async def until(self, state: LinkState, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while await self._told.get() is not state:
                pass


async def test_a_killed_broker_is_noticed_at_once_and_found_again(
    broker: LocalBroker, link: Link
) -> None:
    states = States(link)
    await asyncio.to_thread(broker.kill)
    await states.until(LinkState.DOWN, 2)
    await asyncio.to_thread(broker.start)
    await link.wait_up(30)
    assert link.connections == 2


async def test_waiting_for_a_lost_link_waits_and_does_not_spin(
    broker: LocalBroker, link: Link
) -> None:
    """A retry loop of store and wait_up once kept the supervisor from ever running."""
    assert link._connection is not None
    link._connection.lost.set()
    with pytest.raises(UnavailableError):
        await link.store("evt.p.d", b"")
    await link.wait_up(30)
    assert link.connections == 2


async def test_stores_in_flight_are_told_once_and_promptly_when_the_broker_dies(
    broker: LocalBroker, link: Link, jetstream: JetStream
) -> None:
    told: Counter[int] = Counter()
    outcomes: list[Outcome] = []
    first, all_told = asyncio.Event(), asyncio.Event()

    def done(number: int, outcome: Outcome) -> None:
        told[number] += 1
        outcomes.append(outcome)
        first.set()
        if len(told) == 500:
            all_told.set()

    for n in range(500):
        await link.post("evt.p.d", bytes(1000), None, lambda outcome, n=n: done(n, outcome))  # type: ignore[misc]
        if n == 100:
            await first.wait()
            await asyncio.to_thread(broker.kill)
    async with asyncio.timeout(link.options.publish_timeout_seconds):
        await all_told.wait()
    assert set(told.values()) == {1}
    kept = sum(isinstance(outcome, Stored) for outcome in outcomes)
    assert all(isinstance(outcome, Stored | UnavailableError) for outcome in outcomes)
    await asyncio.to_thread(broker.start)
    await link.wait_up(30)
    info = await jetstream.api("STREAM.INFO.EVT")
    assert info["state"]["messages"] >= kept > 0


async def test_stores_whose_acks_are_lost_with_the_link_are_told_at_once(
    through: Link, proxy: Proxy, jetstream: JetStream, link: Link
) -> None:
    stored: asyncio.Queue[Incoming] = asyncio.Queue()
    await link.subscribe("notify.d.*", stored.put_nowait)
    assert await link.store("evt.p.other", b"")  # the subscription stands
    proxy.mute()
    stores = [asyncio.create_task(through.store("evt.p.d", b"")) for _ in range(50)]
    for _ in stores:
        await asyncio.wait_for(stored.get(), 10)
    proxy.reset()
    proxy.heal()
    async with asyncio.timeout(through.options.publish_timeout_seconds / 2):
        outcomes = await asyncio.gather(*stores, return_exceptions=True)
    assert all(isinstance(outcome, UnavailableError) for outcome in outcomes)


async def test_an_acknowledged_message_outlives_ten_kills(
    broker: LocalBroker, link: Link, jetstream: JetStream
) -> None:
    for n in range(10):
        stored = await link.store("evt.p.d", bytes([n]))
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await link.wait_up(30)
        found = await jetstream.last("EVT", "evt.p.d")
        assert found is not None
        assert (found.data, found.headers["Nats-Sequence"]) == (bytes([n]), str(stored.sequence))


async def test_a_silent_network_is_noticed_within_ping_interval_and_timeout(
    through: Link, proxy: Proxy
) -> None:
    states = States(through)
    loop = asyncio.get_running_loop()
    proxy.blackhole()
    silent = loop.time()
    await states.until(LinkState.DOWN, 10)
    options = through.options
    assert loop.time() - silent < options.ping_interval_seconds + options.ping_timeout_seconds + 0.5
    proxy.heal()
    await through.wait_up(30)
    assert (await through.store("evt.p.d", b"")).stream == "EVT"


async def test_a_store_into_a_silent_network_fails_and_is_told_once(
    through: Link, proxy: Proxy
) -> None:
    proxy.blackhole()
    with pytest.raises(UnavailableError):
        async with asyncio.timeout(10):
            await through.store("evt.p.d", b"")
    proxy.heal()
    await through.wait_up(30)


async def test_reset_connections_come_back_with_their_subscriptions(
    through: Link, proxy: Proxy, link: Link
) -> None:
    heard: asyncio.Queue[Incoming] = asyncio.Queue()
    await through.subscribe("here", heard.put_nowait)
    for n in range(3):
        states = States(through)
        proxy.reset()
        await states.until(LinkState.UP)
        await link.send("here", bytes([n]))
        message = await asyncio.wait_for(heard.get(), 10)
        assert message.data == bytes([n])
    assert through.connections == 4


async def test_what_is_subscribed_while_it_connects_is_heard(
    broker: LocalBroker, link: Link
) -> None:
    """Subscribing during the opening once ended the supervisor, or was forgotten."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    second = Link(broker.options, "second")
    second.start()
    names: list[str] = []
    while second.state is not LinkState.UP:
        name = f"here.{len(names)}"
        await second.subscribe(name, lambda message: heard.put_nowait(message.subject))
        names.append(name)
        await asyncio.sleep(0)
        if len(names) > 200:
            await second.wait_up(10)
    for name in names:
        await link.send(name, b"")
    async with asyncio.timeout(10):
        assert {await heard.get() for _ in names} == set(names)
    await second.close()


async def test_a_slow_network_slows_and_loses_nothing(through: Link, proxy: Proxy) -> None:
    proxy.delay_seconds = 0.05
    outcomes = await asyncio.gather(*(through.store("evt.p.d", bytes([n])) for n in range(50)))
    assert sorted(outcome.sequence for outcome in outcomes) == list(range(1, 51))
    assert through.connections == 1


async def test_a_pong_that_comes_late_does_no_harm(through: Link, proxy: Proxy) -> None:
    """Once it ended nats-py's reader in silence."""
    assert through._connection is not None
    proxy.delay_seconds = 0.1
    assert not await through._connection.flush(0.01)
    proxy.delay_seconds = 0
    assert await through._connection.flush(2)
    assert (await through.store("evt.p.d", b"")).sequence == 1
    assert through.connections == 1
