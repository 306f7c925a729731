"""The student of one pipeline: batches judged by model and gate, whatever the model does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from setsuden.energy import Meter, MeteredRun
from setsuden.pipelines import bundle as bundles
from setsuden.pipelines.gate import Gate, Judged, unusable
from setsuden.pipelines.models import loading
from setsuden.pipelines.models.apart import RestartPolicy
from setsuden.pipelines.models.failure import Failure, FailureKind
from setsuden.pipelines.models.runner import ModelRunner, RunOutcome, Tier
from setsuden.pipelines.models.watchdog import Watchdog
from setsuden.schemas.bundle import Manifest, OutputKind
from setsuden.schemas.decision import Reason
from setsuden.schemas.energy import EnergyReading, share_of, total
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.log import get_logger
from setsuden.schemas.pipeline import Limits, PipelineSpec
from setsuden.schemas.result import ModelRef

log = get_logger(__name__)
Array = NDArray[Any]

TIER = Tier(quick_seconds=0.002, restarts=RestartPolicy(20, seconds_each=1.0, waits=False))
"""Two milliseconds keep no other pipeline waiting that one would notice. A student whose process
dies more often than this rests, so that a hundredth of a core goes into new ones."""
START_SECONDS = 2.0
"""How long all trials together may keep an agent from starting; they go on beside it."""
_DEADLINE_SHARE = 0.5
"""Of a pipeline's deadline: a student that takes longer leaves the cloud no time."""
_REPEAT_SECONDS = 60.0
"""One line of log in this time for each way that a student fails."""
_NOT_RUN = frozenset({FailureKind.SUSPENDED, FailureKind.UNUSABLE})


class StudentRun(NamedTuple):
    """One run of the student over some observations."""

    judged: list[Judged]
    energy: EnergyReading | None
    """Of each observation: an equal share of the run, provisional."""
    prepare_ns: int
    start_ns: int
    end_ns: int
    """Preparation begun, run begun and ended, on the monotonic clock; equal where nothing ran."""
    metered: MeteredRun | None = None
    """Has the settled joules once its window has closed."""


class Student:
    """Model and gate of one pipeline; a bundle without a student escalates everything."""

    def __init__(
        self,
        spec: PipelineSpec,
        manifest: Manifest,
        runner: ModelRunner | None,
        meter: Meter,
    ) -> None:
        self.spec = spec
        self.manifest = manifest
        self.runner = runner
        self.model: ModelRef | None = runner.ref if runner is not None else None
        self._meter = meter
        self._gate = _gate(spec, manifest)
        self._failures = _Failures(spec.name)

    @property
    def max_batch(self) -> int:
        """Observations in one run at most."""
        return self.runner.max_batch if self.runner is not None else 1024

    @property
    def problem(self) -> str | None:
        """Why there is a student that is never run."""
        broken = self.runner.problem if self.runner is not None else None
        return None if broken is None else str(broken)

    @property
    def patience_seconds(self) -> float:
        """How long a request waits for its turn: as long as one run may take."""
        return (
            self.spec.limits.run_seconds if self.runner is None else self.runner.limits.run_seconds
        )

    def quick(self, items: int) -> bool:
        """True when so many can be judged at once, in the event loop."""
        return self.runner is None or self.runner.quick(items)

    def judge_now(self, observations: Sequence[Array]) -> StudentRun | None:
        """Judge the observations together; None when :meth:`judge` has to do it elsewhere."""
        if self.runner is None or self._gate is None:
            return self.unjudged(Reason.NO_STUDENT, len(observations))
        outcome = self.runner.run_now(observations)
        if outcome is None:
            return None
        if not _whole_batch_failed(outcome, observations):
            return self._judged(self._gate, outcome, len(observations))
        runs = [self.judge_now([observation]) for observation in observations]
        whole = [run for run in runs if run is not None]
        return _together(whole) if len(whole) == len(runs) else None

    async def judge(self, observations: Sequence[Array]) -> StudentRun:
        """Judge the observations together, or one by one when the model fails on them all."""
        if self.runner is None or self._gate is None:
            return self.unjudged(Reason.NO_STUDENT, len(observations))
        outcome = await self.runner.run(observations)
        if not _whole_batch_failed(outcome, observations):
            return self._judged(self._gate, outcome, len(observations))
        return _together([await self.judge([observation]) for observation in observations])

    def unjudged(self, reason: Reason, items: int) -> StudentRun:
        """Nothing is run, and this is why."""
        now = time.monotonic_ns()
        return StudentRun([unusable(reason)] * items, None, now, now, now)

    def close(self) -> None:
        """Let thread and process go."""
        if self.runner is not None:
            self.runner.close()

    def _judged(self, gate: Gate, outcome: RunOutcome, items: int) -> StudentRun:
        energy = None
        if outcome.metered is not None:
            energy = self._meter.provisional(outcome.metered)
        if outcome.output is not None:
            judged = gate.judge(outcome.output)
        else:
            assert outcome.failure is not None  # noqa: S101  # a run gives one of the two
            self._failures.tell(outcome.failure)
            judged = [unusable(Reason(f"student_{outcome.failure.kind}"))] * items
        times = outcome.prepare_ns, outcome.start_ns, outcome.end_ns
        return StudentRun(judged, energy, *times, outcome.metered)


