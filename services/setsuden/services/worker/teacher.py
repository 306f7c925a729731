"""The teacher: observations in, rows of probabilities or a problem each out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setsuden.pipelines import gate, session
from setsuden.pipelines.bundle import Bundle
from setsuden.pipelines.session import Run
from setsuden.schemas.result import Problem

from . import settle
from .records import problem

Observations = Sequence[NDArray[Any]]
_WEIGHT = 0.2
"""How fast the estimate of a run's time follows."""


class Choice(NamedTuple):
    """The most probable class of one event, as ``gate.answers_of`` chooses it."""

    class_index: int
    confidence: float
    scores: list[float]
    """Probabilities in the order of the classes, rounded to 6 digits."""


Row = Choice | Problem


class Answers(NamedTuple):
    """What one inference gave."""

    rows: list[Row]
    run: Run


class TeacherRaisedError(Exception):
    """The model could not be run on this batch."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Teacher:
    """One loaded model, run in the event loop when it is quick and in a thread when it is not."""

    def __init__(self, bundle: Bundle, model: str, inline_below_ms: float) -> None:
        self.bundle, self.model = bundle, model
        self.session = session.load(bundle, model)
        self.spec = self.session.spec
        self.classes = bundle.manifest.classes
        self.observation = bundle.manifest.observation
        self._inline_below = inline_below_ms / 1000
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="teacher")
        zeros = np.zeros(self.observation.shape, self.observation.dtype.value)
        self._seconds_per_item = self._run([zeros]).run.wall_seconds

    async def run(self, observations: Observations) -> Answers:
        """One inference; raises TeacherRaisedError. One at a time, the caller sees to it."""
        expected = self._seconds_per_item * len(observations)
        if expected < self._inline_below:
            answers = self._run(observations)
        else:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._executor, self._run, observations)
        per_item = answers.run.wall_seconds / len(observations)
        self._seconds_per_item += _WEIGHT * (per_item - self._seconds_per_item)
        return answers

    def close(self) -> None:
        """Let the thread go; does not wait for a model that hangs."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, observations: Observations) -> Answers:
        try:
            run = self.session.run(self.session.prepare(observations))
        except Exception as error:  # onnxruntime's own tree derives from Exception alone
            raise TeacherRaisedError(problem(settle.TEACHER_RAISED, _words(error))) from error
        if not self.session.check(run.output, len(observations)):
            shape = list(run.output.shape)
            raise TeacherRaisedError(problem(settle.TEACHER_WRONG_SHAPE, f"output is {shape}"))
        return Answers(self._rows(run.output), run)

    def _rows(self, output: NDArray[Any]) -> list[Row]:
        finite = np.isfinite(output)
        if finite.all():
            return list(_choices(gate.probabilities(output, self.spec.kind)))
        good = finite.all(axis=1)
        safe = _choices(gate.probabilities(np.where(good[:, None], output, 0.0), self.spec.kind))
        bad = problem(settle.TEACHER_NOT_FINITE, "the output holds NaN or infinity")
        return [row if ok else bad for row, ok in zip(safe, good.tolist(), strict=True)]


def _choices(scores: NDArray[Any]) -> list[Choice]:
    """One choice for each row, by whole columns: a Python loop costs 6 µs a row."""
    best = scores.argmax(axis=1).tolist()
    confidence = scores.max(axis=1).clip(0.0, 1.0).tolist()
    return list(map(Choice, best, confidence, np.round(scores, 6).tolist()))


def _words(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
