"""Who was running when the process died: a memory-mapped page that outlives it.

Setting and clearing a byte costs a tenth of a microsecond and no system call; the page belongs
to the kernel, so even SIGKILL leaves it as it was. The next life reads it, and runs only that
model apart from then on. A fatal signal writes a traceback into a file beside it: without one, or
the watchdog's word, the process was ended from outside and no model is blamed.
"""

from __future__ import annotations

import faulthandler
import fcntl
import hashlib
import mmap
import os
from pathlib import Path
from typing import IO

from setsuden.schemas.log import get_logger

log = get_logger(__name__)

_KEY_BYTES, _RECORD_BYTES = 16, 20
"""A key, the flags of a run and of a suspicion, and two bytes of nothing."""
_RUNNING, _SUSPECT = 16, 17
_MOST_RECORDS = 256
_PAGE_BYTES = _MOST_RECORDS * _RECORD_BYTES
_MOST_TEXT = 1 << 16


def key_of(pipeline: str, digest: str) -> bytes:
    """Of one model of one pipeline; another file is another model, and starts without blame."""
    return hashlib.blake2b(f"{pipeline}/{digest}".encode(), digest_size=16).digest()


class RunRecord:
    """The page of one process in its state folder."""

    def __init__(self, folder: Path) -> None:
        self._page = mmap.mmap(-1, _PAGE_BYTES)
        """Not in a file as long as there is none: the process goes on without a record."""
        self._traceback: IO[bytes] | None = None
        self._places: dict[bytes, int] = {}
        self.suspects: frozenset[bytes] = frozenset()
        """Keys of models that were running when a process died of it."""
        self._fd: int | None = None
        try:
            self._fd = _locked(folder / "running.bin")
        except OSError as error:  # a full disk, or another process of this folder
            log.warning("run_record_unusable", detail=str(error))
        else:
            self._open(self._fd, folder / "crash.log")

    def _open(self, fd: int, crash_log: Path) -> None:
        self._traceback, died = _traceback(crash_log)
        before = _records(os.pread(fd, _PAGE_BYTES, 0))
        self.suspects = frozenset(
            key for key, running, suspect in before if suspect or (running and died)
        )
        try:
            # Written, not only made longer: a hole would end the process on a full disk.
            if os.pwrite(fd, bytes(_PAGE_BYTES), 0) == _PAGE_BYTES:
                self._page = mmap.mmap(fd, _PAGE_BYTES)
        except OSError as error:
            log.warning("run_record_unusable", detail=str(error))
        for key in self.suspects:
            place = self.place(key)
            if place is not None:
                self.suspect(place)

    def place(self, key: bytes) -> int | None:
        """Where this model's flags are; None when there are too many models."""
        place = self._places.get(key)
        if place is None and len(self._places) < _MOST_RECORDS:
            place = self._places[key] = len(self._places) * _RECORD_BYTES
            self._page[place : place + _KEY_BYTES] = key
        return place

    def mark(self, place: int, *, running: bool) -> None:
        """A run begins or has ended."""
        self._page[place + _RUNNING] = running

    def suspect(self, place: int) -> None:
        """The model does not come back: the next life shall not run it in its own process."""
        self._page[place + _SUSPECT] = 1

    def close(self) -> None:
        """Let page and files go; whatever is noted after this is noted nowhere."""
        self._page = mmap.mmap(-1, _PAGE_BYTES)
        if self._traceback is not None:
            faulthandler.disable()
            self._traceback.close()
            self._traceback = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _locked(path: Path) -> int:
    """The page's file, ours alone as long as this process lives; raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _records(content: bytes) -> list[tuple[bytes, bool, bool]]:
    """(key, running, suspect) of the last life; nothing where there is no sound page."""
    if len(content) != _PAGE_BYTES:
        return []
    records = (content[at : at + _RECORD_BYTES] for at in range(0, _PAGE_BYTES, _RECORD_BYTES))
    return [
        (each[:_KEY_BYTES], bool(each[_RUNNING]), bool(each[_SUSPECT]))
        for each in records
        if any(each)
    ]


def _traceback(path: Path) -> tuple[IO[bytes] | None, bool]:
    """Where the interpreter writes when a fatal signal ends it, and whether it did so last time."""
    try:
        file = path.open("ab+")
        file.seek(0)
        text = file.read(_MOST_TEXT).decode("utf-8", "replace")
        file.truncate(0)
    except OSError as error:
        log.warning("crash_log_unusable", detail=str(error))
        return None, False
    if text:
        log.error("died_of_signal", detail=text[:2000])
    faulthandler.enable(file, all_threads=False)
    return file, bool(text)
