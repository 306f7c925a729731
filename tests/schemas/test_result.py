"""The one rule by which device and client merge a cloud result with what the device knows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from setsuden.schemas.decision import Action, Decision, Reason
from setsuden.schemas.energy import EnergyReading
from setsuden.schemas.result import (
    Answer,
    Energy,
    ModelRef,
    Problem,
    Result,
    Status,
    Tier,
    Timing,
)

PROVISIONAL = Result(
    event_id="dev-1-1",
    pipeline="tiny",
    device="dev",
    trace_id="a" * 32,
    status=Status.PROVISIONAL,
    tier=Tier.EDGE,
    answer=Answer(label="low", index=0, confidence=0.5),
    decision=Decision(action=Action.ESCALATE, reason=Reason.LOW_CONFIDENCE),
    model=ModelRef(bundle="tiny", version="1", model="student", digest="1" * 64),
    energy=Energy(edge=EnergyReading(cpu_seconds=0.25)),
    timing=Timing(edge_infer_ms=1.5, total_ms=9.0),
    source_id="application-7",
    idempotency_key="key-7",
    at=datetime(2026, 1, 1, tzinfo=UTC),
)
CLOUD = Result(
    event_id="dev-1-1",
    pipeline="tiny",
    device="dev",
    trace_id="a" * 32,
    status=Status.FINAL,
    tier=Tier.CLOUD,
    answer=Answer(label="high", index=2, confidence=0.9),
    model=ModelRef(bundle="tiny", version="2", model="teacher", digest="2" * 64),
    energy=Energy(cloud=EnergyReading(cpu_seconds=0.75)),
    timing=Timing(queue_ms=2.0, cloud_infer_ms=3.0),
    at=datetime(2026, 1, 2, tzinfo=UTC),
)
DEAD = CLOUD.model_copy(
    update={
        "status": Status.DEAD,
        "answer": None,
        "error": Problem(code="teacher_raised", message="it raised"),
    }
)


@pytest.mark.parametrize("cloud", [CLOUD, DEAD])
def test_what_only_the_device_knows_is_kept(cloud: Result) -> None:
    merged = PROVISIONAL.merged_with(cloud)
    assert (merged.source_id, merged.idempotency_key) == ("application-7", "key-7")
    assert merged.decision == PROVISIONAL.decision
    assert merged.energy == Energy(edge=PROVISIONAL.energy.edge, cloud=cloud.energy.cloud)
    assert merged.timing == Timing(edge_infer_ms=1.5, queue_ms=2.0, cloud_infer_ms=3.0)
    assert (merged.status, merged.at, merged.error) == (cloud.status, cloud.at, cloud.error)


def test_the_teachers_answer_stands_before_the_students() -> None:
    merged = PROVISIONAL.merged_with(CLOUD)
    assert (merged.tier, merged.answer, merged.model) == (Tier.CLOUD, CLOUD.answer, CLOUD.model)


def test_a_dead_letter_has_the_students_answer() -> None:
    merged = PROVISIONAL.merged_with(DEAD)
    assert merged.tier is Tier.EDGE
    assert (merged.answer, merged.model) == (PROVISIONAL.answer, PROVISIONAL.model)
