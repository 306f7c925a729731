"""Everything delivered to this worker and not settled yet."""

from __future__ import annotations

import asyncio
from collections import deque

from setsuden.link import Incoming, Link
from setsuden.link.messages import IN_PROGRESS, nak
from setsuden.schemas.errors import LinkError
from setsuden.schemas.log import get_logger
from setsuden.telemetry.clock import WallClock

from .counters import Counters
from .work import Work, received

log = get_logger(__name__)


class Hand:
    """Deliveries by their place in the stream, their order of work, and their acknowledgements."""

    def __init__(self, link: Link, counters: Counters, clock: WallClock) -> None:
        self._link = link
        self._clock = clock
        self._counters = counters
        self._open: dict[tuple[int, int], Work] = {}
        self._fresh: deque[Work] = deque()
        self._suspect: deque[Work] = deque()
        self._outgoing: deque[tuple[str, bytes]] = deque()
        self._to_send = asyncio.Event()
        self.changed = asyncio.Event()
        """Set at every arrival and every settlement."""
        self.accepting = True

    def __len__(self) -> int:
        """Deliveries in hand: queued, running or waiting for the stream's word."""
        return len(self._open)

    @property
    def queued(self) -> int:
        """Deliveries nobody has taken up."""
        return len(self._fresh) + len(self._suspect)

    @property
    def fresh(self) -> int:
        """Those of them that were never delivered before."""
        return len(self._fresh)

    @property
    def suspect(self) -> int:
        """Those of them that were, or may have been answered."""
        return len(self._suspect)

    def take(self, message: Incoming) -> bool:
        """A delivery arrives; True when it was queued. What is in hand is not worked on twice."""
        try:
            work = received(message)
        except ValueError:
            log.warning("delivery_unreadable", reply=message.reply[:200])
            return False
        self._counters.taken += 1
        work.arrived_ns = self._clock.now_ns()
        known = self._open.get(work.key)
        if known is not None:
            known.reply = work.reply
            self._counters.duplicate += 1
        elif not self.accepting:
            self.say(work.reply, nak())
        else:
            self._open[work.key] = work
            (self._suspect if work.suspect else self._fresh).append(work)
            self.changed.set()
            return True
        self.changed.set()
        return False

    def pick_fresh(self, most: int) -> list[Work]:
        """The next batch of events that were never delivered before."""
        return [self._fresh.popleft() for _ in range(min(most, len(self._fresh)))]

    def pick_suspect(self) -> Work | None:
        """The next event to be looked up and run alone."""
        return self._suspect.popleft() if self._suspect else None

    def run_alone(self, work: Work) -> None:
        """Queue an event whose run failed."""
        if self._open.get(work.key) is work:
            self._suspect.append(work)
            self.changed.set()

    def settle(self, work: Work, word: bytes) -> None:
        """The last word on a delivery."""
        self._open.pop(work.key, None)
        self.say(work.reply, word)
        self.changed.set()

    def give_back(self, work: Work) -> None:
        """Another worker may have it at once."""
        self._counters.nak += 1
        self.settle(work, nak())

    def give_back_all(self) -> None:
        """Another worker may have all that is left."""
        for work in list(self._open.values()):
            self.give_back(work)

    def give_back_queued(self) -> int:
        """Everything nobody has taken up goes to other workers at once."""
        waiting = [*self._suspect, *self._fresh]
        self._suspect.clear()
        self._fresh.clear()
        for work in waiting:
            self.settle(work, nak())
        return len(waiting)

    def say(self, reply: str, word: bytes) -> None:
        """Send one acknowledgement soon."""
        self._outgoing.append((reply, word))
        self._to_send.set()

    async def run_acks(self) -> None:
        """Send acknowledgements until cancelled. One that is lost is made good by redelivery."""
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what is waiting."""
        while self._outgoing:
            reply, word = self._outgoing.popleft()
            try:
                await self._link.send(reply, word)
            except LinkError as error:
                log.debug("acknowledgement_lost", detail=str(error))

    async def run_heartbeats(self, period_seconds: float) -> None:
        """Tell the broker that what is in hand is being worked on, until cancelled."""
        while True:
            await asyncio.sleep(period_seconds)
            for work in list(self._open.values()):
                self.say(work.reply, IN_PROGRESS)
