"""The outbox: accepted is durable, final is kept, nobody else writes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Thread

import pytest
from tests.support.agent_world import EASY, HARD, World

from setsuden.edge_agent.core import (
    Cursor,
    Deadline,
    Finish,
    Insert,
    MarkPublished,
    Rebind,
    Row,
    StageTimes,
    StreamPlace,
    Write,
    encode,
)
from setsuden.edge_agent.outbox import Outbox
from setsuden.schemas.errors import OutboxLockedError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Status


@cache
def loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own: these tests wait for the writer without one."""
    running = asyncio.new_event_loop()
    Thread(target=running.run_forever, daemon=True).start()
    return running


@dataclass
class Opened:
    """An outbox whose writes are waited for."""

    outbox: Outbox

    def write(self, *writes: Write, cursor: Cursor | None = None) -> BaseException | None:
        return self.begin(*writes, cursor=cursor).exception(timeout=10)

    def begin(self, *writes: Write, cursor: Cursor | None = None) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(self._submit(writes, cursor), loop())

    def accept(
        self, *writes: Write, reading: int = 0, cursor: bool = False
    ) -> BaseException | None:
        """As the runtime does with new events: they may be refused."""
        place = Cursor("born", {"p": 9}) if cursor else None
        submitted = self._submit(writes, place, refusable=True, reading=reading)
        return asyncio.run_coroutine_threadsafe(submitted, loop()).exception(timeout=10)

    async def _submit(
        self,
        writes: Sequence[Write],
        cursor: Cursor | None,
        *,
        refusable: bool = False,
        reading: int = 0,
    ) -> None:
        await self.outbox.submit(writes, cursor, refusable=refusable, reading=reading)


DEADLINE = Deadline("boot", 5, 6, 7, 8, absolute=False)


def opened(folder: Path, keep_events: int = 1000) -> Opened:
    return Opened(Outbox(folder, keep_seconds=3600, keep_events=keep_events))


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Opened]:
    found = opened(tmp_path)
    yield found
    found.outbox.close()


def row(sequence: int = 1, *, hard: bool = True, key: str | None = None) -> Row:
    event = Event(
        id=f"e{sequence}",
        source="s",
        pipeline="p",
        device="dev",
        reply="reply.app.dev.c.t",
        idempotency_key=key,
        traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        data=b"\x00\xff observation",
    )
    result = World().submit(HARD if hard else EASY)
    return Row(
        sequence,
        f"dev-00000000-{sequence}",
        event,
        StageTimes("2" * 16, 10, 20, 30, 1, 15, sampled=False),
        True,
        DEADLINE,
        encode(result.model_copy(update={"event_id": f"dev-00000000-{sequence}"})),
        published=True,
    )


def test_an_open_row_comes_back_as_it_was(box: Opened) -> None:
    assert box.write(Insert(row())) is None
    (found,) = box.outbox.open_rows()
    assert found == row()


def test_an_observation_lives_until_its_event_is_final(box: Opened) -> None:
    box.write(Insert(row()))
    event = box.outbox.event(1)
    assert event is not None
    assert event.data == b"\x00\xff observation"
    final = encode(row().result.model_copy(update={"status": Status.EXPIRED}))
    box.write(Finish(1, "dev-00000000-1", None, final, False))
    assert box.outbox.event(1) is None
    assert list(box.outbox.open_rows()) == []
    assert box.outbox.unpublished(10) == [(1, final)]
    box.write(MarkPublished(1))
    assert box.outbox.unpublished(10) == []


def test_an_easy_event_never_stores_its_observation(box: Opened) -> None:
    box.write(Insert(row(hard=False)))
    assert box.outbox.event(1) is None
    known = box.outbox.result("dev-00000000-1")
    assert known is not None
    assert known.result.is_final


