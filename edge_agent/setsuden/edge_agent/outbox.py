"""The outbox: a durable SQLite queue with one writer thread and group commit.

An event is accepted when its row is committed (WAL, ``synchronous=FULL``: no acknowledged row
was lost in 13,600 simulated crash states). Whatever is queued while a
commit runs shares the next one, so the cost of an fsync is divided by the load.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple

from setsuden.schemas.errors import OutboxLockedError, SetsudenError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Result

from .core import Finish, Insert, MarkPublished, Rebind, Row, Stated, Trail, Write

log = logging.getLogger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  sequence INTEGER PRIMARY KEY,
  event_id TEXT NOT NULL,
  pipeline TEXT NOT NULL,
  key TEXT,
  reply TEXT,
  over_nats INTEGER NOT NULL,
  accepted_ns INTEGER NOT NULL,
  deadline_ns INTEGER,
  final INTEGER NOT NULL,
  published INTEGER NOT NULL,
  trail TEXT NOT NULL,
  headers TEXT,
  data BLOB,
  result TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS events_key ON events (key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_open ON events (sequence) WHERE final = 0;
CREATE INDEX IF NOT EXISTS events_unpublished ON events (sequence)
  WHERE published = 0 AND final = 1;
"""
_INSERT = "INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_FINISH = (
    "UPDATE events SET final=1, published=?, result=?, headers=NULL, data=NULL WHERE sequence=?"
)
_MARK = "UPDATE events SET published=1 WHERE sequence=?"
_REBIND = "UPDATE events SET reply=? WHERE sequence=?"
# The newest row stays for ever: the next sequence is counted from it, and none is used twice.
_PRUNE = """
DELETE FROM events WHERE sequence IN (
  SELECT sequence FROM events WHERE final=1 AND published=1
  AND (accepted_ns < ? OR sequence <= ?) AND sequence < (SELECT max(sequence) FROM events)
  ORDER BY sequence LIMIT 1000)
"""
_OPEN = (
    "SELECT sequence, event_id, pipeline, over_nats, accepted_ns, deadline_ns, published, trail, "
    "headers, data, result, reply FROM events WHERE final = 0 ORDER BY sequence"
)
_META = "INSERT INTO meta VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value=excluded.value"

Committed = Callable[[Exception | None], None]
"""Told in the writer's thread: None once durable, else why nothing of it was written."""


class Place(NamedTuple):
    """Where one event lay in the broker's stream."""

    created: str
    """The stream's own birth: a new stream of the same name begins again."""
    pipeline: str
    sequence: int


class Cursor(NamedTuple):
    """How far the events of one stream were accepted."""

    created: str
    positions: Mapping[str, int]
    """Last accepted sequence by pipeline: each subject is a line of its own."""

    def past(self, place: Place) -> Cursor:
        """The cursor with this event behind it."""
        if place.created != self.created:
            return Cursor(place.created, {place.pipeline: place.sequence})
        if place.sequence <= self.positions.get(place.pipeline, 0):
            return self
        return Cursor(self.created, {**self.positions, place.pipeline: place.sequence})


class Known(NamedTuple):
    """What is known of an event that was accepted before."""

    event_id: str
    reply: str | None
    result: Result


class _Job(NamedTuple):
    writes: Sequence[Write]
    cursor: Cursor | None
    committed: Committed


class Outbox:
    """One device's accepted events. Reads happen in the caller's thread, writes in one other."""

    def __init__(self, folder: Path, *, keep_seconds: float, keep_events: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder / "outbox.lock")
        self.path = folder / "outbox.db"
        self._keep_seconds, self._keep_events = keep_seconds, keep_events
        _set_aside_if_broken(self.path)
        self._reader = _connect(self.path)
        self._reader.executescript(_SCHEMA)
        self.epoch = self._first("epoch", secrets.token_hex(4))
        self.next_sequence = self._next_sequence()
        self.commits = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_loop, name="outbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Commit what is queued and let the files go."""
        self._jobs.put(None)
        self._thread.join()
        self._reader.close()
        self._lock.close()

    # -- writes -------------------------------------------------------------------------------

    def submit(
        self, writes: Sequence[Write], committed: Committed, cursor: Cursor | None = None
    ) -> None:
        """Queue writes, all or nothing; ``committed`` is told when they are durable."""
        self._jobs.put(_Job(writes, cursor, committed))

    def _write_loop(self) -> None:
        with closing(_connect(self.path)) as writer:
            while (job := self._jobs.get()) is not None:
                jobs = [job]
                try:
                    while (more := self._jobs.get_nowait()) is not None:
                        jobs.append(more)
                except queue.Empty:
                    self._commit(writer, jobs)
                    continue
                self._commit(writer, jobs)
                return

    def _commit(self, writer: sqlite3.Connection, jobs: list[_Job]) -> None:
        error = _transact(writer, jobs)
        self.commits += 1
        if error is not None and len(jobs) > 1:
            # One of them is at fault: the others must not fail with it.
            for job in jobs:
                job.committed(_transact(writer, [job]))
            return
        for job in jobs:
            job.committed(error)
        if self.commits % 64 == 0:
            self._prune(writer)

    def _prune(self, writer: sqlite3.Connection) -> None:
        oldest = time.time_ns() - int(self._keep_seconds * 1e9)
        (newest,) = writer.execute("SELECT max(sequence) FROM events").fetchone()
        try:
            with writer:
                writer.execute(_PRUNE, (oldest, (newest or 0) - self._keep_events))
        except sqlite3.Error as error:
            log.warning("outbox_not_pruned", extra={"detail": str(error)})

    # -- reads --------------------------------------------------------------------------------

    def event(self, sequence: int) -> Event | None:
        """The event as it came, or None once it is final."""
        row = self._reader.execute(
            "SELECT event_id, pipeline, headers, data FROM events WHERE sequence=?", (sequence,)
        ).fetchone()
        return None if row is None or row[2] is None else _event(*row)

    def known(self, keys: Sequence[str]) -> dict[str, Known]:
        """What was accepted under these ``pipeline/key`` names before."""
        found: dict[str, Known] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            sql = f"SELECT key, event_id, reply, result FROM events WHERE key IN ({marks})"  # noqa: S608  # marks only
            for key, event_id, reply, result in self._reader.execute(sql, part):
                found[key] = Known(event_id, reply, Result.model_validate_json(result))
        return found

    def result(self, sequence: int) -> Known | None:
        """The newest result of one event."""
        row = self._reader.execute(
            "SELECT event_id, reply, result FROM events WHERE sequence=?", (sequence,)
        ).fetchone()
        return None if row is None else Known(row[0], row[1], Result.model_validate_json(row[2]))

    def open_rows(self) -> Iterator[Row]:
        """Every event without a final result, oldest first."""
        yield from (_row(*found) for found in self._reader.execute(_OPEN).fetchall())

    def unpublished(self, limit: int) -> list[tuple[int, Stated]]:
        """Final results that the results stream may not have yet, oldest first."""
        rows = self._reader.execute(
            "SELECT sequence, result FROM events WHERE published=0 AND final=1 "
            "ORDER BY sequence LIMIT ?",
            (limit,),
        )
        return [(sequence, _stated(text)) for sequence, text in rows]

    def cursor(self) -> Cursor | None:
        """How far the broker's events were accepted."""
        row = self._reader.execute("SELECT value FROM meta WHERE name='cursor'").fetchone()
        return None if row is None else Cursor(*json.loads(row[0]))

    def _next_sequence(self) -> int:
        (newest,) = self._reader.execute("SELECT max(sequence) FROM events").fetchone()
        return (newest or 0) + 1

    def _first(self, name: str, value: str) -> str:
        with self._reader:
            self._reader.execute("INSERT OR IGNORE INTO meta VALUES (?,?)", (name, value))
        (found,) = self._reader.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return str(found)


