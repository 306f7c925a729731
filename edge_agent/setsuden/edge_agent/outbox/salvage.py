"""What can still be read of a damaged outbox goes back into the agent's queue.

The log's pages are laid over a copy of the database whether or not the chain of their checksums
holds, and rows are read one by one around what is broken; each row's own checksums then say which
of them are whole. Event ids stay as they are, so an event that was answered meanwhile is found in
the results stream and not run again.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from setsuden.edge_agent.core import Insert, Row, StageTimes
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.event import Event

from . import files, rows
from .rows import COLUMNS, OPEN, UNPUBLISHED, Raw

_ONE = f"SELECT {COLUMNS} FROM events WHERE sequence = ?"  # noqa: S608  # our columns
_REMEDY = f"name a {files.SET_ASIDE}… folder, or outbox.db"
_MOST_ROWS = 10_000_000
_MISSES = 100_000
"""Sequences in a row without a readable row, after which no more are looked for."""


class Salvaged(NamedTuple):
    """What became of one damaged outbox."""

    source: str
    open_events: int
    """Events without a final result, queued again."""
    finals: int
    """Final results that the results stream may not have, queued again."""
    already: int
    """Rows that the outbox has, or whose application has sent them again."""
    unreadable: int
    """Rows of which not even the id is certain, or whose observation is lost."""


def salvage(
    source: Path, folder: Path, progress: Callable[[int], None] = lambda _: None
) -> Salvaged:
    """Read a set-aside folder, or a database file, into the outbox of a state folder.

    Raises OutboxLockedError while an agent runs there, and ConfigError for a source that is none.
    An outbox of that folder which is itself damaged is set aside first.
    """
    database = source / files.DATABASE if source.is_dir() else source
    log = database.with_name(f"{database.name}-wal")
    if not database.exists() and not log.exists():
        raise ConfigError(f"{source} holds no outbox", remedy=_REMEDY)
    files.check_kinds(database)
    files.prepare_folder(folder)
    lock = files.lock(folder / files.LOCK)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            copy = rebuilt(database, log, Path(scratch))
            _check_source(source, copy)
            files.set_aside_if_damaged(folder / files.DATABASE)
            report = _take_over(str(source), copy, folder / files.DATABASE, progress)
    finally:
        lock.close()
    if source.is_dir() and source.name.startswith(files.SET_ASIDE):
        source.rename(source.with_name(source.name.replace(files.SET_ASIDE, files.SALVAGED, 1)))
    return report


def _check_source(source: Path, copy: Path) -> None:
    """Raises ConfigError for a file in which SQLite finds no table of ours at all."""
    with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as reader:
        reader.text_factory = bytes
        try:
            reader.execute(_ONE, (1,)).fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}:
                raise ConfigError(
                    f"nothing in {source} can be read as an outbox: {error}", remedy=_REMEDY
                ) from error


def rebuilt(database: Path, log: Path, scratch: Path) -> Path:
    """A copy of the database with every page of its log in place, up to the last commit."""
    copy = scratch / files.DATABASE
    if database.exists():
        shutil.copyfile(database, copy)
    else:
        copy.touch()
    frames = list(files.wal_frames(log))
    last = max((index for index, frame in enumerate(frames) if frame.commits), default=-1)
    if last < 0:
        return copy
    content = log.read_bytes()
    with copy.open("r+b") as file:
        for frame in frames[: last + 1]:
            file.seek((frame.page - 1) * frame.bytes)
            file.write(content[frame.offset : frame.offset + frame.bytes])
    return copy


def _take_over(source: str, copy: Path, target: Path, progress: Callable[[int], None]) -> Salvaged:
    opened = finals = already = unreadable = 0
    with closing(files.connect(target)) as writer:
        files.check_version(writer, target)
        writer.executescript(rows.SCHEMA)
        known = {name for row in writer.execute("SELECT event_id, key FROM events") for name in row}
        (newest,) = writer.execute("SELECT max(sequence) FROM events").fetchone()
        sequence = (newest or 0) + 1
        for number, raw in enumerate(_rows_of(copy), 1):
            progress(number)
            row = None if raw is None else _row(raw, sequence)
            if raw is not None and raw.state not in {OPEN, UNPUBLISHED} and row is None:
                continue  # final and published, or past any use
            if row is None:
                unreadable += 1
            elif not known.isdisjoint(names := (row.event_id, row.event.key)):
                already += 1  # also where the application sent it again, and it was accepted anew
            else:
                with writer:
                    writer.execute(*rows.statement(Insert(row), 0))
                known.update(names)
                sequence += 1
                opened += not row.result.is_final
                finals += row.result.is_final
    return Salvaged(source, opened, finals, already, unreadable)


def _rows_of(database: Path) -> Iterator[Raw | None]:
    """Every row that SQLite can still reach; None for one it knows of and cannot read."""
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as reader:
        reader.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        misses = 0
        for sequence in range(1, _MOST_ROWS):
            try:
                found = reader.execute(_ONE, (sequence,)).fetchone()
            except (sqlite3.DatabaseError, UnicodeDecodeError):
                yield None
                misses += 1
            else:
                misses = misses + 1 if found is None else 0
                if found is not None:
                    yield Raw(*found)
            if misses > _MISSES or (misses and sequence > _last(reader) + 1):
                return


def _last(reader: sqlite3.Connection) -> int:
    """The highest sequence, as far as SQLite can tell."""
    try:
        (last,) = reader.execute("SELECT max(sequence) FROM events").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return _MOST_ROWS
    return int(last or 0)


def _row(raw: Raw, sequence: int) -> Row | None:
    """The row under a new sequence; None for one that is damaged, or has nothing left to do."""
    state = raw.state if raw.state in rows.STATES else rows.repaired_state(raw)
    try:
        if state == OPEN:
            return rows.row_of(raw)._replace(sequence=sequence)
        if state == UNPUBLISHED:
            return _final(raw, sequence)
    except rows.RowDamagedError:
        return None
    return None


def _final(raw: Raw, sequence: int) -> Row:
    encoded = rows.encoded_of(raw)
    result = encoded.result
    event = Event(
        id=result.source_id or result.event_id,
        source="outbox",
        pipeline=result.pipeline,
        device=result.device,
        idempotency_key=result.idempotency_key,
        reply=raw.reply,
        data=b"",
    )
    over_nats = bool(raw.over_nats)
    return Row(
        sequence, raw.event_id, event, StageTimes(None, 0, 0, 0, 0), over_nats, None, encoded,
        published=False,
    )  # fmt: skip
