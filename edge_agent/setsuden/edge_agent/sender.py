"""Executes the core's send effects and reports the broker's answers back to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from functools import partial

from setsuden.link import Incoming, JetStream, Link, LinkState, Stored
from setsuden.link.jetstream import SUBJECT
from setsuden.link.messages import Outcome
from setsuden.link.tasks import Backoff
from setsuden.pipelines.pipeline import Pipeline
from setsuden.schemas import escalation, subjects
from setsuden.schemas.errors import (
    AlreadyStoredError,
    LinkError,
    MessageTooLargeError,
    StreamFullError,
    UnavailableError,
)
from setsuden.schemas.log import Throttle, get_logger
from setsuden.schemas.result import Result, Status, Tier
from setsuden.schemas.streams import RESULTS
from setsuden.schemas.subjects import Place

from . import record_checks, traces
from .arrival import FinalResults
from .config import AgentConfig
from .core import Escalate, Forward, Lookup, Notify, PublishFinal, Reply, Send, encode
from .durable import DurableCore, now
from .metrics import Metrics
from .outbox import RowDamagedError
from .tracer import EventTracer

log = get_logger(__name__)
TIER_HEADER = "setsuden-tier"
LOOKUP_BATCH = 256
PUBLISH_WINDOW = 512
REPUBLISH_SECONDS = 2.0
LONGEST_REPUBLISH_SECONDS = 60.0
"""Pauses before finals that the broker did not take are offered again double up to it."""


class Sender:
    """Sends what the durable core has ready, over the link."""

    def __init__(
        self,
        durable: DurableCore,
        link: Link,
        jetstream: JetStream,
        *,
        config: AgentConfig,
        students: Mapping[str, Pipeline],
        finals: FinalResults,
        metrics: Metrics,
        tracer: EventTracer,
    ) -> None:
        self._durable, self._core, self._outbox = durable, durable.core, durable.outbox
        self._link = link
        self._jetstream = jetstream
        self._students, self._device, self._region = students, config.device, config.region
        self._finals, self._metrics, self._tracer = finals, metrics, tracer
        self._lookups: dict[Place, None] = {}
        self._lookups_waiting = asyncio.Event()
        self._publishing: set[int] = set()
        self._republish: asyncio.TimerHandle | None = None
        self._republish_pauses = Backoff(REPUBLISH_SECONDS, LONGEST_REPUBLISH_SECONDS)
        self._more_unpublished = False
        self._disbelief, self._unstorable = Throttle(), Throttle()
        self.refused: dict[str, str] = {}
        """What the broker last refused to store, by kind (``escalation``, ``result``)."""

    async def start(self) -> None:
        """Listen for results and for the link's state; before the link starts."""
        for pipeline in self._students:
            for subject in subjects.pushes_of(self._region, pipeline, self._device):
                await self._link.subscribe(subject, self._on_push)
        self._link.listen(self._on_link)

    async def run(self) -> None:
        """Send what is durable, in order, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_lookups())
            while True:
                for send in await self._durable.sends():
                    waiting = self._execute(send)
                    if waiting is not None:
                        await waiting

    # -- sends --------------------------------------------------------------------------------

    def _execute(self, send: Send) -> Awaitable[None] | None:
        """Do one send; what fails is reported to the core or found again when the link is back.

        None where there is nothing to wait for: a coroutine for each easy event is dear.
        """
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
            case Reply(subject, body):
                return self._reply(subject, body)

    def _notify(self, send: Notify) -> Awaitable[None] | None:
        result = send.result
        if result.is_final:
            pending = send.finished
            self._metrics.final(result, None if pending is None else pending.provisional)
            self._finals.announce(result)
            self._tracer.finished(send)
        if result.status is Status.SUPERSEDED:
            self._metrics.superseded += 1
        if send.reply is None:
            return None
        return self._reply(send.reply, send.encoded.text.encode())

    async def _reply(self, subject: str, body: bytes) -> None:
        """Best effort: the application asks again for what it did not get."""
        if not subjects.is_reply_of(subject, self._device):
            return
        try:
            await self._link.send(subject, body)
        except LinkError as error:
            log.debug("reply_not_sent", detail=str(error))

    async def _escalate(self, send: Escalate) -> None:
        pending = send.pending
        try:
            event = self._outbox.event(pending.sequence)
        except RowDamagedError as error:
            self._durable.apply(self._core.damaged(now(), pending.sequence, error))
            return
        if event is None:  # became final meanwhile: the core forgets the outcome
            self._durable.apply(self._core.escalated(now(), pending.sequence, 0, None))
            return
        headers = escalation.headers(
            event,
            send.ttl_ms,
            traces.escalation_context(
                pending.provisional, sampled=self._tracer.follows(pending.times)
            ),
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
        self._durable.apply(self._core.escalated(now(), sequence, stored, error))

    def _note(self, kind: str, error: LinkError | None) -> None:
        """Say once that the broker stores no more, and once that it does again.

        One whose disk is full acknowledges nothing, over a link that is up.
        """
        silent = isinstance(error, UnavailableError) and self._link.state is LinkState.UP
        if silent or isinstance(error, StreamFullError):
            if kind not in self.refused:
                log.error("broker_stores_no_more", kind=kind, detail=str(error))
            self.refused[kind] = str(error)
        elif error is None and self.refused.pop(kind, None) is not None:
            log.info("broker_stores_again", kind=kind)

    async def _publish(self, send: PublishFinal) -> None:
        if send.sequence in self._publishing and not send.second:
            return
        self._publishing.add(send.sequence)
        if send.result.status is Status.DEAD and not send.second:
            await self._publish_letter(send.result)
        headers = {escalation.EXPECTED_SUBJECT_SEQUENCE: "0", TIER_HEADER: Tier.EDGE.value}
        context = self._tracer.publishing(send.result)
        if context is not None:
            headers["traceparent"] = context
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
            log.error(
                "dead_letter_lost",
                event_id=result.event_id,
                trace_id=result.trace_id,
                pipeline=result.pipeline,
                detail=str(outcome),
                suppressed=suppressed,
            )

    def _published(self, send: PublishFinal, outcome: Outcome) -> None:
        self._publishing.discard(send.sequence)
        error = None if isinstance(outcome, Stored) else outcome
        self._note("result", error)
        self._tracer.published(send.result, outcome)
        self._durable.apply(self._core.published(send, error))
        if error is None:
            self._republish_pauses.reset()
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
            log.error(
                "result_too_large",
                event_id=result.event_id,
                trace_id=result.trace_id,
                pipeline=result.pipeline,
                detail=str(error),
                suppressed=suppressed,
            )

    def _republish_later(self) -> None:
        if self._republish is None and self._link.state is LinkState.UP:
            loop = asyncio.get_running_loop()
            self._republish = loop.call_later(self._republish_pauses.next(), self.republish)

    def republish(self) -> None:
        """Store every final that the results stream may not have, some at a time."""
        self._republish = None
        if self._link.state is not LinkState.UP:
            return
        room = PUBLISH_WINDOW - len(self._publishing)
        rows = self._outbox.unpublished(PUBLISH_WINDOW) if room > 0 else []
        for sequence, encoded in rows:
            if sequence not in self._publishing:
                self._durable.send(PublishFinal(sequence, encoded))
        self._more_unpublished = len(rows) == PUBLISH_WINDOW

    async def _forward(self, result: Result) -> None:
        known = self._outbox.result(result.event_id)
        if known is None or known.result.trace_id != result.trace_id:
            return
        if known.result.status is Status.EXPIRED:
            late = result.model_copy(
                update={"status": Status.SUPERSEDED, "source_id": known.result.source_id}
            )
            self._metrics.superseded += 1
            if known.reply is not None:
                await self._reply(known.reply, encode(late).text.encode())

    # -- what comes back ----------------------------------------------------------------------

    def _on_link(self, state: LinkState) -> None:
        if state is LinkState.UP:
            self._durable.apply(self._core.link_up(now()))
            self.republish()
        else:
            self._core.link_down()

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
                log.warning(
                    "result_not_believed",
                    detail=reason,
                    subject=stored_as[:200],
                    suppressed=suppressed,
                )
            return False
        self._durable.apply(self._core.cloud_result(now(), result))
        return True

    def _doubt(self, result: Result) -> str | None:
        student = self._students.get(result.pipeline)
        if student is None or result.device != self._device:
            return "it is of another device, or of a pipeline that is not here"
        classes = student.manifest.classes
        return record_checks.doubt_of_answer(result.answer, classes) or self._core.doubt(result)

    async def _run_lookups(self) -> None:
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
                log.debug("lookup_failed", detail=str(error))

    async def _look_up(self, wanted: list[Place]) -> None:
        if not wanted:
            return
        self._metrics.lookups += len(wanted)
        stored = await self._jetstream.last_of(RESULTS, [place.result for place in wanted])
        for place in wanted:
            record = stored.get(place.result)
            if record is None:
                self._durable.apply(self._core.not_found(now(), place.event_id))
            elif not self.take_record(record):
                self._durable.apply(self._core.spoiled(now(), place.event_id))


def _wire_bytes(subject: str, headers: dict[str, str], data: bytes) -> int:
    """Bytes of one HPUB: subject, headers with their separators, body."""
    lines = sum(len(name) + len(value) + 4 for name, value in headers.items())
    return len(subject) + lines + len("NATS/1.0\r\n\r\n") + len(data)
