"""Arrivals of one pipeline whose student does not run in the event loop.

Each such pipeline waits for itself alone. Its order is kept: while anything is in the lane,
everything of the pipeline goes through it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from .arrival import Arrival

MAX_WAITING = 256
"""Past it events of the broker are left there, and events over HTTP go on without the student.

What was read before the lane was seen to be full (``intake.queue_max_events`` at most) comes too.
"""


class Lane:
    """What waits for one student, and what it is judging."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        self.judging: list[Arrival] = []
        self._most = most
        self._waiting: deque[Arrival] = deque()
        self._something = asyncio.Event()
        self._was_full = False

    @property
    def busy(self) -> bool:
        """True while anything is in the lane."""
        return bool(self._waiting or self.judging)

    @property
    def full(self) -> bool:
        """True when no more should come."""
        return len(self._waiting) >= self._most

    def put(self, arrival: Arrival) -> None:
        """One more, at the end."""
        self._waiting.append(arrival)
        self._was_full = self._was_full or self.full
        self._something.set()

    async def arrived(self) -> None:
        """Return when something waits; at once when it does already."""
        while not self._waiting:
            self._something.clear()
            await self._something.wait()

    async def take(self, most: int) -> list[Arrival]:
        """The next ones, which are being judged from here on until :meth:`done`."""
        await self.arrived()
        count = min(most, len(self._waiting))
        self.judging = [self._waiting.popleft() for _ in range(count)]
        return self.judging

    def done(self) -> None:
        """What was taken is judged, or given up."""
        self.judging = []

    def emptied(self) -> bool:
        """True once, when a full lane is half empty again."""
        freed = self._was_full and len(self._waiting) <= self._most // 2
        self._was_full = self._was_full and not freed
        return freed

    def withdraw(self, arrival: Arrival) -> bool:
        """Take one out that still waits; False when it does not."""
        for place, each in enumerate(self._waiting):
            if each is arrival:
                del self._waiting[place]
                return True
        return False

    def drain(self) -> list[Arrival]:
        """Everything that waits or is being judged; the lane is empty."""
        rest = [*self.judging, *self._waiting]
        self.judging = []
        self._waiting.clear()
        return rest
