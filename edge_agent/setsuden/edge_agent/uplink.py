"""Does what the core wants sent, and hands it what the broker says."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import defaultdict
from functools import partial

from pydantic import ValidationError

from setsuden.link import Incoming, JetStream, Link, LinkState, Stored
from setsuden.link.messages import Outcome
from setsuden.pipelines.tracing import Recorder
from setsuden.schemas import escalation, subjects
from setsuden.schemas.errors import LinkError, UnavailableError
from setsuden.schemas.result import Result, Status, Tier
from setsuden.schemas.streams import RESULTS

from . import traces
from .core import Escalate, Forward, Lookup, Notify, PublishFinal, Send, Trail, state
from .engine import Engine, Tell, now
from .sampling import Sampler

log = logging.getLogger(__name__)
TIER_HEADER = "setsuden-tier"
MAX_RESULT_BYTES = 1 << 20
LOOKUP_BATCH = 256
PUBLISH_WINDOW = 512
REPUBLISH_SECONDS = 2.0

Waiter = asyncio.Future[Result]


class Uplink:
    """Between one agent's engine and its link."""

    def __init__(
        self, engine: Engine, link: Link, jetstream: JetStream, recorder: Recorder
    ) -> None:
        self._engine = engine
        self._link = link
        self._jetstream = jetstream
        self._recorder = recorder
        self._metrics = engine.metrics
        self._device = engine.config.device
        self._waiters: dict[str, set[Waiter]] = defaultdict(set)
        self._lookups: dict[str, None] = {}
        self._lookups_waiting = asyncio.Event()
        self._publishing: set[int] = set()
        self._sampler = Sampler(recorder.easy_share, recorder.slow_ms)
        self._traced: dict[str, int] = {}
        """Traced events whose own final result is on its way, and since when."""
        self._republish: asyncio.TimerHandle | None = None
        self._more_unpublished = False

    async def start(self) -> None:
        """Listen for results and for the link's state; before the link starts."""
        for subject in subjects.pushes_of(self._device):
            await self._link.subscribe(subject, self._on_push)
        self._link.listen(self._on_link)

    def wait_for(self, event_id: str) -> Waiter:
        """A future of the event's final result, told in this process."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiters[event_id].add(waiter)
        waiter.add_done_callback(partial(self._forget, event_id))
        return waiter

    def _forget(self, event_id: str, waiter: Waiter) -> None:
        waiting = self._waiters.get(event_id)
        if waiting is not None:
            waiting.discard(waiter)
            if not waiting:
                del self._waiters[event_id]

    # -- sends --------------------------------------------------------------------------------

    async def perform(self, send: Send | Tell) -> None:
        """Do one send; what fails is told to the core or found again after the link is back."""
        match send:
            case Notify():
                await self._notify(send)
            case Escalate():
                await self._escalate(send)
            case PublishFinal():
                await self._publish(send)
            case Lookup(event_id):
                self._lookups[event_id] = None
                self._lookups_waiting.set()
            case Forward(result):
                await self._forward(result)
            case Tell(reply, body):
                await self._tell(reply, body)

    async def _notify(self, send: Notify) -> None:
        result = send.result
        if result.is_final:
            pending = send.finished
            self._metrics.final(result, None if pending is None else pending.provisional)
            for waiter in list(self._waiters.get(send.event_id, ())):
                if not waiter.done():
                    waiter.set_result(result)
            self._trace(send)
        if result.status is Status.SUPERSEDED:
            self._metrics.superseded += 1
        if send.reply is not None:
            await self._tell(send.reply, send.stated.text.encode())

    async def _tell(self, reply: str, body: bytes) -> None:
        """Best effort: a lost word is found again by the application's next question."""
        if not subjects.is_reply_of(reply, self._device):
            return
        try:
            await self._link.send(reply, body)
        except LinkError as error:
            log.debug("reply_not_sent", extra={"detail": str(error)})

    def _trace(self, send: Notify) -> None:
        run = self._engine.runs.pop(send.event_id, None)
        if not self._recorder.enabled:
            return
        result, clock = send.result, self._engine.clock
        energy_class = self._sampler.energy_class(result)
        if send.trail is None:
            return
        kept = self._sampler.keep(result, energy_class, send.trail.sampled, time.monotonic())
        self._metrics.traces_declined = self._sampler.declined
        if kept is None:
            return
        ended = traces.Ended(
            result,
            send.trail,
            clock.now_ns(),
            send.over_nats,
            send.finished,
            kept,
            energy_class,
            run,
        )
        found = traces.event_spans(ended, clock.at)
        self._recorder.add(found, keep=kept.reason in {"failed", "escalated"})
        if send.publishes:
            self._traced[send.event_id] = 0

    def _follows(self, trail: Trail) -> bool:
        """True unless the caller's trace is not sampled, or we make no spans at all."""
        return self._recorder.enabled and trail.sampled is not False

    async def _escalate(self, send: Escalate) -> None:
        pending = send.pending
        event = self._engine.outbox.event(pending.sequence)
        if event is None:  # became final meanwhile: the core forgets the outcome
            self._engine.apply(self._engine.core.escalated(now(), pending.sequence, 0, None))
            return
        headers = escalation.headers(
            event,
            pending.event_id,
            send.ttl_ms,
            traces.escalation_context(pending.provisional, sampled=self._follows(pending.trail)),
        )
        headers[escalation.MSG_ID_HEADER] = send.message_id
        subject = subjects.escalation(self._engine.config.region, pending.pipeline, self._device)
        self._metrics.escalations_sent += 1
        self._metrics.escalated_bytes += _wire_bytes(subject, headers, event.data)
        done = partial(self._escalated, pending.sequence)
        await self._link.post(subject, event.data, headers, done)

    def _escalated(self, sequence: int, outcome: Outcome) -> None:
        stored = outcome.sequence if isinstance(outcome, Stored) else None
        error = None if isinstance(outcome, Stored) else outcome
        if error is not None:
            self._metrics.escalations_failed += 1
        self._engine.apply(self._engine.core.escalated(now(), sequence, stored, error))

    async def _publish(self, send: PublishFinal) -> None:
        if send.sequence in self._publishing and not send.second:
            return
        self._publishing.add(send.sequence)
        where = subjects.late if send.second else subjects.result
        headers = {escalation.EXPECTED_SUBJECT_SEQUENCE: "0", TIER_HEADER: Tier.EDGE.value}
        if send.result.event_id in self._traced:
            result = send.result
            self._traced[result.event_id] = self._engine.clock.now_ns()
            headers["traceparent"] = traces.result_context(result)
        subject = where(self._device, send.result.event_id)
        body = send.stated.text.encode()
        await self._link.post(subject, body, headers, partial(self._published, send))

    def _published(self, send: PublishFinal, outcome: Outcome) -> None:
        self._publishing.discard(send.sequence)
        error = None if isinstance(outcome, Stored) else outcome
        self._trace_publish(send.result, outcome)
        self._engine.apply(self._engine.core.published(send, error))
        if isinstance(error, UnavailableError):
            self._republish_later()
        elif self._more_unpublished and not self._publishing:
            self.republish()

    def _trace_publish(self, result: Result, outcome: Outcome) -> None:
        """The span of the first try; a result stored after an outage has no more of them."""
        start = self._traced.pop(result.event_id, 0)
        if not start:
            return
        stored = outcome.sequence if isinstance(outcome, Stored) else None
        error = None if isinstance(outcome, Stored) else outcome.code
        end = self._engine.clock.now_ns()
        span = traces.sent_result(result, start, end, sequence=stored, error=error)
        self._recorder.add([span], keep=error is not None)

    def _republish_later(self) -> None:
        if self._republish is None and self._link.state is LinkState.UP:
            loop = asyncio.get_running_loop()
            self._republish = loop.call_later(REPUBLISH_SECONDS, self.republish)

    def republish(self) -> None:
        """Store every final that the results stream may not have, some at a time."""
        self._republish = None
        if self._link.state is not LinkState.UP:
            return
        room = PUBLISH_WINDOW - len(self._publishing)
        rows = self._engine.outbox.unpublished(PUBLISH_WINDOW) if room > 0 else []
        for sequence, stated in rows:
            if sequence not in self._publishing:
                self._engine.send(PublishFinal(sequence, stated))
        self._more_unpublished = len(rows) == PUBLISH_WINDOW

    async def _forward(self, result: Result) -> None:
        sequence = int(result.event_id.rsplit("-", 1)[-1])
        known = self._engine.outbox.result(sequence)
        if known is None or known.event_id != result.event_id:
            return
        if known.result.status is Status.EXPIRED:
            late = result.model_copy(
                update={"status": Status.SUPERSEDED, "source_id": known.result.source_id}
            )
            self._metrics.superseded += 1
            if known.reply is not None:
                await self._tell(known.reply, state(late).text.encode())

    # -- what comes back ----------------------------------------------------------------------

    def _on_link(self, state: LinkState) -> None:
        if state is LinkState.UP:
            self._engine.apply(self._engine.core.link_up(now()))
            self.republish()
        else:
            self._engine.core.link_down()

    def _on_push(self, message: Incoming) -> None:
        if message.headers.get(TIER_HEADER) != Tier.EDGE.value:  # our own come back too
            self.take_record(message)

    def take_record(self, message: Incoming) -> None:
        """A record of the results stream; what cannot be read is counted and left alone."""
        result = _read(message)
        named = message.subject.rsplit(".", 1)[-1]
        stored_as = message.headers.get("Nats-Subject", named).rsplit(".", 1)[-1]
        if result is None or result.event_id != stored_as:
            self._metrics.refused["result_invalid"] += 1
            return
        self._engine.apply(self._engine.core.cloud_result(now(), result))

    async def run_lookups(self) -> None:
        """Ask the results stream for many events at a time, until cancelled."""
        while True:
            await self._lookups_waiting.wait()
            wanted = list(self._lookups)[:LOOKUP_BATCH]
            for event_id in wanted:
                del self._lookups[event_id]
            if not self._lookups:
                self._lookups_waiting.clear()
            try:
                await self._look_up(wanted)
            except LinkError as error:  # the core asks again
                log.debug("lookup_failed", extra={"detail": str(error)})

    async def _look_up(self, wanted: list[str]) -> None:
        if not wanted:
            return
        self._metrics.lookups += len(wanted)
        names = [subjects.result(self._device, event_id) for event_id in wanted]
        records = await self._jetstream.read(RESULTS, {"multi_last": names, "batch": len(names)})
        found = {record.headers.get("Nats-Subject", "") for record in records}
        for record in records:
            self.take_record(record)
        for name, event_id in zip(names, wanted, strict=True):
            if name not in found:
                self._engine.apply(self._engine.core.not_found(now(), event_id))


def _read(message: Incoming) -> Result | None:
    if len(message.data) > MAX_RESULT_BYTES:
        return None
    try:
        return Result.model_validate_json(message.data)
    except ValidationError as error:
        digest = hashlib.sha256(message.data).hexdigest()[:16]
        log.warning("result_unreadable", extra={"problems": error.error_count(), "digest": digest})
        return None


def _wire_bytes(subject: str, headers: dict[str, str], data: bytes) -> int:
    """Bytes of one HPUB: subject, headers with their separators, body."""
    lines = sum(len(name) + len(value) + 4 for name, value in headers.items())
    return len(subject) + lines + len("NATS/1.0\r\n\r\n") + len(data)
