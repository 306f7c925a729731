"""From an answer to a stored record to an acknowledgement, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial

from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from setsuden.link import Incoming, JetStream, Link
from setsuden.link.messages import ACK, Outcome
from setsuden.link.tasks import wait
from setsuden.schemas import subjects
from setsuden.schemas.errors import AlreadyStoredError, LinkError, StreamFullError
from setsuden.schemas.log import Throttle, get_logger
from setsuden.schemas.result import Problem, Result, Status
from setsuden.schemas.streams import RESULTS
from setsuden.telemetry import Recorder, Span
from setsuden.telemetry.clock import WallClock

from . import settle
from .counters import Counters
from .hand import Hand
from .records import CAS, problem
from .settle import SettleStep
from .teacher import Choice, Teacher
from .work import BatchRun, Work

log = get_logger(__name__)


class Settler:
    """Stores results and dead letters by compare-and-set; acknowledges only what is stored.

    What the broker does not store is kept and stored later: the teacher has answered, and the
    event is not to blame.
    """

    def __init__(
        self,
        *,
        link: Link,
        jetstream: JetStream,
        hand: Hand,
        recorder: Recorder | None,
        clock: WallClock,
        counters: Counters,
    ) -> None:
        self._link, self._jetstream, self._hand = link, jetstream, hand
        self._recorder = recorder
        self._clock, self._counters = clock, counters
        self._stopping = asyncio.Event()
        self._deaths, self._unreadable, self._lost_letters = Throttle(), Throttle(), Throttle()
        self._refused = ""
        """Why results cannot be stored now; said once for each new reason."""
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Store nothing again: what is not stored soon goes to another worker."""
        self._stopping.set()

    async def is_answered(self, work: Work) -> bool:
        """True when the event's result is stored already: it is acknowledged without a run."""
        if work.place is None:
            return False
        try:
            names = [work.place.result, work.place.late]
            records = await self._jetstream.last_of(RESULTS, names)
        except LinkError as error:  # the compare-and-set will tell
            log.debug("records_unread", detail=str(error))
            return False
        final = self._status(records.get(work.place.result))
        step = settle.after_look(final, late_is_stored=work.place.late in records)
        work.late = work.late or step is SettleStep.STORE_LATE
        if step is SettleStep.ACK:
            self._counters.already += 1
            work.overtaken = True
            self._finish(work, final or Status.FINAL)
        return step is SettleStep.ACK

    async def answer(self, work: Work, choice: Choice) -> None:
        """Send the teacher's answer on its way to the results stream."""
        await self._store(work, work.teacher.writer.answer(*choice))

    async def _store(self, work: Work, answer: str) -> None:
        status = Status.SUPERSEDED if work.late else Status.FINAL
        work.stored_ns = self._clock.now_ns()
        body = work.teacher.writer.result(work, status, answer)
        done = partial(self._stored, work, answer)
        await self._link.post(_subject(work), body, CAS | self._context(work), done)

    def _context(self, work: Work) -> dict[str, str]:
        """The header by which the broker's hop finds its place in a trace."""
        if self._recorder is None:
            return {}
        return {"traceparent": work.teacher.spans.context(work, self._clock.now_ns())}

    def _stored(self, work: Work, answer: str, outcome: Outcome) -> None:
        work.acked_ns = self._clock.now_ns()
        work.store_error = outcome.code if isinstance(outcome, LinkError) else None
        step = settle.after_store(outcome, late=work.late)
        if isinstance(outcome, AlreadyStoredError):
            self._counters.already += 1
            work.overtaken = True
        if step is SettleStep.LOOK:
            self._spawn(work, self._look(work, answer))
        elif step is SettleStep.DEAD:
            self.bury(work, problem(settle.RESULT_TOO_LARGE, str(outcome)))
        elif step is SettleStep.STORE_AGAIN:
            self._spawn(work, self._store_again(work, answer, str(outcome)))
        else:
            if work.late:
                self._counters.late += 1
            elif not isinstance(outcome, LinkError):
                self._counters.stored += 1
            self._refused = ""
            self._finish(work, Status.SUPERSEDED if work.late else Status.FINAL)

    async def _store_again(self, work: Work, answer: str, reason: str) -> None:
        if await self._may_try_again(work, reason):
            await self._store(work, answer)

    async def _may_try_again(self, work: Work, reason: str) -> bool:
        """True after a pause; False when this worker stops meanwhile and gives the event back."""
        if reason != self._refused:
            self._refused = reason
            log.error("result_not_stored", detail=reason)
        self._counters.refused += 1
        if not await wait(self._stopping, settle.pause_seconds(work.tries)):
            work.tries += 1
            return True
        self._hand.give_back(work)
        self._record(work, None)
        return False

    async def _look(self, work: Work, answer: str) -> None:
        """Another record was first: the device's ``expired``, or a duplicate's."""
        try:
            assert work.place is not None  # noqa: S101  # it was stored under its name
            record = await self._jetstream.last(RESULTS, work.place.result)
        except LinkError as error:
            await self._store_again(work, answer, str(error))
            return
        final = self._status(record)
        if settle.after_look(final) is SettleStep.STORE_LATE:
            work.late = True
            await self._store(work, answer)
        elif final is None:
            await self._store_again(work, answer, "the record that was first is gone")
        else:
            self._finish(work, final)

    def _status(self, record: Incoming | None) -> Status | None:
        """The status of a record; one that cannot be read is there all the same, and final."""
        if record is None:
            return None
        try:
            return Result.model_validate_json(record.data).status
        except ValidationError:
            suppressed = self._unreadable.due()
            if suppressed is not None:
                log.error("record_unreadable", subject=record.subject, suppressed=suppressed)  # noqa: TRY400  # a traceback is of no use
            return Status.FINAL

    def bury(self, work: Work, why: Problem) -> None:
        """No teacher can answer this event: a dead letter, and a final result that says so."""
        work.problem = why
        self._spawn(work, self._bury(work, why))

    async def _bury(self, work: Work, why: Problem) -> None:
        """A dead letter for people, then the final result for the device, then the ack."""
        while True:
            try:
                await self._write_letter(work, why)
                if work.place is not None:
                    work.stored_ns = self._clock.now_ns()
                    dead = work.teacher.writer.dead(work, why)
                    await self._link.store(work.place.result, dead, CAS | self._context(work))
                    work.acked_ns = self._clock.now_ns()
            except AlreadyStoredError as error:
                self._counters.already += 1  # expired or answered meanwhile: that stays
                work.acked_ns, work.store_error = self._clock.now_ns(), error.code
                work.overtaken = True
            except LinkError as error:
                if await self._may_try_again(work, str(error)):
                    continue
                return
            break
        self._counters.dead += 1
        suppressed = self._deaths.due()
        if suppressed is not None:
            log.warning(
                "event_dead", code=why.code, failed_runs=len(work.failures), suppressed=suppressed
            )
        self._finish(work, Status.DEAD)

    async def _write_letter(self, work: Work, why: Problem) -> None:
        subject = subjects.dead(work.message.subject.split(".")[2], work.device)
        letter = work.teacher.writer.letter(work, why)
        headers = work.teacher.writer.letter_headers(work) | self._context(work)
        try:
            await self._link.store(subject, letter, headers)
        except LinkError as error:  # the device's final result must not wait for people
            if not isinstance(error, StreamFullError) and work.tries < settle.LETTER_TRIES:
                raise
            suppressed = self._lost_letters.due()
            if suppressed is not None:
                log.error("dead_letter_lost", detail=str(error), suppressed=suppressed)  # noqa: TRY400  # the message is sufficient

    def _finish(self, work: Work, status: Status) -> None:
        self._hand.settle(work, ACK)
        self._record(work, status)

    def runs_in(self, work: Work, ran: BatchRun, teacher: Teacher) -> None:
        """The delivery's run; a batch that it was in before goes without it."""
        before, ran_before = work.teacher, work.ran
        work.teacher, work.ran = teacher, ran
        if ran_before is not None and self._recorder is not None:
            self._add(before.spans.settled(ran_before))

    def _record(self, work: Work, status: Status | None) -> None:
        if self._recorder is None:
            return
        if work.sampled:
            self._add(work.teacher.spans.of(work, status, self._clock.now_ns()))
        if work.ran is not None:
            self._add(work.teacher.spans.settled(work.ran, work))

    def _add(self, spans: Sequence[Span]) -> None:
        if spans and self._recorder is not None:
            self._recorder.add(spans)

    def _spawn(self, work: Work, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work, coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Work, coroutine: Coroutine[None, None, None]) -> None:
        """Nothing stays in hand because of a mistake of ours: heartbeats would keep it for ever."""
        with bound_contextvars(event_id=work.event_id, trace_id=work.trace_id):
            try:
                await coroutine
            except Exception:
                log.exception("settling_failed")
                self._hand.give_back(work)


def _subject(work: Work) -> str:
    assert work.place is not None  # noqa: S101  # only events that were read are answered
    return work.place.late if work.late else work.place.result
