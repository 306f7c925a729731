"""SIGHUP never ends a process of ours: it reads its file again and takes up what it can."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import ml
from tests.support.agent import config
from tests.support.running import Manager, Running

from setsuden.schemas.pipeline import PipelineSpec
from setsuden.services.config import CloudConfig
from setsuden.services.topology import apply
from setsuden.testing.broker import LocalBroker

ACCOUNTS = """\
accounts {
  APP: {
    jetstream: enabled
    users: [ { user: app, password: app }, { user: "anna", password: "first" } ]
  }
}
no_auth_user: app
"""
CLOUD = """\
state = "cloud"
[nats]
urls = ["{url}"]
monitor_url = "{monitor_url}"
user = "anna"
password_file = "password"
[bridge]
file = "spans.jsonl"
[[pipelines]]
name = "tiny"
bundle = "bundle"
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    with LocalBroker(tmp_path / "nats", accounts=ACCOUNTS) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, broker: LocalBroker) -> Path:
    """A folder with both configuration files, the bundle and the password."""
    login = 'user = "anna"\npassword_file = "password"\n'
    (tmp_path / "password").write_text("first", encoding="utf-8")
    (tmp_path / "agent.toml").write_text(config(broker=broker, nats=login), encoding="utf-8")
    urls = {"url": broker.url, "monitor_url": broker.monitor_url}
    (tmp_path / "cloud.toml").write_text(CLOUD.format(**urls), encoding="utf-8")
    ml.write_bundle(tmp_path / "bundle")
    spec = PipelineSpec(name="tiny", bundle="bundle")
    apply(CloudConfig(nats=broker.options, pipelines=(spec,)))  # who logs in may not do it
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def connections(broker: LocalBroker, name: str) -> int:
    """Connections of this name that are open or were."""
    url = f"{broker.monitor_url}/connz?state=all"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return sum(one.get("name") == name for one in json.load(answer)["connections"])


def test_an_agent_takes_up_what_it_can_and_names_what_needs_a_restart(folder: Path) -> None:
    with Running("agent", "run", "--config", "agent.toml", folder=folder) as agent:
        agent.until("agent_ready")
        text = 'log_level = "debug"\n' + (folder / "agent.toml").read_text(encoding="utf-8")
        text = text.replace("lookup_seconds = 1.0", "lookup_seconds = 2.0")
        (folder / "agent.toml").write_text(text, encoding="utf-8")
        agent.send(signal.SIGHUP)
        line = agent.until("config_reloaded")
        assert line["applied"] == ["log_level"]
        assert line["restart_needed"] == ["escalation.lookup_seconds"]
        agent.send(signal.SIGHUP)
        again = agent.until("config_reloaded", 2)
        assert again["applied"] == []
        assert again["restart_needed"] == ["escalation.lookup_seconds"]
        assert agent.stop() == 0


def test_a_hangup_while_it_starts_waits_until_it_can_be_answered(folder: Path) -> None:
    with Running("agent", "run", "--config", "agent.toml", folder=folder) as agent:
        agent.wait(lambda: holds_hangup_back(agent.process.pid))
        agent.send(signal.SIGHUP)
        agent.until("config_reloaded")
        assert agent.stop() == 0


def holds_hangup_back(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (blocked,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(blocked, 16) & 1 << (signal.SIGHUP - 1))


def test_a_wrong_file_changes_nothing_and_is_named(folder: Path) -> None:
    with Running("agent", "run", "--config", "agent.toml", folder=folder) as agent:
        agent.until("agent_ready")
        edit(folder / "agent.toml", "lookup_seconds = 1.0", "lokup_seconds = 1.0")
        agent.send(signal.SIGHUP)
        assert "lookup_seconds" in agent.until("reload_refused")["detail"]
        (folder / "agent.toml").unlink()
        agent.send(signal.SIGHUP)
        assert "cannot read" in agent.until("reload_refused", 2)["detail"]
        assert agent.lines("config_reloaded") == []
        assert agent.stop() == 0


@pytest.mark.parametrize(
    ("command", "ready", "name", "file"),
    [
        (("agent", "run"), "agent_ready", "dev-1", "agent.toml"),
        (("worker", "run"), "worker_ready", "worker-tiny", "cloud.toml"),
        (("cloud", "bridge"), "bridge_started", "bridge", "cloud.toml"),
        (("cloud", "streams", "--serve"), "stream_service_ready", "streams", "cloud.toml"),
    ],
)
def test_renewed_credentials_are_read_by_a_new_connection(
    folder: Path,
    broker: LocalBroker,
    command: tuple[str, ...],
    ready: str,
    name: str,
    file: str,
) -> None:
    with Running(*command, "--config", file, folder=folder) as running:
        running.until(ready)
        running.until("link_up")
        before = connections(broker, name)
        running.send(signal.SIGHUP)
        assert running.until("config_reloaded")["applied"] == []
        assert connections(broker, name) == before  # nothing new to log in with
        (folder / "password").write_text("first\n", encoding="utf-8")
        running.send(signal.SIGHUP)
        assert running.until("config_reloaded", 2)["applied"] == ["nats.password_file"]
        running.until("link_up", 2)
        assert connections(broker, name) == before + 1
        (folder / "password").unlink()
        running.send(signal.SIGHUP)
        assert "nats.password_file: cannot read" in running.until("reload_refused")["detail"]
        assert running.stop() == 0


def test_a_service_manager_hears_of_start_life_reload_and_stop(folder: Path) -> None:
    manager = Manager(folder)
    told = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    with Running("agent", "run", "--config", "agent.toml", folder=folder, environment=told) as one:
        manager.until("READY=1")
        manager.until("WATCHDOG=1", 3)
        manager.until("STATUS=link up, 0 events wait for the cloud")
        one.send(signal.SIGHUP)
        manager.until("RELOADING=1")
        manager.until("MONOTONIC_USEC=")
        manager.until("READY=1", 2)
        one.send(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert one.process.wait(20) == 0
    manager.close()


@pytest.mark.parametrize("command", [("worker", "run"), ("cloud", "bridge")])
def test_worker_and_bridge_are_ready_while_they_wait_for_a_broker(
    folder: Path, broker: LocalBroker, command: tuple[str, str]
) -> None:
    """A start-up limit of the manager must not end what waits for a broker as long as it takes."""
    broker.stop()
    manager = Manager(folder)
    told = {"NOTIFY_SOCKET": manager.address}
    with Running(*command, "--config", "cloud.toml", folder=folder, environment=told) as running:
        manager.until("READY=1")
        manager.until("STATUS=link down")
        assert running.stop() == 0
    manager.close()


def test_a_relay_ends_cleanly_at_a_hangup(tmp_path: Path) -> None:
    """It has no file to read again."""
    words = ("energy", "watch", "--serve", "relay")
    with Running(*words, folder=tmp_path) as relay:
        relay.wait((tmp_path / "relay").is_socket)
        relay.wait(lambda: "serving" in relay.log.read_text(encoding="utf-8"))
        relay.send(signal.SIGHUP)
        assert relay.process.wait(20) == 0
        assert not (tmp_path / "relay").exists()
