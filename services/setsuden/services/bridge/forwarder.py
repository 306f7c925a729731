"""One consumer's way through the bridge: pulled, read, handed to every sink, acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from setsuden.link import Delivery, Incoming, Link
from setsuden.link.messages import ACK, TERM, nak
from setsuden.link.tasks import Backoff
from setsuden.schemas import streams
from setsuden.schemas.errors import LinkError, RejectedError, TraceDataError
from setsuden.schemas.log import get_logger
from setsuden.services.pull import Puller

from .payload import Payload, Signal
from .rules import RefusalReason
from .sinks import Sink, SinkOutcome

log = get_logger(__name__)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0


BATCH_MESSAGES = 64
"""Messages handed over in one request."""
PULL_SECONDS = 30.0
"""How long the broker keeps one request open."""
REQUEST_BYTES = 2 << 20
REQUEST_ITEMS = 4096
"""Of one request to a sink, but for a single message. What it is made of is in memory at once."""
_WARN_SECONDS = 60.0
_WARNINGS_KEPT = 256


class Warnings:
    """One line a minute for each kind of trouble: no sender may fill the log."""

    def __init__(self) -> None:
        self._warned: dict[tuple[str, str], float] = {}

    def tell(self, event: str, subject: str, detail: str) -> None:
        """Log it, unless this subject had the same kind of trouble just now."""
        now, key = time.monotonic(), (event, subject)
        if now - self._warned.get(key, -_WARN_SECONDS) < _WARN_SECONDS:
            return
        if len(self._warned) >= _WARNINGS_KEPT:
            self._warned.clear()
        self._warned[key] = now
        log.warning(event, detail=detail, **{"from": subject})


@dataclass(slots=True)
class ForwarderCounters:
    """Of one signal; they only ever grow."""

    messages: int = 0
    """Taken from the stream, repetitions included."""
    forwarded: int = 0
    """Spans or points that every sink has taken."""
    hops: int = 0
    """Of them, spans made of a broker's trace events."""
    foreign: int = 0
    """Trace events of messages that are not ours."""
    unwanted: int = 0
    """Messages dropped on purpose: there is no sink for them."""
    dropped: int = 0
    """Given up on: damaged, over a bound, too old, or refused by a sink for good."""
    refused: Counter[str] = field(default_factory=Counter)
    """Spans and points not passed on because of what they claim, by ``rules.RefusalReason``."""
    rejected: int = 0
    """Spans or points that a sink took and threw away; ``forwarded`` counts them too."""
    later: int = 0
    """Times a sink could not take any."""

    def refuse(self, refused: Mapping[RefusalReason, int]) -> None:
        """Count what is not passed on."""
        self.refused.update({reason.value: count for reason, count in refused.items()})


