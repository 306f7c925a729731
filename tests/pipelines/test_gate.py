"""The gate: a confident student answers, and whatever cannot be judged escalates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from setsuden.pipelines.gate import Gate, is_distribution, probabilities
from setsuden.schemas.bundle import GateSpec, OperatingPoint, OutputKind
from setsuden.schemas.decision import Action, Reason
from setsuden.schemas.pipeline import GateOverride

CLASSES = ("a", "b", "c")
LOGITS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 8), st.just(3)), elements=st.floats(-50, 50, width=32)
)
Array = NDArray[Any]


def gate(
    threshold: float = 0.5,
    *,
    temperature: float = 1.0,
    kind: OutputKind = OutputKind.LOGITS,
    override: GateOverride | None = None,
) -> Gate:
    points = (
        OperatingPoint(escalated=0.1, threshold=0.6),
        OperatingPoint(escalated=0.5, threshold=0.9),
    )
    spec = GateSpec(temperature=temperature, threshold=threshold, points=points)
    return Gate(spec, CLASSES, kind, override or GateOverride())


def rows(*values: tuple[float, float, float]) -> Array:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", OutputKind)
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_what_is_not_finite_escalates_with_its_own_reason_and_spoils_no_other(
    value: float, kind: OutputKind, threshold: float
) -> None:
    good = {
        OutputKind.LOGITS: (9.0, 0.0, 0.0),
        OutputKind.PROBS: (0.98, 0.01, 0.01),
        OutputKind.LOG_PROBS: tuple(np.log((0.98, 0.01, 0.01)).tolist()),
    }[kind]
    bad, fine = gate(threshold, kind=kind).judge(rows((value, 1.0, 1.0), good))
    assert (bad.answer, bad.decision.action) == (None, Action.ESCALATE)
    assert bad.decision.reason is Reason.STUDENT_NOT_FINITE
    assert fine.answer is not None
    assert (fine.answer.label, fine.decision.action) == ("a", Action.ANSWER)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (OutputKind.PROBS, (5.0, 5.0, 5.0)),
        (OutputKind.PROBS, (0.9, 0.9, 0.9)),
        (OutputKind.PROBS, (1.5, -0.25, -0.25)),
        (OutputKind.PROBS, (0.0, 0.0, 0.0)),
        (OutputKind.PROBS, (9.0, -3.0, 1.0)),
        (OutputKind.LOG_PROBS, (3.0, 1.0, 0.0)),
        (OutputKind.LOG_PROBS, (-9.0, -9.0, -9.0)),
        (OutputKind.LOG_PROBS, (1000.0, 0.0, 0.0)),
    ],
)
def test_what_is_no_distribution_escalates_with_its_own_reason(
    kind: OutputKind, row: tuple[float, float, float], temperature: float, threshold: float
) -> None:
    (found,) = gate(threshold, temperature=temperature, kind=kind).judge(rows(row))
    assert (found.answer, found.decision.action) == (None, Action.ESCALATE)
    assert found.decision.reason is Reason.NO_CONFIDENCE


@given(LOGITS)
def test_threshold_0_escalates_none_and_1_escalates_all(logits: Array) -> None:
    assert not any(judged.decision.escalates for judged in gate(0.0).judge(logits))
    escalated = gate(1.0).judge(logits)
    assert all(judged.decision.escalates for judged in escalated)
    assert all(judged.decision.reason is Reason.LOW_CONFIDENCE for judged in escalated)
    assert all(judged.answer is not None for judged in escalated)


@given(LOGITS, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_escalates_less(logits: Array, one: float, two: float) -> None:
    low, high = sorted((one, two))
    for less, more in zip(gate(low).judge(logits), gate(high).judge(logits), strict=True):
        assert more.decision.escalates or not less.decision.escalates


@given(LOGITS, st.floats(0.05, 100), st.floats(0.05, 100))
def test_a_higher_temperature_is_never_surer(logits: Array, one: float, two: float) -> None:
    cold, hot = sorted((one, two))
    cool, warm = (
        probabilities(logits, OutputKind.LOGITS, temperature).max(axis=1)
        for temperature in (cold, hot)
    )
    assert (warm <= cool + 1e-12).all()


@given(LOGITS, st.floats(0.05, 100))
def test_probabilities_sum_to_one_and_keep_the_order(logits: Array, temperature: float) -> None:
    scores = probabilities(logits, OutputKind.LOGITS, temperature)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-9)
    chosen = scores.argmax(axis=1)
    best = logits.max(axis=1)
    np.testing.assert_allclose(logits[np.arange(len(logits)), chosen], best, atol=1e-5)


@given(LOGITS, st.floats(0.1, 10))
def test_the_three_kinds_of_output_agree(logits: Array, temperature: float) -> None:
    softmax = probabilities(logits.clip(-8, 8), OutputKind.LOGITS)
    expected = probabilities(logits.clip(-8, 8), OutputKind.LOGITS, temperature)
    for kind, output in (
        (OutputKind.PROBS, softmax),
        (OutputKind.LOG_PROBS, np.log(softmax)),
    ):
        np.testing.assert_allclose(
            probabilities(output, kind, temperature), expected, rtol=1e-6, atol=1e-9
        )


@given(LOGITS)
def test_an_answer_is_the_most_probable_class(logits: Array) -> None:
    for judged, row in zip(gate(0.0).judge(logits), logits, strict=True):
        assert judged.answer is not None
        assert row[judged.answer.index] == pytest.approx(row.max(), abs=1e-5)
        assert judged.answer.label == CLASSES[judged.answer.index]
        assert judged.answer.confidence == judged.decision.confidence
        assert 1 / 3 - 1e-9 <= judged.answer.confidence <= 1.0
        assert len(judged.answer.scores) == 3


@pytest.mark.parametrize(
    ("override", "threshold"),
    [
        (GateOverride(), 0.5),
        (GateOverride(threshold=0.7), 0.7),
        (GateOverride(escalate=0.12), 0.6),
        (GateOverride(escalate=0.45), 0.9),
        (GateOverride(escalate=0.0), 0.0),
        (GateOverride(escalate=1.0), 1.0),
    ],
)
def test_the_sites_own_operating_point_stands_before_the_bundles(
    override: GateOverride, threshold: float
) -> None:
    assert gate(override=override).threshold == threshold


def test_a_temperature_that_cannot_be_computed_escalates() -> None:
    with np.errstate(all="ignore"):
        (found,) = gate(0.0, temperature=1e-320).judge(rows((1e300, 0.0, 0.0)))
    assert found.decision.reason is Reason.NO_CONFIDENCE


@pytest.mark.parametrize("total", [0.99, 1.01])
def test_probabilities_in_steps_are_brought_to_one(total: float) -> None:
    row = np.array([[0.9, 0.06, 0.04]]) * total
    assert is_distribution(row, OutputKind.PROBS).all()
    np.testing.assert_allclose(probabilities(row, OutputKind.PROBS), row / total)
    assert not is_distribution(row * 1.05, OutputKind.PROBS).any()
