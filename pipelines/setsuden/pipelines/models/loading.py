"""From a bundle to a model that runs: judged by its graph, tried, and placed.

Every model is tried outside this process first, so that none hangs, floods or kills it at start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec

from setsuden.pipelines.bundle import Bundle
from setsuden.schemas.errors import MissingExtraError
from setsuden.schemas.log import get_logger
from setsuden.schemas.pipeline import Limits

from . import forked_trial, graph, native, session, trial
from .failure import FailureKind, RunFailedError, TrialError
from .forked_trial import ForkedTrial
from .model_process import ModelProcess, order
from .runner import ModelRunner
from .watchdog import Watchdog

log = get_logger(__name__)


def load(runners: Sequence[ModelRunner], watchdog: Watchdog, patience_seconds: float) -> None:
    """Try these models, all at the same time, and wait no longer than this for all of them.

    One that is not done by then is tried on in the background, and its first run waits for that.
    Afterwards ``problem`` says which cannot be used. Raises MissingExtraError without onnxruntime.
    """
    if runners:
        _need_onnxruntime()
    deadline = time.monotonic() + patience_seconds
    loadings = [_Loading(runner, watchdog) for runner in runners]
    if any(runner.why_apart is None for runner in runners):
        native.import_runtime()  # once here, not in each fork and then here again
    for loading in loadings:  # before any thread is started: a fork needs a process without
        loading.fork()
    for loading in loadings:
        loading.launch()
    for loading in loadings:
        loading.settle(deadline)
    watchdog.start()


def check(bundle: Bundle, model: str, limits: Limits) -> None:
    """Try one model in a process of its own, as both tiers do before they use it.

    Raises BundleError (TrialError for what the trial shows), MissingExtraError.
    """
    _need_onnxruntime()
    content, ref = bundle.read(model)
    process = ModelProcess(order(bundle, model, ref, limits), _NobodysAccount())
    try:
        bounded = graph.why_unbounded(content) is None
        _tried(bundle, model, process, limits, bounded=bounded)
    finally:
        process.close()


class _NobodysAccount:
    """CPU time that no meter asks for."""

    def follow(self, pid: int) -> None:
        """Nothing."""

    def ended(self, pid: int, cpu_seconds: float) -> None:
        """Nothing."""


def _tried(
    bundle: Bundle, model: str, process: ModelProcess, limits: Limits, *, bounded: bool
) -> trial.TrialReport:
    """Start the process and try the model there, under all limits; raises TrialError."""
    try:
        process.start()
    except RunFailedError as error:
        raise session.unopened(bundle.spec(model), *error.failure) from error
    # What invented input makes of an unbounded graph says little of it: a sample is better.
    invent = bounded or bundle.manifest.observation.sample is None
    return trial.check(bundle, model, process.run, run_seconds=limits.run_seconds, invent=invent)


def _need_onnxruntime() -> None:
    if find_spec("onnxruntime") is None:
        raise MissingExtraError(
            "onnxruntime is not installed", remedy="pip install 'setsuden[edge]'"
        )


class _Loading:
    """One model between its file and its place."""

    def __init__(self, runner: ModelRunner, watchdog: Watchdog) -> None:
        self._runner = runner
        assert runner.content is not None  # noqa: S101  # it was just read
        self._content = runner.content
        self._fork: ForkedTrial | None = None
        self._done = threading.Event()
        self._late = False
        try:
            runner.why_apart = graph.why_unbounded(self._content)
        except TrialError as error:
            self._refuse(error)
        if runner.why_apart is None and watchdog.suspects(runner.pipeline, runner.ref.digest):
            runner.why_apart = "a process died while it ran"

    def fork(self) -> None:
        """What is bounded and may be forked is tried in a fork."""
        runner = self._runner
        if runner.why_apart is None and runner.problem is None and forked_trial.possible():
            with suppress(OSError):  # no room for one more process: it is tried apart, later
                self._fork = ForkedTrial(runner.bundle, runner.model, self._content, runner.limits)

    def launch(self) -> None:
        """All else is tried in a process of its own, from the runner's thread."""
        if self._fork is None and self._runner.problem is None:
            self._post()

    def _post(self) -> None:
        try:
            self._runner.apart.thread.post(self._try_apart)
        except RunFailedError as error:
            self._refuse(session.unopened(self._runner.spec, *error.failure))
            self._done.set()

    def settle(self, deadline: float) -> None:
        """Wait for the trial, and place the model as it went."""
        if self._runner.problem is not None:
            return
        if self._fork is None:
            self._done.wait(max(0.0, deadline - time.monotonic()))
            self._late = not self._done.is_set()
            return
        try:
            report = self._fork.result(deadline)
        except TrialError as error:
            self._refuse(error)
            return
        if report is None:
            self._late = True
            self._post()
        else:
            self._adopt(report)

    def _try_apart(self) -> None:
        """In the runner's thread: start its process and try it there, under all limits."""
        runner = self._runner
        try:
            bounded = runner.why_apart is None
            process, limits = runner.apart.process, runner.limits
            self._adopt(_tried(runner.bundle, runner.model, process, limits, bounded=bounded))
        except TrialError as error:
            self._refuse(error)
        except Exception as error:
            log.exception("trial_failed", pipeline=runner.pipeline)
            self._refuse(TrialError(FailureKind.UNUSABLE, f"its trial failed: {error!r}"))
        finally:
            self._done.set()

    def _adopt(self, report: trial.TrialReport) -> None:
        runner = self._runner
        if runner.why_apart is None and self._late:
            runner.why_apart = "its trial took long, and this process has other work"
        opened = None
        if runner.why_apart is None:
            classes = len(runner.bundle.manifest.classes)
            opened = session.opened(self._content, runner.spec, runner.ref, classes)
            runner.apart.process.close()
        runner.adopt(report, opened)
        if runner.why_apart is not None:
            where = {"pipeline": runner.pipeline, "model": runner.model}
            log.info("model_runs_apart", **where, reason=runner.why_apart)
        self._content = b""

    def _refuse(self, error: TrialError) -> None:
        runner = self._runner
        runner.apart.process.close()
        runner.refuse(error)
        self._content = b""
        where = {"pipeline": runner.pipeline, "model": runner.model, "kind": error.kind.value}
        log.error("model_unusable", **where, detail=str(error)[:1000])
