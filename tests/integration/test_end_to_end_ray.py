"""Deaths inside Ray in the middle of 2,000 events: 2,000 finals, none doubled, no human."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support import processes, site
from tests.support.agent import digits

from setsuden.link import LinkOptions
from setsuden.testing.broker import LocalBroker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
REPLICA = "ray::ServeReplica:setsuden-digits"
HARD = "gate = { escalate = 0.5 }"
CLOUD = """\
[nats]
urls = ["{url}"]
monitor_url = "{monitor_url}"
[serve]
min_replicas = 2
max_replicas = 2
num_cpus = {cpus}
health_check_seconds = 1.0
[[pipelines]]
name = "digits"
bundle = "{bundle}"
"""


@pytest.fixture
async def up(tmp_path: Path, broker: LocalBroker) -> AsyncIterator[site.Site]:
    """Agent and broker; the cloud is each test's own."""
    async with site.site(
        tmp_path, broker, bundle_folder=digits(), pipeline="digits", gate=HARD, worker=False
    ) as ready:
        yield ready


def address_of(options: LinkOptions) -> dict[str, str | None]:
    return {"url": options.urls[0], "monitor_url": options.monitor_url}


@asynccontextmanager
async def serving(
    up: site.Site, *, cpus: float = 0.25, address: str | None = None, token: str | None = None
) -> AsyncIterator[processes.Process]:
    """``setsuden cloud run``, its replicas pulling; stopped cleanly at the end."""
    path = up.folder / "cloud.toml"
    names = {**address_of(up.broker.options), "bundle": digits()}
    path.write_text(CLOUD.format(cpus=cpus, **names), encoding="utf-8")
    running = processes.cloud_process(path, address, token)
    try:
        await running.until("cloud_ready")
        yield running
        running.popen.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    finally:
        running.kill()


async def test_a_killed_replica_loses_nothing_of_2000_events(up: site.Site) -> None:
    async with serving(up) as running:
        await site.whole(up, processes.below(running.popen.pid, REPLICA)[0].kill)


async def test_a_killed_head_loses_nothing_of_2000_events(up: site.Site) -> None:
    async with serving(up) as running:
        (gcs,) = [
            p for p in processes.below(running.popen.pid, "gcs_server") if p.name() == "gcs_server"
        ]
        await site.whole(up, gcs.kill)
        await running.until("cloud_ready", times=2)


async def test_a_killed_node_of_two_loses_nothing_of_2000_events(up: site.Site) -> None:
    with processes.cluster(2) as (nodes, address, token):
        async with serving(up, cpus=1.0, address=address, token=token):
            assert [len(node.pids(REPLICA)) for node in nodes] == [1, 1]
            await site.whole(up, nodes[1].kill)
