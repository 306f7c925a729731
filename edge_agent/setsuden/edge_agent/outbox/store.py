"""The outbox: a durable SQLite queue with one writer thread and group commit.

An event is accepted when its row is committed (WAL, ``synchronous=FULL``: no acknowledged row
was lost in 13,600 simulated crash states). Whatever is queued while a
commit runs shares the next one, so the cost of an fsync is divided by the load.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from setsuden.edge_agent.core import Cursor, EncodedResult, Insert, Row, Write
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.event import IDENTITY_MARK, Event
from setsuden.schemas.log import get_logger
from setsuden.schemas.result import Result

from . import files, rows
from .rows import COLUMNS, OPEN, PUBLISHED, UNPUBLISHED, Raw

log = get_logger(__name__)
# The newest row stays for ever: the next sequence is counted from it, and none is used twice.
_PRUNE = f"""
DELETE FROM events WHERE sequence IN (
  SELECT sequence FROM events WHERE state = {PUBLISHED}
  AND (age_ns < ? OR sequence <= ?) AND sequence < (SELECT max(sequence) FROM events)
  ORDER BY sequence LIMIT 1000)
"""  # noqa: S608  # a number of ours
# A plus sign keeps the index out of it: a damaged index could hide a row.
_WITH_STATE = f"SELECT {COLUMNS} FROM events WHERE +state = ? ORDER BY sequence"  # noqa: S608
_ODD_STATE = (
    f"SELECT {COLUMNS} FROM events "  # noqa: S608  # numbers of ours
    f"WHERE +state NOT IN ({OPEN}, {UNPUBLISHED}, {PUBLISHED})"
)
_ONE = f"SELECT {COLUMNS} FROM events WHERE sequence = ?"  # noqa: S608  # our columns
_SET_STATE = "UPDATE events SET state = ? WHERE sequence = ?"
_META = (
    "INSERT INTO meta VALUES (?,?,?) "
    "ON CONFLICT (name) DO UPDATE SET value=excluded.value, sum=excluded.sum"
)
_NAMED = f"AND key NOT GLOB '{IDENTITY_MARK}*'"
"""As the index has it, or it would not be used."""
RECENT = 10_000
"""Events without a key of their own that are known again when they are sent again: the newest."""
_IDENTITIES = (
    f"SELECT key, sequence FROM events WHERE key GLOB '{IDENTITY_MARK}*' "  # noqa: S608  # ours
    f"ORDER BY sequence DESC LIMIT {RECENT}"
)
_RETRY_SECONDS = 1.0
"""Pause before a disk that took nothing is tried again."""


class Known(NamedTuple):
    """What is known of an event that was accepted before."""

    event_id: str
    reply: str | None
    result: Result


class Damaged(NamedTuple):
    """A row that cannot be trusted any more, and whose it was if that is certain."""

    sequence: int
    was: Result | None
    reason: str


class _Job(NamedTuple):
    writes: Sequence[Write]
    cursor: Cursor | None
    done: asyncio.Future[None]
    refusable: bool
    """An acceptance, which may be refused while the disk is full; all else must be written."""
    reading: int


class Outbox:
    """One device's accepted events. Reads happen in the caller's thread, writes in one other.

    Raises OutboxLockedError, and OutboxTroubleError for what may pass; a damaged file is set
    aside (:mod:`.files`).
    """

    def __init__(self, folder: Path, *, keep_seconds: float, keep_events: int) -> None:
        files.prepare_folder(folder)
        self._lock = files.lock(folder / files.LOCK)
        self.folder, self.path = folder, folder / files.DATABASE
        self._keep_seconds, self._keep_events = keep_seconds, keep_events
        self._opened_ns = time.monotonic_ns()
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise
        self.commits = 0
        self.unwritable: Exception | None = None
        """Why the disk takes nothing now."""
        self._kept: list[_Job] = []
        """Waiting for a disk that takes nothing now."""
        self._refused_reading = -1
        self._recent: dict[str, int] | None = None
        """Places of the newest events by their identity; read when it is first asked for."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_loop, name="outbox", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        files.set_aside_if_damaged(self.path)
        try:
            try:
                self._take_up()
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not files.is_damage(error):
                    raise
                self._take_up_again(error)
        except (sqlite3.Error, OSError) as error:
            raise files.trouble(self.path, error) from error

    def _take_up_again(self, damage: Exception) -> None:
        """After damage that the page checks did not see: mostly an index that belies its table."""
        try:
            self._reader.execute("REINDEX")
            self._reader.close()
            self._take_up()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not files.is_damage(error):
                raise
            self._reader.close()
            files.move_aside(self.path, str(damage))
            self._take_up()

    def _take_up(self) -> None:
        self._reader = files.connect(self.path)
        self.path.chmod(0o600)
        files.check_version(self._reader, self.path)
        self._reader.executescript(rows.SCHEMA)
        files.check_schema(self._reader, rows.SCHEMA)
        self._age_base_ns = int(self.recall("age_ns") or 0)
        self.damaged = self._remove_damaged()
        self.next_sequence = self._next_sequence()
        with self._reader:  # a disk that takes nothing is heard of now, not with an event
            self._reader.execute(*_meta("age_ns", str(self._age_base_ns)))

    def close(self) -> None:
        """Commit what is queued and let the files go."""
        self._jobs.put(None)
        self._thread.join()
        self._reader.close()
        self._lock.close()

    def age_ns(self) -> int:
        """How long this outbox has been in use, over all its starts.

        Finished events are forgotten by this clock: one that is set cannot make it jump.
        """
        return self._age_base_ns + time.monotonic_ns() - self._opened_ns

    # -- writes -------------------------------------------------------------------------------

    def submit(
        self,
        writes: Sequence[Write],
        cursor: Cursor | None = None,
        *,
        refusable: bool = False,
        reading: int = 0,
    ) -> asyncio.Future[None]:
        """Queue writes, all or nothing; done when they are durable, in the order they were queued.

        Fails with what kept them from being written. While the disk is full, refusable writes fail
        with OutboxUnwritableError; the others wait. After a refusal all further writes of that
        reading of the stream with a cursor are refused, too: the cursor must not move past what
        was refused.
        """
        if self._recent is not None:
            _remember(self._recent, writes)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(writes, cursor, done, refusable, reading))
        return done

    def _write_loop(self) -> None:
        with closing(files.connect(self.path)) as writer:
            while True:
                jobs, more = self._next_jobs()
                self._work(writer, jobs)
                if not more:
                    return

    def _next_jobs(self) -> tuple[list[_Job], bool]:
        """What is queued, and whether there may be more; waits for the first."""
        jobs: list[_Job] = []
        try:
            timeout = _RETRY_SECONDS if self._kept else None
            job = self._jobs.get(timeout=timeout)
            while job is not None:
                jobs.append(job)
                job = self._jobs.get_nowait()
        except queue.Empty:
            return jobs, True
        return jobs, False

    def _work(self, writer: sqlite3.Connection, jobs: list[_Job]) -> None:
        jobs, self._kept = [*self._kept, *jobs], []
        passing = [job for job in jobs if not self._is_past_refusal(job)]
        refused = [job for job in jobs if self._is_past_refusal(job)]
        if refused:
            self._refuse(refused, RuntimeError("as before"))
        if passing:
            self._commit(writer, passing)

    def _is_past_refusal(self, job: _Job) -> bool:
        return job.refusable and job.cursor is not None and job.reading <= self._refused_reading

    def _commit(self, writer: sqlite3.Connection, jobs: list[_Job]) -> None:
        error = self._transact(writer, jobs)
        self.commits += 1
        if error is None:
            self.unwritable = None
            _settle([(job.done, None) for job in jobs])
        elif files.no_space(error):
            self._keep_or_refuse(jobs, error)
        elif len(jobs) > 1:
            # One of them is at fault: the others must not fail with it.
            for job in jobs:
                _settle([(job.done, self._transact(writer, [job]))])
        else:
            _settle([(jobs[0].done, error)])
        if self.commits % 64 == 0:
            self._prune(writer)

    def _keep_or_refuse(self, jobs: list[_Job], error: Exception) -> None:
        if self.unwritable is None:
            log.error("outbox_unwritable", detail=str(files.unwritable(self.path, error)))
        self.unwritable = error
        self._kept += [job for job in jobs if not job.refusable]
        self._refuse([job for job in jobs if job.refusable], error)

    def _refuse(self, jobs: list[_Job], error: Exception) -> None:
        readings = [job.reading for job in jobs if job.cursor is not None]
        self._refused_reading = max([self._refused_reading, *readings])
        _settle([(job.done, files.unwritable(self.path, error)) for job in jobs])

    def _transact(self, writer: sqlite3.Connection, jobs: Iterable[_Job]) -> Exception | None:
        age = self.age_ns()
        try:
            with writer:
                for job in jobs:
                    statements = (rows.statement(write, age) for write in job.writes)
                    for sql, alike in groupby(statements, itemgetter(0)):
                        writer.executemany(sql, map(itemgetter(1), alike))
                    if job.cursor is not None:
                        writer.execute(*_meta("cursor", json.dumps(job.cursor)))
        except Exception as error:  # whatever it is, the writer must live to tell of it
            return error
        return None

    def _prune(self, writer: sqlite3.Connection) -> None:
        age = self.age_ns()
        (newest,) = writer.execute("SELECT max(sequence) FROM events").fetchone()
        oldest = age - int(self._keep_seconds * 1e9)
        try:
            with writer:
                writer.execute(_PRUNE, (oldest, (newest or 0) - self._keep_events))
                writer.execute(*_meta("age_ns", str(age)))
        except sqlite3.Error as error:
            log.warning("outbox_not_pruned", detail=str(error))

    # -- reads --------------------------------------------------------------------------------

    def event(self, sequence: int) -> Event | None:
        """The event as it came, or None once it is final; raises RowDamagedError."""
        raw = self._raw(_ONE, (sequence,))
        return None if raw is None or raw.state != OPEN else rows.event_of(raw)

    def known(self, keys: Sequence[str]) -> dict[str, Known | rows.RowDamagedError]:
        """What was accepted under these names before (:attr:`Event.key`)."""
        if self._recent is None:
            self._recent = dict(reversed(self._reader.execute(_IDENTITIES).fetchall()))
        named = [key for key in keys if not key.startswith(IDENTITY_MARK)]
        known = {raw.key or "": _known(raw) for raw in self._found("key", named, _NAMED)}
        places = {place: key for key in keys if (place := self._recent.get(key)) is not None}
        for raw in self._found("sequence", list(places)):
            if raw.key == places[raw.sequence]:  # else the row was never committed, or damaged
                known[raw.key] = _known(raw)
        return known

    def accepted(self, event_ids: Sequence[str]) -> dict[str, Known | rows.RowDamagedError]:
        """What is known of these events that came over the broker."""
        found = self._found("event_id", event_ids, "AND over_nats = 1")
        return {raw.event_id: _known(raw) for raw in found}

    def _found(self, column: str, values: Sequence[object], condition: str = "") -> Iterator[Raw]:
        for start in range(0, len(values), 500):
            part = values[start : start + 500]
            marks = ",".join("?" * len(part))
            sql = f"SELECT {COLUMNS} FROM events WHERE {column} IN ({marks}) {condition}"  # noqa: S608  # marks only
            yield from self._raws(sql, part)

    def result(self, event_id: str) -> Known | None:
        """The newest result of one event; None when there is no such event or its row is bad."""
        sequence = event_id.rsplit("-", 1)[-1]
        raw = None
        if sequence.isascii() and sequence.isdigit() and len(sequence) <= 12:
            raw = self._raw(_ONE, (int(sequence),))
        if raw is not None and raw.event_id == event_id and not raw.over_nats:
            known = _known(raw)
        else:
            known = self.accepted([event_id]).get(event_id)  # type: ignore[assignment]  # one of three
        return known if isinstance(known, Known) else None

    def open_rows(self) -> list[Row]:
        """Every event without a final result, oldest first. Damaged rows are gone by then."""
        return [rows.row_of(raw) for raw in self._raws(_WITH_STATE, (OPEN,))]

    def unpublished(self, limit: int) -> list[tuple[int, EncodedResult]]:
        """Final results that the results stream may not have yet, oldest first."""
        sql = (
            f"SELECT {COLUMNS} FROM events WHERE state = {UNPUBLISHED} "  # noqa: S608  # ours
            "ORDER BY sequence LIMIT ?"
        )
        finals = []
        for raw in self._raws(sql, (limit,)):
            known = _known(raw)
            if isinstance(known, Known):
                finals.append((raw.sequence, EncodedResult(known.result, raw.result)))
        return finals

    def cursor(self) -> Cursor | None:
        """How far the broker's events were accepted."""
        text = self.recall("cursor")
        return None if text is None else Cursor(*json.loads(text))

    def recall(self, name: str) -> str | None:
        """A value kept under this name; None when there is none or it was damaged."""
        row = self._reader.execute("SELECT value, sum FROM meta WHERE name=?", (name,)).fetchone()
        if row is not None and row[1] != rows.text_sum(row[0]):
            log.error("outbox_value_damaged", name_damaged=name)
            return None
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        """Keep a value durably, at once; raises sqlite3.Error. For what changes seldom."""
        with self._reader:
            self._reader.execute(*_meta(name, value))

    @property
    def set_aside(self) -> list[str]:
        """Damaged outboxes in this folder that nobody has salvaged."""
        return files.set_aside(self.folder)

    # -- damaged rows -------------------------------------------------------------------------

    def _remove_damaged(self) -> list[Damaged]:
        """Take damaged rows out of the queue; what is known of them goes to a person."""
        for raw in list(self._raws(_ODD_STATE, ())):
            state = rows.repaired_state(raw)
            if state is not None:
                with self._reader:
                    self._reader.execute(_SET_STATE, (state, raw.sequence))
        suspects = [*self._raws(_WITH_STATE, (OPEN,)), *self._raws(_WITH_STATE, (UNPUBLISHED,))]
        removed = []
        for raw in [*suspects, *self._raws(_ODD_STATE, ())]:
            try:
                _check(raw)
            except rows.RowDamagedError as error:
                removed.append(self._remove(raw, str(error)))
        return removed

    def _remove(self, raw: Raw, reason: str) -> Damaged:
        with self._reader:
            self._reader.execute(
                "INSERT INTO damaged VALUES (?,?,?)", (raw.sequence, reason, rows.as_text(raw))
            )
            self._reader.execute("DELETE FROM events WHERE sequence = ?", (raw.sequence,))
        log.error("outbox_row_damaged", detail=reason, sequence=raw.sequence)
        return Damaged(raw.sequence, rows.identity_of(raw), reason)

    def _raws(self, sql: str, values: Sequence[object]) -> Iterable[Raw]:
        return [Raw(*found) for found in self._reader.execute(sql, values).fetchall()]

    def _raw(self, sql: str, values: Sequence[object]) -> Raw | None:
        found: tuple[Any, ...] | None = self._reader.execute(sql, values).fetchone()
        return None if found is None else Raw(*found)

    def _next_sequence(self) -> int:
        (newest,) = self._reader.execute("SELECT max(sequence) FROM events").fetchone()
        (removed,) = self._reader.execute("SELECT max(sequence) FROM damaged").fetchone()
        return max(newest or 0, removed or 0) + 1


