"""No span begins before or outlives the one it hangs under, whatever the clocks said."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setsuden.edge_agent import traces
from setsuden.edge_agent.core import Pending, StageTimes
from setsuden.edge_agent.core.records import Sent
from setsuden.edge_agent.sampling import Kept
from setsuden.energy import MeteredRun, WorkKey
from setsuden.link import Delivery, Incoming
from setsuden.schemas import spans as table
from setsuden.schemas.decision import Action, Decision, Reason
from setsuden.schemas.energy import EnergyReading, Method
from setsuden.schemas.errors import AlreadyStoredError
from setsuden.schemas.result import ModelRef, Result, Status
from setsuden.schemas.subjects import Place
from setsuden.services.worker.traces import SpanMaker
from setsuden.services.worker.work import BatchRun, Work, received
from setsuden.telemetry import Span, SpanKind, SpanLink, parse_traceparent

ORIGIN = 1_790_000_000_000_000_000
TIMES = st.integers(-50_000_000, 50_000_000).map(lambda offset: ORIGIN + offset)
TRACE, EVENT_ID = "ab" * 16, "dev-1-00000000-7"
PLACE = Place("local", "tiny", "dev-1", EVENT_ID)
WAIT = traces.escalate_id(TRACE, EVENT_ID)


def contained(spans: Iterable[Span]) -> None:
    """Fails for a child that is not within its parent, or of a parent that is elsewhere."""
    by_id = {(one.trace_id, one.span_id): one for one in spans}
    for one in by_id.values():
        assert one.start_ns < one.end_ns
        parent = by_id.get((one.trace_id, one.parent_id or ""))
        if parent is not None:
            assert parent.start_ns <= one.start_ns, (one.name, parent.name)
            assert one.end_ns <= parent.end_ns, (one.name, parent.name)


# -- the device ----------------------------------------------------------------------------------


def result(status: Status, *, hard: bool) -> Result:
    action, reason = (
        (Action.ESCALATE, Reason.LOW_CONFIDENCE) if hard else (Action.ANSWER, Reason.CONFIDENT)
    )
    return Result(
        event_id=EVENT_ID,
        pipeline="tiny",
        device="dev-1",
        status=status,
        decision=Decision(action=action, reason=reason),
        trace_id=TRACE,
        at=datetime(2026, 10, 1, tzinfo=UTC),
    )


TRAILS = st.builds(
    StageTimes,
    parent_span_id=st.none(),
    accepted_ns=TIMES,
    infer_start_ns=TIMES,
    infer_end_ns=TIMES,
    infer_items=st.integers(1, 9),
    prepare_start_ns=st.just(0) | TIMES,
)
SENDS = st.lists(
    st.builds(
        Sent,
        start_mono_ns=TIMES,
        message_id=st.just("m"),
        end_mono_ns=st.none() | TIMES,
        error=st.none() | st.just("unavailable"),
        sequence=st.none() | st.integers(1, 9),
    ),
    max_size=4,
)


@settings(max_examples=500)
@given(TRAILS, TIMES, SENDS, st.sampled_from([Status.FINAL, Status.EXPIRED, Status.DEAD]))
def test_of_a_hard_event_nothing_outlives_what_it_is_part_of(
    times: StageTimes, end_ns: int, sends: list[Sent], status: Status
) -> None:
    final = result(status, hard=True)
    pending = Pending(
        7, EVENT_ID, "tiny", final, times, 0, None, None, None, over_nats=True, sends=sends
    )
    kept = Kept("escalated", 1.0)
    finished = traces.FinishedEvent(final, times, end_ns, True, pending, kept, None)
    found = traces.event_spans(finished, lambda mono: mono)
    contained(found)
    names = [one.name for one in found]
    assert names.count(table.SEND_ESCALATION) == sum(one.end_mono_ns is not None for one in sends)


@settings(max_examples=300)
@given(TRAILS, TIMES)
def test_no_span_of_an_easy_event_outlives_its_parent(times: StageTimes, end_ns: int) -> None:
    final = result(Status.FINAL, hard=False)
    finished = traces.FinishedEvent(final, times, end_ns, True, None, Kept("share", 100.0), None)
    contained(traces.event_spans(finished, lambda mono: mono))


def test_a_result_is_sent_in_a_trace_of_its_own_for_the_events_has_ended() -> None:
    final = result(Status.FINAL, hard=False)
    sent = traces.sent_result(final, ORIGIN, ORIGIN + 5, sequence=3, error=None)
    assert (sent.parent_id, sent.links) == (None, (SpanLink(TRACE, traces.root_id(final)),))
    assert sent.trace_id != TRACE
    context = parse_traceparent(traces.result_context(final))
    assert context == (sent.trace_id, sent.span_id, True)


@pytest.mark.parametrize("sampled", [True, False])
def test_an_escalation_says_whether_its_wait_is_exported(sampled: bool) -> None:
    header = traces.escalation_context(result(Status.PROVISIONAL, hard=True), sampled=sampled)
    assert parse_traceparent(header) == (TRACE, WAIT, sampled)


# -- the worker ----------------------------------------------------------------------------------

MODEL = ModelRef(bundle="tiny", version="1", model="teacher", digest="0" * 64)
MAKER = SpanMaker("tiny", "teacher-local-tiny", MODEL)
RUN = MeteredRun(WorkKey("tiny", "tiny/teacher", "0" * 64), 0, 1000, 2, 2e-5, Method.THREAD)


def delivered(
    sequence: int = 17, *, attempt: int = 1, flags: str = "01", context: bool = True
) -> Work:
    headers = {"traceparent": f"00-{TRACE}-{WAIT}-{flags}"} if context else {}
    reply = f"$JS.ACK.ESC.teacher.{attempt}.{sequence}.9.{ORIGIN}.0"
    work = received(Incoming(PLACE.escalation, reply, headers, b""))
    work.place, work.arrived_ns, work.taken_ns = PLACE, ORIGIN + 1_000, ORIGIN + 2_000
    assert work.delivery == Delivery(attempt, sequence, ORIGIN, 0)
    return work


def ran(*works: Work, start_ns: int = ORIGIN + 3_000, end_ns: int = ORIGIN + 9_000) -> BatchRun:
    reading = EnergyReading(cpu_seconds=0.1)
    made = BatchRun(
        start_ns, end_ns, len(works), "{}", {}, 0.004, "f" * 32, RUN, reading, len(works)
    )
    for work in works:
        work.ran = made
    return made


def answered(work: Work, *, stored_ns: int = ORIGIN + 20_000) -> Work:
    ran(work)
    work.stored_ns, work.acked_ns = stored_ns, stored_ns + 5_000
    return work


def wait_span(end_ns: int) -> Span:
    """The device's ``escalate`` that finished when the result was there."""
    return Span(TRACE, WAIT, "12" * 8, table.ESCALATE, SpanKind.CLIENT, ORIGIN - 1, end_ns, {})


