"""From an answer to a stored record to an acknowledgement, many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial

from pydantic import ValidationError

from setsuden.link import JetStream, Link
from setsuden.link.messages import Outcome
from setsuden.pipelines.tracing import Recorder
from setsuden.schemas import subjects
from setsuden.schemas.errors import AlreadyStoredError, LinkError, StreamFullError
from setsuden.schemas.result import Problem, Result, Status
from setsuden.schemas.streams import RESULTS

from . import settle
from .clock import Clock
from .counters import Counters
from .hand import ACK, Hand, nak
from .records import CAS, Writer
from .settle import Step
from .teacher import Choice
from .traces import SpanMaker
from .work import Work

log = logging.getLogger(__name__)


class Settler:
    """Stores results and dead letters by compare-and-set; acknowledges only what is stored."""

    def __init__(
        self,
        *,
        link: Link,
        jetstream: JetStream,
        hand: Hand,
        writer: Writer,
        spans: SpanMaker,
        recorder: Recorder | None,
        clock: Clock,
        counters: Counters,
        retry_delay_seconds: float,
    ) -> None:
        self._link, self._jetstream, self._hand = link, jetstream, hand
        self._writer, self._spans, self._recorder = writer, spans, recorder
        self._clock, self._counters = clock, counters
        self._retry_delay = retry_delay_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, work: Work, choice: Choice) -> None:
        """Send the teacher's answer on its way to the results stream."""
        await self._store(work, self._writer.answer(*choice))

    async def _store(self, work: Work, answer: str) -> None:
        status = Status.SUPERSEDED if work.late else Status.FINAL
        where = subjects.late if work.late else subjects.result
        work.stored_ns = self._clock.now_ns()
        body = self._writer.result(work, status, answer)
        done = partial(self._stored, work, answer)
        subject = where(work.device, work.event_id or "")
        await self._link.post(subject, body, CAS | self._context(work), done)

    def _context(self, work: Work) -> dict[str, str]:
        """The header by which the broker's hop finds its place in a trace."""
        if self._recorder is None:
            return {}
        return {"traceparent": self._spans.context(work, self._clock.now_ns())}

    def _stored(self, work: Work, answer: str, outcome: Outcome) -> None:
        work.acked_ns = self._clock.now_ns()
        work.store_error = outcome.code if isinstance(outcome, LinkError) else None
        step = settle.after_store(outcome, late=work.late)
        if isinstance(outcome, AlreadyStoredError):
            self._counters.already += 1
        if step is Step.LOOK:
            self._spawn(work, self._look(work, answer))
        elif step is Step.RETRY:
            self._give_back(work, str(outcome))
        else:
            if work.late:
                self._counters.late += 1
            elif not isinstance(outcome, LinkError):
                self._counters.stored += 1
            self._finish(work, Status.SUPERSEDED if work.late else Status.FINAL)

    async def _look(self, work: Work, answer: str) -> None:
        step = settle.after_look(await self._status_of(work))
        if step is Step.STORE_LATE:
            work.late = True
            await self._store(work, answer)
        elif step is Step.RETRY:
            self._give_back(work, "the record that was first is gone or unreadable")
        else:
            self._finish(work, Status.FINAL)

    async def _status_of(self, work: Work) -> Status | None:
        """The status of the event's record; ``None`` when it cannot be known now."""
        try:
            subject = subjects.result(work.device, work.event_id or "")
            found = await self._jetstream.last(RESULTS, subject)
            return None if found is None else Result.model_validate_json(found.data).status
        except (LinkError, ValidationError) as error:
            log.warning("record_unread", extra={"event_id": work.event_id, "detail": str(error)})
            return None

    def fail(self, work: Work, problem: Problem, max_attempts: int, *, hopeless: bool) -> None:
        """The teacher could not answer: try again later or bury it."""
        work.problem = problem
        step = settle.after_failure(work.delivery.attempt, max_attempts, hopeless=hopeless)
        if step is Step.DEAD:
            self._spawn(work, self._bury(work, problem))
        else:
            self._give_back(work, problem.code)

    async def _bury(self, work: Work, problem: Problem) -> None:
        """A dead letter for people, then the final result for the device, then the ack."""
        try:
            await self._write_letter(work, problem)
            if work.event_id is not None:
                work.stored_ns = self._clock.now_ns()
                where = subjects.result(work.device, work.event_id)
                dead = self._writer.dead(work, problem)
                await self._link.store(where, dead, CAS | self._context(work))
                work.acked_ns = self._clock.now_ns()
        except AlreadyStoredError as error:
            self._counters.already += 1  # expired or answered meanwhile: that stays
            work.acked_ns, work.store_error = self._clock.now_ns(), error.code
        except LinkError as error:
            self._give_back(work, str(error))
            return
        self._counters.dead += 1
        log.warning(
            "event_dead",
            extra={
                "event_id": work.event_id,
                "code": problem.code,
                "attempts": work.delivery.attempt,
                "trace_id": work.trace_id,
            },
        )
        self._finish(work, Status.DEAD)

    async def _write_letter(self, work: Work, problem: Problem) -> None:
        subject = subjects.dead(work.message.subject.split(".")[2], work.device)
        letter = self._writer.letter(work, problem)
        headers = self._writer.letter_headers(work) | self._context(work)
        try:
            await self._link.store(subject, letter, headers)
        except StreamFullError as error:  # the device's final result must not wait for people
            log.error("dead_letter_lost", extra={"event_id": work.event_id, "detail": str(error)})  # noqa: TRY400

    def _give_back(self, work: Work, reason: str) -> None:
        self._counters.nak += 1
        log.info("event_given_back", extra={"event_id": work.event_id, "reason": reason})
        delay = settle.retry_delay_ns(work.delivery.attempt, self._retry_delay)
        self._hand.settle(work, nak(delay))
        self._record(work, None)

    def _finish(self, work: Work, status: Status) -> None:
        self._hand.settle(work, ACK)
        self._record(work, status)

    def _record(self, work: Work, status: Status | None) -> None:
        if self._recorder is None:
            return
        if work.sampled:
            self._recorder.add(self._spans.of(work, status, self._clock.now_ns()))
        batch = self._spans.settled(work)
        if batch:
            self._recorder.add(batch)

    def _spawn(self, work: Work, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work, coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Work, coroutine: Coroutine[None, None, None]) -> None:
        """Nothing stays in hand because of a mistake of ours: heartbeats would keep it for ever."""
        try:
            await coroutine
        except Exception:
            log.exception("settling_failed", extra={"event_id": work.event_id})
            self._give_back(work, "settling failed")
