"""Kills what a session leaves behind, also when its first process was killed with SIGKILL.

The guard is a small process in a session of its own. It reads a pipe that its parent holds open,
and whatever ends the parent closes that pipe. A signal at the parent's death (PR_SET_PDEATHSIG)
would reach direct children only, and comes already when the *thread* that started them ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from .serve.processes import MARK, kill_marked, marked

SESSION = "SETSUDEN_SESSION"
"""The mark of everything that one command started; Ray sessions below it have ``MARK`` too."""
_POLL_SECONDS = 0.1
_CLOSE_SECONDS = 20.0


class Guard:
    """Kills every process with the mark, or in a session that it was told of, after our end."""

    def __init__(
        self, name: str, mark: str, *, grace_seconds: float = 0.0, folder: Path | None = None
    ) -> None:
        """They may take ``grace_seconds`` to end by themselves; ``folder`` goes after them."""
        # A guard carries no mark itself, else another one would kill it before its work is done.
        environment = {
            key: value for key, value in os.environ.items() if key not in {MARK, SESSION}
        }
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, name, mark, str(grace_seconds), str(folder or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def watch(self, leader: int) -> None:
        """Its whole session is meant too, mark or no mark."""
        assert self._child.stdin is not None  # noqa: S101  # opened as a pipe above
        with contextlib.suppress(OSError):
            self._child.stdin.write(f"{leader}\n".encode())
            self._child.stdin.flush()

    def close(self) -> None:
        """Have it look once more, and return when nothing is left. Blocks."""
        assert self._child.stdin is not None  # noqa: S101  # opened as a pipe above
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        try:
            self._child.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


class GuardedSession:
    """Inside, everything started inherits a mark; at the end of it or of us, none of it is left."""

    def __enter__(self) -> Self:
        """Start the guard first."""
        mark = secrets.token_hex(8)
        self._guard = Guard(SESSION, mark)
        os.environ[SESSION] = mark
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Sweep."""
        os.environ.pop(SESSION, None)
        self._guard.close()


def _leaders() -> list[int]:
    """Reads until the parent is gone; the sessions that it told of."""
    listing = b""
    while piece := os.read(0, 4096):
        listing += piece
    return [int(line) for line in listing.split()]


def main() -> None:
    """Wait for the parent's end, give the rest its grace, kill it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("mark")
    parser.add_argument("grace_seconds", type=float)
    parser.add_argument("folder")
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the parent's end counts
    leaders = _leaders()
    deadline = time.monotonic() + asked.grace_seconds
    while time.monotonic() < deadline and marked(asked.mark, *leaders, name=asked.name):
        time.sleep(_POLL_SECONDS)
    kill_marked(asked.mark, *leaders, name=asked.name)
    if asked.folder:
        shutil.rmtree(asked.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
