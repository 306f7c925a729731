"""Rows of the outbox: columns, checksums, and what is done with a damaged row.

SQLite's own checks see damaged pages, not a flipped bit inside a value. So three checksums
(CRC-32) cover a row: its unchanging part, the observation, and the newest result. The states are
numbers of which any two differ in four bits, so a flipped bit makes none of them into another.
"""

from __future__ import annotations

import json
from typing import NamedTuple
from zlib import crc32

from pydantic_core import to_json

from setsuden.edge_agent.core import (
    Deadline,
    EncodedResult,
    Finish,
    Insert,
    MarkPublished,
    Rebind,
    Row,
    StageTimes,
    Write,
)
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Result

OPEN, UNPUBLISHED, PUBLISHED = 0b0011_1100, 0b0101_0101, 0b0110_1010
"""The cloud is asked; final, and the results stream may not have it; nothing is left to do."""
STATES = (OPEN, UNPUBLISHED, PUBLISHED)

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, sum INTEGER NOT NULL)
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  sequence INTEGER PRIMARY KEY,
  state INTEGER NOT NULL,
  event_id TEXT NOT NULL,
  pipeline TEXT NOT NULL,
  key TEXT,
  reply TEXT,
  over_nats INTEGER NOT NULL,
  age_ns INTEGER NOT NULL,
  deadline TEXT,
  trail TEXT NOT NULL,
  headers TEXT,
  data BLOB,
  result TEXT NOT NULL,
  fixed_sum INTEGER NOT NULL,
  content_sum INTEGER NOT NULL,
  result_sum INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS damaged (sequence INTEGER, reason TEXT NOT NULL, row TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS events_key ON events (key) WHERE key NOT GLOB '=*';
CREATE UNIQUE INDEX IF NOT EXISTS events_from_broker ON events (event_id) WHERE over_nats = 1;
CREATE INDEX IF NOT EXISTS events_open ON events (sequence) WHERE state = {OPEN};
CREATE INDEX IF NOT EXISTS events_unpublished ON events (sequence) WHERE state = {UNPUBLISHED};
"""
COLUMNS = (
    "sequence, state, event_id, pipeline, key, reply, over_nats, age_ns, deadline, trail, headers, "
    "data, result, fixed_sum, content_sum, result_sum"
)
# The index over keys has no identities (IDENTITY_MARK): they cost an eighth of an event.
# Where anybody may publish, a forged notification can give two events one place in the stream.
INSERT = (
    f"INSERT INTO events VALUES ({','.join('?' * 16)}) "  # noqa: S608  # marks only
    "ON CONFLICT (event_id) WHERE over_nats = 1 DO NOTHING"
)
_FINISH = (
    "UPDATE events SET state=?, reply=?, result=?, result_sum=?, headers=NULL, data=NULL, "
    "content_sum=0 WHERE sequence=?"
)
_MARK = f"UPDATE events SET state={PUBLISHED} WHERE sequence=?"  # noqa: S608  # a number
_REBIND = "UPDATE events SET reply=?, result=?, result_sum=? WHERE sequence=?"


class RowDamagedError(SetsudenError):
    """A row of the outbox does not match its checksum."""

    code = "outbox_row_damaged"


class Raw(NamedTuple):
    """One row as it is on disk, nothing of it trusted yet. The fields are :data:`COLUMNS`."""

    sequence: int
    state: int
    event_id: str
    pipeline: str
    key: str | None
    reply: str | None
    over_nats: int
    age_ns: int
    deadline: str | None
    trail: str
    headers: str | None
    data: bytes | None
    result: str
    fixed_sum: int
    content_sum: int
    result_sum: int

    @property
    def fixed_holds(self) -> bool:
        """True when id, pipeline, key, times and trail are as they were written."""
        return self.fixed_sum == _fixed_sum(
            self.sequence, self.event_id, self.pipeline, self.key, self.over_nats, self.age_ns,
            self.deadline, self.trail,
        )  # fmt: skip

    @property
    def content_holds(self) -> bool:
        """True when the observation and its attributes are as they were written."""
        if self.headers is None or self.data is None:
            return self.headers is None and self.data is None and self.content_sum == 0
        return self.content_sum == _content_sum(self.headers, self.data)

    @property
    def result_holds(self) -> bool:
        """True when the newest result and who hears of it are as they were written."""
        return self.result_sum == _result_sum(self.event_id, self.reply, self.result)


def statement(write: Write, age_ns: int) -> tuple[str, tuple[object, ...]]:
    """The SQL of one write and its values."""
    match write:
        case Insert(row):
            return INSERT, _values(row, age_ns)
        case Finish(sequence, event_id, reply, encoded, published):
            state = PUBLISHED if published else UNPUBLISHED
            checksum = _result_sum(event_id, reply, encoded.text)
            return _FINISH, (state, reply, encoded.text, checksum, sequence)
        case MarkPublished(sequence):
            return _MARK, (sequence,)
        case Rebind(sequence, event_id, reply, encoded):
            checksum = _result_sum(event_id, reply, encoded.text)
            return _REBIND, (reply, encoded.text, checksum, sequence)


def _values(row: Row, age_ns: int) -> tuple[object, ...]:
    final, event = row.result.is_final, row.event
    key, text = event.key, row.encoded.text
    deadline = None if row.deadline is None else json.dumps(row.deadline)
    trail = to_json(row.times).decode()  # an eighth of the time of json.dumps
    headers, data, content_sum = None, None, 0
    if not final:
        headers, data = json.dumps(event.headers()), event.data
        content_sum = _content_sum(headers, data)
    state = OPEN if not final else PUBLISHED if row.published else UNPUBLISHED
    over_nats = int(row.over_nats)
    fixed_sum = _fixed_sum(
        row.sequence, row.event_id, event.pipeline, key, over_nats, age_ns, deadline, trail
    )
    return (
        row.sequence, state, row.event_id, event.pipeline, key, event.reply, over_nats, age_ns,
        deadline, trail, headers, data, text, fixed_sum, content_sum,
        _result_sum(row.event_id, event.reply, text),
    )  # fmt: skip


def row_of(raw: Raw) -> Row:
    """An open row whose checksums all hold; raises RowDamagedError."""
    if not (raw.fixed_holds and raw.content_holds and raw.result_holds):
        raise _damage(raw)
    try:
        event = event_of(raw).model_copy(update={"reply": raw.reply})
        deadline = None if raw.deadline is None else Deadline(*json.loads(raw.deadline))
        trail, encoded = StageTimes(*json.loads(raw.trail)), encoded_of(raw)
    except (ValueError, TypeError, SetsudenError) as error:
        # The checksums hold, so it was written so: by another version of us.
        raise RowDamagedError(f"row {raw.sequence} cannot be read: {error}") from error
    return Row(
        raw.sequence, raw.event_id, event, trail, bool(raw.over_nats), deadline, encoded,
        published=True,
    )  # fmt: skip


def event_of(raw: Raw) -> Event:
    """The event as it came; raises RowDamagedError."""
    if raw.headers is None or raw.data is None or not raw.content_holds:
        raise _damage(raw)
    device = raw.event_id.rsplit("-", 2)[0]
    headers = json.loads(raw.headers)
    return Event.from_headers(headers, raw.data, pipeline=raw.pipeline, device=device)


def encoded_of(raw: Raw) -> EncodedResult:
    """The newest result; raises RowDamagedError."""
    if not raw.result_holds:
        raise _damage(raw)
    try:
        return EncodedResult(Result.model_validate_json(raw.result), raw.result)
    except ValueError as error:
        raise RowDamagedError(f"row {raw.sequence} holds no result") from error


def identity_of(raw: Raw) -> Result | None:
    """A result whose event id, pipeline and device are certainly this row's, if one is left."""
    try:
        result = Result.model_validate_json(raw.result) if raw.result_holds else None
    except ValueError:
        result = None
    if result is not None and result.event_id == raw.event_id:
        return result
    return None


def repaired_state(raw: Raw) -> int | None:
    """The state of a row whose state alone was damaged; None when more of it was."""
    if not (raw.fixed_holds and raw.content_holds and raw.result_holds):
        return None
    final = encoded_of(raw).result.is_final
    return UNPUBLISHED if final else OPEN


def as_text(raw: Raw) -> str:
    """A damaged row, kept for a person."""
    return json.dumps(raw._asdict(), default=lambda value: repr(value)[:200_000])


def text_sum(text: str) -> int:
    """The checksum of one value of the ``meta`` table."""
    return crc32(text.encode("utf-8", "surrogateescape"))


_FIXED = "%s " * 8


def _damage(raw: Raw) -> RowDamagedError:
    return RowDamagedError(f"row {raw.sequence} of the outbox does not match its checksum")


def _fixed_sum(*values: object) -> int:
    return crc32((_FIXED % values).encode("utf-8", "surrogateescape"))


def _content_sum(headers: str, data: bytes) -> int:
    return crc32(data, crc32(headers.encode("utf-8", "surrogateescape")))


def _result_sum(event_id: str, reply: str | None, text: str) -> int:
    return crc32(f"{event_id} {reply} {text}".encode("utf-8", "surrogateescape"))
