"""Which escalation goes next: the oldest, while live events keep their share."""

from __future__ import annotations

from collections import deque


class Backlog:
    """Two queues of sequences: old ones (an outage, a restart) and live ones."""

    def __init__(self, live_share: float) -> None:
        self._old: deque[int] = deque()
        self._live: deque[int] = deque()
        self._share = live_share
        self._credit = 0.0

    def __len__(self) -> int:
        """Escalations waiting to be sent."""
        return len(self._old) + len(self._live)

    def add_live(self, sequence: int) -> None:
        """A hard case that was just accepted."""
        self._live.append(sequence)

    def add_old(self, sequence: int) -> None:
        """One to be sent again, behind those already waiting."""
        self._old.append(sequence)

    def all_old(self) -> None:
        """The link came back: what waited through the outage is old, in order of age."""
        self._old = deque(sorted((*self._old, *self._live)))
        self._live.clear()

    def take(self) -> int | None:
        """The next sequence, or None when nothing waits."""
        if not self._old:
            return self._live.popleft() if self._live else None
        self._credit += self._share
        if self._live and self._credit >= 1.0:
            self._credit -= 1.0
            return self._live.popleft()
        self._credit = min(self._credit, 1.0)
        return self._old.popleft()
