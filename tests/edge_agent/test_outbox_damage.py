"""The outbox when its disk lies: damage told apart from trouble, one bad row is one bad event."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.edge_agent.test_outbox import Opened, opened, row

from setsuden.edge_agent.core import Finish, Insert, encode
from setsuden.edge_agent.outbox import OutboxTroubleError, OutboxUnwritableError, files
from setsuden.edge_agent.outbox.rows import OPEN, STATES
from setsuden.edge_agent.outbox.salvage import salvage
from setsuden.schemas.errors import OutboxLockedError
from setsuden.schemas.result import Status

ROOT = os.geteuid() == 0


def filled(folder: Path, rows: int = 5) -> None:
    box = opened(folder)
    for sequence in range(1, rows + 1):
        assert box.write(Insert(row(sequence))) is None
    box.outbox.close()


def crashed(folder: Path, rows: int) -> None:
    """An agent that died with its transactions in the log alone."""
    code = (
        "import os, sys; from pathlib import Path; "
        "from tests.edge_agent.test_outbox import opened, row; "
        "from setsuden.edge_agent.core import Insert; box = opened(Path(sys.argv[1])); "
        f"[box.write(Insert(row(n))) for n in range(1, {rows} + 1)]; os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert done.returncode == 0


def sequences(box: Opened) -> list[int]:
    return [found.sequence for found in box.outbox.open_rows()]


# -- trouble -----------------------------------------------------------------------------------


def test_an_outbox_that_another_program_holds_is_not_touched(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(OutboxTroubleError, match="another program holds it") as caught:
            opened(tmp_path)
        assert not caught.value.passes
        assert list(tmp_path.glob("damaged-*")) == []
        assert set(before) <= {path.name for path in tmp_path.iterdir()}
        other.rollback()
    again = opened(tmp_path)
    assert sequences(again) == [1, 2, 3, 4, 5]
    again.outbox.close()


@pytest.mark.skipif(not ROOT, reason="needs root to mount a small disk")
def test_a_full_disk_refuses_what_is_new_and_keeps_what_was_accepted(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        box = opened(disk / "state")
        accepted = 0
        refusal: BaseException | None = None
        while refusal is None:
            big = row(accepted + 1)
            big = big._replace(event=big.event.model_copy(update={"data": bytes(20_000)}))
            refusal = box.accept(Insert(big))
            accepted += refusal is None
        assert isinstance(refusal, OutboxUnwritableError)
        assert str(disk) in str(refusal)
        assert "bytes free" in str(refusal)
        assert box.outbox.unwritable is not None
        # A final result may not be refused: it waits until the disk takes it.
        final = encode(row(1).result.model_copy(update={"status": Status.EXPIRED}))
        told = box.begin(Finish(1, "dev-00000000-1", None, final, True))
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert told.exception(timeout=10) is None
        assert box.accept(Insert(row(accepted + 1))) is None
        assert box.outbox.unwritable is None
        assert sequences(box) == list(range(2, accepted + 2))
        box.outbox.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not ROOT, reason="needs root to mount a small disk")
def test_a_full_disk_at_the_start_is_waited_for(tmp_path: Path) -> None:
    filled(tmp_path / "kept")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=True)
    try:
        shutil.copytree(tmp_path / "kept", disk / "state")
        fill(disk / "ballast")
        with pytest.raises(OutboxTroubleError, match="not damaged") as caught:
            opened(disk / "state")
        assert caught.value.passes
        (disk / "ballast").unlink()
        box = opened(disk / "state")
        assert sequences(box) == [1, 2, 3, 4, 5]
        box.outbox.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(ballast: Path) -> None:
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_after_a_refusal_no_cursor_moves_past_what_was_refused(tmp_path: Path) -> None:
    """Two batches are in flight when the disk fills, and it has room again for the second."""
    box = opened(tmp_path)
    box.outbox._refused_reading = 3
    refused = box.accept(Insert(row(1)), reading=3, cursor=True)
    assert isinstance(refused, OutboxUnwritableError)
    assert box.outbox.cursor() is None
    assert box.accept(Insert(row(1)), reading=4, cursor=True) is None
    box.outbox.close()


# -- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", None])
def test_a_log_whose_database_is_gone_is_set_aside_and_never_deleted(
    tmp_path: Path, content: bytes | None
) -> None:
    crashed(tmp_path, 30)
    (tmp_path / "outbox.db").unlink()
    if content is not None:
        (tmp_path / "outbox.db").write_bytes(content)
    wal = (tmp_path / "outbox.db-wal").read_bytes()
    box = opened(tmp_path)
    assert sequences(box) == []
    (aside,) = box.outbox.set_aside
    assert (tmp_path / aside / "outbox.db-wal").read_bytes() == wal
    box.outbox.close()


def test_a_database_that_is_none_is_set_aside_unless_its_log_has_it_all(tmp_path: Path) -> None:
    crashed(tmp_path / "whole", 30)
    (tmp_path / "whole" / "outbox.db").write_bytes(b"no database" * 1000)
    whole = opened(tmp_path / "whole")
    assert sequences(whole) == list(range(1, 31))
    whole.outbox.close()
    filled(tmp_path / "lost")
    (tmp_path / "lost" / "outbox.db").write_bytes(b"no database" * 1000)
    lost = opened(tmp_path / "lost")
    assert sequences(lost) == []
    assert len(lost.outbox.set_aside) == 1
    lost.outbox.close()


def test_a_flipped_bit_in_the_log_does_not_silently_end_it(tmp_path: Path) -> None:
    """SQLite ends its recovery at the damaged frame, and everything behind it is gone."""
    crashed(tmp_path, 40)
    wal = tmp_path / "outbox.db-wal"
    frames = list(files.wal_frames(wal))
    flip(wal, frames[len(frames) // 2].offset + 2000)
    box = opened(tmp_path)
    assert sequences(box) == []
    assert len(box.outbox.set_aside) == 1
    box.outbox.close()


def test_the_unfinished_last_transaction_of_a_power_cut_is_no_damage(tmp_path: Path) -> None:
    crashed(tmp_path, 20)
    wal = tmp_path / "outbox.db-wal"
    flip(wal, list(files.wal_frames(wal))[-1].offset + 100)
    box = opened(tmp_path)
    assert sequences(box) == list(range(1, 20))
    assert box.outbox.set_aside == []
    box.outbox.close()


def test_a_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    filled(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}


def test_an_observation_is_overwritten_when_its_event_is_final(tmp_path: Path) -> None:
    secret = b"an observation that nobody shall find" * 40
    box = opened(tmp_path)
    hard = row(1)
    box.write(Insert(hard._replace(event=hard.event.model_copy(update={"data": secret}))))
    box.outbox._reader.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert secret[:100] in (tmp_path / "outbox.db").read_bytes()
    final = encode(hard.result.model_copy(update={"status": Status.EXPIRED}))
    box.write(Finish(1, "dev-00000000-1", None, final, True))
    box.outbox.close()
    left = b"".join(path.read_bytes() for path in tmp_path.glob("outbox.db*"))
    assert secret[:100] not in left


def flip(path: Path, offset: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(bytes(content))


def test_no_flipped_bit_makes_one_state_into_another() -> None:
    for one in STATES:
        assert not {one ^ (1 << bit) for bit in range(8)} & set(STATES)


COLUMNS: dict[str, Callable[[object], object]] = {
    "data": lambda value: bytes([value[0] ^ 1]) + value[1:],  # type: ignore[index]
    "headers": lambda value: str(value).replace("octet", "octfu"),
    "result": lambda value: str(value).replace("provisional", "provisionam"),
    "trail": lambda value: str(value).replace("10", "11"),
    "event_id": lambda value: str(value).replace("dev", "dew"),
    "pipeline": lambda _: "q",
    "deadline": lambda value: str(value).replace("5", "7"),
    "reply": lambda value: str(value).replace("app", "apq"),
    "fixed_sum": lambda value: int(value) ^ 4,  # type: ignore[call-overload]
}


@pytest.mark.parametrize("column", sorted(COLUMNS))
def test_one_damaged_row_is_one_dead_event_and_the_others_go_on(
    tmp_path: Path, column: str
) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as disk, disk:
        (value,) = disk.execute(f"SELECT {column} FROM events WHERE sequence=3").fetchone()  # noqa: S608  # our column
        update = f"UPDATE events SET {column}=? WHERE sequence=3"  # noqa: S608  # our column
        disk.execute(update, (COLUMNS[column](value),))
    box = opened(tmp_path)
    assert sequences(box) == [1, 2, 4, 5]
    (damaged,) = box.outbox.damaged
    assert damaged.sequence == 3
    if column in {"event_id", "reply", "result"}:  # whose it was is not certain any more
        assert damaged.was is None
    else:
        assert damaged.was is not None
        assert damaged.was.event_id == "dev-00000000-3"
    assert box.outbox.next_sequence == 6
    box.outbox.close()


def test_a_damaged_state_alone_is_repaired(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as disk, disk:
        disk.execute("UPDATE events SET state = ? WHERE sequence=2", (OPEN ^ 8,))
    box = opened(tmp_path)
    assert sequences(box) == [1, 2, 3]
    assert box.outbox.damaged == []
    box.outbox.close()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 0.999999), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, where: float, bit: int
) -> None:
    """Every accepted event is there as it was, or named as damaged, or the file is set aside."""
    folder = tmp_path_factory.mktemp("flip")
    filled(folder, 4)
    flip(folder / "outbox.db", int(where * (folder / "outbox.db").stat().st_size), bit)
    box = opened(folder)
    try:
        if box.outbox.set_aside:
            return
        whole = {found.sequence: found for found in box.outbox.open_rows()}
        for sequence, found in whole.items():
            assert found == row(sequence)
        named = {damaged.sequence for damaged in box.outbox.damaged}
        assert len(whole) + len(named) == 4
    finally:
        box.outbox.close()
        shutil.rmtree(folder)


# -- salvage -----------------------------------------------------------------------------------


def test_events_behind_a_damaged_frame_are_salvaged(tmp_path: Path) -> None:
    crashed(tmp_path, 40)
    wal = tmp_path / "outbox.db-wal"
    frames = list(files.wal_frames(wal))
    flip(wal, frames[len(frames) // 2].offset + 2000)
    box = opened(tmp_path)
    (aside,) = box.outbox.set_aside
    assert box.write(Insert(row(50))) is None
    box.outbox.close()
    report = salvage(tmp_path / aside, tmp_path)
    assert report.open_events + report.unreadable == 40
    assert report.open_events >= 39
    again = opened(tmp_path)
    kept = {found.event_id: found for found in again.outbox.open_rows()}
    assert len(kept) == report.open_events + 1
    for found in kept.values():
        assert found.event.data == row(1).event.data
    assert again.outbox.set_aside == []
    again.outbox.close()
    assert salvage(next(tmp_path.glob("salvaged-*")), tmp_path).already == report.open_events


def test_a_log_without_its_database_is_salvaged(tmp_path: Path) -> None:
    crashed(tmp_path, 30)
    (tmp_path / "outbox.db").write_bytes(b"")
    box = opened(tmp_path)
    (aside,) = box.outbox.set_aside
    box.outbox.close()
    assert salvage(tmp_path / aside, tmp_path)[1:] == (30, 0, 0, 0)


def test_finals_that_nobody_has_are_salvaged_too(tmp_path: Path) -> None:
    box = opened(tmp_path / "old")
    box.write(Insert(row(1, hard=False)._replace(published=False)), Insert(row(2)))
    box.write(Insert(row(3, hard=False)))
    box.outbox.close()
    report = salvage(tmp_path / "old" / "outbox.db", tmp_path / "new")
    assert report[1:] == (1, 1, 0, 0)
    again = opened(tmp_path / "new")
    assert [encoded.result.event_id for _, encoded in again.outbox.unpublished(9)] == [
        "dev-00000000-1"
    ]
    again.outbox.close()


def test_nothing_is_salvaged_into_an_outbox_in_use(tmp_path: Path) -> None:
    filled(tmp_path / "old")
    box = opened(tmp_path / "new")
    with pytest.raises(OutboxLockedError):
        salvage(tmp_path / "old" / "outbox.db", tmp_path / "new")
    box.outbox.close()


def test_the_outbox_of_another_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as old, old:
        old.execute("CREATE TABLE events (sequence INTEGER PRIMARY KEY, final INTEGER)")
        old.execute("INSERT INTO events VALUES (1, 0)")
    before = (tmp_path / "outbox.db").read_bytes()
    with pytest.raises(OutboxTroubleError, match="has format 0") as caught:
        opened(tmp_path)
    assert not caught.value.passes
    assert list(tmp_path.glob("damaged-*")) == []
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as old:
        assert old.execute("SELECT * FROM events").fetchall() == [(1, 0)]
    assert len(before) == (tmp_path / "outbox.db").stat().st_size


def test_a_second_agent_on_the_same_folder_changes_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    box = opened(tmp_path)
    with pytest.raises(OutboxLockedError):
        opened(tmp_path)
    assert sequences(box) == [1, 2, 3, 4, 5]
    box.outbox.close()