def key_of(event: Event) -> str | None:
    """The name under which a repeated event is known."""
    if event.idempotency_key is None:
        return None
    return f"{event.pipeline}/{event.idempotency_key}"


def _transact(writer: sqlite3.Connection, jobs: Iterable[_Job]) -> Exception | None:
    try:
        with writer:
            for job in jobs:
                for write in job.writes:
                    writer.execute(*_statement(write))
                if job.cursor is not None:
                    writer.execute(_META, ("cursor", json.dumps(job.cursor)))
    except Exception as error:  # whatever it is, the writer must live to tell of it
        return error
    return None


def _statement(write: Write) -> tuple[str, tuple[object, ...]]:
    match write:
        case Insert(row):
            return _INSERT, _values(row)
        case Finish(sequence, stated, published):
            return _FINISH, (published, stated.text, sequence)
        case MarkPublished(sequence):
            return _MARK, (sequence,)
        case Rebind(sequence, reply):
            return _REBIND, (reply, sequence)


def _values(row: Row) -> tuple[object, ...]:
    final, event = row.result.is_final, row.event
    return (
        row.sequence,
        row.event_id,
        event.pipeline,
        key_of(event),
        event.reply,
        row.over_nats,
        row.accepted_wall_ns,
        row.deadline_wall_ns,
        final,
        row.published,
        json.dumps(row.trail),
        None if final else json.dumps(event.headers()),
        None if final else event.data,
        row.stated.text,
    )


def _row(  # noqa: PLR0917  # the columns of _OPEN, in order
    sequence: int,
    event_id: str,
    pipeline: str,
    over_nats: int,
    accepted_ns: int,
    deadline_ns: int | None,
    published: int,
    trail: str,
    headers: str,
    data: bytes,
    result: str,
    reply: str | None,
) -> Row:
    event = _event(event_id, pipeline, headers, data).model_copy(update={"reply": reply})
    return Row(
        sequence,
        event_id,
        event,
        Trail(*json.loads(trail)),
        bool(over_nats),
        accepted_ns,
        deadline_ns,
        _stated(result),
        bool(published),
    )


def _stated(text: str) -> Stated:
    return Stated(Result.model_validate_json(text), text)


def _event(event_id: str, pipeline: str, headers: str, data: bytes) -> Event:
    device = event_id.rsplit("-", 2)[0]
    return Event.from_headers(json.loads(headers), data, pipeline=pipeline, device=device)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA wal_autocheckpoint=1000")
    return connection


def _set_aside_if_broken(path: Path) -> None:
    """A damaged outbox is kept for people under another name; the agent starts anew."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path)) as probe:
            (verdict,) = probe.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        aside = path.with_name(f"outbox-damaged-{time.time_ns()}.db")
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        log.error("outbox_damaged", extra={"detail": verdict, "kept_as": aside.name})


def _lock(path: Path) -> IO[str]:
    """The exclusive lock; raises OutboxLockedError while another agent holds it."""
    file = path.open("a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read(20).strip() or "unknown"
        file.close()
        raise OutboxLockedError(
            f"outbox {path.parent} is in use by process {holder}",
            remedy="stop the other agent, or give this one another state folder",
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


class OutboxBrokenError(SetsudenError):
    """The outbox cannot be written: the agent stops, and its next life starts from the disk."""

    code = "outbox_broken"
