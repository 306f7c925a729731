"""Moments to come, for many keys, with forgetting."""

from __future__ import annotations

import heapq


class Timers:
    """At most one due moment per key; a new one replaces the old."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._due: dict[int, int] = {}

    def set(self, key: int, due_ns: int) -> None:
        """Let ``key`` come due at ``due_ns``."""
        self._due[key] = due_ns
        heapq.heappush(self._heap, (due_ns, key))

    def forget(self, key: int) -> None:
        """``key`` will not come due."""
        self._due.pop(key, None)

    def pop(self, now_ns: int) -> list[int]:
        """The keys that are due, earliest first; each is forgotten."""
        due: list[int] = []
        while self._heap and self._heap[0][0] <= now_ns:
            moment, key = heapq.heappop(self._heap)
            if self._due.get(key) == moment:
                del self._due[key]
                due.append(key)
        return due

    def clear(self) -> list[int]:
        """Forget all; the keys that were waiting, in no order."""
        keys = list(self._due)
        self._due.clear()
        self._heap.clear()
        return keys

    def next(self) -> int | None:
        """The earliest moment still meant, or None."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
