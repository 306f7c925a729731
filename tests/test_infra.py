"""The deployment examples do what they say."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support import ml
from tests.support.agent import DEVICE, AgentProcess, config
from tests.support.roles import RolesBroker

from setsuden.client import AsyncClient
from setsuden.pipelines.config import load_toml, validate
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Tier
from setsuden.schemas.roles import Application, Device, Principal, Site, Worker
from setsuden.services.accounts import configuration
from setsuden.services.config import CloudConfig
from setsuden.services.stream_service import serve
from setsuden.services.worker.assembly import assembled

INFRA = Path(__file__).parent.parent / "infra"


SITE = Site(
    devices=(Device(name=DEVICE, pipelines=("mine",), applications=("shop",)),),
    applications=(Application(name="shop", devices=(DEVICE,), pipelines=("mine",)),),
    workers=(Worker(name="w1", pipelines=("mine",)),),
    bridges=(Principal(name="b1"),),
)


def test_the_example_accounts_are_what_the_command_makes_of_the_example_site() -> None:
    site = validate(Site, load_toml(INFRA / "broker.toml"))
    assert configuration(site) == (INFRA / "nats-accounts.conf").read_text(encoding="utf-8")


async def test_nobody_needs_more_leave_than_their_role_gives(tmp_path: Path) -> None:
    """Agent, worker, bridge, application and stream service, each with its own login."""
    folder = ml.write_bundle(tmp_path / "mine", student=True)
    with RolesBroker(tmp_path / "nats", SITE) as broker:
        spec = PipelineSpec(name="mine", bundle=str(folder))
        operator = CloudConfig(nats=broker.login("operator"), pipelines=(spec,), state="operator")
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(operator, stop))
        login = broker.login(DEVICE)
        nats = f'user = "{DEVICE}"\npassword_file = "{login.password_file}"'
        text = config(broker=broker, bundle=folder, pipeline="mine", nats=nats)
        # Nobody but the operator reaches the server's monitoring port.
        text = text.replace(f'monitor_url = "{broker.monitor_url}"', "")
        agent = AgentProcess(tmp_path / "agent", text)
        login = broker.login("w1", monitor_url=None)
        cloud_config = CloudConfig(nats=login, pipelines=(spec,), state="cloud")
        try:
            await asyncio.to_thread(agent.start)
            async with (
                assembled(cloud_config, spec, folder, tmp_path) as (worker, _),
                AsyncClient(options=broker.login("shop"), device=DEVICE, name="shop") as client,
            ):
                await worker.start()
                handles = [
                    await client.submit("mine", ml.observation(index)) for index in range(10)
                ]
                finals = [await handle.result(timeout=30) for handle in handles]
                await worker.stop()
            assert {final.tier for final in finals} == {Tier.CLOUD}
            await asyncio.to_thread(agent.terminate)
            await asyncio.to_thread(agent.start)
            assert "permission" not in agent.log()
            assert "events_not_read" not in agent.log()
        finally:
            agent.kill()
            stop.set_result(None)
            await serving
