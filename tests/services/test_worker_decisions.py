"""The worker's pure decisions, and the text records held to the schema."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setsuden.energy import MeteredRun, WorkKey
from setsuden.energy.metering.provisional import ProvisionalEstimator
from setsuden.energy.metering.settle import MeterFacts
from setsuden.link import Delivery, Incoming
from setsuden.pipelines import gate
from setsuden.schemas.energy import Boundary, Method, Source
from setsuden.schemas.errors import AlreadyStoredError, StreamFullError, UnavailableError
from setsuden.schemas.result import ModelRef, Result, Status
from setsuden.schemas.subjects import Place
from setsuden.services.worker import settle
from setsuden.services.worker.records import Writer, problem
from setsuden.services.worker.settle import SettleStep
from setsuden.services.worker.teacher import _choices
from setsuden.services.worker.work import BatchRun, Work, received


@pytest.mark.parametrize(
    ("outcome", "late", "step"),
    [
        (object(), False, SettleStep.ACK),
        (object(), True, SettleStep.ACK),
        (AlreadyStoredError("x"), False, SettleStep.LOOK),
        (AlreadyStoredError("x"), True, SettleStep.ACK),
        (UnavailableError("x"), False, SettleStep.STORE_AGAIN),
        (StreamFullError("x"), True, SettleStep.STORE_AGAIN),
    ],
)
def test_only_a_stored_record_is_acknowledged(
    outcome: object, late: bool, step: SettleStep
) -> None:
    assert settle.after_store(outcome, late=late) is step


@pytest.mark.parametrize(
    ("found", "step"),
    [
        (Status.EXPIRED, SettleStep.STORE_LATE),
        (Status.FINAL, SettleStep.ACK),
        (Status.DEAD, SettleStep.ACK),
        (None, SettleStep.RUN),
    ],
)
def test_who_was_first_decides_about_the_second(found: Status | None, step: SettleStep) -> None:
    assert settle.after_look(found) is step


def test_an_expired_event_whose_late_answer_is_stored_needs_no_run() -> None:
    assert settle.after_look(Status.EXPIRED, late_is_stored=True) is SettleStep.ACK


@pytest.mark.parametrize(
    ("attempt", "copy", "suspect"), [(1, False, False), (2, False, True), (1, True, True)]
)
def test_what_was_delivered_or_sent_before_is_looked_up_first(
    attempt: int, copy: bool, suspect: bool
) -> None:
    assert settle.is_suspect(attempt, copy) is suspect


def test_an_event_is_dead_after_so_many_failed_runs() -> None:
    raised = problem(settle.TEACHER_RAISED, "x")
    assert settle.after_failures([raised] * 2, 3) is SettleStep.RUN
    assert settle.after_failures([raised] * 3, 3) is SettleStep.DEAD


def test_a_run_that_never_ends_is_tried_once_more_only() -> None:
    timed_out = problem(settle.TEACHER_TIMED_OUT, "x")
    assert settle.after_failures([timed_out], 100) is SettleStep.RUN
    assert settle.after_failures([timed_out, timed_out], 100) is SettleStep.DEAD


@given(st.integers(0, 1000))
def test_pauses_grow_and_stay_bounded(tries: int) -> None:
    pause = settle.pause_seconds(tries)
    assert settle.FIRST_PAUSE_SECONDS <= pause <= settle.LONGEST_PAUSE_SECONDS
    assert settle.pause_seconds(tries + 1) >= pause


def test_lateness_needs_a_deadline() -> None:
    assert not settle.is_late(10**18, None)
    assert not settle.is_late(5_000_000, 5)
    assert settle.is_late(5_000_001, 5)


def _work() -> Work:
    reply = "$JS.ACK.ESC.teacher.2.17.9.1763930000000000000.0"
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    work = received(Incoming("esc.local.tiny.dev.dev-0000abcd-1", reply, headers, b""))
    work.place = Place("local", "tiny", "dev", "dev-0000abcd-1")
    work.taken_ns = 1763930000012345678
    return work


def _writer(labels: list[str]) -> Writer:
    ref = ModelRef(bundle="tiny", version='1 "quoted"', model="teacher", digest="0" * 64)
    return Writer("local", "tiny", ref, labels)


def test_a_written_result_is_what_the_schema_reads() -> None:
    labels = ["low", 'mid "dle"', "hîgh"]
    run = MeteredRun(WorkKey("tiny", "tiny/teacher", "0" * 64), 0, 1000, 2, 2e-5, Method.THREAD)
    meter_facts = MeterFacts("cloud-1", Source.TABLE_MODEL, Boundary.WALL_AC, 3.0, 1.0, 1.0)
    reading = ProvisionalEstimator(2.0, 1.0, meter_facts).reading(run, 2)
    work = _work()
    work.ran = BatchRun(0, 1, 2, reading.model_dump_json(), {}, 0.25, "f" * 32, run, reading, 2)
    row = np.array([0.2, 0.7000004, 0.0999996])
    (choice,) = _choices(row[None])
    writer = _writer(labels)
    result = Result.model_validate_json(writer.result(work, Status.FINAL, writer.answer(*choice)))
    assert result.answer == gate.answers_of(row[None], labels)[0]
    assert result.energy.cloud == reading
    assert result.timing.queue_ms == pytest.approx(12.345678)
    assert result.timing.cloud_infer_ms == 0.25
    assert result.trace_id == "a" * 32
    assert math.isclose(result.at.timestamp(), 1763930000.012345, abs_tol=1e-6)


def test_a_written_dead_result_is_what_the_schema_reads() -> None:
    told = problem("teacher_raised", 'a "quoted" \n reason' + "x" * 5000)
    result = Result.model_validate_json(_writer(["a", "b"]).dead(_work(), told))
    assert result.status is Status.DEAD
    assert result.error == told
    assert result.answer is None


def test_a_delivery_without_a_usable_context_gets_the_same_trace_every_time() -> None:
    reply = "$JS.ACK.ESC.teacher.2.17.9.1763930000000000000.0"
    headers = {"traceparent": "nonsense"}
    subject = "esc.a.b.dev.dev-0000abcd-1"
    traces = {received(Incoming(subject, reply, headers, b"")).trace_id for _ in range(2)}
    assert len(traces) == 1
    assert len(traces.pop()) == 32
    assert Delivery.of(reply).attempt == 2
