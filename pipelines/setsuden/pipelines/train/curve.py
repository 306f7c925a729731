"""The cascade curve: accuracy against the share of events that the teacher answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from setsuden.schemas.bundle import CurvePoint, GateSpec, OperatingPoint

from .calibrate import Labels, Logits, confidence, fit_temperature

POINT_SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
CURVE_SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
DEFAULT_SHARE = 0.2
DIGITS = 6
"""Decimals kept of fitted numbers: finer than any gap between confidences that matters."""

Confidences = NDArray[np.float64]
Right = NDArray[np.bool_]
"""``[n]``, whether a model's answer was the true class."""


def fit_gate(student: Logits, labels: Labels) -> GateSpec:
    """Temperature and thresholds from validation rows; 20 % escalated is the default point."""
    temperature = round(fit_temperature(student, labels), DIGITS)
    sure = confidence(student, temperature)
    points = [
        OperatingPoint(escalated=share, threshold=threshold_for(sure, share))
        for share in POINT_SHARES
    ]
    default = threshold_for(sure, DEFAULT_SHARE)
    return GateSpec(temperature=temperature, threshold=default, points=tuple(points))


def threshold_for(confidences: Confidences, share: float) -> float:
    """A threshold that exactly ``share`` of ``confidences`` (rounded to whole rows) lies below.

    It is halfway between two neighbours, so that another CPU's rounding moves no row across it.
    ``share`` is above 0 and below 1, and at least one row is below.
    """
    ordered = np.sort(confidences)
    below = max(1, round(share * len(ordered)))
    return round(float(ordered[below - 1 : below + 1].mean()), DIGITS)


def expected_curve(
    student: Logits, teacher: Logits, labels: Labels, temperature: float
) -> tuple[CurvePoint, ...]:
    """The curve on test rows, at 0, 5, 10, 20, 30, 50 and 100 % escalated."""
    sure = confidence(student, temperature)
    right = answers_right(student, labels), answers_right(teacher, labels)
    return tuple(
        CurvePoint(escalated=share, accuracy=round(cascade_accuracy(sure, *right, share), DIGITS))
        for share in CURVE_SHARES
    )


def answers_right(logits: Logits, labels: Labels) -> Right:
    """Whether the highest score of each row is the true class's."""
    return np.asarray(logits.argmax(axis=1) == labels)


def cascade_accuracy(sure: Confidences, student: Right, teacher: Right, share: float) -> float:
    """Accuracy when the least confident ``share`` of the events goes to the teacher.

    All three arrays are ``[n]`` and in one order; ties keep that order.
    """
    escalated = np.argsort(sure, kind="stable")[: round(share * len(sure))]
    right = student.copy()
    right[escalated] = teacher[escalated]
    return float(right.mean())


def random_accuracy(student: Right, teacher: Right, share: float) -> float:
    """Expected accuracy when a random ``share`` is escalated: what a gate must beat."""
    return float((1 - share) * student.mean() + share * teacher.mean())