@settings(max_examples=500)
@given(TIMES, TIMES, TIMES, TIMES, TIMES, TIMES, st.none() | st.integers(0, 100), st.booleans())
def test_of_a_delivery_nothing_outlives_what_it_is_part_of(
    arrived: int,
    taken: int,
    start: int,
    end: int,
    stored: int,
    done: int,
    ttl_ms: int | None,
    context: bool,
) -> None:
    work = delivered(context=context)
    work.arrived_ns, work.taken_ns, work.ttl_ms = arrived, taken, ttl_ms
    run = ran(work, start_ns=start, end_ns=end)
    work.stored_ns, work.acked_ns = stored, stored + 10
    contained([*MAKER.of(work, "final", done), *MAKER.settled(run, work)])


def test_the_work_is_over_for_the_device_when_the_result_is_handed_over() -> None:
    """It is pushed as soon as it is stored, which is before we hear that it is."""
    work = answered(delivered())
    found = {one.name: one for one in MAKER.of(work, "final", ORIGIN + 90_000)}
    contained([*found.values(), wait_span(work.stored_ns + 1)])
    process = found[table.PROCESS]
    assert (process.trace_id, process.parent_id) == (TRACE, WAIT)
    assert process.end_ns == work.stored_ns
    assert process.attributes["setsuden.result.store_ms"] == pytest.approx(0.005)


def test_a_result_hangs_under_the_wait_for_it() -> None:
    work = answered(delivered())
    assert parse_traceparent(MAKER.context(work, work.stored_ns)) == (TRACE, WAIT, True)


def apart(work: Work, end_ns: int) -> Span:
    """Its ``process``, after a check that it is the root of a trace of its own."""
    process = MAKER.of(work, "final", end_ns)[-1]
    assert (process.name, process.parent_id) == (table.PROCESS, None)
    assert process.trace_id != TRACE
    assert process.links == (SpanLink(TRACE, WAIT),)
    assert process.end_ns == end_ns
    return process


