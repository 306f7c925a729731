"""A trace file that never outgrows its cap: two segments, the older one dropped whole."""

from __future__ import annotations

from pathlib import Path


class TraceFile:
    """Appends lines to ``path``; at half the cap the file becomes ``path.1``.

    What the replaced ``path.1`` held is lost, and so is a line longer than half the cap; both are
    counted in ``dropped_lines``.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.dropped_lines = 0
        self._half = max_bytes // 2
        self._older = path.with_name(path.name + ".1")
        path.parent.mkdir(parents=True, exist_ok=True)
        for found in (path, self._older):  # of a life with a larger cap
            if found.exists() and found.stat().st_size > self._half:
                self._drop(found)
        self._open()

    def write(self, lines: str) -> None:
        """Append whole lines and hand them to the operating system."""
        content = lines.encode()
        if self._size + len(content) <= self._half:
            self._append(content)
        else:
            for line in content.splitlines(keepends=True):
                self._write_line(line)
        self._file.flush()

    def _write_line(self, line: bytes) -> None:
        if len(line) > self._half:
            self.dropped_lines += 1
            return
        if self._size + len(line) > self._half:
            self._rotate()
        self._append(line)

    def _append(self, content: bytes) -> None:
        self._file.write(content)
        self._size += len(content)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        if self._older.exists():
            self._drop(self._older)
        self.path.replace(self._older)
        self._open()

    def _open(self) -> None:
        self._file = self.path.open("ab")
        self._size = self._file.tell()

    def _drop(self, path: Path) -> None:
        with path.open("rb") as lost:
            self.dropped_lines += sum(1 for _ in lost)
        path.unlink()
