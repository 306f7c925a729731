"""The student of one pipeline: batches judged by model and gate, whatever the model does."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from setsuden.pipelines import bundle as bundles
from setsuden.pipelines import session as sessions
from setsuden.pipelines.energy import Meter, MeteredRun, WorkKey
from setsuden.pipelines.gate import Gate, Judged, unusable
from setsuden.schemas.bundle import Manifest, OutputKind
from setsuden.schemas.decision import Reason
from setsuden.schemas.energy import EnergyReading, share_of, total
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import ModelRef

log = logging.getLogger(__name__)
Array = NDArray[Any]


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
        session: sessions.Session | None,
        meter: Meter,
    ) -> None:
        self.spec = spec
        self.manifest = manifest
        self.model: ModelRef | None = session.ref if session is not None else None
        self._session = session
        self._meter = meter
        self._work = _work_key(spec.name, self.model)
        self._gate = _gate(spec, manifest)
        self.max_batch = session.spec.max_batch if session is not None else 1024
        self.failures = 0

    def judge(self, observations: Sequence[Array]) -> StudentRun:
        """Judge the observations together, or one by one when the model fails on them all."""
        start = time.monotonic_ns()
        if self._session is None or self._gate is None:
            return _nothing_ran(Reason.NO_STUDENT, len(observations), start)
        try:
            return self._run(self._session, self._gate, observations, start)
        except Exception as error:  # a user's model may raise anything; its events escalate
            if len(observations) > 1:
                return self._one_by_one(observations, start)
            self.failures += 1
            log.warning("student_failed", extra={"detail": type(error).__name__})
            judged = [unusable(Reason.STUDENT_RAISED)]
            return StudentRun(judged, None, start, start, time.monotonic_ns())

    def distrusted(self, items: int) -> StudentRun:
        """Nothing is run: these observations, or some near them, killed the agent before."""
        return _nothing_ran(Reason.STUDENT_CRASHED, items, time.monotonic_ns())

    def _run(
        self, session: sessions.Session, gate: Gate, observations: Sequence[Array], start: int
    ) -> StudentRun:
        count = len(observations)
        run, metered = self._metered(session, observations)
        end = time.monotonic_ns()
        if session.check(run.output, count):
            judged = gate.judge(run.output)
        else:
            judged = [unusable(Reason.STUDENT_WRONG_SHAPE)] * count
        energy = self._meter.provisional(metered)
        began = max(start, end - int(run.wall_seconds * 1e9))
        return StudentRun(judged, energy, start, began, end, metered)

    def _metered(
        self, session: sessions.Session, observations: Sequence[Array]
    ) -> tuple[sessions.Run, MeteredRun]:
        """One run, with its part of the window's joules to come."""
        batch = session.prepare(observations)
        metered = self._meter.begin(self._work)
        try:
            run = session.run(batch)
        except BaseException:
            self._meter.abandon(metered)
            raise
        self._meter.finish(metered, len(observations), run.cpu_seconds, run.method)
        return run, metered

    def _one_by_one(self, observations: Sequence[Array], start: int) -> StudentRun:
        runs = [self.judge([observation]) for observation in observations]
        judged = [run.judged[0] for run in runs]
        # One figure stands for all: what the successful ones took, by equal shares.
        readings = [run.energy for run in runs if run.energy is not None]
        energy = share_of(total(readings), 1 / len(runs)) if readings else None
        return StudentRun(judged, energy, start, start, time.monotonic_ns())


def _nothing_ran(reason: Reason, items: int, now_ns: int) -> StudentRun:
    return StudentRun([unusable(reason)] * items, None, now_ns, now_ns, now_ns)


def _work_key(pipeline: str, model: ModelRef | None) -> WorkKey:
    if model is None:
        return WorkKey(pipeline, "none", "")
    return WorkKey(pipeline, f"{model.bundle}/{model.model}", model.digest)


def load(spec: PipelineSpec, base: Path, meter: Meter) -> Student:
    """The student of a declared pipeline; raises ConfigError, BundleError, MissingExtraError."""
    bundle = bundles.load(base / spec.bundle)
    if spec.teacher not in bundle.manifest.models:
        raise ConfigError(
            f"pipeline {spec.name}: the bundle has no model {spec.teacher!r}",
            remedy=f"set teacher to one of {', '.join(sorted(bundle.manifest.models))}",
        )
    session = sessions.load(bundle, "student") if "student" in bundle.manifest.models else None
    return Student(spec, bundle.manifest, session, meter)


def _gate(spec: PipelineSpec, manifest: Manifest) -> Gate | None:
    if manifest.gate is None:
        return None
    student = manifest.models.get("student")
    kind = student.kind if student is not None else OutputKind.LOGITS
    try:
        return Gate(manifest.gate, manifest.classes, kind, spec.gate)
    except ValueError as error:
        raise ConfigError(f"pipeline {spec.name}: {error}") from error
