"""The state machine: accept, escalate, retry, deadline.

Time comes in with every call, effects go out. The shell makes ``writes`` durable, then does
``sends``. After a crash :meth:`AgentCore.restore` starts again from the rows alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

from setsuden.schemas import subjects
from setsuden.schemas.errors import (
    AlreadyStoredError,
    LinkError,
    MessageTooLargeError,
    OutboxFullError,
    SetsudenError,
)
from setsuden.schemas.event import Event
from setsuden.schemas.result import Problem, Result, Status, Tier

from . import results
from .backlog import Backlog
from .deadline import NS_PER_MS, Clocks, due, of_event
from .effects import (
    Effects,
    Escalate,
    Finish,
    Forward,
    Insert,
    Lookup,
    MarkPublished,
    Notify,
    PublishFinal,
    Rebind,
    concerns,
)
from .records import Now, Pending, Policy, Row, Sent, StageTimes, Submission, encode
from .results import EdgeVerdict
from .timers import Timers

_FIRST_RETRY_NS = 100_000_000
_LONGEST_RETRY_NS = 5_000_000_000
_KEPT_SENDS = 4
"""Spans are made of the newest; through a long outage there are thousands."""
_LONGEST_LOOKUP = 12
"""Times the first pause; pauses double up to it."""
_LONGEST_REDRIVE = 32
"""Times the first pause before an unanswered escalation is offered to the broker again."""


class AgentCore:
    """All events the cloud is being asked about, and the order of what happens next."""

    def __init__(self, policy: Policy, next_sequence: int, random: Random) -> None:
        self._policy = policy
        self._random = random
        self.next_sequence = next_sequence
        """Of the next row; it only grows."""
        self._pending: dict[str, Pending] = {}
        self._by_sequence: dict[int, Pending] = {}
        self._sizes: dict[int, int] = {}
        self._backlog = Backlog(policy.live_share)
        self._deadlines = Timers()
        self._checks = Timers()
        self._retries = Timers()
        self._sending: set[int] = set()
        self._link_up = False
        self._cloud_minus_mono_ns: int | None = None
        self._unverified: set[int] = set()
        self._refuse_accepted_before_ns: int | None = None
        self.pending_bytes = 0
        self.waiting_events: Counter[str] = Counter()
        """Events without a final result, by pipeline."""
        self.waiting_bytes: Counter[str] = Counter()
        """Of their observations, by pipeline."""

    # -- what the shell may look at -----------------------------------------------------------

    @property
    def pending_events(self) -> int:
        """Events without a final result."""
        return len(self._pending)

    @property
    def waiting_to_send(self) -> int:
        """Escalations that no broker has yet."""
        return len(self._backlog) + len(self._sending)

    @property
    def has_room(self) -> bool:
        """False when another hard case would be refused."""
        return (
            self.pending_bytes < self._policy.max_bytes
            and len(self._pending) < self._policy.max_events
        )

    @property
    def unverified_deadlines(self) -> int:
        """Pending events whose deadline stands on the device's wall clock alone."""
        return len(self._unverified)

    def clocks(self, now: Now) -> Clocks:
        """The present on every clock."""
        ahead = self._cloud_minus_mono_ns
        cloud = None if ahead is None else now.mono_ns + ahead
        return Clocks(self._policy.boot, now.mono_ns, now.wall_ns, cloud)

    def next_wakeup_ns(self) -> int | None:
        """When :meth:`tick` has something to do, on the monotonic clock."""
        timers = (self._deadlines, self._checks, self._retries)
        return min((due for timer in timers if (due := timer.next()) is not None), default=None)

    # -- events in ----------------------------------------------------------------------------

    def admit(self, now: Now, submission: Submission, verdict: EdgeVerdict, out: Effects) -> Result:
        """Accept one judged event: final when it is easy, provisional when it is hard.

        Raises OutboxFullError for a hard case without room; nothing changes then.
        """
        escalates = verdict.judged.decision.escalates
        deadline = None
        if escalates:
            self._check_room(len(submission.event.data))
            clocks, default = self.clocks(submission.received), verdict.deadline_seconds
            deadline = of_event(submission.event, clocks, submission.stored_ns, default)
        sequence = self._take_sequence()
        event_id = submission.event_id or self._local_id(sequence)
        status = Status.PROVISIONAL if escalates else Status.FINAL
        result = results.of_edge(
            now, submission, verdict, event_id, region=self._policy.region, status=status
        )
        encoded = encode(result)
        publish = not escalates and self._publishes(submission.over_nats)
        row = Row(
            sequence=sequence,
            event_id=event_id,
            event=submission.event,
            times=verdict.times,
            over_nats=submission.over_nats,
            deadline=deadline,
            encoded=encoded,
            published=not (escalates or publish),
        )
        out.writes.append(Insert(row))
        times = None if escalates else verdict.times
        reply = submission.event.reply
        told = Notify(event_id, reply, encoded, times, submission.over_nats, publishes=publish)
        out.sends.append(told)
        if publish:
            out.sends.append(PublishFinal(sequence, encoded))
        if escalates:
            self._begin(now, row, submission.received.mono_ns)
            self._backlog.add_live(sequence)
            self._pump(now, out)
        return result

    def adopt(self, submission: Submission, result: Result, out: Effects) -> None:
        """Keep an event whose final result an earlier state folder of this device left behind.

        It is not judged again; its key is known from here on.
        """
        out.writes.append(Insert(self._final_row(submission.event, True, result, published=True)))

    def bury(self, now: Now, event: Event, event_id: str, problem: Problem, out: Effects) -> Result:
        """Keep an event from the broker that cannot be judged as a dead one, with the reason."""
        result = results.refused(now, event, event_id, self._policy.region, problem)
        row = self._final_row(event, True, result, published=False)
        out.writes.append(Insert(row))
        out.sends.append(PublishFinal(row.sequence, row.encoded))
        return result

    def _final_row(self, event: Event, over_nats: bool, result: Result, *, published: bool) -> Row:
        return Row(
            sequence=self._take_sequence(),
            event_id=result.event_id,
            event=event,
            times=StageTimes(None, 0, 0, 0, 0),
            over_nats=over_nats,
            deadline=None,
            encoded=encode(result),
            published=published,
        )

    def withdraw(self, now: Now, out: Effects) -> Effects:
        """Take back events whose acceptance could not be written; what else was decided stands."""
        withdrawn = {write.row.sequence for write in out.writes if isinstance(write, Insert)}
        for sequence in withdrawn:
            self._sending.discard(sequence)
            pending = self._by_sequence.get(sequence)
            if pending is not None:
                self._forget(pending)
        names = {w.row.event_id for w in out.writes if isinstance(w, Insert)}
        rest = Effects(sends=[send for send in out.sends if not concerns(send, withdrawn, names)])
        self._pump(now, rest)
        return rest

    def restore(self, now: Now, rows: Iterable[Row]) -> None:
        """Take up what an earlier start left: results are looked up before anything is sent."""
        for row in rows:
            pending = self._begin(now, row, now.mono_ns)
            pending.restored = pending.unsure = True

    def cloud_clock(self, now: Now, cloud_minus_mono_ns: int) -> Effects:
        """The cloud's clock is known: deadlines that stood on the wall clock are set right."""
        self._cloud_minus_mono_ns = cloud_minus_mono_ns
        clocks = self.clocks(now)
        for sequence in list(self._unverified):
            pending = self._by_sequence[sequence]
            if pending.deadline is not None:
                self._set_deadline(pending, clocks)
        return self.tick(now)

    def rebind(self, event_id: str, reply: str) -> Effects:
        """The application asked again under the same key, from another reply subject."""
        out = Effects()
        pending = self._pending.get(event_id)
        if pending is not None and pending.reply != reply:
            pending.reply = reply
            encoded = encode(pending.provisional)
            out.writes.append(Rebind(pending.sequence, event_id, reply, encoded))
        return out

    def _take_sequence(self) -> int:
        sequence, self.next_sequence = self.next_sequence, self.next_sequence + 1
        return sequence

    def _local_id(self, sequence: int) -> str:
        return subjects.event_id(self._policy.device, self._policy.epoch, sequence)

    def _check_room(self, size: int) -> None:
        policy = self._policy
        full = len(self._pending) >= policy.max_events
        if full or self.pending_bytes + size > policy.max_bytes:
            raise OutboxFullError(used_bytes=self.pending_bytes, quota_bytes=policy.max_bytes)

    def _publishes(self, over_nats: bool) -> bool:
        return self._policy.publish_all or (self._policy.publish_nats and over_nats)

    def _begin(self, now: Now, row: Row, accepted_mono_ns: int) -> Pending:
        pending = Pending(
            sequence=row.sequence,
            event_id=row.event_id,
            pipeline=row.event.pipeline,
            provisional=row.result,
            times=row.times,
            accepted_mono_ns=accepted_mono_ns,
            deadline=row.deadline,
            deadline_mono_ns=None,
            reply=row.event.reply,
            over_nats=row.over_nats,
        )
        self._pending[row.event_id] = self._by_sequence[row.sequence] = pending
        self._sizes[row.sequence] = len(row.event.data)
        self.pending_bytes += len(row.event.data)
        self.waiting_events[row.event.pipeline] += 1
        self.waiting_bytes[row.event.pipeline] += len(row.event.data)
        if row.deadline is not None:
            self._set_deadline(pending, self.clocks(now))
        return pending

    def _set_deadline(self, pending: Pending, clocks: Clocks) -> None:
        assert pending.deadline is not None  # noqa: S101  # both callers have looked
        moment = due(pending.deadline, clocks)
        pending.deadline_mono_ns = moment.mono_ns
        self._deadlines.set(pending.sequence, moment.mono_ns)
        if moment.verified:
            self._unverified.discard(pending.sequence)
        else:
            self._unverified.add(pending.sequence)

    # -- the link -----------------------------------------------------------------------------

    def link_up(self, now: Now) -> Effects:
        """The broker is back: the backlog goes oldest first, answers may have passed us by."""
        out = Effects()
        self._link_up = True
        for sequence in self._retries.clear():
            self._backlog.add_old(sequence)
        self._backlog.all_old()
        for pending in self._by_sequence.values():
            if pending.unsure or pending.stored_mono_ns is not None:
                self._checks.set(pending.sequence, now.mono_ns)
        self._pump(now, out)
        return out

    def link_down(self) -> None:
        """Nothing is sent until the link is up again."""
        self._link_up = False

    def escalated(
        self, now: Now, sequence: int, stored: int | None, error: LinkError | None
    ) -> Effects:
        """The broker's word on one escalation: its stream sequence, or why not."""
        out = Effects()
        self._sending.discard(sequence)
        pending = self._by_sequence.get(sequence)
        if pending is not None:
            self._close_send(now, pending, stored, error)
            if isinstance(error, MessageTooLargeError):
                self._die(now, pending, results.problem(error), out)
            elif error is not None and not isinstance(error, AlreadyStoredError):
                self._retry_later(now, pending)
            else:  # stored, or an earlier copy still waits for a worker
                pending.stored_mono_ns, pending.failures = now.mono_ns, 0
                self._checks.set(sequence, now.mono_ns + self._policy.lookup_ns)
        self._pump(now, out)
        return out

    def _retry_later(self, now: Now, pending: Pending) -> None:
        pause = min(_FIRST_RETRY_NS << min(pending.failures, 10), _LONGEST_RETRY_NS)
        pending.failures += 1
        self._retries.set(pending.sequence, now.mono_ns + int(pause * self._random.uniform(0.5, 1)))

    def _close_send(
        self, now: Now, pending: Pending, stored: int | None, error: LinkError | None
    ) -> None:
        if pending.sends:
            sent = pending.sends[-1]
            sent.end_mono_ns, sent.sequence = now.mono_ns, stored
            sent.error = error.code if error is not None else None

    def _pump(self, now: Now, out: Effects) -> None:
        while self._link_up and len(self._sending) < self._policy.window:
            sequence = self._backlog.take()
            if sequence is None:
                return
            pending = self._by_sequence.get(sequence)
            if pending is not None and sequence not in self._sending:
                self._send(now, pending, out)

    def _send(self, now: Now, pending: Pending, out: Effects) -> None:
        self._sending.add(pending.sequence)
        suffix = f".{pending.redrives}" if pending.redrives else ""
        message_id = pending.event_id + suffix
        pending.sends = [*pending.sends[1 - _KEPT_SENDS :], Sent(now.mono_ns, message_id)]
        pending.tries += 1
        ttl = None
        if pending.deadline_mono_ns is not None:
            ttl = max(0, (pending.deadline_mono_ns - now.mono_ns) // NS_PER_MS)
        out.sends.append(Escalate(pending, message_id, ttl))

    # -- answers ------------------------------------------------------------------------------

    def cloud_result(self, now: Now, result: Result) -> Effects:
        """A record of the results stream, pushed or looked up."""
        out = Effects()
        pending = self._pending.get(result.event_id)
        if pending is None:
            if result.tier is Tier.CLOUD:
                out.sends.append(Forward(result))
            return out
        if result.status is Status.SUPERSEDED:
            # Too late by the cloud's clocks; our own deadline will say so in a moment.
            out.sends.append(Notify(pending.event_id, pending.reply, encode(result)))
            return out
        self._finish(pending, results.merged(now, pending, result), out, published=True)
        self._pump(now, out)
        return out

    def doubt(self, result: Result) -> str | None:
        """Why a record cannot be of the pending event whose name it has; None when it can."""
        pending = self._pending.get(result.event_id)
        if pending is None or results.fits(pending, result):
            return None
        return "it has the trace of another event"

    def spoiled(self, now: Now, event_id: str) -> Effects:
        """The event's place in the results stream is taken by what is not its result.

        No other can be stored there: the student's answer is the best there will be.
        """
        out = Effects()
        pending = self._pending.get(event_id)
        if pending is not None:
            words = "a record that is not of this event is stored under its name"
            self._die(now, pending, Problem(code="result_not_believed", message=words), out)
            self._pump(now, out)
        return out

    def not_found(self, now: Now, event_id: str) -> Effects:
        """The results stream has no record of this event yet."""
        out = Effects()
        pending = self._pending.get(event_id)
        if pending is None:
            return out
        stored, policy = pending.stored_mono_ns, self._policy
        if pending.unsure and self._may_be_answered(pending):
            words = "this event may have been answered so long ago that its result is gone"
            self._die(now, pending, Problem(code="outbox_restored", message=words), out)
        elif pending.unsure:
            pending.unsure = False
            self._backlog.add_old(pending.sequence)
        elif stored is None:
            return out
        elif now.mono_ns - stored >= policy.redrive_ns * min(2**pending.redrives, _LONGEST_REDRIVE):
            pending.redrives += 1
            pending.stored_mono_ns = None
            self._backlog.add_old(pending.sequence)
        else:
            pause = policy.lookup_ns * min(2**pending.lookups, _LONGEST_LOOKUP)
            pending.lookups = min(pending.lookups + 1, _LONGEST_LOOKUP)
            self._checks.set(pending.sequence, now.mono_ns + pause)
        self._pump(now, out)
        return out

    def published(self, sent: PublishFinal, error: LinkError | None) -> Effects:
        """The results stream's word on one of our own finals."""
        out = Effects()
        taken = isinstance(error, AlreadyStoredError)
        if taken and not sent.second and sent.result.status is Status.EXPIRED:
            # The cloud was first. Ours stands for the application; both records are kept.
            out.sends.append(PublishFinal(sent.sequence, sent.encoded, second=True))
            out.sends.append(Lookup(sent.result.place))
        elif taken or error is None or isinstance(error, MessageTooLargeError):
            # Too large is too large for ever, and must not stand before the others.
            out.writes.append(MarkPublished(sent.sequence))
        return out

    def tick(self, now: Now) -> Effects:
        """Do what is due: deadlines first, then lookups, then what is sent again."""
        out = Effects()
        for sequence in self._deadlines.pop(now.mono_ns):
            pending = self._by_sequence.get(sequence)
            if pending is not None:
                expired = results.settled(now, pending, Status.EXPIRED)
                self._finish(pending, expired, out, published=False)
        for sequence in self._checks.pop(now.mono_ns):
            pending = self._by_sequence.get(sequence)
            if pending is not None:
                self._check(now, pending, out)
        for sequence in self._retries.pop(now.mono_ns):
            self._backlog.add_old(sequence)
        self._pump(now, out)
        return out

    def _check(self, now: Now, pending: Pending, out: Effects) -> None:
        if self._link_up:
            out.sends.append(Lookup(pending.provisional.place))
        # Asked again even if the question is lost with the link.
        self._checks.set(pending.sequence, now.mono_ns + self._policy.lookup_ns)

    def damaged(self, now: Now, sequence: int, error: SetsudenError) -> Effects:
        """The observation can no longer be read: the event ends with that reason."""
        out = Effects()
        self._sending.discard(sequence)
        pending = self._by_sequence.get(sequence)
        if pending is not None:
            self._die(now, pending, results.problem(error), out)
        self._pump(now, out)
        return out

    def _may_be_answered(self, pending: Pending) -> bool:
        """True for a row of an older copy of the folder, older than results are kept."""
        before = self._refuse_accepted_before_ns
        return before is not None and pending.restored and pending.times.accepted_ns < before

    def rolled_back(self, results_kept_since_ns: int) -> None:
        """The state folder is older than what this device has done since.

        What it holds open is looked up, as after every start. An event accepted before results
        were kept, on the span timeline, cannot be known to be unanswered: it is not sent again.
        """
        self._refuse_accepted_before_ns = results_kept_since_ns

    def _die(self, now: Now, pending: Pending, problem: Problem, out: Effects) -> None:
        result = results.settled(now, pending, Status.DEAD, problem)
        self._finish(pending, result, out, published=False)

    def _finish(self, pending: Pending, result: Result, out: Effects, *, published: bool) -> None:
        sequence, encoded = pending.sequence, encode(result)
        self._forget(pending)
        out.writes.append(Finish(sequence, pending.event_id, pending.reply, encoded, published))
        told = Notify(
            pending.event_id,
            pending.reply,
            encoded,
            pending.times,
            pending.over_nats,
            pending,
            publishes=not published,
        )
        out.sends.append(told)
        if not published:
            out.sends.append(PublishFinal(sequence, encoded))

    def _forget(self, pending: Pending) -> None:
        sequence = pending.sequence
        del self._pending[pending.event_id], self._by_sequence[sequence]
        size = self._sizes.pop(sequence)
        self.pending_bytes -= size
        self.waiting_events[pending.provisional.pipeline] -= 1
        self.waiting_bytes[pending.provisional.pipeline] -= size
        self._unverified.discard(sequence)
        self._deadlines.forget(sequence)
        self._checks.forget(sequence)
        self._retries.forget(sequence)
