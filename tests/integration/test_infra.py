"""The deployment examples do what they say."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.support import cloud, ml, roles
from tests.support.agent import DEVICE, AgentProcess, config
from tests.support.roles import JwtBroker, RolesBroker

from setsuden.client import AsyncClient
from setsuden.link import JetStream, Link
from setsuden.process.config import load_toml, validate
from setsuden.schemas.errors import LinkError
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Tier
from setsuden.schemas.roles import (
    Application,
    Device,
    Principal,
    Site,
    WorkerPrincipal,
    password_variable,
)
from setsuden.services import topology
from setsuden.services.accounts import configuration
from setsuden.services.config import CloudConfig
from setsuden.services.stream_service import serve
from setsuden.services.worker.assembly import assembled
from setsuden.testing.broker import find_server
from setsuden.testing.server import LocalServer, free_ports

INFRA = Path(__file__).parents[2] / "infra"


SITE = Site(
    devices=(Device(name=DEVICE, pipelines=("mine",), applications=("shop",)),),
    applications=(Application(name="shop", devices=(DEVICE,), pipelines=("mine",)),),
    workers=(WorkerPrincipal(name="w1", pipelines=("mine",)),),
    bridges=(Principal(name="b1"),),
)


def test_the_example_accounts_are_what_the_command_makes_of_the_example_site() -> None:
    site = validate(Site, load_toml(INFRA / "broker.toml"))
    assert configuration(site) == (INFRA / "nats-accounts.conf").read_text(encoding="utf-8")


def test_the_server_takes_the_example_configurations() -> None:
    site = validate(Site, load_toml(INFRA / "broker.toml"))
    everybody = (*site.devices, *site.applications, *site.workers, *site.bridges, *site.operators)
    passwords = {password_variable(one.name): "a-word" for one in everybody}
    command = [find_server(), "-t", "-c", str(INFRA / "nats-server.conf")]
    ended = subprocess.run(
        command, env=passwords, capture_output=True, text=True, check=False, timeout=20
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("make", [RolesBroker, JwtBroker])
async def test_nobody_needs_more_leave_than_their_role_gives(
    tmp_path: Path, make: type[RolesBroker | JwtBroker]
) -> None:
    """Agent, worker, bridge, application and stream service, each with its own login."""
    folder = ml.write_bundle(tmp_path / "mine", student=True)
    with make(tmp_path / "nats", SITE) as broker:
        spec = PipelineSpec(name="mine", bundle=str(folder))
        operator = CloudConfig(nats=broker.login("operator"), pipelines=(spec,), state="operator")
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(operator, stop))
        login = broker.login(DEVICE)
        nats = f'user = "{DEVICE}"\npassword_file = "{login.password_file}"'
        if login.credentials_file is not None:
            nats = f'credentials_file = "{login.credentials_file}"'
        text = config(broker=broker, bundle=folder, pipeline="mine", nats=nats)
        # Nobody but the operator reaches the server's monitoring port.
        text = text.replace(f'monitor_url = "{broker.monitor_url}"', "")
        agent = AgentProcess(tmp_path / "agent", text)
        login = broker.login("w1", monitor_url=None)
        cloud_config = CloudConfig(nats=login, pipelines=(spec,), state="cloud")
        try:
            await asyncio.to_thread(agent.start)
            async with (
                assembled(cloud_config, spec, folder, tmp_path) as (worker, *_),
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


class Leaf(LocalServer):
    """``nats-leaf.conf`` as it stands, but for its addresses."""

    def __init__(self, folder: Path, hub_port: int) -> None:
        self.port, monitor = free_ports(2)
        text = (INFRA / "nats-leaf.conf").read_text(encoding="utf-8")
        here = f'listen: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{monitor}"'
        assert "listen: 0.0.0.0:4222" in text
        folder.mkdir(parents=True)
        file = folder / "leaf.conf"
        file.write_text(text.replace("listen: 0.0.0.0:4222", here), encoding="utf-8")
        command = [find_server(), "-c", str(file)]
        super().__init__(folder, "leaf", command, f"http://127.0.0.1:{monitor}/healthz")
        secret = roles.password("device-1")
        self.environment = os.environ | {
            "DEVICE_1_PASSWORD": secret,
            "DEVICE_1_HUB_URL": f"nats://device-1:{secret}@127.0.0.1:{hub_port}",
        }


@contextmanager
def at_a_leaf(folder: Path) -> Iterator[tuple[RolesBroker, Leaf]]:
    """The example site with its device behind the example leaf."""
    site = validate(Site, load_toml(INFRA / "broker.toml"))
    (device,) = site.devices
    site = site.model_copy(update={"devices": (device.model_copy(update={"leaf": True}),)})
    (hub_port,) = free_ports(1)
    leaves = f'leafnodes {{ listen: "127.0.0.1:{hub_port}" }}'
    with RolesBroker(folder / "hub", site, leaves) as hub, Leaf(folder / "leaf", hub_port) as leaf:
        yield hub, leaf


async def test_a_leaf_passes_on_no_more_than_its_device_may(tmp_path: Path) -> None:
    with at_a_leaf(tmp_path) as (hub, leaf):
        operator = CloudConfig(
            nats=hub.login("operator"), pipelines=(PipelineSpec(name="digits", bundle="x"),)
        )
        await topology.apply_when_up(operator)
        options = hub.login("device-1", urls=(f"nats://127.0.0.1:{leaf.port}",))
        link = Link(options, "device-1")
        jetstream = JetStream(link)
        await jetstream.start()
        link.start()
        try:
            await link.wait_up(10)
            record = "res.local.digits.device-1.device-1-00000000-1"
            await cloud.eventually(partial(_stored, link, record))
            assert (await jetstream.last("RES", record)) is not None
            for subject in ("res.local.digits.other.other-00000000-1", "evt.digits.other"):
                with pytest.raises(LinkError):
                    await link.store(subject, b"x")
            for subject in ("STREAM.INFO.RES", "STREAM.PURGE.RES", "DIRECT.GET.RES.res.*.*.*.*"):
                with pytest.raises(LinkError):
                    await jetstream.ask(f"$JS.API.{subject}", b"", timeout_seconds=1)
            other = "direct.get.RES.res.local.digits.other.other-00000000-1"
            with pytest.raises(LinkError):
                await jetstream.ask(other, b"", timeout_seconds=1)
        finally:
            await link.close()


async def _stored(link: Link, subject: str) -> bool:
    """The leaf is connected once the hub has stored something for it."""
    try:
        await link.store(subject, b"x")
    except LinkError:
        return False
    return True


@pytest.mark.timeout(120)
async def test_a_device_at_a_leaf_of_the_guarded_broker_is_answered_by_a_worker_at_the_hub(
    tmp_path: Path,
) -> None:
    bundle = ml.write_bundle(tmp_path / "digits", student=True)
    spec = PipelineSpec(name="digits", bundle=str(bundle))
    with at_a_leaf(tmp_path) as (hub, leaf):
        operator = CloudConfig(nats=hub.login("operator"), pipelines=(spec,), state="operator")
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(operator, stop))
        login = f'user = "device-1"\npassword_file = "{hub.login("device-1").password_file}"'
        text = config(
            broker=hub,
            bundle=bundle,
            pipeline="digits",
            nats=login,
            pipeline_extra="gate = { threshold = 1.0 }",
        )
        text = text.replace(f'device = "{DEVICE}"', 'device = "device-1"')
        text = text.replace(f'monitor_url = "{hub.monitor_url}"', "")
        agent = AgentProcess(tmp_path / "agent", text.replace(str(hub.port), str(leaf.port)))
        cloud_config = CloudConfig(
            nats=hub.login("worker-local", monitor_url=None), pipelines=(spec,), state="cloud"
        )
        try:
            await asyncio.to_thread(agent.start)
            async with (
                assembled(cloud_config, spec, bundle, tmp_path) as (worker, *_),
                AsyncClient(options=hub.login("shop"), device="device-1", name="shop") as client,
            ):
                await worker.start()
                handles = [
                    await client.submit("digits", ml.observation(index)) for index in range(5)
                ]
                finals = [await handle.result(timeout=30) for handle in handles]
                await worker.stop()
            assert [final.tier for final in finals] == [Tier.CLOUD] * 5
            await asyncio.to_thread(agent.terminate)
            await asyncio.to_thread(agent.start)
            agent.until(lambda: agent.metric("setsuden_link_up") == 1)
            assert "permission" not in agent.log()
            assert "events_not_read" not in agent.log()
        finally:
            agent.kill()
            stop.set_result(None)
            await serving
