"""Runs a model where it can do no harm to others, and says what came of each run.

A model whose graph is bounded (:mod:`graph`) and whose trial was quick runs in the caller's own
thread; a slow one in a thread beside it; any other in a process of its own, with limits. Whoever
overruns in here is run out there from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from numpy.typing import NDArray

from setsuden.energy import Meter, MeteredRun, WorkKey
from setsuden.pipelines.bundle import Bundle
from setsuden.schemas.energy import Method
from setsuden.schemas.log import get_logger
from setsuden.schemas.pipeline import Limits

from .apart import Apart, RestartPolicy
from .failure import Failure, FailureKind, RunFailedError, TrialError
from .model_process import order
from .native import first_line, ran_out_of_memory
from .preparation import Preparation, UnfitInputError
from .session import Run, Session, is_row_per_item
from .trial import TrialReport
from .watchdog import RunWatch, Watchdog

log = get_logger(__name__)
Array = NDArray[Any]

_INLINE_CPU_SECONDS = 0.25
"""A run in the caller's thread that has used so much is ended: its trial took a hundredth."""
_WEIGHT = 0.2
"""How fast the estimate of a run's time follows."""


class RunOutcome(NamedTuple):
    """What one run came to: either ``output`` or ``failure``."""

    output: Array | None
    """[items, classes], numbers, perhaps not finite."""
    failure: Failure | None
    prepare_ns: int
    start_ns: int
    end_ns: int
    """Preparation begun, run begun and ended, on the monotonic clock."""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    method: Method = Method.THREAD
    metered: MeteredRun | None = None
    """Has the settled joules once its window has closed; None where nothing came of it."""


class ModelTier(NamedTuple):
    """How a tier wants its models run."""

    quick_seconds: float
    """A run expected to take less is run in the caller's thread."""
    restarts: RestartPolicy
    """For a model whose runs keep ending its process."""


