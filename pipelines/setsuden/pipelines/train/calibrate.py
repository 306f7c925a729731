"""Temperature scaling (Guo et al., 2017): one number that makes confidence mean what it says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLDEST = 0.05
HOTTEST = 20.0
HALVINGS = 50


def softmax(
    logits: NDArray[np.floating], temperature: float = 1.0
) -> NDArray[np.float64]:
    """Probabilities ``float64 [n, classes]`` of ``logits / temperature``; never overflows."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def confidence(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """The highest probability of each row, ``float64 [n]``."""
    return np.asarray(softmax(logits, temperature).max(axis=1))


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature of least negative log likelihood, between 0.05 and 20.

    The loss is convex in ``1 / temperature``, so bisecting the sign of its slope finds the one
    minimum. ``logits`` are ``[n, classes]``, ``labels`` ``[n]``, rows not used for the weights.
    """
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(logits, labels, middle) > 0 else (middle, high)
    return 2 / (low + high)


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0
) -> float:
    """The mean surprise at the true classes, in nats."""
    chosen = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())


def _slope(logits: NDArray[np.floating], labels: NDArray[np.int64], inverse: float) -> float:
    expected = (softmax(logits, 1 / inverse) * logits).sum(axis=1)
    return float((expected - logits[np.arange(len(labels)), labels]).mean())
