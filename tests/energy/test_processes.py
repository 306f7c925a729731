"""Energy of other processes: the broker, Ray, and what ``setsuden energy watch`` shows of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from setsuden.energy.broker import BrokerCounts
from setsuden.energy.metering.journal import SUFFIX
from setsuden.energy.sensors.boards import boards
from setsuden.link import Link
from setsuden.schemas.energy import Method
from setsuden.schemas.windows import Component, MeterRow, WindowRow
from setsuden.services.platform_meter import _replica
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

WATCH = [sys.executable, "-m", "setsuden.cli.main", "energy", "watch"]
PAGE = Path(__file__).parents[2] / "docs" / "energy.md"


def watch(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WATCH, *options], capture_output=True, text=True, timeout=60, check=False
    )


def test_windows_are_shown_as_they_close_and_say_where_they_are_from() -> None:
    ended = watch("--windows", "2", "--every", "0.2", "--json")
    assert ended.returncode == 0, ended.stderr
    rows = [WindowRow.model_validate_json(line) for line in ended.stdout.splitlines()]
    assert len(rows) == 2
    assert all(row.joules is not None and row.joules > 0 for row in rows)
    assert "x/÷" in ended.stderr


def test_the_brokers_process_is_spread_over_its_messages(
    tmp_path: Path, broker: LocalBroker
) -> None:
    folder = tmp_path / "rows"
    assert broker.process is not None
    ended = watch(
        "--broker", broker.monitor_url, "--pid", str(broker.process.pid),
        "--rows", str(folder), "--windows", "2", "--every", "0.2",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (path,) = folder.glob(f"*{SUFFIX}")
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    assert MeterRow.model_validate_json(first).component is Component.BROKER
    for row in map(WindowRow.model_validate_json, rest):
        (work,) = row.work
        assert work.method is Method.AMORTISED
        assert work.items == row.counts.messages
        assert work.cpu_seconds == row.process_cpu_seconds


async def test_a_brokers_messages_are_counted_on_over_its_death(
    broker: LocalBroker, link: Link
) -> None:
    counts = BrokerCounts(broker.monitor_url)
    before = counts().messages
    for _ in range(10):
        await link.send("nobody.hears", b"x")
    assert await link._connection.flush(5)  # type: ignore[union-attr]  # it is up
    after = counts().messages
    assert after >= before + 10
    broker.kill()
    assert counts().messages == after
    broker.start()
    assert counts().messages >= after


async def test_a_proxy_of_the_environment_is_not_asked_for_a_brokers_messages(
    broker: LocalBroker, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    await link.send("nobody.hears", b"x")
    assert await link._connection.flush(5)  # type: ignore[union-attr]  # it is up
    assert BrokerCounts(broker.monitor_url)().messages > 0


def test_a_relay_serves_those_who_may_not_read_the_sensor(tmp_path: Path) -> None:
    socket, config = tmp_path / "energy.sock", tmp_path / "agent.toml"
    config.write_text(
        f'device = "d"\n[energy]\nrelay = "{socket}"\n[[pipelines]]\nname = "p"\nbundle = "b"\n'
    )
    serving = subprocess.Popen(
        [*WATCH, "--serve", str(socket), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert serving.stdout is not None
        serving.stdout.readline()  # its first window: it serves by now
        ended = watch("--config", str(config), "--windows", "1", "--every", "0.2", "--json")
    finally:
        serving.terminate()
        serving.communicate(timeout=20)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.startswith("relay:")
    assert json.loads(ended.stdout)["joules"] > 0
    assert serving.returncode == 0
    assert not socket.exists()


_NOT_YET = (b"", b"/bin/bash")


def test_a_replica_has_a_meter_of_its_own_and_is_no_overhead() -> None:
    named = subprocess.Popen(["/bin/bash", "-c", "exec -a ray::ServeReplica:app sleep 60"])
    other = subprocess.Popen(["/bin/sleep", "60"])
    try:
        # The name in `comm` changes first, then the command line is empty for a moment.
        while Path(f"/proc/{named.pid}/cmdline").read_bytes().partition(b"\0")[0] in _NOT_YET:
            assert named.poll() is None
        assert (_replica(named.pid), _replica(other.pid)) == (True, False)
    finally:
        for process in (named, other):
            process.kill()
            process.wait()


@pytest.mark.skipif(not PAGE.exists(), reason="needs the repository, not a wheel")
def test_the_board_of_the_documentation_is_a_valid_row(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    file = tmp_path / "boards.toml"
    file.write_text(text, encoding="utf-8")
    assert tomllib.loads(text)["board"][0]["name"] in {board.name for board in boards([str(file)])}