def test_a_key_is_known_within_its_pipeline(box: Opened) -> None:
    keyed = row(key="k1")
    box.write(Insert(keyed))
    assert keyed.event.key == "p/k1"
    assert set(box.outbox.known(["p/k1", "p/k2", "q/k1"])) == {"p/k1"}


def test_a_second_row_with_the_same_key_is_refused_and_the_others_are_not(box: Opened) -> None:
    box.write(Insert(row(1, key="k")))
    assert box.write(Insert(row(2, key="k"))) is not None
    assert box.write(Insert(row(3, key="other"))) is None
    assert [found.sequence for found in box.outbox.open_rows()] == [1, 3]


def test_writes_of_one_job_are_all_or_nothing(box: Opened) -> None:
    box.write(Insert(row(1, key="k")))
    assert box.write(Insert(row(2)), Insert(row(3, key="k"))) is not None
    assert [found.sequence for found in box.outbox.open_rows()] == [1]


def test_an_event_of_the_broker_is_kept_once_and_its_batch_goes_on(box: Opened) -> None:
    box.write(Insert(row(1)))
    again = row(2)._replace(event_id="dev-00000000-1")
    assert box.write(Insert(again), Insert(row(3))) is None
    assert [found.sequence for found in box.outbox.open_rows()] == [1, 3]


def test_the_cursor_moves_with_the_events_it_stands_for(box: Opened) -> None:
    box.write(Insert(row(1, key="k")), cursor=Cursor("born", {"p": 7}))
    assert box.outbox.cursor() == Cursor("born", {"p": 7})
    box.write(Insert(row(2, key="k")), cursor=Cursor("born", {"p": 8}))  # refused: its key is there
    assert box.outbox.cursor() == Cursor("born", {"p": 7})


def test_a_cursor_goes_forward_only_and_begins_again_with_a_new_stream() -> None:
    cursor = Cursor("born", {"p": 7, "q": 2})
    assert cursor.past(StreamPlace("born", "p", 5)) is cursor
    assert cursor.past(StreamPlace("born", "p", 9)).positions == {"p": 9, "q": 2}
    assert cursor.past(StreamPlace("again", "p", 1)) == Cursor("again", {"p": 1})


def test_a_new_reply_replaces_the_old(box: Opened) -> None:
    rebound = Rebind(1, "dev-00000000-1", "reply.app.dev.c.new", row().encoded)
    box.write(Insert(row()), rebound)
    (found,) = box.outbox.open_rows()
    assert found.event.reply == "reply.app.dev.c.new"


def test_a_reopened_outbox_counts_on(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write(Insert(row(41)))
    first.outbox.close()
    again = opened(tmp_path)
    assert again.outbox.next_sequence == 42
    again.outbox.close()


def test_pruning_never_frees_a_sequence_for_a_second_event(tmp_path: Path) -> None:
    first = opened(tmp_path, keep_events=0)
    for sequence in range(1, 70):  # the writer prunes every 64 commits
        first.write(Insert(row(sequence, hard=False)))
    first.outbox.close()
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as probe:
        (count,) = probe.execute("SELECT count(*) FROM events").fetchone()
    assert count < 69
    again = opened(tmp_path)
    assert again.outbox.next_sequence == 70
    again.outbox.close()


def test_a_second_agent_on_the_same_outbox_is_refused(box: Opened, tmp_path: Path) -> None:
    with pytest.raises(OutboxLockedError, match="in use by process"):
        opened(tmp_path)


def test_a_damaged_outbox_is_set_aside_and_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"no database at all" * 100)
    box = opened(tmp_path)
    box.write(Insert(row()))
    box.outbox.close()
    (aside,) = tmp_path.glob("damaged-*")
    assert (aside / "outbox.db").read_bytes().startswith(b"no database at all")


def test_every_commit_is_synced(box: Opened) -> None:
    with closing(sqlite3.connect(box.outbox.path)) as probe:
        assert probe.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert box.outbox._reader.execute("PRAGMA synchronous").fetchone() == (2,)