class ModelRunner:
    """One model of one pipeline. One run at a time, wherever it runs."""

    def __init__(
        self,
        bundle: Bundle,
        model: str,
        pipeline: str,
        *,
        limits: Limits,
        meter: Meter,
        tier: ModelTier,
        watchdog: Watchdog,
    ) -> None:
        """Not usable before :mod:`loading` has tried it. Raises BundleError for its file."""
        content, self.ref = bundle.read(model)
        self.content: bytes | None = content
        """The file, until the model is open."""
        self.bundle, self.model, self.pipeline = bundle, model, pipeline
        self._meter, self._tier, self._dog = meter, tier, watchdog
        self.spec, self.limits = bundle.spec(model), limits
        self.max_batch = self.spec.max_batch
        self.problem: TrialError | None = None
        """Why the model is not run at all."""
        self.why_apart: str | None = None
        """Why it runs in a process of its own; None where it need not."""
        self._order = order(bundle, model, self.ref, limits)
        self.apart = self._new_apart("model", spare=False)
        """Where it runs when it may not run here; slow runs here are done by its thread."""
        self._alone: Apart | None = None
        """A second one, for runs that may end it, made when it is first asked for."""
        self._work = WorkKey(pipeline, f"{self.ref.bundle}/{self.ref.model}", self.ref.digest)
        self._prepare = Preparation(self.spec)
        self._classes = len(bundle.manifest.classes)
        self._session: Session | None = None
        self._watch: RunWatch | None = None
        self._estimate = _Estimate(tier.quick_seconds, 0.0)

    # -- what loading decides -------------------------------------------------------------------

    def adopt(self, report: TrialReport, session: Session | None) -> None:
        """The trial went well; with a session the model runs in this process."""
        self.max_batch = report.max_batch
        rest = report.seconds_in_batch - report.seconds_alone
        self._estimate = _Estimate(report.seconds_alone, max(0.0, rest) / report.max_batch)
        if session is not None:
            self._watch = self._dog.watch(self.pipeline, self.ref.digest, session.native.end)
            self._session = session
        self.content = None

    def refuse(self, error: TrialError) -> None:
        """The trial went wrong: every run fails with its reason."""
        self.problem = error
        self.content = None

    # -- runs -----------------------------------------------------------------------------------

    def quick(self, items: int) -> bool:
        """True when a run of so many needs neither thread nor process."""
        if self.problem is not None:
            return True
        in_here = self._session is not None and self.spec.threads == 1
        return in_here and self._estimate.seconds(items) < self._tier.quick_seconds

    def run_now(self, observations: Sequence[Array]) -> RunOutcome | None:
        """One run in the caller's thread; None when :meth:`run` has to do it elsewhere."""
        if not self.quick(len(observations)):
            return None
        return self._run(observations, cpu_limit=_INLINE_CPU_SECONDS)

    async def run(self, observations: Sequence[Array]) -> RunOutcome:
        """One run; never raises for what the model does, and ends within its limits."""
        outcome = self.run_now(observations)
        if outcome is None:
            outcome = await self._in_thread(self.apart, partial(self._run, observations))
        return outcome

    async def run_alone(self, observation: Array) -> RunOutcome:
        """As :meth:`run`, in a process beside all others whatever is known of the model."""
        if self._alone is None:
            self._alone = self._new_apart("alone", spare=True)
        run = partial(self._run, [observation], apart=self._alone)
        return await self._in_thread(self._alone, run)

    @staticmethod
    async def _in_thread(apart: Apart, run: Callable[[], RunOutcome | None]) -> RunOutcome:
        began = time.monotonic_ns()
        try:
            outcome = await apart.thread.call(run)
        except RunFailedError as error:
            return _failed(began, *error.failure)
        assert outcome is not None  # noqa: S101  # only a limit on CPU time gives None
        return outcome

    def close(self) -> None:
        """Let threads and processes go; does not wait for a model that hangs."""
        for each in (self.apart, self._alone):
            if each is not None:
                each.close()

    def release(self) -> None:
        """As :meth:`close`, when no run is going on: nothing of it is watched any more either."""
        self.close()
        if self._watch is not None:
            self._watch.close()
        self._session = self._watch = None

    def _new_apart(self, name: str, *, spare: bool) -> Apart:
        policy = self._tier.restarts
        return Apart(f"{name}-{self.pipeline}", self._order, self._meter, policy, spare=spare)

    def _run(
        self,
        observations: Sequence[Array],
        *,
        apart: Apart | None = None,
        cpu_limit: float | None = None,
    ) -> RunOutcome | None:
        """Here or apart; None when a run with a limit on CPU time overran it."""
        began = time.monotonic_ns()
        if self.problem is not None:
            return _failed(began, self.problem.kind, self.problem.message)
        try:
            batch = self._prepare(observations)
        except UnfitInputError as error:
            return _failed(began, FailureKind.UNFIT_INPUT, str(error))
        except MemoryError as error:
            return _failed(began, FailureKind.OUT_OF_MEMORY, first_line(error))
        session, watch = self._session, self._watch
        if apart is not None or session is None or watch is None:
            return self._run_apart(apart or self.apart, batch, began)
        return self._run_here(session, watch, batch, began, cpu_limit)

    def _run_here(  # one private call
        self,
        session: Session,
        watch: RunWatch,
        batch: Array,
        began: int,
        cpu_limit: float | None,
    ) -> RunOutcome | None:
        metered = self._meter.begin(self._work)
        watch.begin(self.limits.run_seconds, cpu_limit)
        try:
            run = session.run(batch)
        except Exception as error:  # a user's model may raise anything
            self._meter.abandon(metered)
            if not watch.overran:
                memory = ran_out_of_memory(error)
                kind = FailureKind.OUT_OF_MEMORY if memory else FailureKind.RAISED
                return _failed(began, kind, first_line(error))
        else:
            self._meter.finish(metered, len(batch), run.cpu_seconds, run.method)
            self._estimate.learn(len(batch), run)
            return self._outcome(run, metered, len(batch), began)
        finally:
            watch.finish()
        self._leave(watch)
        return None if cpu_limit is not None else _late(began, self.limits)

    def _leave(self, watch: RunWatch) -> None:
        """It overran in here: from now on it runs in a process of its own."""
        self.why_apart = "a run in this process overran its limit"
        log.warning("model_moved_apart", pipeline=self.pipeline)
        self._session = self._watch = None
        watch.close()

    def _run_apart(self, apart: Apart, batch: Array, began: int) -> RunOutcome:
        metered = self._meter.begin(self._work)
        try:
            run = apart.run(batch)
        except RunFailedError as error:
            self._meter.abandon(metered)
            return _failed(began, *error.failure)
        except TrialError as error:
            self._meter.abandon(metered)
            return _failed(began, error.kind, error.message)
        self._meter.finish(metered, len(batch), run.cpu_seconds, run.method)
        return self._outcome(run, metered, len(batch), began)

    def _outcome(self, run: Run, metered: MeteredRun, items: int, began: int) -> RunOutcome:
        end = time.monotonic_ns()
        start = max(began, end - int(run.wall_seconds * 1e9))
        failure = None
        if not is_row_per_item(run.output, items, self._classes):
            words = f"the output is {run.output.dtype} {list(run.output.shape)[:8]}"
            failure = Failure(FailureKind.WRONG_SHAPE, words)
        output = run.output if failure is None else None
        used = run.cpu_seconds, run.wall_seconds, run.method
        return RunOutcome(output, failure, began, start, end, *used, metered)


class _Estimate:
    """How long a run takes: a part of its own and a part for each further item."""

    def __init__(self, alone: float, per_item: float) -> None:
        self._alone, self._per_item = alone, per_item

    def seconds(self, items: int) -> float:
        """Of a run of so many, by what was seen."""
        return self._alone + self._per_item * items

    def learn(self, items: int, run: Run) -> None:
        """One more run was seen; by CPU time where it is exact, which no busy machine stretches."""
        seconds = run.cpu_seconds if run.method is Method.THREAD else run.wall_seconds
        if items == 1:
            self._alone += _WEIGHT * (seconds - self._alone)
        else:
            each = max(0.0, seconds - self._alone) / items
            self._per_item += _WEIGHT * (each - self._per_item)


def _failed(began: int, kind: FailureKind, message: str) -> RunOutcome:
    end = time.monotonic_ns()
    return RunOutcome(None, Failure(kind, message[:1000]), began, end, end)


def _late(began: int, limits: Limits) -> RunOutcome:
    words = f"it did not answer within {limits.run_seconds:g} s"
    return _failed(began, FailureKind.TIMED_OUT, words)
