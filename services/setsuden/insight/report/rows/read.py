"""A run's rows from its folders, one file at a time, each line checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from setsuden.schemas.energy import Source
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.windows import ROWS_VERSION, MeterRow, WindowRow

PATTERN = "*.rows.jsonl"
MAX_LINE = 1 << 20
RowT = TypeVar("RowT", bound=BaseModel)


class RowsError(SetsudenError):
    """Rows that are missing, damaged or contradictory; names file and line."""

    code = "rows_invalid"


class TimeRange(NamedTuple):
    """The windows to read, by their start; None: no bound."""

    since_ns: int | None = None
    until_ns: int | None = None

    def holds(self, start_ns: int) -> bool:
        """True when a window that starts then is in the range."""
        after = self.since_ns is None or start_ns >= self.since_ns
        return after and (self.until_ns is None or start_ns < self.until_ns)


class WindowAt(NamedTuple):
    """One window and the line it was read from."""

    meter: MeterRow
    window: WindowRow
    place: str
    """``file:line``."""


@dataclass(slots=True)
class RowsReader:
    """Reads folders of rows and counts what it skips."""

    time_range: TimeRange = TimeRange()
    torn: int = 0
    duplicates: int = 0
    _meters: dict[str, tuple[MeterRow, bytes]] = field(default_factory=dict)
    _windows: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def read(self, folders: Sequence[Path]) -> Iterator[WindowAt]:
        """Every window once; raises RowsError, also when there is none."""
        empty = True
        for path in rows_files(folders):
            for window in self._file(path):
                empty = False
                yield window
        if empty:
            raise _no_windows(folders, self.time_range)

    @property
    def sha256(self) -> str:
        """Of all rows that were used, whatever their order and files."""
        whole = hashlib.sha256()
        digests = [digest for _, digest in self._meters.values()]
        digests += [digest for rows in self._windows.values() for digest in rows.values()]
        for digest in sorted(digests):
            whole.update(digest)
        return whole.hexdigest()

    def _file(self, path: Path) -> Iterator[WindowAt]:
        with path.open("rb") as file:
            lines = self._lines(path, file)
            first = next(lines, None)
            if first is None:
                return
            meter = self._meter(*first)
            for line, place in lines:
                window = _parsed(WindowRow, line, place)
                if self._wanted(meter, window, place):
                    yield WindowAt(meter, window, place)

    def _lines(self, path: Path, file: BinaryIO) -> Iterator[tuple[bytes, str]]:
        """Lines and their places; a last line that was cut off is counted and left out."""
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            place = f"{path}:{number}"
            if len(line) > MAX_LINE:
                raise RowsError(f"{place}: a line of over {MAX_LINE} bytes is not a row")
            if not line.endswith(b"\n") and _cut_off(line):
                self.torn += 1
                return
            yield line.strip(), place

    def _meter(self, line: bytes, place: str) -> MeterRow:
        meter = _parsed(MeterRow, line, f"{place}: no meter, with which a file of rows begins")
        if meter.version > ROWS_VERSION:
            raise RowsError(
                f"{place}: rows of version {meter.version}, this software knows {ROWS_VERSION}",
                remedy="use the newer Setsuden that wrote them",
            )
        if (meter.source is Source.NONE) != (meter.factor is None):
            raise RowsError(
                f"{place}: a meter has a factor unless, and only unless, it has no joules"
            )
        known, _ = self._meters.setdefault(meter.meter, (meter, _digest(meter)))
        if known != meter:
            raise RowsError(f"{place}: another file has other facts about meter {meter.meter}")
        return known

    def _wanted(self, meter: MeterRow, window: WindowRow, place: str) -> bool:
        if window.meter != meter.meter:
            raise RowsError(f"{place}: a window of {window.meter} in a file of {meter.meter}")
        if window.joules is not None and meter.source is Source.NONE:
            raise RowsError(f"{place}: joules from a meter that has no source of them")
        if not self.time_range.holds(window.start_ns):
            return False
        digest = _digest(window)
        known = self._windows.setdefault(meter.meter, {}).setdefault(window.start_ns, digest)
        if known is digest:
            return True
        if known != digest:
            raise RowsError(f"{place}: a second, different window of that start")
        self.duplicates += 1
        return False


def rows_files(folders: Sequence[Path]) -> list[Path]:
    """Files of rows in these folders, each once; raises RowsError for a missing folder."""
    paths: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RowsError(f"{folder} is not a folder", remedy="name the folder of a run")
        for path in sorted(folder.rglob(PATTERN)):
            paths.setdefault(path.resolve(), path)
    return list(paths.values())


def _no_windows(folders: Sequence[Path], time_range: TimeRange) -> RowsError:
    where = ", ".join(str(folder) for folder in folders)
    if time_range != TimeRange():
        return RowsError(f"no windows of that time in {where}", remedy="widen --since and --until")
    return RowsError(
        f"no energy rows in {where}",
        remedy=f"name a folder that holds {PATTERN} files: agents and workers write them into "
        "<state>/energy",
    )


def _parsed(model: type[RowT], line: bytes, place: str) -> RowT:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field_name = ".".join(str(part) for part in first["loc"])
        reason = f"{field_name}: {first['msg']}" if field_name else first["msg"]
        raise RowsError(f"{place}: {reason}") from error


def _cut_off(line: bytes) -> bool:
    """True when it is incomplete JSON: the process was killed while it wrote."""
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _digest(row: BaseModel) -> bytes:
    return hashlib.sha256(row.model_dump_json().encode()).digest()
