"""The outbox's files: one agent at a time, damage told apart from trouble.

Damage is what SQLite itself calls a corrupt or foreign file, a database that is gone while its
write-ahead log is there, a log without a sound header, and committed transactions in it behind a
frame that does not match its checksum (SQLite ends its recovery there without a word). A damaged
outbox is set aside whole, log included, for ``setsuden agent salvage``; the agent begins anew and
says so. Everything else (a lock, a full or read-only disk, missing rights, a folder or a pipe
where a file belongs) is trouble: nothing is touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple

from setsuden.schemas.errors import OutboxLockedError, SetsudenError
from setsuden.schemas.log import get_logger

log = get_logger(__name__)
DATABASE = "outbox.db"
LOCK = "outbox.lock"
SET_ASIDE = "damaged-"
SALVAGED = "salvaged-"
BUSY_SECONDS = 10
VERSION = 3
"""Of the tables, in the database's header; the first one had none."""
# Our statements are constant: where one is in error, the schema was damaged.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_NO_SPACE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR})
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_PAGE_BYTES = 4096
"""Of a database that we made: SQLite's default."""
_WAL_HEADER, _FRAME_HEADER = 32, 24
_WAL_MAGIC = frozenset({0x377F0682, 0x377F0683})


class OutboxUnwritableError(SetsudenError):
    """The disk does not take what must be durable; nothing of it was accepted."""

    code = "outbox_unwritable"


class OutboxTroubleError(SetsudenError):
    """The outbox cannot be opened now, and it is not damaged; its files were not touched."""

    code = "outbox_trouble"

    def __init__(self, message: str, *, remedy: str, passes: bool) -> None:
        super().__init__(message, remedy=remedy)
        self.passes = passes
        """A full or read-only disk: waiting may help."""


class Frame(NamedTuple):
    """One page in a write-ahead log."""

    page: int
    commits: bool
    """True for the last page of a committed transaction."""
    offset: int
    """Of the page's bytes in the file."""
    bytes: int
    """Of every page."""


def prepare_folder(folder: Path) -> None:
    """The state folder, for its owner alone; raises OutboxTroubleError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid == os.geteuid() and folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise OutboxTroubleError(
            f"the state folder {folder} cannot be made: {error.strerror}",
            remedy="free disk space, or give the agent rights to it",
            passes=error.errno in _PASSING,
        ) from error


def lock(path: Path) -> IO[str]:
    """The exclusive lock; raises OutboxLockedError while another agent holds it."""
    try:
        file = path.open("a+", encoding="ascii")
        path.chmod(0o600)
    except OSError as error:
        raise OutboxTroubleError(
            f"{path} cannot be written: {error.strerror or error}",
            remedy="check its rights and the disk",
            passes=error.errno in _PASSING,
        ) from error
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
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the number
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())  # in no buffer: that would fail later
    return file


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are durable; raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        # A flipped bit must reach the checksum, not end the read.
        connection.text_factory = _text
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=1000")
        connection.execute("PRAGMA secure_delete=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def set_aside_if_damaged(path: Path) -> None:
    """Move a damaged outbox into a folder of its own; raises OutboxTroubleError for trouble."""
    try:
        check_kinds(path)
        damage = _damage_of(path)
    except (sqlite3.Error, OSError) as error:
        raise trouble(path, error) from error
    if damage is not None:
        move_aside(path, damage)


def check_kinds(path: Path) -> None:
    """Raises OutboxTroubleError for a name of the outbox that is no file of its own.

    A pipe holds up whoever opens it for ever, and beside a link to another place SQLite's log is
    not where its name says.
    """
    for name in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        try:
            mode = name.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            raise OutboxTroubleError(
                f"{name} is {'a link' if stat.S_ISLNK(mode) else 'no file'}",
                remedy="move it away, or put back what was there; the state folder itself may be "
                "a link, its files may not",
                passes=False,
            )


def is_damage(error: Exception) -> bool:
    """True for what SQLite calls a corrupt or foreign file, and for a schema that is not ours."""
    known = isinstance(error, UnicodeDecodeError | SchemaDamagedError)
    return known or _code(error) in _DAMAGE


class SchemaDamagedError(sqlite3.DatabaseError):
    """The database's own description of its tables is not what we wrote."""


def check_schema(connection: sqlite3.Connection, script: str) -> None:
    """Raises SchemaDamagedError unless the tables are those that the script makes."""
    query = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    with closing(sqlite3.connect(":memory:")) as wanted:
        wanted.executescript(script)
        if set(connection.execute(query)) != set(wanted.execute(query)):
            raise SchemaDamagedError("the schema is not what was written")


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Raises OutboxTroubleError for the outbox of another version of us; marks a new one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == VERSION:
        return
    if version or tables:
        raise OutboxTroubleError(
            f"the outbox {path} has format {version}, this agent writes {VERSION}",
            remedy="let the version that wrote it send what it holds, then move it away",
            passes=False,
        )
    connection.execute(f"PRAGMA user_version={VERSION}")


