"""The state folder, and what a stranger may have put where its files belong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.edge_agent.test_outbox import opened, row
from tests.edge_agent.test_outbox_damage import crashed, fill, flip, sequences
from tests.support.agent import AgentProcess, config
from tests.support.command import Command

from setsuden.edge_agent.core import Insert
from setsuden.edge_agent.outbox import OutboxTroubleError, files
from setsuden.edge_agent.outbox.salvage import salvage
from setsuden.schemas.errors import ConfigError
from setsuden.telemetry import SpanClock
from setsuden.telemetry.resource import machine_id

ROOT = os.geteuid() == 0


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/nowhere/at/all")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("put", [pipe, folder, link])
@pytest.mark.parametrize("name", ["outbox.db", "outbox.db-wal", "outbox.db-shm"])
def test_what_is_no_file_is_refused_at_once_and_nothing_is_touched(
    tmp_path: Path, name: str, put: Callable[[Path], None]
) -> None:
    crashed(tmp_path, 5)
    put(tmp_path / name)
    before = sorted((path.name, path.lstat().st_size) for path in tmp_path.glob("outbox.db*"))
    with pytest.raises(OutboxTroubleError, match=f"{name} is ") as caught:
        opened(tmp_path)
    assert not caught.value.passes
    after = sorted((path.name, path.lstat().st_size) for path in tmp_path.glob("outbox.db*"))
    assert after == before
    assert list(tmp_path.glob("damaged-*")) == []


@pytest.mark.parametrize("offset", range(0, 32, 3))
def test_a_flipped_bit_in_the_header_of_the_log_loses_nothing(tmp_path: Path, offset: int) -> None:
    """SQLite takes such a log for an empty one and deletes it."""
    crashed(tmp_path, 20)
    flip(tmp_path / "outbox.db-wal", offset, bit=offset % 8)
    box = opened(tmp_path)
    (aside,) = box.outbox.set_aside
    assert sequences(box) == []
    box.outbox.close()
    assert salvage(tmp_path / aside, tmp_path)[1:] == (20, 0, 0, 0)


def test_a_log_of_zeros_is_set_aside(tmp_path: Path) -> None:
    crashed(tmp_path, 5)
    zeros(tmp_path / "outbox.db-wal")
    box = opened(tmp_path)
    assert len(box.outbox.set_aside) == 1
    box.outbox.close()


def test_a_log_without_a_frame_is_no_damage(tmp_path: Path) -> None:
    box = opened(tmp_path)
    assert box.write(Insert(row(1))) is None
    box.outbox.close()
    (tmp_path / "outbox.db-wal").write_bytes(bytes(32))
    again = opened(tmp_path)
    assert sequences(again) == [1]
    assert again.outbox.set_aside == []
    again.outbox.close()


# -- salvage -----------------------------------------------------------------------------------


def test_salvage_into_a_folder_whose_database_is_gone_deletes_no_log(tmp_path: Path) -> None:
    crashed(tmp_path / "old", 3)
    crashed(tmp_path / "new", 5)
    (tmp_path / "new" / "outbox.db").write_bytes(b"")
    salvage(tmp_path / "old" / "outbox.db", tmp_path / "new")
    (aside,) = (tmp_path / "new").glob("damaged-*")
    assert salvage(aside, tmp_path / "new")[1] > 0
    box = opened(tmp_path / "new")
    assert len(sequences(box)) == 5  # the same ids in both: each once
    box.outbox.close()


@pytest.mark.parametrize("content", [b"", b"hello " * 1000])
def test_what_is_no_outbox_is_not_called_a_hundred_thousand_unreadable_events(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError, match="can be read as an outbox"):
        salvage(tmp_path / "file", tmp_path / "state")


def test_a_pipe_is_not_salvaged(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutboxTroubleError, match="is no file"):
        salvage(tmp_path / "pipe", tmp_path / "state")


def test_one_folder_without_an_outbox_keeps_no_other_from_being_salvaged(
    tmp_path: Path, setsuden: Command
) -> None:
    state = tmp_path / "state"
    crashed(state, 5)
    zeros(state / "outbox.db-wal")
    crashed(tmp_path / "other", 7)
    (state / "damaged-1").mkdir()
    (state / "damaged-1" / "outbox.db").write_bytes(b"hello")
    (state / "damaged-2").write_bytes(b"a file of this name")
    (state / "damaged-3").mkdir()
    shutil.copytree(tmp_path / "other", state / "damaged-4")
    (tmp_path / "agent.toml").write_text(config())
    done = setsuden("agent", "salvage", "--config", tmp_path / "agent.toml", "--json")
    (report,) = done.json
    assert report["open_events"] == 7
    assert done.code == 78
    assert "damaged-1" in json.loads(done.err)["error"]["message"]
    assert len(files.set_aside(state)) == 2  # the agent's own outbox was damaged, too


# -- the whole agent ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["http.port", "clock.json", "spool", "energy", "crash.log"])
def test_a_pipe_in_the_place_of_a_lesser_file_keeps_no_agent_from_answering(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "state").mkdir()
    agent = AgentProcess(tmp_path, config())
    agent.start(link=False)
    agent.kill()
    with suppress(NotADirectoryError, FileNotFoundError):
        shutil.rmtree(tmp_path / "state" / name)
    pipe(tmp_path / "state" / name)
    try:
        agent.start(link=False)
        assert agent.event(bytes(784))[0] == 202
        assert agent.terminate() == 0
    finally:
        agent.kill()


@pytest.mark.skipif(not ROOT, reason="needs root to mount a small disk")
@pytest.mark.parametrize("used", [False, True])
def test_an_agent_that_starts_on_a_full_disk_serves_once_there_is_room(
    tmp_path: Path, used: bool
) -> None:
    disk = tmp_path / "state"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    agent = AgentProcess(tmp_path, config())
    try:
        if used:
            agent.start(link=False)
            agent.kill()
        (tmp_path / "agent.log").unlink(missing_ok=True)
        fill(disk / "ballast")
        agent.spawn()
        said = "http_port_unwritten" if used else "outbox_waits_for_disk"
        agent.until(lambda: said in agent.log())
        assert "Traceback" not in agent.log()
        (disk / "ballast").unlink()
        agent.until(lambda: "agent_ready" in agent.log())
        assert agent.terminate() == 0
    finally:
        agent.kill()
        subprocess.run(["umount", str(disk)], check=True)


# -- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", [10**30, -(1 << 62), 1 << 63, "x", None])
def test_a_damaged_anchor_is_taken_anew(tmp_path: Path, anchor: object) -> None:
    boot = SpanClock(tmp_path).boot
    (tmp_path / "clock.json").write_text(json.dumps({"boot": boot, "anchor_ns": anchor}))
    assert 0 < SpanClock(tmp_path).now_ns() < 1 << 63


@pytest.mark.parametrize("content", [b"", b"uninitialized\n", b"\xff\xfe\x00", b"0" * 31])
def test_what_is_no_machine_id_tells_no_machine_from_another(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "machine-id").write_bytes(content)
    assert machine_id(tmp_path / "machine-id") is None
    assert machine_id(tmp_path / "nothing") is None


def test_a_machine_id_is_one(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    assert machine_id(tmp_path / "machine-id") == "0123456789abcdef0123456789abcdef"
