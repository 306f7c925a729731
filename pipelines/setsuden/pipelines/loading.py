"""From a bundle to a model that runs: judged by its graph, tried, and placed.

Every model is tried outside this process first, so that none hangs, floods or kills it at start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec

from setsuden.schemas.errors import MissingExtraError

from . import forked_trial, graph, native, session, trial
from .failure import FailureKind, RunFailedError, TrialError
from .forked_trial import ForkedTrial
from .runner import ModelRunner
from .watchdog import Watchdog

log = logging.getLogger(__name__)


def load(runners: Sequence[ModelRunner], watchdog: Watchdog, patience_seconds: float) -> None:
    """Try these models, all at the same time, and wait no longer than this for all of them.

    One that is not done by then is tried on in the background, and its first run waits for that.
    Afterwards ``problem`` says which cannot be used. Raises MissingExtraError without onnxruntime.
    """
    if runners and find_spec("onnxruntime") is None:
        raise MissingExtraError(
            "onnxruntime is not installed", remedy="pip install 'setsuden[edge]'"
        )
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


class _Loading:
    """One model between its file and its place."""

    def __init__(self, runner: ModelRunner, watchdog: Watchdog) -> None:
        self._runner = runner
        assert runner.content is not None  # noqa: S101  # it was just read
        self._content = runner.content
        self._fork: ForkedTrial | None = None
        self._done = threading.Event()
        self._late = False
        runner.why_apart = graph.why_unbounded(self._content)
        if runner.why_apart is None and watchdog.suspects(runner.pipeline, runner.ref.digest):
            runner.why_apart = "a process died while it ran"

    def fork(self) -> None:
        """What is bounded and may be forked is tried in a fork."""
        runner = self._runner
        if runner.why_apart is None and forked_trial.possible():
            self._fork = ForkedTrial(runner.bundle, runner.model, self._content, runner.limits)

    def launch(self) -> None:
        """All else is tried in a process of its own, from the runner's thread."""
        if self._fork is None:
            self._runner.apart.thread.post(self._try_apart)

    def settle(self, deadline: float) -> None:
        """Wait for the trial, and place the model as it went."""
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
            self._runner.apart.thread.post(self._try_apart)
        else:
            self._adopt(report)

    def _try_apart(self) -> None:
        """In the runner's thread: start its process and try it there, under all limits."""
        runner = self._runner
        try:
            runner.apart.process.start()
            report = trial.check(
                runner.bundle,
                runner.model,
                runner.apart.process.run,
                run_seconds=runner.limits.run_seconds,
                invent=runner.why_apart is None or runner.bundle.sample() is None,
            )
            self._adopt(report)
        except TrialError as error:
            self._refuse(error)
        except RunFailedError as error:
            words = f"{runner.spec.file} cannot be loaded: {error}"
            self._refuse(TrialError(error.failure.kind, words))
        except Exception as error:
            log.exception("trial_failed", extra={"pipeline": runner.pipeline})
            self._refuse(TrialError(FailureKind.UNUSABLE, f"its trial failed: {error!r}"))
        finally:
            self._done.set()

    def _adopt(self, report: trial.Report) -> None:
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
            log.info("model_runs_apart", extra={**where, "reason": runner.why_apart})
        self._content = b""

    def _refuse(self, error: TrialError) -> None:
        runner = self._runner
        runner.apart.process.close()
        runner.refuse(error)
        self._content = b""
        where = {"pipeline": runner.pipeline, "model": runner.model, "kind": error.kind.value}
        log.error("model_unusable", extra={**where, "detail": str(error)[:1000]})
