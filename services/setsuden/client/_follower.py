"""Recovers updates that were lost: a message on a reply subject is not stored anywhere.

Once the agent has named an event, its records are looked up in the results stream. Any other event
is submitted again under its idempotency key, and the agent answers with what it knows. While
nothing shows that the agent has read that far in the stream, one event of its device is submitted
again, not all of them: a device that is offline for hours must not find its stream full of copies.
That copy lies behind all others, so an answer to it shows that the answers to earlier events were
lost.
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

from . import _messages
from ._pending import PendingSubmission

log = get_logger(__name__)
FIRST_CHECK_SECONDS = 1.0
LONGEST_CHECK_SECONDS = 30.0
"""Pauses between two checks of one event double from the first to the longest."""
TICK_SECONDS = 0.05
"""Checks due within it are done together."""
LOOKUP_BATCH = 128
RESUBMIT_BATCH = 64

Part = TypeVar("Part")
Resubmit = Callable[[PendingSubmission], Awaitable[None]]


@dataclass(slots=True)
class _DeviceProgress:
    """How far one device's agent has read, as its answers show, and how silent it is."""

    read_to: int = 0
    """The highest stream sequence that the agent has read."""
    unanswered: int = 0
    resubmit_after: float = 0.0


class Follower:
    """Checks on every open submission: rarely, and at once when the link is back."""

    def __init__(
        self, jetstream: JetStream, submissions: Mapping[str, PendingSubmission], resubmit: Resubmit
    ) -> None:
        self._jetstream = jetstream
        self._open = submissions
        self._resubmit = resubmit
        self._devices: dict[str, _DeviceProgress] = defaultdict(_DeviceProgress)
        self._due: list[tuple[float, str]] = []
        self._woken = asyncio.Event()

    def follow(self, pending: PendingSubmission) -> None:
        """Check on it later, unless it has ended by then."""
        pause = min(FIRST_CHECK_SECONDS * 2.0**pending.checks, LONGEST_CHECK_SECONDS)
        pending.checks = min(pending.checks + 1, 10)
        jittered = pause * random.uniform(0.75, 1.25)  # noqa: S311  # spreads load, no secret
        pending.due = asyncio.get_running_loop().time() + jittered
        heappush(self._due, (pending.due, pending.token))
        if self._due[0][1] == pending.token:
            self._woken.set()

    def on_answer(self, pending: PendingSubmission, copy: int) -> None:
        """The agent answered this copy of the event, so it has read the stream up to it."""
        device = self._devices[pending.device]
        device.read_to = max(device.read_to, pending.sequences.get(copy, 0))
        device.unanswered = 0
        device.resubmit_after = asyncio.get_running_loop().time() + FIRST_CHECK_SECONDS

    def wake(self) -> None:
        """Check everything now: the link is back, and any update may have been missed."""
        now = asyncio.get_running_loop().time()
        for device in self._devices.values():
            device.unanswered, device.resubmit_after = 0, 0.0
        followed = [pending for pending in self._open.values() if pending.sequences]
        for pending in followed:
            pending.due, pending.checks = now, 0
        self._due = [(now, pending.token) for pending in followed]
        heapify(self._due)
        self._woken.set()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self._wait()
            due = self._take()
            try:
                await self._look_up([pending for pending in due if pending.place is not None])
                await self._submit_again([pending for pending in due if pending.place is None])
            except LinkError as error:
                log.debug("check_failed", detail=str(error))
            for pending in due:
                if pending.outcome is None:
                    self.follow(pending)

    async def _wait(self) -> None:
        pause = None
        if self._due:
            pause = max(self._due[0][0] - asyncio.get_running_loop().time(), TICK_SECONDS)
        await wait(self._woken, pause)
        self._woken.clear()

    def _take(self) -> list[PendingSubmission]:
        now, due_now = asyncio.get_running_loop().time(), []
        while self._due and self._due[0][0] <= now:
            due, token = heappop(self._due)
            pending = self._open.get(token)
            if pending is not None and pending.due == due:  # else an entry from before a wake
                due_now.append(pending)
        return due_now

    async def _look_up(self, submissions: list[PendingSubmission]) -> None:
        for part in _parts(submissions, LOOKUP_BATCH):
            names = [name for pending in part for name in _records_of(pending)]
            stored = await self._jetstream.last_of(RESULTS, names)
            for pending in part:
                records = [_record(pending, stored.get(name)) for name in _records_of(pending)]
                _apply(pending, *records)

    async def _submit_again(self, submissions: list[PendingSubmission]) -> None:
        allowed = [pending for pending in submissions if self._may_resubmit(pending)]
        for part in _parts(allowed, RESUBMIT_BATCH):
            await asyncio.gather(*(self._resubmit(pending) for pending in part))

    def _may_resubmit(self, pending: PendingSubmission) -> bool:
        """True when the agent has read past it, and for one event at a time of a silent device."""
        device, now = self._devices[pending.device], asyncio.get_running_loop().time()
        if max(pending.sequences.values()) < device.read_to:
            return True
        if now < device.resubmit_after:
            return False
        pause = min(FIRST_CHECK_SECONDS * 2.0**device.unanswered, LONGEST_CHECK_SECONDS)
        device.unanswered = min(device.unanswered + 1, 10)
        device.resubmit_after = now + pause
        return True


def _apply(pending: PendingSubmission, final: Result | None, late: Result | None) -> None:
    for record in _messages.in_order(final, late):
        pending.on_record(record)


def _record(pending: PendingSubmission, message: Incoming | None) -> Result | None:
    """The stored record, unless it belongs to another event: anybody may have written it."""
    record = _messages.read_record(None if message is None else message.data)
    return record if record is not None and pending.matches(record) else None


def _records_of(pending: PendingSubmission) -> tuple[str, ...]:
    """Where the final result and the late answer are stored, once the agent has named the event."""
    place = pending.place
    return () if place is None else (place.result, place.late)


def _parts(items: list[Part], size: int) -> Iterator[list[Part]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
