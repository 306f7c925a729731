"""One consumer's way through the bridge: pulled, read, handed to every sink, acknowledged."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from setsuden.link import Delivery, Incoming, Link
from setsuden.link.messages import ACK, TERM, nak
from setsuden.link.tasks import Backoff
from setsuden.schemas import streams
from setsuden.schemas.errors import LinkError
from setsuden.schemas.log import get_logger
from setsuden.services.config import BridgeOptions
from setsuden.services.pull import Puller

from .rules import Reason
from .sinks import Outcome, Sink

log = get_logger(__name__)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0


@dataclass(slots=True)
class BridgeCounters:
    """Only ever grow."""

    messages: int = 0
    """Taken from the stream, repetitions included."""
    spans: int = 0
    """That every sink has taken."""
    hops: int = 0
    """Of them, spans made of what the broker told."""
    foreign: int = 0
    """Broker events of messages that are none of ours."""
    dropped: int = 0
    """Spans, or messages that could not be read, given up on: damaged, over a bound, or refused by
    a sink for good."""
    refused: dict[str, int] = field(default_factory=dict)
    """Spans and points not passed on because of what they claim, by reason (``rules.Reason``)."""
    rejected: int = 0
    """Spans that a sink took and threw away, as it said itself; ``spans`` counts them too."""
    later: int = 0
    """Times a sink could not take any."""
    metrics: int = 0
    """Points of metrics that every sink has taken."""
    metrics_unwanted: int = 0
    """Messages of metrics dropped on purpose: there is no sink for them."""
    metrics_dropped: int = 0
    """Messages of metrics given up on: damaged, refused for good, or nobody took them in time."""
    metrics_rejected: int = 0
    """Points that a sink took and threw away, as it said itself; ``metrics`` counts them too."""
    metrics_later: int = 0
    """Times a sink could not take any metrics."""

    def refuse(self, refused: Mapping[Reason, int]) -> None:
        """Count what is not passed on."""
        for reason, count in refused.items():
            self.refused[reason.value] = self.refused.get(reason.value, 0) + count

    def as_dict(self) -> dict[str, object]:
        """For the log."""
        return asdict(self)


class Load(NamedTuple):
    """One message's spans or metrics, ready to go."""

    message: Incoming
    data: bytes
    items: int
    """Spans or points in it."""
    hop: bool = False
    refused: Mapping[Reason, int] = {}
    """Spans or points that were taken out of it; counted once, when it is gone."""


REQUEST_BYTES = 2 << 20
REQUEST_ITEMS = 4096
"""Of one request to a sink, but for a single message. What it is made of is in memory at once."""
_WARN_SECONDS = 60.0
_WARNINGS_KEPT = 256


