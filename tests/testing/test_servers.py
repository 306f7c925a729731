"""Local servers and the local site: how they start, fail and stop."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from setsuden.client import Client, Status, Tier, UnavailableError
from setsuden.testing import LocalBroker, LocalServer, LocalSite, free_ports


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such option')"]
    (port,) = free_ports(1)
    server = LocalServer(tmp_path, "broken", command, f"http://127.0.0.1:{port}/")
    with pytest.raises(UnavailableError, match=r"broken did not become ready.*broken\.log"):
        server.start()
    assert server.process is None
    assert "no such option" in server.log.read_text(encoding="utf-8")


def test_a_server_without_a_ready_address_is_started_and_ended(tmp_path: Path) -> None:
    server = LocalServer(tmp_path, "idle", [sys.executable, "-c", "import time; time.sleep(600)"])
    for _ in range(2):
        with server:
            process = server.process
            assert process is not None
            assert process.poll() is None
        assert process.poll() is not None


def test_a_broker_takes_the_given_port(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with LocalBroker(tmp_path, port=port) as broker:
        assert broker.url == f"nats://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


@pytest.mark.slow
def test_a_site_that_cannot_start_leaves_no_process(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        site = LocalSite(tmp_path, http_port=taken.getsockname()[1])
        with pytest.raises(UnavailableError, match="agent did not become ready"):
            site.start()
    assert [site.agent.process, site.worker.process, site.broker.process] == [None] * 3


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "tier"), [(0.0, Tier.EDGE), (1.0, Tier.CLOUD)])
def test_the_threshold_decides_who_answers(tmp_path: Path, threshold: float, tier: Tier) -> None:
    with (
        LocalSite(tmp_path / "a folder", threshold=threshold) as site,
        Client(site.url, device=site.device) as client,
    ):
        result = client.submit(site.pipeline, bytes(784)).result(timeout=60)
    assert (result.status, result.tier) == (Status.FINAL, tier)
