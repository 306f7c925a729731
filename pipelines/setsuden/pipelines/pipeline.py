"""One declared pipeline on one tier: bundle, model and gate, and how a batch is judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from numpy.typing import NDArray

from setsuden.energy import Meter, MeteredRun
from setsuden.schemas.bundle import Manifest, OutputKind
from setsuden.schemas.decision import Reason
from setsuden.schemas.energy import EnergyReading, share_of, total
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.log import get_logger
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import ModelRef

from .gate import Gate, Judged, unusable
from .models.failure import Failure, FailureKind
from .models.runner import ModelRunner, RunOutcome

log = get_logger(__name__)
Array = NDArray[Any]

_REPEAT_SECONDS = 60.0
"""At most one log line in this time for each kind of failure."""
_NOT_RUN = frozenset({FailureKind.SUSPENDED, FailureKind.UNUSABLE})
_LARGEST_BATCH = 1024
"""Where there is no model that limits it."""


class JudgedBatch(NamedTuple):
    """What model and gate made of some observations."""

    judged: list[Judged]
    energy: EnergyReading | None
    """Of each observation: an equal share of the run, provisional."""
    prepare_ns: int
    start_ns: int
    end_ns: int
    """Preparation begun, run begun and ended, on the monotonic clock; equal where nothing ran."""
    metered: MeteredRun | None = None
    """Has the settled joules once its window has closed."""
    model: ModelRef | None = None
    """The model in force for this batch."""


class Pipeline:
    """Never changes: a reload replaces the whole object, and a batch keeps the one it took.

    Without a model it escalates everything.
    """

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
        self._gate = _gate(spec, manifest, runner)
        self._failures = _FailureLog(spec.name)
        self._holders = 0
        self._retired = False

    @property
    def max_batch(self) -> int:
        """Observations in one run at most."""
        return self.runner.max_batch if self.runner is not None else _LARGEST_BATCH

    @property
    def problem(self) -> str | None:
        """Why there is a model that is never run."""
        broken = self.runner.problem if self.runner is not None else None
        return None if broken is None else str(broken)

    @property
    def patience_seconds(self) -> float:
        """How long a request waits for its turn: as long as one run may take."""
        limits = self.spec.limits if self.runner is None else self.runner.limits
        return limits.run_seconds

    @property
    def threshold(self) -> float | None:
        """The operating point in force: confidence below which the teacher is asked."""
        return None if self._gate is None else self._gate.threshold

    def quick(self, items: int) -> bool:
        """True when so many can be judged at once, in the event loop."""
        return self.runner is None or self.runner.quick(items)

    # -- batches ------------------------------------------------------------------------------

    def judge_now(self, observations: Sequence[Array]) -> JudgedBatch | None:
        """Judge the observations together; None when :meth:`judge` has to do it elsewhere."""
        if self.runner is None or self._gate is None:
            return self.unjudged(Reason.NO_STUDENT, len(observations))
        outcome = self.runner.run_now(observations)
        if outcome is None:
            return None
        if not _whole_batch_failed(outcome, observations):
            return self._judged(self._gate, outcome, len(observations))
        runs = [self.judge_now([observation]) for observation in observations]
        complete = [run for run in runs if run is not None]
        return _together(complete) if len(complete) == len(runs) else None

    async def judge(self, observations: Sequence[Array]) -> JudgedBatch:
        """Judge the observations together, or one by one when the model fails on them all."""
        if self.runner is None or self._gate is None:
            return self.unjudged(Reason.NO_STUDENT, len(observations))
        with self.held():
            outcome = await self.runner.run(observations)
            if not _whole_batch_failed(outcome, observations):
                return self._judged(self._gate, outcome, len(observations))
            return _together([await self.judge([observation]) for observation in observations])

    def unjudged(self, reason: Reason, items: int) -> JudgedBatch:
        """Escalate without a run, for this reason."""
        now = time.monotonic_ns()
        return JudgedBatch([unusable(reason)] * items, None, now, now, now, None, self.model)

    def _judged(self, gate: Gate, outcome: RunOutcome, items: int) -> JudgedBatch:
        energy = None
        if outcome.metered is not None:
            energy = self._meter.provisional(outcome.metered)
        if outcome.output is not None:
            judged = gate.judge(outcome.output)
        else:
            assert outcome.failure is not None  # noqa: S101  # a run gives one of the two
            self._failures.report(outcome.failure)
            judged = [unusable(Reason(f"student_{outcome.failure.kind}"))] * items
        times = outcome.prepare_ns, outcome.start_ns, outcome.end_ns
        return JudgedBatch(judged, energy, *times, outcome.metered, self.model)

    # -- replacement --------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the model open for this block, even when the pipeline is replaced meanwhile."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._release_if_unused()

    def retire(self) -> None:
        """It was replaced: let the model go once no batch uses it any more."""
        self._retired = True
        self._release_if_unused()

    def _release_if_unused(self) -> None:
        if self._retired and not self._holders and self.runner is not None:
            self.runner.release()

    def close(self) -> None:
        """Let threads and processes go, whatever still runs in them."""
        if self.runner is not None:
            self.runner.close()


class _FailureLog:
    """Logs how a model fails, at most once a minute for each kind."""

    def __init__(self, pipeline: str, now: Callable[[], float] = time.monotonic) -> None:
        self._pipeline, self._now = pipeline, now
        self._unreported: dict[FailureKind, int] = {}
        self._reported_at: dict[FailureKind, float] = {}

    def report(self, failure: Failure) -> None:
        """Log it, with how many there were since the last line."""
        kind = failure.kind
        self._unreported[kind] = self._unreported.get(kind, 0) + 1
        if self._now() - self._reported_at.get(kind, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return
        self._reported_at[kind] = self._now()
        where: dict[str, object] = {"pipeline": self._pipeline, "kind": kind.value}
        where |= {"runs": self._unreported.pop(kind), "detail": failure.message}
        log.warning("student_failed", **where)


def _whole_batch_failed(outcome: RunOutcome, observations: Sequence[Array]) -> bool:
    """One of several may be at fault: the others deserve a run without it."""
    failure = outcome.failure
    return failure is not None and len(observations) > 1 and failure.kind not in _NOT_RUN


def _together(runs: Sequence[JudgedBatch]) -> JudgedBatch:
    """Runs of one observation each, as one."""
    judged = [run.judged[0] for run in runs]
    # One figure stands for all: what the successful ones took, by equal shares.
    readings = [run.energy for run in runs if run.energy is not None]
    energy = share_of(total(readings), 1 / len(runs)) if readings else None
    start = runs[0].prepare_ns
    end = time.monotonic_ns()
    return JudgedBatch(judged, energy, start, start, end, None, runs[0].model)


def _gate(spec: PipelineSpec, manifest: Manifest, runner: ModelRunner | None) -> Gate | None:
    if manifest.gate is None:
        return None
    kind = OutputKind.LOGITS if runner is None else runner.spec.kind
    try:
        return Gate(manifest.gate, manifest.classes, kind, spec.gate)
    except ValueError as error:
        raise ConfigError(f"pipeline {spec.name}: {error}") from error
