"""Everything delivered to this worker and not settled yet."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from setsuden.link import Incoming, Link
from setsuden.schemas.errors import LinkError

from .clock import Clock
from .counters import Counters
from .work import Work, received

log = logging.getLogger(__name__)
ACK, IN_PROGRESS = b"+ACK", b"+WPI"


def nak(delay_ns: int) -> bytes:
    """Give back, to be delivered again after the delay."""
    return b'-NAK {"delay": %d}' % delay_ns if delay_ns else b"-NAK"


class Hand:
    """Deliveries by stream sequence, their order of work, and their acknowledgements."""

    def __init__(self, link: Link, counters: Counters, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._counters = counters
        self._open: dict[int, Work] = {}
        self._fresh: deque[Work] = deque()
        self._again: deque[Work] = deque()
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
        return len(self._fresh) + len(self._again)

    def take(self, message: Incoming) -> None:
        """A delivery arrives. What is in hand already is not worked on twice."""
        try:
            work = received(message)
        except ValueError:
            log.warning("delivery_unreadable", extra={"reply": message.reply[:200]})
            return
        self._counters.taken += 1
        work.arrived_ns = self._clock.now_ns()
        known = self._open.get(work.delivery.stream_sequence)
        if known is not None:
            known.reply = work.reply
            self._counters.duplicate += 1
        elif not self.accepting:
            self.say(work.reply, nak(0))
        else:
            self._open[work.delivery.stream_sequence] = work
            (self._fresh if work.delivery.attempt == 1 else self._again).append(work)
        self.changed.set()

    def pick(self, most: int, alone: Callable[[Work], bool]) -> list[Work]:
        """The next events: those delivered before come first, and ``alone`` ones one by one."""
        queue = self._again or self._fresh
        picked: list[Work] = []
        while queue and len(picked) < most:
            if alone(queue[0]):
                return picked or [queue.popleft()]
            picked.append(queue.popleft())
        return picked

    def again_waiting(self) -> bool:
        """True while events that were delivered before are queued."""
        return bool(self._again)

    def settle(self, work: Work, word: bytes) -> None:
        """The last word on a delivery."""
        self._open.pop(work.delivery.stream_sequence, None)
        self.say(work.reply, word)
        self.changed.set()

    def give_back_queued(self) -> int:
        """Everything nobody has taken up goes to other workers at once."""
        waiting = [*self._again, *self._fresh]
        self._again.clear()
        self._fresh.clear()
        for work in waiting:
            self.settle(work, nak(0))
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
                log.debug("acknowledgement_lost", extra={"detail": str(error)})

    async def run_heartbeats(self, period_seconds: float) -> None:
        """Tell the broker that what is in hand is being worked on, until cancelled."""
        while True:
            await asyncio.sleep(period_seconds)
            for work in list(self._open.values()):
                self.say(work.reply, IN_PROGRESS)
