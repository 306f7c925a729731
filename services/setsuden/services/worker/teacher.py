"""The teacher: observations in, rows of probabilities or a problem each out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setsuden.energy import Meter, MeteredRun
from setsuden.pipelines import gate
from setsuden.pipelines.bundle import Bundle
from setsuden.pipelines.models import loading
from setsuden.pipelines.models.apart import RestartPolicy
from setsuden.pipelines.models.failure import Failure
from setsuden.pipelines.models.runner import ModelRunner, RunOutcome, Tier
from setsuden.pipelines.models.watchdog import Watchdog
from setsuden.schemas.bundle import OutputKind
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Problem

from . import settle
from .records import problem

Observations = Sequence[NDArray[Any]]
_START_SECONDS = 3600.0
"""A worker has nothing else to do than wait until its model is tried."""


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
    run: RunOutcome
    metered: MeteredRun
    """Has the settled joules once its window has closed."""


class TeacherRaisedError(Exception):
    """The model gave nothing for this batch; ``problem`` says what became of it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Teacher:
    """One pipeline's teacher, run where it harms nobody else."""

    def __init__(
        self,
        bundle: Bundle,
        pipeline: PipelineSpec,
        meter: Meter,
        inline_below_ms: float,
        watchdog: Watchdog | None = None,
    ) -> None:
        """Tried within its limits first; raises BundleError when it cannot be used."""
        self.bundle = bundle
        tier = Tier(inline_below_ms / 1000, RestartPolicy(50, seconds_each=0.1, waits=True))
        self._watchdog = watchdog = watchdog or Watchdog()
        self.runner = ModelRunner(
            bundle,
            pipeline.teacher,
            pipeline.name,
            limits=pipeline.limits,
            meter=meter,
            tier=tier,
            watchdog=watchdog,
        )
        loading.load([self.runner], watchdog, _START_SECONDS)
        if self.runner.problem is not None:
            self.runner.close()
            raise self.runner.problem
        self.spec, self.ref = self.runner.spec, self.runner.ref
        self.max_batch = self.runner.max_batch
        self.classes = bundle.manifest.classes
        self.observation = bundle.manifest.observation

    async def run(self, observations: Observations) -> Answers:
        """One inference; raises TeacherRaisedError. One at a time, the caller sees to it."""
        return self._answers(await self.runner.run(observations))

    async def run_alone(self, observation: NDArray[Any]) -> Answers:
        """One inference in a process of the model's own, which it may crash; raises as ``run``."""
        return self._answers(await self.runner.run_alone(observation))

    @property
    def is_apart(self) -> bool:
        """True while every run happens in a process of the model's own."""
        return self.runner.why_apart is not None

    def close(self) -> None:
        """Let thread and process go; does not wait for a model that hangs."""
        self.runner.close()
        self._watchdog.close()

    def _answers(self, outcome: RunOutcome) -> Answers:
        failure = outcome.failure
        if failure is not None or outcome.output is None or outcome.metered is None:
            raise TeacherRaisedError(_problem(failure))
        return Answers(_rows(outcome.output, self.spec.kind), outcome, outcome.metered)


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