class _Failures:
    """Says how a student fails, at most once a minute for each way."""

    def __init__(self, pipeline: str, now: Callable[[], float] = time.monotonic) -> None:
        self._pipeline, self._now = pipeline, now
        self._untold: dict[FailureKind, int] = {}
        self._told: dict[FailureKind, float] = {}

    def tell(self, failure: Failure) -> None:
        """Log it, with how many there were since the last line."""
        kind = failure.kind
        self._untold[kind] = self._untold.get(kind, 0) + 1
        if self._now() - self._told.get(kind, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return
        self._told[kind] = self._now()
        where = {"pipeline": self._pipeline, "kind": kind.value, "runs": self._untold.pop(kind)}
        log.warning("student_failed", **where, detail=failure.message)


def _whole_batch_failed(outcome: RunOutcome, observations: Sequence[Array]) -> bool:
    """One of several may be at fault: the others deserve a run without it."""
    failure = outcome.failure
    return failure is not None and len(observations) > 1 and failure.kind not in _NOT_RUN


def _together(runs: Sequence[StudentRun]) -> StudentRun:
    """Runs of one observation each, as one."""
    judged = [run.judged[0] for run in runs]
    # One figure stands for all: what the successful ones took, by equal shares.
    readings = [run.energy for run in runs if run.energy is not None]
    energy = share_of(total(readings), 1 / len(runs)) if readings else None
    start = runs[0].prepare_ns
    return StudentRun(judged, energy, start, start, time.monotonic_ns())


def load(spec: PipelineSpec, base: Path, meter: Meter, watchdog: Watchdog | None = None) -> Student:
    """The student of one declared pipeline; raises what :func:`load_all` raises."""
    return load_all([spec], base, meter, watchdog or Watchdog())[0]


def load_all(
    specs: Sequence[PipelineSpec], base: Path, meter: Meter, watchdog: Watchdog
) -> list[Student]:
    """The students of the declared pipelines, tried as far as START_SECONDS reach.

    A student that cannot be used costs its own pipeline its student, and says so in ``problem``.
    Raises ConfigError, BundleError (for a manifest or a file), MissingExtraError.
    """
    students = [_student(spec, base, meter, watchdog) for spec in specs]
    runners = [student.runner for student in students if student.runner is not None]
    loading.load(runners, watchdog, START_SECONDS)
    return students


def _student(spec: PipelineSpec, base: Path, meter: Meter, watchdog: Watchdog) -> Student:
    bundle = bundles.load(base / spec.bundle)
    if spec.teacher not in bundle.manifest.models:
        raise ConfigError(
            f"pipeline {spec.name}: the bundle has no model {spec.teacher!r}",
            remedy=f"set teacher to one of {', '.join(sorted(bundle.manifest.models))}",
        )
    runner = None
    if "student" in bundle.manifest.models:
        limits = _limits(spec)
        runner = ModelRunner(
            bundle,
            "student",
            spec.name,
            limits=limits,
            meter=meter,
            tier=TIER,
            watchdog=watchdog,
        )
    return Student(spec, bundle.manifest, runner, meter)


def _limits(spec: PipelineSpec) -> Limits:
    """The declared ones, with time left for the cloud before the pipeline's deadline."""
    if spec.deadline_seconds is None:
        return spec.limits
    seconds = min(spec.limits.run_seconds, _DEADLINE_SHARE * spec.deadline_seconds)
    return spec.limits.model_copy(update={"run_seconds": seconds})


def _gate(spec: PipelineSpec, manifest: Manifest) -> Gate | None:
    if manifest.gate is None:
        return None
    student = manifest.models.get("student")
    kind = student.kind if student is not None else OutputKind.LOGITS
    try:
        return Gate(manifest.gate, manifest.classes, kind, spec.gate)
    except ValueError as error:
        raise ConfigError(f"pipeline {spec.name}: {error}") from error
