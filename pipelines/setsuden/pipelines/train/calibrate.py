"""Temperature scaling (Guo et al., 2017): one number that makes confidence mean what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from setsuden.pipelines.gate import probabilities
from setsuden.schemas.bundle import OutputKind

Logits = NDArray[np.floating[Any]]
"""``[n, classes]``, any float width."""

Labels = NDArray[np.int64]
"""``[n]``, the true classes."""

COLDEST = 0.05
HOTTEST = 20.0
HALVINGS = 50


def confidence(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """The highest probability of each row, ``[n]``, by the arithmetic the gate itself uses."""
    return np.asarray(probabilities(logits, OutputKind.LOGITS, temperature).max(axis=1))


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature of least negative log likelihood, between 0.05 and 20.

    The loss is convex in ``1 / temperature``, so bisecting the sign of its slope finds the one
    minimum. The rows must not be those the weights were fitted on.
    """
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(logits, labels, middle) > 0 else (middle, high)
    return 2 / (low + high)


def negative_log_likelihood(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """The mean surprise at the true classes, in nats."""
    scores = probabilities(logits, OutputKind.LOGITS, temperature)
    chosen = np.maximum(_at(scores, labels), np.finfo(np.float64).tiny)
    return float(-np.log(chosen).mean())


def _slope(logits: Logits, labels: Labels, inverse: float) -> float:
    scores = probabilities(logits, OutputKind.LOGITS, 1 / inverse)
    return float(((scores * logits).sum(axis=1) - _at(logits, labels)).mean())


def _at(rows: Logits, labels: Labels) -> Logits:
    return rows[np.arange(len(labels)), labels]