def test_work_that_ends_after_the_deadline_is_apart_with_all_that_belongs_to_it() -> None:
    work = answered(delivered(), stored_ns=ORIGIN + 2_000_001)
    work.ttl_ms = 2
    context = parse_traceparent(MAKER.context(work, work.stored_ns))
    process = apart(work, ORIGIN + 9_000_000)
    assert context == (process.trace_id, process.span_id, True)
    assert "setsuden.escalation.late" not in process.attributes
    in_time = answered(delivered(), stored_ns=ORIGIN + 2_000_000)
    in_time.ttl_ms = 2
    assert MAKER.of(in_time, "final", ORIGIN + 9_000_000)[-1].parent_id == WAIT


def test_work_on_an_event_that_was_ended_by_another_is_apart() -> None:
    """A redelivery after a lost acknowledgement, a second copy, a device that gave up first."""
    work = answered(delivered(attempt=2))
    work.overtaken, work.store_error = True, AlreadyStoredError.code
    process = apart(work, ORIGIN + 90_000)
    assert process.attributes["setsuden.result.store_error"] == "already_stored"


def test_late_work_is_apart_and_two_late_attempts_are_two_traces() -> None:
    works = [answered(delivered(attempt=attempt)) for attempt in (1, 2)]
    for work in works:
        work.late = True
    first, second = (apart(work, ORIGIN + 90_000) for work in works)
    assert first.trace_id != second.trace_id
    assert first.attributes["setsuden.escalation.late"] is True


def test_a_delivery_without_a_context_is_a_trace_of_its_own_to_its_end() -> None:
    work = answered(delivered(context=False))
    process = MAKER.of(work, "final", ORIGIN + 90_000)[-1]
    assert (process.parent_id, process.links, process.end_ns) == (None, (), ORIGIN + 90_000)
    context = parse_traceparent(MAKER.context(work, work.stored_ns))
    assert context == (process.trace_id, process.span_id, True)


def test_a_given_back_delivery_ends_when_it_is_given_back() -> None:
    work = delivered()
    (process,) = MAKER.of(work, None, ORIGIN + 90_000)
    assert (process.parent_id, process.end_ns) == (WAIT, ORIGIN + 90_000)


def test_an_unsampled_wait_makes_an_unsampled_result() -> None:
    work = answered(delivered(flags="00"))
    assert parse_traceparent(MAKER.context(work, work.stored_ns)) == (TRACE, WAIT, False)
    work.late = True
    context = parse_traceparent(MAKER.context(work, work.stored_ns))
    assert context is not None
    assert not context.sampled


def test_work_on_an_event_that_was_answered_before_it_ran_is_apart() -> None:
    work = delivered(attempt=2)
    work.overtaken = True
    apart(work, ORIGIN + 90_000)


def test_a_batch_is_linked_to_the_members_that_are_exported_where_they_are() -> None:
    seen, unseen, late = delivered(1), delivered(2, flags="00"), delivered(3)
    run = ran(seen, unseen, late)
    late.late = True
    assert MAKER.settled(run, unseen) == []
    members = []
    for work in (seen, late):
        infer = MAKER.of(work, "final", ORIGIN + 90_000)[0]
        members.append(SpanLink(infer.trace_id, infer.span_id))
        batch = MAKER.settled(run, work)
    assert [one.name for one in batch] == [table.BATCH, table.RUN]
    assert batch[0].links == tuple(members)
    assert batch[0].attributes["setsuden.batch.size"] == 3
    assert members[1].trace_id != TRACE
    contained(batch)


def test_a_batch_is_not_linked_to_a_delivery_that_was_run_again() -> None:
    first, again = delivered(1), delivered(2)
    run = ran(first, again)
    assert MAKER.settled(run) == []
    (infer, _) = MAKER.of(first, "final", ORIGIN + 90_000)
    batch = MAKER.settled(run, first)
    assert batch[0].links == (SpanLink(infer.trace_id, infer.span_id),)


def test_a_batch_that_nobody_exports_has_no_spans() -> None:
    works = [delivered(number, flags="00") for number in (1, 2)]
    run = ran(*works)
    assert [MAKER.settled(run, work) for work in works] == [[], []]