class Warnings:
    """One line a minute for each kind of trouble: no sender may fill the log."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}

    def tell(self, event: str, subject: str, detail: str) -> None:
        """Log it, unless this subject was told of for the same kind of trouble just now."""
        now, key = time.monotonic(), (event, subject)
        if now - self._told.get(key, -_WARN_SECONDS) < _WARN_SECONDS:
            return
        if len(self._told) >= _WARNINGS_KEPT:
            self._told.clear()
        self._told[key] = now
        log.warning(event, detail=detail, **{"from": subject})


PULL_SECONDS = 30.0
"""How long the broker keeps one request open."""


class Lane(ABC):
    """One consumer of the OTEL stream. What its sinks cannot take now holds up no other lane."""

    def __init__(
        self,
        link: Link,
        options: BridgeOptions,
        consumer: str,
        sinks: Sequence[Sink],
        *,
        counters: BridgeCounters,
        repair: Callable[[], Awaitable[None]],
    ) -> None:
        self.counters = counters
        self.sinks = sinks
        self._link, self._batch_messages = link, options.batch_messages
        self._problem = ""
        self.warnings = Warnings()
        self._queue: asyncio.Queue[Incoming] = asyncio.Queue()  # bounded by the puller's prefetch
        self._puller = Puller(
            link,
            streams.SPANS,
            consumer,
            prefetch=options.batch_messages,
            expires_seconds=PULL_SECONDS,
            take=self._take,
            repair=repair,
            inbox=f"pull-{consumer}",
        )

    # -- what differs -------------------------------------------------------------------------

    @abstractmethod
    async def read(self, message: Incoming) -> Load | None:
        """The message's load; one that has none is ended here."""

    @abstractmethod
    def taken(self, load: Load) -> None:
        """Count a load that every sink has taken."""

    @abstractmethod
    def refused(self, load: Load) -> None:
        """Count a load that a sink never will take."""

    @abstractmethod
    def later(self) -> int:
        """Count a load that a sink could not take now; how many seconds it waits."""

    @abstractmethod
    def rejected(self, count: int) -> None:
        """Tell how much the sinks have thrown away so far."""

    # -- what does not ------------------------------------------------------------------------

    def _take(self, message: Incoming) -> None:
        """Queue a delivery.

        What came by another way is answered nowhere: it could name any subject for our answer.
        """
        try:
            Delivery.of(message.reply)
        except ValueError:
            self.warnings.tell("no_delivery", message.subject, message.reply[:200])
            self._puller.consumed(1)
            return
        self._queue.put_nowait(message)

    async def run(self) -> None:
        """Pass on until cancelled; what was not acknowledged comes again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._puller.run(), name="pull")
            tasks.create_task(self._pass(), name="pass")

    async def say(self, message: Incoming, word: bytes) -> None:
        """Acknowledge, end or give back."""
        try:
            await self._link.send(message.reply, word)
        except LinkError as error:  # it comes again, and is the same bytes
            log.debug("acknowledgement_lost", detail=str(error))

    async def _pass(self) -> None:
        pauses = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            if await self._turn():
                pauses.reset()
            else:
                await asyncio.sleep(pauses.next())

    async def _turn(self) -> bool:
        """One batch; False when a sink could not take it now."""
        batch = [await self._queue.get()]
        while len(batch) < self._batch_messages and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        self.counters.messages += len(batch)
        taken = True
        loads: list[Load] = []
        for message in batch:
            load = await self.read(message)
            if load is None:
                continue
            if loads and not _fits(loads, load):
                taken &= await self._pass_on(loads)
                loads = []
            loads.append(load)
        if loads:
            taken &= await self._pass_on(loads)
        self._puller.consumed(len(batch))
        return taken

    async def _pass_on(self, loads: list[Load]) -> bool:
        """Together, and one by one when that is refused: one bad message must not take others."""
        # Serialised messages of repeated fields may simply stand behind each other.
        outcome = await self._put(b"".join(load.data for load in loads))
        if outcome is Outcome.REFUSED and len(loads) > 1:
            return all([await self._pass_on([load]) for load in loads])
        for load in loads:
            await self._settle(load, outcome)
        return outcome is not Outcome.LATER

    async def _put(self, data: bytes) -> Outcome:
        for sink in self.sinks:
            outcome = await asyncio.to_thread(sink.put, data)
            if outcome is not Outcome.TAKEN:
                self._complain(sink, outcome)
                return outcome
        self.rejected(sum(sink.rejected for sink in self.sinks))
        self._problem = ""
        return Outcome.TAKEN

    def _complain(self, sink: Sink, outcome: Outcome) -> None:
        """Once for each new reason, not for each try."""
        if sink.problem != self._problem:
            self._problem = sink.problem
            detail = {"outcome": outcome.value, "detail": sink.problem}
            log.warning("sink_did_not_take", **detail)

    async def _settle(self, load: Load, outcome: Outcome) -> None:
        if outcome is Outcome.LATER:
            word = nak(self.later())
        elif outcome is Outcome.TAKEN:
            self.taken(load)
            self.counters.refuse(load.refused)
            word = ACK
        else:
            self.refused(load)
            self.counters.refuse(load.refused)
            word = TERM
        await self.say(load.message, word)


def _fits(loads: list[Load], load: Load) -> bool:
    """True when one request may hold them all."""
    size = sum(len(one.data) for one in loads) + len(load.data)
    items = sum(one.items for one in loads) + load.items
    return size <= REQUEST_BYTES and items <= REQUEST_ITEMS
