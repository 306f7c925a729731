"""The gate: pure decisions on a student's output. What cannot be judged escalates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setsuden.schemas.base import trusted
from setsuden.schemas.bundle import GateSpec, OutputKind
from setsuden.schemas.decision import Action, Decision, Reason
from setsuden.schemas.pipeline import GateOverride
from setsuden.schemas.result import Answer

Array = NDArray[Any]

_ROUNDING = 0.02
"""How far probabilities may be from 1 in sum: ten classes of 1/256 steps, half a step each."""


class Judged(NamedTuple):
    """A model's answer, when it has one, and the gate's word on it."""

    answer: Answer | None
    decision: Decision


class Gate:
    """Decides by the calibrated maximum probability (max softmax)."""

    def __init__(
        self, spec: GateSpec, classes: Sequence[str], kind: OutputKind, override: GateOverride
    ) -> None:
        self.threshold = _threshold(spec, override)
        self._temperature = spec.temperature
        self._classes = classes
        self._kind = kind

    def judge(self, output: Array) -> list[Judged]:
        """One judgement for each row of [items, classes]."""
        finite = np.asarray(np.isfinite(output).all(axis=1))
        safe = np.where(finite[:, None], output, 0.0)
        scores = probabilities(safe, self._kind, self._temperature)
        usable = np.asarray(finite & _sums_to_one(scores)) & is_distribution(safe, self._kind)
        answers = answers_of(scores, self._classes)
        if usable.all():
            return [self._one(answer) for answer in answers]
        return [
            self._one(answer) if good else unusable(_why(ok))
            for answer, good, ok in zip(answers, usable.tolist(), finite.tolist(), strict=True)
        ]

    def _one(self, answer: Answer) -> Judged:
        sure = answer.confidence >= self.threshold and self.threshold < 1.0
        decision = trusted(
            Decision,
            action=Action.ANSWER if sure else Action.ESCALATE,
            reason=Reason.CONFIDENT if sure else Reason.LOW_CONFIDENCE,
            confidence=answer.confidence,
            threshold=self.threshold,
            budget_left=None,
        )
        return Judged(answer, decision)


def _why(finite: bool) -> Reason:
    return Reason.NO_CONFIDENCE if finite else Reason.STUDENT_NOT_FINITE


def unusable(reason: Reason) -> Judged:
    """No answer: escalate, and say why."""
    return Judged(None, Decision(action=Action.ESCALATE, reason=reason))


def probabilities(output: Array, kind: OutputKind, temperature: float = 1.0) -> Array:
    """Rows that sum to 1, float64 [items, classes], from finite output of the declared kind.

    Probabilities of a quantised model do not quite, and are brought to it. Temperature scaling
    divides logits (Guo et al., 2017); probabilities are turned into log-probabilities first.
    """
    values = output.astype(np.float64)
    if kind is OutputKind.PROBS:
        if temperature == 1.0:
            # The floor is for rows that are no distribution: nobody takes their scores.
            values /= np.maximum(np.add.reduce(values, axis=1, keepdims=True), 0.5)
            return values
        values = np.log(np.clip(values, 1e-12, None))
    values = values / temperature
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    normalised: Array = exponents / exponents.sum(axis=1, keepdims=True)
    return normalised


def answers_of(scores: Array, classes: Sequence[str]) -> list[Answer]:
    """The most probable class of each row of probabilities [items, classes]."""
    best = scores.argmax(axis=1).tolist()
    confidence = np.minimum(scores.max(axis=1), 1.0).tolist()
    rounded = np.round(scores, 6).tolist()
    return [
        trusted(Answer, label=classes[k], index=k, confidence=sure, scores=tuple(row))
        for k, sure, row in zip(best, confidence, rounded, strict=True)
    ]


def is_distribution(output: Array, kind: OutputKind) -> NDArray[np.bool_]:
    """False for each row that is declared a distribution and is none; logits never are.

    Looked at before any temperature: scaling would hide it.
    """
    if kind is OutputKind.LOGITS:
        return np.ones(len(output), dtype=np.bool_)
    values = output.astype(np.float64)
    return _sums_to_one(np.exp(np.minimum(values, 1.0)) if kind is OutputKind.LOG_PROBS else values)


def _sums_to_one(scores: Array) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = (scores.min(axis=1) >= -1e-6) & (
        np.abs(scores.sum(axis=1) - 1.0) <= _ROUNDING
    )
    return within


def _threshold(spec: GateSpec, override: GateOverride) -> float:
    if override.threshold is not None:
        return override.threshold
    if override.escalate is not None:
        return spec.threshold_for(override.escalate)
    return spec.threshold
