"""The cascade curve: accuracy against the share of events that the teacher answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POINT_SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
CURVE_SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def threshold_for(confidences: NDArray[np.float64], share: float) -> float:
    """A threshold that exactly ``share`` of ``confidences`` (rounded to rows) lies below.

    It is halfway between two neighbours, so that float32 and float64 agree about every row.
    ``share`` is above 0 and below 1. Equal neighbours are below it together or not at all.
    """
    ordered = np.sort(confidences)
    first_kept = max(1, round(share * len(ordered)))
    return float(ordered[first_kept - 1 : first_kept + 1].mean())


def cascade_accuracy(
    confidences: NDArray[np.float64],
    student_right: NDArray[np.bool_],
    teacher_right: NDArray[np.bool_],
    share: float,
) -> float:
    """Accuracy when the least confident ``share`` of the events goes to the teacher.

    All three arrays are ``[n]`` and in one order; ties keep that order.
    """
    escalated = np.argsort(confidences, kind="stable")[: round(share * len(confidences))]
    right = student_right.copy()
    right[escalated] = teacher_right[escalated]
    return float(right.mean())


def random_accuracy(
    student_right: NDArray[np.bool_], teacher_right: NDArray[np.bool_], share: float
) -> float:
    """Expected accuracy when a random ``share`` is escalated: what a gate must beat."""
    return float((1 - share) * student_right.mean() + share * teacher_right.mean())
