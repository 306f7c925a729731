"""The deployment examples do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import cloud, ml
from tests.support.agent import DEVICE, AgentProcess, config

from setsuden.client import AsyncClient
from setsuden.link import JetStream, Link, LinkOptions
from setsuden.schemas.errors import LinkError
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Tier
from setsuden.schemas.streams import StreamBounds, all_streams
from setsuden.services.config import CloudConfig
from setsuden.services.demo.broker import LocalBroker
from setsuden.services.worker.assembly import assembled

INFRA = Path(__file__).parent.parent / "infra"


def accounts() -> str:
    """The example's own block, for the device under test."""
    lines = (INFRA / "nats-server.conf").read_text(encoding="utf-8").splitlines()
    start = lines.index("accounts {")
    block = "\n".join(lines[start : lines.index("}", start) + 1])
    block = block.replace("$DEVICE_PASSWORD", '"secret"').replace("$CLOUD_PASSWORD", '"secret"')
    return block.replace("DEVICE", DEVICE)


def options(broker: LocalBroker, user: str, password: Path) -> LinkOptions:
    return broker.options.model_copy(update={"user": user, "password_file": str(password)})


async def test_a_device_needs_no_more_permissions_than_the_example_gives(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    folder = ml.write_bundle(tmp_path / "mine", student=True)
    with LocalBroker(tmp_path / "nats", accounts=accounts()) as broker:
        admin = options(broker, "cloud", password)
        link = Link(admin, "admin")
        jetstream = JetStream(link)
        await jetstream.start()
        link.start()
        await link.wait_up(10)
        for stream in all_streams(StreamBounds()):
            await jetstream.apply_stream(stream)
        nats = f'user = "{DEVICE}"\npassword_file = "{password}"'
        text = config(broker=broker, bundle=folder, pipeline="mine", nats=nats)
        agent = AgentProcess(tmp_path / "agent", text)
        spec = PipelineSpec(name="mine", bundle=str(folder))
        cloud_config = CloudConfig(nats=admin, pipelines=(spec,), state="cloud")
        try:
            agent.start()
            async with (
                assembled(cloud_config, spec, folder, tmp_path) as (worker, _),
                AsyncClient(options=admin, device=DEVICE) as client,
            ):
                await worker.start()
                handles = [
                    await client.submit("mine", ml.observation(index)) for index in range(10)
                ]
                finals = [await handle.result(timeout=30) for handle in handles]
                await worker.stop()
            assert {final.tier for final in finals} == {Tier.CLOUD}
            assert len(await cloud.records(jetstream)) == 10
            assert "permission_denied" not in agent.log()
        finally:
            agent.kill()
            await link.close()


async def test_a_device_may_not_speak_for_another(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    with LocalBroker(tmp_path / "nats", accounts=accounts()) as broker:
        quick = options(broker, DEVICE, password).model_copy(
            update={"publish_timeout_seconds": 1.0}
        )
        link = Link(quick, DEVICE)
        link.start()
        await link.wait_up(10)
        with pytest.raises(LinkError):
            await link.store("res.other.other-00000000-1", b"{}")
        await link.close()
