"""Window rows on disk: JSON lines in bounded files, each readable by itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TextIO

from setsuden.schemas.log import get_logger
from setsuden.schemas.windows import MeterRow, WindowRow

log = get_logger(__name__)
SUFFIX = ".rows.jsonl"
FILE_BYTES = 8 << 20


class Journal:
    """Rows of one meter; the oldest files of the folder go when it is full, and are counted."""

    def __init__(self, folder: Path, meter: MeterRow, max_bytes: int) -> None:
        self.dropped = 0
        """Rows given up for want of room or of a working disk."""
        self.meter = meter
        self._folder, self._max_bytes = folder, max_bytes
        self._file_bytes = min(FILE_BYTES, max_bytes // 4)
        self._number = 0
        self._written = 0
        self._losing = False
        self._file: TextIO | None = None
        """None while the disk takes no new file; it is tried again with each row."""
        try:
            self._file = self._opened()
        except OSError as error:  # a full disk: the events go on, their joules are not written
            log.warning("energy_rows_unwritable", detail=str(error))

    def add(self, row: WindowRow) -> None:
        """Append one window."""
        # Defaults are left out, but every line says what it is.
        line = f'{{"row":"window",{row.model_dump_json(exclude_defaults=True)[1:]}\n'
        try:
            file = self._file
            if file is None or self._written + len(line) > self._file_bytes:
                file = self._rotated()
            file.write(line)
            file.flush()
            self._written += len(line)
        except OSError as error:
            self._lose(error)
        else:
            self._losing = False

    def _lose(self, error: OSError) -> None:
        """Count one row; say it once, not with every row of a disk that stays full."""
        self.dropped += 1
        if not self._losing:
            self._losing = True
            log.warning("energy_row_lost", detail=str(error))

    def close(self) -> None:
        """Let the file go."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what a full disk did not take is counted already
                file.close()

    def _rotated(self) -> TextIO:
        if self._file is not None:
            self.close()
            self._number += 1
        self._make_room()
        self._file = self._opened()
        return self._file

    def _opened(self) -> TextIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self.meter.meter}-{self._number:04d}{SUFFIX}"
        file = path.open("w", encoding="utf-8")
        line = self.meter.model_dump_json() + "\n"
        try:
            file.write(line)
            file.flush()
        except OSError:
            with suppress(OSError):
                file.close()
            path.unlink(missing_ok=True)
            raise
        self._written = len(line)
        return file

    def _make_room(self) -> None:
        files = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total + self._file_bytes <= self._max_bytes:
                return
            total -= path.stat().st_size
            with path.open("rb") as file:
                self.dropped += max(0, sum(1 for _ in file) - 1)
            path.unlink()
