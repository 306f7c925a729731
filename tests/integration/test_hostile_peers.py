"""A device and a worker with valid logins turn hostile: nobody exits, nothing is believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support import ml, roles
from tests.support.agent import AgentProcess
from tests.support.hostile_peer import Hostile
from tests.support.roles import RolesBroker

from setsuden.client import AsyncClient
from setsuden.link import LinkOptions
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Result, Status, Tier
from setsuden.services.bridge.bridge import Bridge
from setsuden.services.config import CloudConfig
from setsuden.services.stream_service import serve
from setsuden.services.worker import Worker
from setsuden.services.worker.assembly import assembled
from setsuden.testing.broker import LocalBroker

SECONDS = 60.0
AGENT = """\
device = "d1"
region = "r1"
[http]
port = 0
[escalation]
lookup_seconds = 1.0
[nats]
urls = ["{url}"]
{login}
[[pipelines]]
name = "p1"
bundle = "{bundle}"
gate = {{ threshold = 1.0 }}
"""


@dataclass
class Victims:
    """An honest site beside the hostile peers."""

    agent: AgentProcess
    worker: Worker
    client: AsyncClient
    serving: asyncio.Task[None]
    bridging: asyncio.Task[None]
    places: list[str] = field(default_factory=list)
    """Of events submitted so far: the hostile peers guess that well."""
    wrong: list[tuple[int, Result]] = field(default_factory=list)
    answered: int = 0

    async def submit(self, index: int) -> None:
        """One event, and its answer held against what the teacher says."""
        handle = await self.client.submit("p1", ml.observation(index))
        async for update in handle:
            place = update.place
            self.places.append(".".join(place))
            following = int(place.event_id.rsplit("-", 1)[1]) + 1
            upcoming = f"{place.event_id.rsplit('-', 1)[0]}-{following}"
            self.places.append(".".join(place._replace(event_id=upcoming)))
            break
        result = await handle.result(timeout=60)
        self.answered += 1
        right = result.answer is not None and result.answer.label == ml.label(index)
        if result.status is not Status.FINAL or result.tier is not Tier.CLOUD or not right:
            self.wrong.append((index, result))


@asynccontextmanager
async def victims(
    folder: Path, broker: LocalBroker, logins: dict[str, LinkOptions]
) -> AsyncIterator[Victims]:
    """Agent d1, worker w1, application a1, bridge and stream service."""
    bundle = ml.write_bundle(folder / "p1", student=True)
    spec = PipelineSpec(name="p1", bundle=str(bundle))
    stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def config(name: str) -> CloudConfig:
        return CloudConfig(nats=logins[name], region="r1", pipelines=(spec,), state=name)

    login = logins["d1"]
    lines = f'user = "d1"\npassword_file = "{login.password_file}"' if login.user else ""
    text = AGENT.format(url=broker.url, login=lines, bundle=bundle)
    async with AsyncExitStack() as ends:
        serving = asyncio.create_task(serve(config("operator"), stop))
        agent = AgentProcess(folder / "agent", text)
        ends.callback(agent.kill)
        await asyncio.to_thread(agent.start)
        worker, *_ = await ends.enter_async_context(assembled(config("w1"), spec, bundle, folder))
        await worker.start()
        client = await ends.enter_async_context(
            AsyncClient(options=logins["a1"], device="d1", name="a1")
        )
        from setsuden.link import JetStream, Link  # noqa: PLC0415

        link = Link(logins["b1"], "bridge")
        ends.push_async_callback(link.close)
        jetstream = JetStream(link)
        await jetstream.start()
        link.start()
        bridge = Bridge(config("b1"), link, jetstream, [])
        bridging = asyncio.create_task(bridge.run())
        yield Victims(agent, worker, client, serving, bridging)
        bridging.cancel()
        await asyncio.gather(bridging, return_exceptions=True)
        await worker.stop()
        stop.set_result(None)
        await serving


async def attack(
    site: Victims, broker: LocalBroker, seconds: float, peers: Mapping[str, str]
) -> list[Hostile]:
    """Hostile peers for so long, beside an application that goes on."""
    hostile = [Hostile(seed, roles.subjects(), lambda: site.places) for seed in range(len(peers))]
    attacks = [
        asyncio.create_task(peer.run(broker.url, *login))
        for peer, login in zip(hostile, peers.items(), strict=True)
    ]
    end = asyncio.get_running_loop().time() + seconds
    index = 0
    while asyncio.get_running_loop().time() < end:
        await site.submit(index % 1000)
        index += 1
        for task in (*attacks, site.serving, site.bridging):
            assert not task.done(), task
        assert not site.agent.ends_within(0), site.agent.log()
        site.worker.health()
    for peer in hostile:
        peer.stopping = True
    await asyncio.gather(*attacks)
    return hostile


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_hostile_peers_on_a_guarded_broker_change_nothing(tmp_path: Path) -> None:
    """Another device, and another pipeline's worker, for a minute."""
    with RolesBroker(tmp_path / "nats") as broker:
        logins = {name: broker.login(name) for name in roles.NAMES}
        async with victims(tmp_path, broker, logins) as site:
            peers = {name: roles.password(name) for name in ("d2", "w2")}
            hostile = await attack(site, broker, SECONDS, peers)
            assert site.wrong == []
            assert site.answered > 50
            assert min(peer.sent for peer in hostile) > 1000
            # The site's own people turn hostile too: what they may send is refused where it lands.
            insiders = {name: roles.password(name) for name in ("a1", "d1", "w1")}
            await attack_from_inside(site, broker, insiders)
            assert await asyncio.to_thread(site.agent.terminate) == 0


async def attack_from_inside(site: Victims, broker: LocalBroker, peers: dict[str, str]) -> None:
    """Answers may then be spoiled; whoever is attacked stays up, and counts what it refuses."""
    hostile = [Hostile(seed, roles.subjects(), lambda: site.places) for seed in range(len(peers))]
    attacks = [
        asyncio.create_task(peer.run(broker.url, *login))
        for peer, login in zip(hostile, peers.items(), strict=True)
    ]
    for index in range(10):
        try:
            async with asyncio.timeout(2):
                await site.submit(index)
        except (TimeoutError, SetsudenError):
            continue
    for peer in hostile:
        peer.stopping = True
    await asyncio.gather(*attacks)
    assert not site.serving.done()
    assert not site.bridging.done()
    assert not site.agent.ends_within(0), site.agent.log()
    site.worker.health()
    assert await asyncio.to_thread(site.agent.metric, "setsuden_refused_events_total") > 0


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_hostile_peers_on_an_open_broker_end_nobody(tmp_path: Path) -> None:
    """Without accounts anybody may write anything; it is survived, counted and not believed."""
    with LocalBroker(tmp_path / "nats") as broker:
        logins = dict.fromkeys(roles.NAMES, broker.options)
        async with victims(tmp_path, broker, logins) as site:
            hostile = Hostile(7, roles.subjects(), lambda: site.places)
            task = asyncio.create_task(hostile.run(broker.url, None, None))
            for index in range(30):
                try:
                    async with asyncio.timeout(2):
                        await site.submit(index)
                except (TimeoutError, SetsudenError):
                    continue
            hostile.stopping = True
            await task
            believed = [
                result for _, result in site.wrong if result.answer and result.tier is Tier.CLOUD
            ]
            assert believed == []
            assert not site.agent.ends_within(0), site.agent.log()
            site.worker.health()
            assert hostile.sent > 1000
