"""Takes spans and hops off the OTEL stream and acknowledges what every sink has taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from setsuden.link import Incoming, JetStream, Link
from setsuden.pipelines.tracing import protobuf
from setsuden.schemas import streams, subjects
from setsuden.schemas.errors import LinkError, TraceDataError
from setsuden.services.config import CloudConfig
from setsuden.services.pull import Puller
from setsuden.services.topology import apply_streams

from . import hops
from .sinks import Outcome, Sink

log = logging.getLogger(__name__)
_ACK, _TERM = b"+ACK", b"+TERM"
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
    """Spans, or messages that could not be read, given up on: damaged or refused for good."""
    rejected: int = 0
    """Spans that a sink took and threw away, as it said itself; ``spans`` counts them too."""
    later: int = 0
    """Times a sink could not take any."""

    def as_dict(self) -> dict[str, int]:
        """For the log and the demo."""
        return asdict(self)


class _Load(NamedTuple):
    """One message's spans, ready to go."""

    message: Incoming
    data: bytes
    spans: int
    hop: bool


class Bridge:
    """One consumer of the OTEL stream; any number of them share the work."""

    def __init__(
        self, config: CloudConfig, link: Link, jetstream: JetStream, sinks: Sequence[Sink]
    ) -> None:
        self.counters = BridgeCounters()
        self._config, self._options = config, config.bridge
        self._link, self._jetstream, self._sinks = link, jetstream, sinks
        self._problem = ""
        self._queue: asyncio.Queue[Incoming] = asyncio.Queue()  # bounded by the puller's prefetch
        self._puller = Puller(
            link,
            streams.SPANS,
            streams.BRIDGE,
            prefetch=2 * self._options.batch_messages,
            expires_seconds=30.0,
            take=self._queue.put_nowait,
            repair=self._repair,
        )

    async def run(self) -> None:
        """Pass spans on until cancelled; what was not acknowledged comes again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._puller.run(), name="pull")
            tasks.create_task(self._pass(), name="pass")

    async def _pass(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            if await self._turn():
                pause = _FIRST_PAUSE_SECONDS
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _turn(self) -> bool:
        """One batch; False when a sink could not take it now."""
        batch = [await self._queue.get()]
        while len(batch) < self._options.batch_messages and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        self.counters.messages += len(batch)
        loads = [load for message in batch if (load := await self._read(message)) is not None]
        taken = await self._pass_on(loads) if loads else True
        self._puller.consumed(len(batch))
        return taken

    async def _read(self, message: Incoming) -> _Load | None:
        """The message's spans; one that has none is ended here."""
        hop = message.subject == subjects.HOPS
        try:
            if not hop:
                data = protobuf.decompress(message.data)
                return _Load(message, data, protobuf.count(data), hop)
            found = hops.spans_of(message.data)
            data = b"" if found is None else protobuf.encode(found.resource, found.spans)
        except (TraceDataError, ValueError) as error:  # encode: a time before 1970, half a pair
            log.warning("spans_unreadable", extra={"detail": str(error), "from": message.subject})
            self.counters.dropped += 1
            await self._say(message, _TERM)
            return None
        if found is None:
            self.counters.foreign += 1
            await self._say(message, _ACK)
            return None
        return _Load(message, data, len(found.spans), hop)

    async def _pass_on(self, loads: list[_Load]) -> bool:
        """Together, and one by one when that is refused: one bad message must not take others."""
        size = sum(len(load.data) for load in loads)
        if size > protobuf.MAX_SEGMENT_BYTES and len(loads) > 1:
            half = len(loads) // 2
            return all([await self._pass_on(part) for part in (loads[:half], loads[half:])])
        # Serialised messages of repeated fields may simply stand behind each other.
        outcome = await self._put(b"".join(load.data for load in loads))
        if outcome is Outcome.REFUSED and len(loads) > 1:
            return all([await self._pass_on([load]) for load in loads])
        for load in loads:
            await self._settle(load, outcome)
        return outcome is not Outcome.LATER

    async def _put(self, data: bytes) -> Outcome:
        for sink in self._sinks:
            outcome = await asyncio.to_thread(sink.put, data)
            if outcome is not Outcome.TAKEN:
                self._complain(sink, outcome)
                return outcome
        self.counters.rejected = sum(sink.rejected for sink in self._sinks)
        self._problem = ""
        return Outcome.TAKEN

    def _complain(self, sink: Sink, outcome: Outcome) -> None:
        """Once for each new reason, not for each try."""
        if sink.problem != self._problem:
            self._problem = sink.problem
            detail = {"outcome": outcome.value, "detail": sink.problem}
            log.warning("sink_did_not_take", extra=detail)

    async def _settle(self, load: _Load, outcome: Outcome) -> None:
        if outcome is Outcome.LATER:
            self.counters.later += 1
            await self._say(load.message, b'-NAK {"delay": %d}' % 1_000_000_000)
            return
        if outcome is Outcome.TAKEN:
            self.counters.spans += load.spans
            self.counters.hops += load.spans if load.hop else 0
        else:
            self.counters.dropped += load.spans
            log.error("spans_refused", extra={"count": load.spans, "from": load.message.subject})
        await self._say(load.message, _ACK if outcome is Outcome.TAKEN else _TERM)

    async def _say(self, message: Incoming, word: bytes) -> None:
        try:
            await self._link.send(message.reply, word)
        except LinkError as error:  # it comes again, and is the same bytes
            log.debug("acknowledgement_lost", extra={"detail": str(error)})

    async def _repair(self) -> None:
        await apply_streams(self._jetstream, self._config)
        wanted = streams.bridge_consumer(
            ack_wait_seconds=self._options.ack_wait_seconds,
            max_ack_pending=self._options.max_ack_pending,
        )
        await self._jetstream.apply_consumer(streams.SPANS, wanted)