class Forwarder:
    """One consumer of the OTEL stream; what its sinks cannot take now holds up no other signal."""

    def __init__(
        self,
        link: Link,
        signal: Signal,
        consumer: str,
        sinks: Sequence[Sink],
        repair: Callable[[], Awaitable[None]],
    ) -> None:
        self.signal = signal
        self.counters = ForwarderCounters()
        self._sinks, self._link = sinks, link
        self._problem = ""
        self._warnings = Warnings()
        self._queue: asyncio.Queue[Incoming] = asyncio.Queue()  # bounded by the puller's prefetch
        self._puller = Puller(
            link,
            streams.SPANS,
            consumer,
            prefetch=BATCH_MESSAGES,
            expires_seconds=PULL_SECONDS,
            take=self._take,
            repair=repair,
            inbox=f"pull-{consumer}",
        )

    def _take(self, message: Incoming) -> None:
        """Queue a delivery.

        What came by another way is answered nowhere: it could name any subject for our answer.
        """
        try:
            Delivery.of(message.reply)
        except ValueError:
            self._warnings.tell("no_delivery", message.subject, message.reply[:200])
            self._puller.consumed(1)
            return
        self._queue.put_nowait(message)

    async def run(self) -> None:
        """Pass on until cancelled; what was not acknowledged comes again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._puller.run(), name="pull")
            tasks.create_task(self._pass(), name="pass")

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
        while len(batch) < BATCH_MESSAGES and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        self.counters.messages += len(batch)
        taken = True
        payloads: list[Payload] = []
        for message in batch:
            payload = await self._read(message)
            if payload is None:
                continue
            if payloads and not _fits(payloads, payload):
                taken &= await self._pass_on(payloads)
                payloads = []
            payloads.append(payload)
        if payloads:
            taken &= await self._pass_on(payloads)
        self._puller.consumed(len(batch))
        return taken

    async def _read(self, message: Incoming) -> Payload | None:
        """The message's payload; one that has nothing for a sink is acknowledged or ended here."""
        name = self.signal.name
        if not self._sinks:
            self.counters.unwanted += 1
            await self._reply(message, ACK)
            return None
        if self.signal.is_too_old(message):
            self.counters.dropped += 1
            await self._reply(message, TERM)
            return None
        try:
            payload = self.signal.parse(message)
        except (TraceDataError, RejectedError, ValueError) as error:
            self._warnings.tell(f"{name}_unreadable", message.subject, str(error))
            self.counters.dropped += 1
            await self._reply(message, TERM)
            return None
        if payload.refused:
            reasons = ", ".join(f"{why.value}: {count}" for why, count in payload.refused.items())
            self._warnings.tell(f"{name}_not_passed_on", message.subject, reasons)
        if payload.items:
            return payload
        self.counters.refuse(payload.refused)
        self.counters.foreign += payload.hop
        await self._reply(message, ACK)
        return None

    async def _pass_on(self, payloads: list[Payload]) -> bool:
        """Together, and one by one when that is refused: one bad message must not take others."""
        # Serialised messages of repeated fields may simply stand behind each other.
        outcome = await self._put(b"".join(payload.data for payload in payloads))
        if outcome is SinkOutcome.REFUSED and len(payloads) > 1:
            return all([await self._pass_on([payload]) for payload in payloads])
        for payload in payloads:
            await self._reply(payload.message, self._settle(payload, outcome))
        return outcome is not SinkOutcome.LATER

    async def _put(self, data: bytes) -> SinkOutcome:
        for sink in self._sinks:
            outcome = await asyncio.to_thread(sink.put, data)
            if outcome is not SinkOutcome.TAKEN:
                self._complain(sink, outcome)
                return outcome
        self.counters.rejected = sum(sink.rejected for sink in self._sinks)
        self._problem = ""
        return SinkOutcome.TAKEN

    def _complain(self, sink: Sink, outcome: SinkOutcome) -> None:
        """Once for each new reason, not for each try."""
        if sink.problem != self._problem:
            self._problem = sink.problem
            log.warning("sink_did_not_take", outcome=outcome.value, detail=sink.problem)

    def _settle(self, payload: Payload, outcome: SinkOutcome) -> bytes:
        """Count what became of a payload; the reply to its delivery."""
        if outcome is SinkOutcome.LATER:
            self.counters.later += 1
            return nak(self.signal.retry_seconds)
        self.counters.refuse(payload.refused)
        if outcome is SinkOutcome.TAKEN:
            self.counters.forwarded += payload.items
            self.counters.hops += payload.items if payload.hop else 0
            return ACK
        self.counters.dropped += payload.loss
        detail = f"{payload.items} {self.signal.unit}"
        self._warnings.tell(f"{self.signal.name}_refused", payload.message.subject, detail)
        return TERM

    async def _reply(self, message: Incoming, word: bytes) -> None:
        """Acknowledge, end or give back."""
        try:
            await self._link.send(message.reply, word)
        except LinkError as error:  # it comes again, and is the same bytes
            log.debug("acknowledgement_lost", detail=str(error))


def _fits(payloads: list[Payload], payload: Payload) -> bool:
    """True when one request may hold them all."""
    size = sum(len(one.data) for one in payloads) + len(payload.data)
    items = sum(one.items for one in payloads) + payload.items
    return size <= REQUEST_BYTES and items <= REQUEST_ITEMS