Settled = Sequence[tuple[asyncio.Future[None], Exception | None]]


def _settle(outcomes: Settled) -> None:
    """Let those who wait know, from the writer's thread: one call for a whole commit."""
    loops = {done.get_loop() for done, _ in outcomes}
    for loop in loops:
        own = outcomes if len(loops) == 1 else [o for o in outcomes if o[0].get_loop() is loop]
        with suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(_finish, own)


def _finish(outcomes: Settled) -> None:
    for done, error in outcomes:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


def _remember(recent: dict[str, int], writes: Iterable[Write]) -> None:
    for write in writes:
        if isinstance(write, Insert) and write.row.event.idempotency_key is None:
            recent[write.row.event.key] = write.row.sequence
            if len(recent) > RECENT:
                del recent[next(iter(recent))]


def _check(raw: Raw) -> None:
    if raw.state == OPEN:
        rows.row_of(raw)
    elif raw.state == UNPUBLISHED:
        rows.encoded_of(raw)
    else:
        raise rows.RowDamagedError(f"row {raw.sequence} of the outbox is in no known state")


def _known(raw: Raw) -> Known | rows.RowDamagedError:
    try:
        return Known(raw.event_id, raw.reply, rows.encoded_of(raw).result)
    except rows.RowDamagedError as error:
        return error


def _meta(name: str, value: str) -> tuple[str, tuple[object, ...]]:
    return _META, (name, value, rows.text_sum(value))


class OutboxBrokenError(SetsudenError):
    """The outbox cannot be written: the agent stops, and its next life starts from the disk."""

    code = "outbox_broken"
