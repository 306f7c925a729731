"""A trace file that never outgrows its cap: two segments, the older one dropped whole."""

from __future__ import annotations

from pathlib import Path


class TraceFile:
    """Appends lines to ``path``; at half the cap the file becomes ``path.1``.

    What the replaced ``path.1`` held is lost, and counted in ``dropped_lines``.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.dropped_lines = 0
        self._half = max_bytes // 2
        self._older = path.with_name(path.name + ".1")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")

    def write(self, lines: str) -> None:
        """Append whole lines and hand them to the operating system."""
        content = lines.encode()
        if self._file.tell() and self._file.tell() + len(content) > self._half:
            self._rotate()
        self._file.write(content)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        if self._older.exists():
            with self._older.open("rb") as lost:
                self.dropped_lines += sum(1 for _ in lost)
        self.path.replace(self._older)
        self._file = self.path.open("ab")
