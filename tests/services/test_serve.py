"""The worker inside Ray Serve replicas: answers, and outlives every death inside Ray."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from tests.support import cloud, processes

from setsuden.link import JetStream, Link
from setsuden.process.config import load_toml, validate
from setsuden.schemas import subjects
from setsuden.schemas.stream_service import LagRequest, StreamInfo
from setsuden.services import topology
from setsuden.services.config import CloudConfig
from setsuden.services.lag import ask_lag
from setsuden.services.serve import app
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

pytestmark = pytest.mark.slow
EVENTS = 300
REPLICA = "ray::ServeReplica:setsuden-tiny"


async def stop(running: processes.Process) -> None:
    """SIGTERM; nothing it started is left."""
    family = psutil.Process(running.popen.pid).children(recursive=True)
    running.popen.send_signal(signal.SIGTERM)
    assert await running.ended() == 0
    assert [process for process in family if process.is_running()] == []


@pytest.fixture
async def local(tmp_path: Path, broker: LocalBroker) -> AsyncIterator[processes.Process]:
    """A cloud on a Ray of its own, slow enough to be killed in the middle."""
    running = processes.cloud_process(processes.write_config(tmp_path, broker, repeats=1000))
    await running.until("cloud_ready")
    yield running
    await stop(running)


async def test_a_replica_killed_in_the_middle_loses_and_doubles_nothing(
    local: processes.Process, jetstream: JetStream, link: Link
) -> None:
    replicas = processes.below(local.popen.pid, REPLICA)
    assert len(replicas) == 2
    await cloud.escalate(link, range(EVENTS))
    await cloud.results(jetstream, 30)
    replicas[0].kill()
    assert len(await cloud.records(jetstream)) < EVENTS
    assert await cloud.once_each(jetstream, EVENTS)
    await cloud.until_settled(jetstream)


async def test_a_head_killed_in_the_middle_is_rebuilt_without_a_human(
    local: processes.Process, jetstream: JetStream, link: Link
) -> None:
    (gcs,) = [p for p in processes.below(local.popen.pid, "gcs_server") if p.name() == "gcs_server"]
    await cloud.escalate(link, range(EVENTS // 2))
    await cloud.results(jetstream, 30)
    gcs.kill()
    await local.until("cloud_lost")
    await cloud.escalate(link, range(EVENTS // 2, EVENTS))
    await local.until("cloud_ready", times=2)
    assert await cloud.once_each(jetstream, EVENTS)
    await cloud.until_settled(jetstream)


async def test_a_raylet_killed_is_rebuilt_too(
    local: processes.Process, jetstream: JetStream, link: Link
) -> None:
    (raylet,) = [p for p in processes.below(local.popen.pid, "raylet") if p.name() == "raylet"]
    raylet.kill()
    await local.until("cloud_ready", times=2)
    await cloud.escalate(link, range(10))
    assert await cloud.once_each(jetstream, 10)
    # Devices are served beside it, as `worker run` does where nobody logs in.
    info = await jetstream.ask(subjects.service("dev-1", "info"), b"")
    assert StreamInfo.model_validate_json(info.data).last_seq == 0
    lag = await ask_lag(jetstream, "w", LagRequest(region="local", pipeline="tiny"))
    assert lag.pending == 0


async def test_two_clouds_on_one_machine_do_not_meet(
    tmp_path: Path, broker: LocalBroker, local: processes.Process, jetstream: JetStream, link: Link
) -> None:
    second_folder = tmp_path / "second"
    second_folder.mkdir()
    second = processes.cloud_process(processes.write_config(second_folder, broker))
    await second.until("cloud_ready")
    await stop(second)
    await cloud.escalate(link, range(10))
    assert await cloud.once_each(jetstream, 10)
    assert local.popen.poll() is None


async def test_a_node_of_two_killed_in_the_middle_loses_and_doubles_nothing(
    broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    with tempfile.TemporaryDirectory() as folder, processes.cluster(2) as (nodes, address, token):
        config = processes.write_config(Path(folder), broker, repeats=1000, cpus=1.0)
        running = processes.cloud_process(config, address, token)
        await running.until("cloud_ready")
        assert [len(node.pids(REPLICA)) for node in nodes] == [1, 1]
        await cloud.escalate(link, range(EVENTS))
        await cloud.results(jetstream, 30)
        nodes[1].kill()
        assert len(await cloud.records(jetstream)) < EVENTS
        assert await cloud.once_each(jetstream, EVENTS)
        await cloud.until_settled(jetstream)
        running.popen.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert nodes[0].pids("gcs_server")  # a cluster that is not ours stays
        await cloud.until(lambda: not nodes[0].pids(REPLICA))


async def test_a_growing_queue_adds_replicas(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    config = processes.write_config(tmp_path, broker, replicas=1, repeats=3000)
    text = config.read_text(encoding="utf-8").replace("max_replicas = 1", "max_replicas = 2")
    eager = "target_lag = 20\nnum_cpus"
    config.write_text(text.replace("num_cpus", eager), encoding="utf-8")
    running = processes.cloud_process(config)
    await running.until("cloud_ready")
    assert len(processes.below(running.popen.pid, REPLICA)) == 1
    await cloud.escalate(link, range(EVENTS))
    await cloud.until(lambda: len(processes.below(running.popen.pid, REPLICA)) == 2, 60, 0.2)
    await stop(running)


async def test_serve_deploys_the_application_that_we_describe(
    broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    dashboard = free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.cluster(1, dashboard) as (_, __, token),
    ):
        path = processes.write_config(Path(folder), broker, replicas=1)
        config = validate(CloudConfig, load_toml(path))
        await topology.apply_when_up(config)
        described = Path(folder) / "serve.json"
        described.write_text(json.dumps(app.document(config, path)), encoding="utf-8")
        deploying = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("serve")),
            "deploy",
            str(described),
            f"--address=http://127.0.0.1:{dashboard}",
            env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
        )
        assert await deploying.wait() == 0
        await cloud.escalate(link, range(10))
        assert await cloud.once_each(jetstream, 10)
