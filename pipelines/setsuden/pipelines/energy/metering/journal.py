"""Window rows on disk: JSON lines in bounded files, each readable by itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TextIO

from setsuden.schemas.windows import MeterRow, WindowRow

log = logging.getLogger(__name__)
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
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self._opened()

    def add(self, row: WindowRow) -> None:
        """Append one window."""
        # Defaults are left out, but every line says what it is.
        line = f'{{"row":"window",{row.model_dump_json(exclude_defaults=True)[1:]}\n'
        try:
            if self._file.closed or self._written + len(line) > self._file_bytes:
                self._rotate()
            self._write(line)
        except OSError as error:
            self.dropped += 1
            log.warning("energy_row_lost", extra={"detail": str(error)})

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()
        self._written += len(line)

    def _rotate(self) -> None:
        self._file.close()
        self._number += 1
        self._make_room()
        self._file = self._opened()

    def _opened(self) -> TextIO:
        path = self._folder / f"{self.meter.meter}-{self._number:04d}{SUFFIX}"
        file = path.open("w", encoding="utf-8")
        line = self.meter.model_dump_json() + "\n"
        file.write(line)
        file.flush()
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