def move_aside(path: Path, damage: str) -> None:
    """Move the outbox, its log included, into a folder of its own."""
    aside = path.parent / f"{SET_ASIDE}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    while aside.exists():
        aside = aside.with_name(f"{aside.name}x")
    aside.mkdir(mode=0o700)
    # The log last: a database that is gone while its log is there is damage, too.
    for suffix in ("", "-shm", "-wal"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(aside / file.name)
    log.error(
        "outbox_damaged",
        detail=damage,
        kept_in=aside.name,
        remedy="setsuden agent salvage",
    )


def set_aside(folder: Path) -> list[str]:
    """Names of the damaged outboxes that nobody has salvaged."""
    holders = (path for path in folder.glob(f"{SET_ASIDE}*") if path.is_dir())
    files = (DATABASE, f"{DATABASE}-wal")
    return sorted(path.name for path in holders if any((path / name).exists() for name in files))


def _damage_of(path: Path) -> str | None:
    wal = path.with_name(path.name + "-wal")
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        if wal.exists() and wal.stat().st_size > _WAL_HEADER:
            return "the database is empty or gone, and its write-ahead log is not"
        return None
    if not _header_holds(wal):
        return "the header of its write-ahead log is damaged"
    return _damage_of_pages(path, list(wal_frames(wal)))


def _damage_of_pages(path: Path, frames: list[Frame]) -> str | None:
    # Read-only: a writer that closes copies the log's sound part into the database and deletes
    # the rest of it.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as probe:
        probe.text_factory = _text
        try:
            (verdict,) = probe.execute("PRAGMA quick_check(1)").fetchone()
        except UnicodeDecodeError:  # of SQLite's own words about it
            return "its schema cannot be read"
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                return str(error)
            raise
        recovered = _recovered(path.with_name(path.name + "-shm")) if frames else 0
    if verdict != "ok":
        return str(verdict)
    lost = sum(frame.commits for frame in frames[recovered:])
    # One may be the unfinished last transaction of a power cut; the one before it was synced.
    return f"{lost} transactions in the log are behind a damaged one" if lost > 1 else None


def _recovered(shm: Path) -> int:
    """Frames of the log that SQLite accepts, from its shared index (``mxFrame``, at byte 16)."""
    with shm.open("rb") as file:
        (frames,) = struct.unpack("=I", file.read(20)[16:])
    return int(frames)


def _header_holds(wal: Path) -> bool:
    """False for a log that SQLite would take for an empty one, whatever is in it.

    A power cut leaves none such: SQLite syncs the header before it writes the first frame.
    """
    try:
        if wal.stat().st_size <= _WAL_HEADER:
            return True
        with wal.open("rb") as file:
            return _page_size(file.read(_WAL_HEADER)) is not None
    except FileNotFoundError:
        return True


def _page_size(header: bytes) -> int | None:
    """The page size that a log's header names; None where its own checksum does not hold."""
    magic, _, page_size, *_ = struct.unpack(">6I", header[:24])
    if magic not in _WAL_MAGIC:
        return None
    order = ">" if magic & 1 else "<"
    one = two = 0
    for first, second in struct.iter_unpack(f"{order}2I", header[:24]):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return page_size if struct.pack(">2I", one, two) == header[24:] else None


def wal_frames(wal: Path) -> Iterator[Frame]:
    """Frames of the log's present round, whether or not their checksums hold.

    The format is the SQLite database file format, section 4: a header of 32 bytes, then pages
    with 24 bytes each in front, whose salts are the header's. Where that is damaged, the first
    frame tells the salts: every round begins at the front.
    """
    try:
        size = wal.stat().st_size
        with wal.open("rb") as file:
            header = file.read(_WAL_HEADER)
            if len(header) < _WAL_HEADER:
                return
            named = _page_size(header)
            page_size = named or _PAGE_BYTES
            present = header[16:24] if named else file.read(16)[8:]
            offset = _WAL_HEADER
            while offset + _FRAME_HEADER + page_size <= size:
                file.seek(offset)
                page, pages_after, salt = struct.unpack(">II8s", file.read(16))
                if salt == present:
                    yield Frame(page, pages_after > 0, offset + _FRAME_HEADER, page_size)
                offset += _FRAME_HEADER + page_size
    except FileNotFoundError:
        return


def trouble(path: Path, error: Exception) -> OutboxTroubleError:
    """Why the outbox cannot be opened now."""
    code = _code(error)
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        remedy = "another program holds it: end that one, the outbox is not damaged"
    else:
        remedy = "free disk space, or make the disk writable: the outbox is not damaged"
    passes = code in _NO_SPACE or getattr(error, "errno", None) in _PASSING
    return OutboxTroubleError(
        f"the outbox {path} cannot be opened now: {error}", remedy=remedy, passes=passes
    )


def no_space(error: Exception) -> bool:
    """True for a full or read-only disk, which may pass; the rolled-back writes can be repeated.

    A failed sync is none of these: what the disk then holds is unknown, and only a new start,
    from what can be read, is safe.
    """
    name = getattr(error, "sqlite_errorname", "")
    return _code(error) in _NO_SPACE and name not in {"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_READ"}


def unwritable(path: Path, error: Exception) -> OutboxUnwritableError:
    """What an application hears while the disk takes nothing."""
    try:
        disk = os.statvfs(path.parent)
        free = f"{disk.f_bavail * disk.f_frsize} bytes free"
    except OSError:
        free = "free space unknown"
    return OutboxUnwritableError(
        f"{path.parent} cannot be written ({error}; {free})",
        remedy="free disk space or make the disk writable; the agent goes on by itself",
    )


def _code(error: Exception) -> int:
    """SQLite's primary result code."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
