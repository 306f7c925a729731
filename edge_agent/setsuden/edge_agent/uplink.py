"""Does what the core wants sent, and hands it what the broker says."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable
from functools import partial

from setsuden.link import Incoming, JetStream, Link, LinkState, Stored
from setsuden.link.faults import Throttle
from setsuden.link.jetstream import SUBJECT
from setsuden.link.messages import Outcome
from setsuden.schemas import escalation, subjects
from setsuden.schemas.errors import (
    AlreadyStoredError,
    LinkError,
    MessageTooLargeError,
    StreamFullError,
    UnavailableError,
)
from setsuden.schemas.result import Result, Status, Tier
from setsuden.schemas.streams import RESULTS
from setsuden.schemas.subjects import Place
from setsuden.telemetry import Recorder

from . import record_checks, traces
from .core import Escalate, Forward, Lookup, Notify, PublishFinal, Send, StageTimes, encode
from .engine import Engine, Tell, now
from .outbox import RowDamagedError
from .sampling import Sampler

log = logging.getLogger(__name__)
TIER_HEADER = "setsuden-tier"
LOOKUP_BATCH = 256
PUBLISH_WINDOW = 512
REPUBLISH_SECONDS = 2.0
LONGEST_REPUBLISH_SECONDS = 60.0
"""Pauses before finals that the broker did not take are offered again double up to it."""

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
        self._lookups: dict[Place, None] = {}
        self._lookups_waiting = asyncio.Event()
        self._publishing: set[int] = set()
        self._sampler = Sampler(recorder.easy_share, recorder.slow_ms)
        self._traced: dict[str, int] = {}
        """Traced events whose own final result is on its way, and since when."""
        self._republish: asyncio.TimerHandle | None = None
        self._republish_pause = REPUBLISH_SECONDS
        self._more_unpublished = False
        self._disbelief, self._unstorable = Throttle(), Throttle()
        self.refused: dict[str, str] = {}
        """What the broker last refused to store, by kind (``escalation``, ``result``)."""

    async def start(self) -> None:
        """Listen for results and for the link's state; before the link starts."""
        region = self._engine.config.region
        for pipeline in self._engine.students:
            for subject in subjects.pushes_of(region, pipeline, self._device):
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

    def perform(self, send: Send | Tell) -> Awaitable[None] | None:
        """Do one send; what fails is told to the core or found again after the link is back."""
        match send:
            case Notify():
                return self._notify(send)
            case Escalate():
                return self._escalate(send)
            case PublishFinal():
                return self._publish(send)
            case Lookup(place):
                self._lookups[place] = None
                self._lookups_waiting.set()
                return None
            case Forward(result):
                return self._forward(result)
            case Tell(reply, body):
                return self._tell(reply, body)

    def _notify(self, send: Notify) -> Awaitable[None] | None:
        result = send.result
        if result.is_final:
            pending = send.finished
            self._metrics.final(result, None if pending is None else pending.provisional)
            for waiter in self._waiters.get(send.event_id, ()):
                if not waiter.done():
                    waiter.set_result(result)
            self._trace(send)
        if result.status is Status.SUPERSEDED:
            self._metrics.superseded += 1
        if send.reply is None:
            return None
        return self._tell(send.reply, send.encoded.text.encode())

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
        if send.times is None:
            return
        kept = self._sampler.keep(result, energy_class, send.times.sampled, time.monotonic())
        self._metrics.traces_declined = self._sampler.declined
        if kept is None:
            return
        ended = traces.Ended(
            result,
            send.times,
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

    def _follows(self, times: StageTimes) -> bool:
        """True unless the caller's trace is not sampled, or we make no spans at all."""
        return self._recorder.enabled and times.sampled is not False

    async def _escalate(self, send: Escalate) -> None:
        pending = send.pending
        try:
            event = self._engine.outbox.event(pending.sequence)
        except RowDamagedError as error:
            self._engine.apply(self._engine.core.damaged(now(), pending.sequence, error))
            return
        if event is None:  # became final meanwhile: the core forgets the outcome
            self._engine.apply(self._engine.core.escalated(now(), pending.sequence, 0, None))
            return
        headers = escalation.headers(
            event,
            send.ttl_ms,
            traces.escalation_context(pending.provisional, sampled=self._follows(pending.times)),
            copy=pending.restored or pending.tries > 1,
        )
        headers[escalation.MSG_ID_HEADER] = send.message_id
        subject = pending.provisional.place.escalation
        self._metrics.escalations_sent += 1
        self._metrics.escalated_bytes[event.pipeline] += _wire_bytes(subject, headers, event.data)
        done = partial(self._escalated, pending.sequence)
        await self._link.post(subject, event.data, headers, done)

    def _escalated(self, sequence: int, outcome: Outcome) -> None:
        stored = outcome.sequence if isinstance(outcome, Stored) else None
        error = None if isinstance(outcome, Stored) else outcome
        if error is not None and not isinstance(error, AlreadyStoredError):
            self._metrics.escalations_failed += 1
        self._note("escalation", error)
        self._engine.apply(self._engine.core.escalated(now(), sequence, stored, error))

    def _note(self, kind: str, error: LinkError | None) -> None:
        """Say once that the broker stores no more, and once that it does again.

        One whose disk is full acknowledges nothing, over a link that is up.
        """
        silent = isinstance(error, UnavailableError) and self._link.state is LinkState.UP
        if silent or isinstance(error, StreamFullError):
            if kind not in self.refused:
                log.error("broker_stores_no_more", extra={"kind": kind, "detail": str(error)})
            self.refused[kind] = str(error)
        elif error is None and self.refused.pop(kind, None) is not None:
            log.info("broker_stores_again", extra={"kind": kind})

    async def _publish(self, send: PublishFinal) -> None:
        if send.sequence in self._publishing and not send.second:
            return
        self._publishing.add(send.sequence)
        if send.result.status is Status.DEAD and not send.second:
            await self._publish_letter(send.result)
        headers = {escalation.EXPECTED_SUBJECT_SEQUENCE: "0", TIER_HEADER: Tier.EDGE.value}
        if send.result.event_id in self._traced:
            result = send.result
            self._traced[result.event_id] = self._engine.clock.now_ns()
            headers["traceparent"] = traces.result_context(result)
        place = send.result.place
        subject = place.late if send.second else place.result
        body = send.encoded.text.encode()
        await self._link.post(subject, body, headers, partial(self._published, send))

    async def _publish_letter(self, result: Result) -> None:
        """The dead letter beside the final result, for people; its message id makes it one only."""
        letter = {
            "event_id": result.event_id,
            "pipeline": result.pipeline,
            "device": result.device,
            "error": None if result.error is None else result.error.model_dump(),
            "trace_id": result.trace_id,
            "at": result.at.isoformat(),
        }
        headers = {
            escalation.MSG_ID_HEADER: f"dead-{result.event_id}",
            "content-type": "application/json",
        }
        subject = subjects.dead(result.pipeline, self._device)
        body = json.dumps(letter).encode()
        await self._link.post(subject, body, headers, partial(self._letter_stored, result))

    def _letter_stored(self, result: Result, outcome: Outcome) -> None:
        if not isinstance(outcome, LinkError):
            return
        suppressed = self._unstorable.due()  # the final result must not wait for people
        if suppressed is not None:
            extra = {"event_id": result.event_id, "detail": str(outcome), "suppressed": suppressed}
            log.error("dead_letter_lost", extra=extra)

    def _published(self, send: PublishFinal, outcome: Outcome) -> None:
        self._publishing.discard(send.sequence)
        error = None if isinstance(outcome, Stored) else outcome
        self._note("result", error)
        self._trace_publish(send.result, outcome)
        self._engine.apply(self._engine.core.published(send, error))
        if error is None:
            self._republish_pause = REPUBLISH_SECONDS
        if isinstance(error, MessageTooLargeError):
            self._give_up(send.result, error)
        elif error is not None and not isinstance(error, AlreadyStoredError):
            self._republish_later()
        elif self._more_unpublished and not self._publishing:
            self.republish()

    def _give_up(self, result: Result, error: LinkError) -> None:
        self._metrics.results_too_large += 1
        suppressed = self._unstorable.due()
        if suppressed is not None:
            extra = {"event_id": result.event_id, "detail": str(error), "suppressed": suppressed}
            log.error("result_too_large", extra=extra)

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
            self._republish = loop.call_later(self._republish_pause, self.republish)
            self._republish_pause = min(2 * self._republish_pause, LONGEST_REPUBLISH_SECONDS)

    def republish(self) -> None:
        """Store every final that the results stream may not have, some at a time."""
        self._republish = None
        if self._link.state is not LinkState.UP:
            return
        room = PUBLISH_WINDOW - len(self._publishing)
        rows = self._engine.outbox.unpublished(PUBLISH_WINDOW) if room > 0 else []
        for sequence, encoded in rows:
            if sequence not in self._publishing:
                self._engine.send(PublishFinal(sequence, encoded))
        self._more_unpublished = len(rows) == PUBLISH_WINDOW

    async def _forward(self, result: Result) -> None:
        known = self._engine.outbox.result(result.event_id)
        if known is None or known.result.trace_id != result.trace_id:
            return
        if known.result.status is Status.EXPIRED:
            late = result.model_copy(
                update={"status": Status.SUPERSEDED, "source_id": known.result.source_id}
            )
            self._metrics.superseded += 1
            if known.reply is not None:
                await self._tell(known.reply, encode(late).text.encode())

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

    def take_record(self, message: Incoming) -> bool:
        """A record of the results stream; False for one that is not believed, which is counted."""
        result = record_checks.readable(message)
        stored_as = message.headers.get(SUBJECT, "")
        if message.headers.get("Nats-Stream") != RESULTS or result is None:
            reason: str | None = "it is not a record of the results stream"
        else:
            reason = record_checks.doubt(result, stored_as) or self._doubt(result)
        if reason is not None or result is None:
            self._metrics.refused["result_invalid"] += 1
            suppressed = self._disbelief.due()
            if suppressed is not None:
                extra = {"detail": reason, "subject": stored_as[:200], "suppressed": suppressed}
                log.warning("result_not_believed", extra=extra)
            return False
        self._engine.apply(self._engine.core.cloud_result(now(), result))
        return True

    def _doubt(self, result: Result) -> str | None:
        student = self._engine.students.get(result.pipeline)
        if student is None or result.device != self._device:
            return "it is of another device, or of a pipeline that is not here"
        classes = student.manifest.classes
        return record_checks.doubt_of_answer(result.answer, classes) or self._engine.core.doubt(
            result
        )

    async def run_lookups(self) -> None:
        """Ask the results stream for many events at a time, until cancelled."""
        while True:
            await self._lookups_waiting.wait()
            wanted = list(self._lookups)[:LOOKUP_BATCH]
            for place in wanted:
                del self._lookups[place]
            if not self._lookups:
                self._lookups_waiting.clear()
            try:
                await self._look_up(wanted)
            except LinkError as error:  # the core asks again
                log.debug("lookup_failed", extra={"detail": str(error)})

    async def _look_up(self, wanted: list[Place]) -> None:
        if not wanted:
            return
        self._metrics.lookups += len(wanted)
        stored = await self._jetstream.last_of(RESULTS, [place.result for place in wanted])
        for place in wanted:
            record = stored.get(place.result)
            if record is None:
                self._engine.apply(self._engine.core.not_found(now(), place.event_id))
            elif not self.take_record(record):
                self._engine.apply(self._engine.core.spoiled(now(), place.event_id))


def _wire_bytes(subject: str, headers: dict[str, str], data: bytes) -> int:
    """Bytes of one HPUB: subject, headers with their separators, body."""
    lines = sum(len(name) + len(value) + 4 for name, value in headers.items())
    return len(subject) + lines + len("NATS/1.0\r\n\r\n") + len(data)
