"""Finds answers that passed us by: words on a reply subject are not stored anywhere.

What the agent is known to have is looked up in the results stream. Any other event is asked
again under its idempotency key, and the agent answers with what it knows. While nothing shows
that the agent has read that far, one event of its device is asked again, not all of them: a
device that is offline for hours must not find its stream full of copies. That copy lies behind
all others, so the answer to it tells that whoever still has none has lost it.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TypeVar

from setsuden.link import Incoming, JetStream
from setsuden.link.tasks import wait
from setsuden.schemas.errors import LinkError
from setsuden.schemas.log import get_logger
from setsuden.schemas.result import Result
from setsuden.schemas.streams import RESULTS

from . import updates
from .inquiry import Inquiry

log = get_logger(__name__)
FIRST_CHECK_SECONDS = 1.0
LONGEST_CHECK_SECONDS = 30.0
"""Pauses between two checks of one event double from the first to the longest."""
TICK_SECONDS = 0.05
"""Checks due within it are done together."""
LOOKUP_BATCH = 128
ASK_BATCH = 64

Part = TypeVar("Part")
Ask = Callable[[Inquiry], Awaitable[None]]


@dataclass(slots=True)
class _Device:
    """What answers have told of one device's agent."""

    read_to: int = 0
    """It has read its events up to this place in the stream."""
    silences: int = 0
    ask_after: float = 0.0


class Follower:
    """Checks on every open inquiry: rarely, and at once when the link is back."""

    def __init__(self, jetstream: JetStream, inquiries: Mapping[str, Inquiry], ask: Ask) -> None:
        self._jetstream = jetstream
        self._open = inquiries
        self._ask = ask
        self._devices: dict[str, _Device] = defaultdict(_Device)
        self._due: list[tuple[float, str]] = []
        self._woken = asyncio.Event()

    def follow(self, inquiry: Inquiry) -> None:
        """Check on it later, unless it has ended by then."""
        pause = min(FIRST_CHECK_SECONDS * 2.0**inquiry.checks, LONGEST_CHECK_SECONDS)
        inquiry.checks = min(inquiry.checks + 1, 10)
        jittered = pause * random.uniform(0.75, 1.25)  # noqa: S311  # spreads load, no secret
        inquiry.due = asyncio.get_running_loop().time() + jittered
        heappush(self._due, (inquiry.due, inquiry.token))
        if self._due[0][1] == inquiry.token:
            self._woken.set()

    def heard(self, inquiry: Inquiry, copy: int) -> None:
        """The agent answered this copy of the question, so it has read the stream up to it."""
        device = self._devices[inquiry.device]
        device.read_to = max(device.read_to, inquiry.sequences.get(copy, 0))
        device.silences = 0
        device.ask_after = asyncio.get_running_loop().time() + FIRST_CHECK_SECONDS

    def wake(self) -> None:
        """The link is back: anything may have been missed."""
        now = asyncio.get_running_loop().time()
        for device in self._devices.values():
            device.silences, device.ask_after = 0, 0.0
        followed = [inquiry for inquiry in self._open.values() if inquiry.sequences]
        for inquiry in followed:
            inquiry.due, inquiry.checks = now, 0
        self._due = [(now, inquiry.token) for inquiry in followed]
        heapify(self._due)
        self._woken.set()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self._wait()
            due = self._take()
            try:
                await self._look_up([inquiry for inquiry in due if inquiry.place is not None])
                await self._ask_again([inquiry for inquiry in due if inquiry.place is None])
            except LinkError as error:
                log.debug("check_failed", detail=str(error))
            for inquiry in due:
                if inquiry.outcome is None:
                    self.follow(inquiry)

    async def _wait(self) -> None:
        pause = None
        if self._due:
            pause = max(self._due[0][0] - asyncio.get_running_loop().time(), TICK_SECONDS)
        await wait(self._woken, pause)
        self._woken.clear()

    def _take(self) -> list[Inquiry]:
        now, found = asyncio.get_running_loop().time(), []
        while self._due and self._due[0][0] <= now:
            due, token = heappop(self._due)
            inquiry = self._open.get(token)
            if inquiry is not None and inquiry.due == due:  # else an entry from before a wake
                found.append(inquiry)
        return found

    async def _look_up(self, inquiries: list[Inquiry]) -> None:
        for part in _parts(inquiries, LOOKUP_BATCH):
            names = [name for inquiry in part for name in _records_of(inquiry)]
            stored = await self._jetstream.last_of(RESULTS, names)
            for inquiry in part:
                records = [_record(inquiry, stored.get(name)) for name in _records_of(inquiry)]
                _recover(inquiry, *records)

    async def _ask_again(self, inquiries: list[Inquiry]) -> None:
        asked = [inquiry for inquiry in inquiries if self._may_ask(inquiry)]
        for part in _parts(asked, ASK_BATCH):
            await asyncio.gather(*(self._ask(inquiry) for inquiry in part))

    def _may_ask(self, inquiry: Inquiry) -> bool:
        """True for one that the agent has read past, and for one of a silent device."""
        device, now = self._devices[inquiry.device], asyncio.get_running_loop().time()
        if max(inquiry.sequences.values()) < device.read_to:
            return True
        if now < device.ask_after:
            return False
        pause = min(FIRST_CHECK_SECONDS * 2.0**device.silences, LONGEST_CHECK_SECONDS)
        device.silences = min(device.silences + 1, 10)
        device.ask_after = now + pause
        return True


def _recover(inquiry: Inquiry, final: Result | None, late: Result | None) -> None:
    for record in updates.in_order(final, late):
        inquiry.recover(record)


def _record(inquiry: Inquiry, message: Incoming | None) -> Result | None:
    """A stored record that is of this event, whoever wrote it there."""
    record = updates.record(None if message is None else message.data)
    return record if record is not None and inquiry.concerns(record) else None


def _records_of(inquiry: Inquiry) -> tuple[str, ...]:
    """Where the final result and the late answer are stored, once the agent has named the event."""
    place = inquiry.place
    return () if place is None else (place.result, place.late)


def _parts(items: list[Part], size: int) -> Iterator[list[Part]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
