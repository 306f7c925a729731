"""Wall-clock time that never runs backwards inside a batch."""

from __future__ import annotations

import time

_ANCHOR_SECONDS = 30.0


class Clock:
    """A wall-clock anchor plus the monotonic clock: a step of NTP bends no duration."""

    def __init__(self) -> None:
        self._anchored = self._offset = 0
        self.anchor()

    def anchor(self) -> None:
        """Follow the wall clock again, at most every 30 s; call between batches."""
        mono = time.monotonic_ns()
        if not self._offset or mono - self._anchored > _ANCHOR_SECONDS * 1e9:
            self._anchored, self._offset = mono, time.time_ns() - mono

    def now_ns(self) -> int:
        """Nanoseconds since 1970, UTC."""
        return self._offset + time.monotonic_ns()
