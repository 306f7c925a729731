"""Arrivals of one pipeline whose student does not run in the event loop.

Each such pipeline waits for itself alone. Its order is kept: while anything is in the lane,
everything of the pipeline goes through it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .arrival import Arrival

MAX_WAITING = 256
"""Past it stored events are left where they are, and the others go on without the student.

What was read before the lane was seen to be full (``intake.queue_max_events`` at most) comes too.
"""


class Lane:
    """What waits for one student, and what it is judging."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        self.judging: list[Arrival] = []
        self.room = asyncio.Event()
        """Clear from when the lane is full until it is half empty again."""
        self.room.set()
        self._most = most
        self._waiting: deque[Arrival] = deque()
        self._arrived = asyncio.Event()

    @property
    def busy(self) -> bool:
        """True while anything is in the lane."""
        return bool(self._waiting or self.judging)

    @property
    def full(self) -> bool:
        """True when no more should come."""
        return len(self._waiting) >= self._most

    def put(self, arrival: Arrival) -> None:
        """Add one more, at the end."""
        self._waiting.append(arrival)
        if self.full:
            self.room.clear()
        self._arrived.set()

    async def arrived(self) -> None:
        """Return when something waits; at once when it does already."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()

    async def take(self, most: int) -> list[Arrival]:
        """The next ones, which are being judged from here on until :meth:`done`."""
        await self.arrived()
        count = min(most, len(self._waiting))
        self.judging = [self._waiting.popleft() for _ in range(count)]
        return self.judging

    def done(self) -> list[Arrival]:
        """What was taken is judged; empty when :meth:`drain` took it away meanwhile."""
        judged, self.judging = self.judging, []
        self._make_room()
        return judged

    def withdraw(self, arrival: Arrival) -> bool:
        """Take one out that still waits; False when it does not."""
        for place, each in enumerate(self._waiting):
            if each is arrival:
                del self._waiting[place]
                self._make_room()
                return True
        return False

    def remove(self, unwanted: Callable[[Arrival], bool]) -> list[Arrival]:
        """Take out what waits or is being judged and is not wanted any more."""
        removed = [arrival for arrival in (*self.judging, *self._waiting) if unwanted(arrival)]
        self.judging = [arrival for arrival in self.judging if not unwanted(arrival)]
        self._waiting = deque(arrival for arrival in self._waiting if not unwanted(arrival))
        self._make_room()
        return removed

    def drain(self) -> list[Arrival]:
        """Everything that waits or is being judged; the lane is empty."""
        return self.remove(lambda _: True)

    def _make_room(self) -> None:
        if len(self._waiting) <= self._most // 2:
            self.room.set()
