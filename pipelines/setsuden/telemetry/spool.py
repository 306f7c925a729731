"""Sealed spans on disk until somebody has them: bounded, crash-safe, counted.

A segment is one file of gzip OTLP protobuf. What must be known without reading it stands in its
name: ``<number>-<keep|plain>-<spans>-<clock>.pb.gz``, where ``clock`` is ``done`` or the boot on
whose timeline its spans still are.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from setsuden.schemas.log import get_logger

log = get_logger(__name__)
CLOCK_DONE = "done"
COUNTERS_FILE = "counters.json"
SUFFIX = ".pb.gz"
_NAME = re.compile(r"(\d{12})-(keep|plain)-(\d{1,9})-([a-z0-9]{1,16})\.pb\.gz")


class Segment(NamedTuple):
    """One sealed file."""

    number: int
    keep: bool
    """Holds escalated or failed events: dropped last."""
    spans: int
    clock: str
    size_bytes: int
    sealed_at: float
    """By ``time.monotonic()``: a wall clock set right must not make what is new look old."""

    @property
    def name(self) -> str:
        """The file's name."""
        kind = "keep" if self.keep else "plain"
        return f"{self.number:012d}-{kind}-{self.spans}-{self.clock}{SUFFIX}"


class Spool:
    """The segments of one process. Written by one thread, read and emptied by another."""

    def __init__(self, folder: Path, *, max_bytes: int, max_age_seconds: float) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # each segment says so again and is counted
            log.warning("spool_unusable", detail=str(error))
        self.folder = folder
        self._max_bytes, self._max_age = max_bytes, max_age_seconds
        self._lock = threading.Lock()
        self.dropped: Counter[str] = Counter(_counters(folder))
        """Spans given up on, by reason, over all lives of this spool."""
        self._segments = _found(folder)
        self._size = sum(segment.size_bytes for segment in self._segments.values())
        self._next = max(self._segments, default=0) + 1

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return self._size

    def __len__(self) -> int:
        """Segments waiting."""
        return len(self._segments)

    def add(self, data: bytes, spans: int, *, keep: bool, clock: str = CLOCK_DONE) -> None:
        """Seal one segment, dropping the oldest past the bounds; what cannot be kept is counted."""
        with self._lock:
            segment = Segment(self._next, keep, spans, clock, len(data), time.monotonic())
            self._next += 1
            if not self._make_room(len(data), keep=keep):
                self._count("bytes", spans)
            elif self._write(segment, data):
                self._segments[segment.number] = segment
                self._size += segment.size_bytes
            else:
                self._count("unwritten", spans)

    def oldest(self) -> Segment | None:
        """The segment to send next: those of escalated and failed events first."""
        with self._lock:
            self._expire()
            numbers = sorted(self._segments, key=lambda n: (not self._segments[n].keep, n))
            return self._segments[numbers[0]] if numbers else None

    def read(self, segment: Segment) -> bytes | None:
        """Its content; None once it was dropped."""
        try:
            return (self.folder / segment.name).read_bytes()
        except OSError:
            return None

    def replace(self, segment: Segment, data: bytes, clock: str) -> bool:
        """True when the segment has this content on disk; else it was dropped or is as it was."""
        with self._lock:
            fresh = segment._replace(clock=clock, size_bytes=len(data))
            self._make_room(max(0, len(data) - segment.size_bytes), keep=True)
            if segment.number not in self._segments or not self._write(fresh, data):
                return False
            if fresh.name != segment.name:
                _unlink(self.folder / segment.name)
            self._segments[segment.number] = fresh
            self._size += fresh.size_bytes - segment.size_bytes
            return True

    def remove(self, segment: Segment) -> None:
        """Somebody else has it now."""
        with self._lock:
            self._forget(segment.number)

    def drop(self, segment: Segment, reason: str) -> None:
        """Give it up, counted under this reason."""
        with self._lock:
            self._drop(segment.number, reason)

    def count(self, reason: str, spans: int) -> None:
        """Count spans that never got here."""
        with self._lock:
            self._count(reason, spans)

    def _write(self, segment: Segment, data: bytes) -> bool:
        """Whole or not at all: a killed process leaves a temporary file, and that is not read."""
        fresh = self.folder / f"{segment.number:012d}.new"
        try:
            fresh.write_bytes(data)
            fresh.replace(self.folder / segment.name)
        except OSError as error:  # a full disk must not end tracing for good
            log.warning("spans_not_written", detail=str(error), count=segment.spans)
            _unlink(fresh)
            return False
        return True

    def _make_room(self, needed: int, *, keep: bool) -> bool:
        """Drop the oldest until it fits, but no kept one for one that is not."""
        self._expire()
        if needed > self._max_bytes:
            return False
        while self._size + needed > self._max_bytes:
            plain = [number for number, segment in self._segments.items() if not segment.keep]
            if not plain and not keep:
                return False
            self._drop(min(plain or self._segments), "bytes")
        return True

    def _expire(self) -> None:
        oldest = time.monotonic() - self._max_age
        for number in [n for n, held in self._segments.items() if held.sealed_at < oldest]:
            self._drop(number, "age")

    def _drop(self, number: int, reason: str) -> None:
        segment = self._forget(number)
        if segment is not None:
            self._count(reason, segment.spans)

    def _forget(self, number: int) -> Segment | None:
        segment = self._segments.pop(number, None)
        if segment is not None:
            self._size -= segment.size_bytes
            _unlink(self.folder / segment.name)
        return segment

    def _count(self, reason: str, spans: int) -> None:
        self.dropped[reason] += spans
        try:
            text = json.dumps(self.dropped, sort_keys=True)
            fresh = self.folder / "counters.new"
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(self.folder / COUNTERS_FILE)
        except OSError as error:
            log.warning("spool_counters_unwritten", detail=str(error))


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # a disk turned read-only must not end tracing
        path.unlink()


def _counters(folder: Path) -> dict[str, int]:
    try:
        kept = json.loads((folder / COUNTERS_FILE).read_text(encoding="utf-8"))
        return {str(reason): int(spans) for reason, spans in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _found(folder: Path) -> dict[int, Segment]:
    """What an earlier life sealed; a replacement cut short leaves two: the settled one counts."""
    by_number: dict[int, Segment] = {}
    for path in folder.glob("*.new"):
        _unlink(path)
    segments = [segment for path in folder.glob("*" + SUFFIX) if (segment := _segment(path))]
    for segment in sorted(segments, key=lambda each: (each.number, each.clock == CLOCK_DONE)):
        if segment.number in by_number:
            _unlink(folder / by_number[segment.number].name)
        by_number[segment.number] = segment
    return by_number


def _segment(path: Path) -> Segment | None:
    match = _NAME.fullmatch(path.name)
    if match is None or not path.is_file():  # a pipe would be read for ever
        return None
    stat = path.stat()
    sealed_at = time.monotonic() - max(0.0, time.time() - stat.st_mtime)
    return Segment(
        int(match[1]), match[2] == "keep", int(match[3]), match[4], stat.st_size, sealed_at
    )
