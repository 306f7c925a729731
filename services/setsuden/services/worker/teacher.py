"""The teacher: observations in, rows of probabilities or a problem each out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setsuden.energy import MeteredRun
from setsuden.pipelines import gate
from setsuden.pipelines.models.failure import Failure
from setsuden.pipelines.models.runner import RunOutcome
from setsuden.pipelines.pipeline import Pipeline
from setsuden.schemas import streams
from setsuden.schemas.bundle import OutputKind
from setsuden.schemas.result import Problem

from . import settle
from .records import Writer, problem
from .traces import SpanMaker

Observations = Sequence[NDArray[Any]]


class Choice(NamedTuple):
    """The most probable class of one event, as ``gate.answers_of`` chooses it."""

    class_index: int
    confidence: float
    scores: list[float]
    """Probabilities in the order of the classes, rounded to 6 digits."""


Row = Choice | Problem


class TeacherAnswers(NamedTuple):
    """What one inference gave."""

    rows: list[Row]
    run: RunOutcome
    metered: MeteredRun
    """Has the settled joules once its window has closed."""


class TeacherRaisedError(Exception):
    """The model gave nothing for this batch; ``problem`` says what became of it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Teacher:
    """The pipeline in force, with what records and spans say of its model."""

    def __init__(self, pipeline: Pipeline, region: str, max_batch: int | None) -> None:
        """``max_batch`` is the worker's own bound, beside the model's."""
        runner = pipeline.runner
        assert runner is not None  # noqa: S101  # the cloud's pipelines have a model each
        self.pipeline, self.spec, self._runner = pipeline, pipeline.spec, runner
        self.batch = min(max_batch or runner.max_batch, runner.max_batch)
        """Events in one run; 1 once the model has turned out to take no more."""
        manifest = pipeline.manifest
        self.observation = manifest.observation
        self.writer = Writer(region, self.spec.name, runner.ref, manifest.classes)
        self.spans = SpanMaker(
            self.spec.name, streams.consumer_name(region, self.spec.name), runner.ref
        )

    async def run(self, observations: Observations) -> TeacherAnswers:
        """One inference; raises TeacherRaisedError. One at a time, the caller sees to it."""
        with self.pipeline.held():
            return self._answers(await self._runner.run(observations))

    async def run_alone(self, observation: NDArray[Any]) -> TeacherAnswers:
        """One inference in a process of the model's own, which it may crash; raises as ``run``."""
        with self.pipeline.held():
            return self._answers(await self._runner.run_alone(observation))

    @property
    def is_apart(self) -> bool:
        """True while every run happens in a process of the model's own."""
        return self._runner.why_apart is not None

    def _answers(self, outcome: RunOutcome) -> TeacherAnswers:
        failure = outcome.failure
        if failure is not None or outcome.output is None or outcome.metered is None:
            raise TeacherRaisedError(_problem(failure))
        return TeacherAnswers(
            _rows(outcome.output, self._runner.spec.kind), outcome, outcome.metered
        )


def _problem(failure: Failure | None) -> Problem:
    assert failure is not None  # noqa: S101  # a run gives an output or a failure
    return problem(f"teacher_{failure.kind}", failure.message)


def _rows(output: NDArray[Any], kind: OutputKind) -> list[Row]:
    finite = np.isfinite(output)
    if finite.all():
        good = gate.is_distribution(output, kind)
        if good.all():
            return list(_choices(gate.probabilities(output, kind)))
    whole = finite.all(axis=1)
    safe = np.where(whole[:, None], output, 0.0)
    good = whole & gate.is_distribution(safe, kind)
    choices = _choices(gate.probabilities(safe, kind))
    return [
        row if ok else (_NO_DISTRIBUTION if is_finite else _NOT_FINITE)
        for row, ok, is_finite in zip(choices, good.tolist(), whole.tolist(), strict=True)
    ]


_NOT_FINITE = problem(settle.TEACHER_NOT_FINITE, "the output holds NaN or infinity")
_NO_DISTRIBUTION = problem(
    settle.TEACHER_NO_DISTRIBUTION, "the output is declared to be probabilities and is not"
)


def _choices(scores: NDArray[Any]) -> list[Choice]:
    """One choice for each row, by whole columns: a Python loop costs 6 µs a row."""
    best = scores.argmax(axis=1).tolist()
    confidence = scores.max(axis=1).clip(0.0, 1.0).tolist()
    return list(map(Choice, best, confidence, np.round(scores, 6).tolist()))
