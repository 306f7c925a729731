"""The pipelines of one process by name: opened at the start, replaced while events flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from setsuden.energy import Meter
from setsuden.process.reload import PreparedChange
from setsuden.schemas.bundle import Manifest
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.log import get_logger
from setsuden.schemas.pipeline import Limits, PipelineSpec
from setsuden.schemas.result import Tier

from . import bundle as bundles
from .bundle import Bundle
from .models import loading
from .models.failure import RunFailedError
from .models.run_thread import RunThread
from .models.runner import ModelRunner, ModelTier
from .models.watchdog import Watchdog
from .pipeline import Pipeline

log = get_logger(__name__)
RELOAD_SECONDS = 3600.0
"""A trial ends by its own limits long before; until it has, the pipeline in force goes on."""
_DEADLINE_SHARE = 0.5
"""Of a pipeline's deadline: a student that takes longer leaves the cloud no time."""


class Registry(Mapping[str, Pipeline]):
    """Whoever takes a pipeline uses it for one batch and then asks again."""

    def __init__(self, pipelines: Iterable[Pipeline]) -> None:
        self._pipelines = {pipeline.spec.name: pipeline for pipeline in pipelines}

    def __getitem__(self, name: str) -> Pipeline:
        """The pipeline in force."""
        return self._pipelines[name]

    def __iter__(self) -> Iterator[str]:
        """Their names, in the order of their declaration."""
        return iter(self._pipelines)

    def __len__(self) -> int:
        """How many are declared."""
        return len(self._pipelines)

    @property
    def names(self) -> frozenset[str]:
        """The declared names; they stay the same as long as the process lives."""
        return frozenset(self._pipelines)

    def replace(self, pipeline: Pipeline) -> None:
        """The next batch is judged by this one; batches that run end with the one they took.

        Raises KeyError for a name that was never declared.
        """
        before = self._pipelines[pipeline.spec.name]
        self._pipelines[pipeline.spec.name] = pipeline
        before.retire()

    def close(self) -> None:
        """Let threads and processes of all of them go."""
        for pipeline in self._pipelines.values():
            pipeline.close()


class Opener:
    """Opens declared pipelines for one tier: at its start, and again when they have changed."""

    def __init__(
        self,
        side: Tier,
        tier: ModelTier,
        folder_of: Callable[[PipelineSpec], Path],
        *,
        meter: Meter,
        watchdog: Watchdog,
    ) -> None:
        self._side, self._tier, self._folder_of = side, tier, folder_of
        self._meter, self._watchdog = meter, watchdog

    def open(self, specs: Sequence[PipelineSpec], patience_seconds: float) -> list[Pipeline]:
        """The declared pipelines, their models tried as far as the patience reaches.

        A model that cannot be used is named by its pipeline's ``problem``. Raises ConfigError,
        BundleError (for a manifest or a file), MissingExtraError.
        """
        pipelines = [self._untried(spec, self._read(spec)) for spec in specs]
        runners = [each.runner for each in pipelines if each.runner is not None]
        loading.load(runners, self._watchdog, patience_seconds)
        return pipelines

    def changed(self, specs: Sequence[PipelineSpec], registry: Registry) -> list[Pipeline]:
        """Those that differ from the ones in force, tried and usable.

        Raises as :meth:`open`, and for a model whose trial failed: then none is left open.
        """
        wanted = [(spec, self._read(spec)) for spec in specs]
        pipelines: list[Pipeline] = []
        try:
            for spec, bundle in wanted:
                if self._differs(spec, bundle, registry[spec.name]):
                    pipelines.append(self._untried(spec, bundle))
            runners = [each.runner for each in pipelines if each.runner is not None]
            loading.load(runners, self._watchdog, RELOAD_SECONDS)
            _raise_first_problem(runners)
        except BaseException:
            for pipeline in pipelines:
                pipeline.retire()
            raise
        return pipelines

    def _read(self, spec: PipelineSpec) -> Bundle:
        bundle = bundles.load(self._folder_of(spec))
        if spec.teacher not in bundle.manifest.models:
            raise ConfigError(
                f"pipeline {spec.name}: the bundle has no model {spec.teacher!r}",
                remedy=f"set teacher to one of {', '.join(sorted(bundle.manifest.models))}",
            )
        return bundle

    def _model(self, spec: PipelineSpec, bundle: Bundle) -> str | None:
        if self._side is Tier.CLOUD:
            return spec.teacher
        return "student" if "student" in bundle.manifest.models else None

    def _differs(self, spec: PipelineSpec, bundle: Bundle, current: Pipeline) -> bool:
        manifest = bundle.manifest
        if _event_format(manifest) != _event_format(current.manifest):
            raise ConfigError(
                f"pipeline {spec.name}: bundle {manifest.name} {manifest.version} has another "
                "observation or other classes than the events that are on their way",
                remedy="restart the process to change them, or declare another pipeline",
            )
        model = self._model(spec, bundle)
        ref = None if model is None else bundle.read(model)[1]
        return (spec, manifest, ref) != (current.spec, current.manifest, current.model)

    def _untried(self, spec: PipelineSpec, bundle: Bundle) -> Pipeline:
        model = self._model(spec, bundle)
        runner = None
        if model is not None:
            runner = ModelRunner(
                bundle,
                model,
                spec.name,
                limits=spec.limits if self._side is Tier.CLOUD else _edge_limits(spec),
                meter=self._meter,
                tier=self._tier,
                watchdog=self._watchdog,
            )
        return Pipeline(spec, bundle.manifest, runner, self._meter)


class PipelineReload:
    """What a reload of the configuration does to a registry."""

    def __init__(
        self, registry: Registry, opener: Opener, declared: Sequence[PipelineSpec]
    ) -> None:
        """``declared`` is all that the file named at the start, also what others serve."""
        self._registry, self._opener = registry, opener
        self._declared = frozenset(spec.name for spec in declared)

    async def prepare(self, specs: Sequence[PipelineSpec]) -> PreparedChange:
        """Open and try what has changed, beside the pipelines in force.

        Raises SetsudenError when any of it cannot be used: nothing has changed then.
        """
        ours = [spec for spec in specs if spec.name in self._registry]
        # A thread that nobody waits for at exit: a stopping process must not wait for a trial.
        thread = RunThread("reload", waits=lambda: False, on_idle=lambda: None)
        try:
            changed = await thread.call(partial(self._opener.changed, ours, self._registry))
        except RunFailedError as error:
            raise ConfigError(
                f"the pipelines cannot be tried: {error}", remedy="send SIGHUP again"
            ) from error
        finally:
            thread.stop()
        names = {spec.name for spec in specs}
        return PreparedChange(
            partial(self._replace, changed),
            applied=sorted(f"pipelines.{each.spec.name}" for each in changed),
            restart=sorted(f"pipelines.{name}" for name in names ^ self._declared),
        )

    def _replace(self, pipelines: Sequence[Pipeline]) -> None:
        for pipeline in pipelines:
            self._registry.replace(pipeline)
            ref = pipeline.model
            extra: dict[str, object] = {
                "pipeline": pipeline.spec.name,
                "bundle": pipeline.manifest.name,
                "version": pipeline.manifest.version,
                "digest": None if ref is None else ref.digest,
                "threshold": pipeline.threshold,
            }
            log.info("pipeline_replaced", **extra)


def _raise_first_problem(runners: Sequence[ModelRunner]) -> None:
    for runner in runners:
        if runner.problem is not None:
            raise runner.problem


def _event_format(manifest: Manifest) -> tuple[object, ...]:
    """What events and answers on their way were read by."""
    observation = manifest.observation
    return observation.dtype, observation.shape, manifest.classes


def _edge_limits(spec: PipelineSpec) -> Limits:
    """The declared ones, with time left for the cloud before the pipeline's deadline."""
    if spec.deadline_seconds is None:
        return spec.limits
    seconds = min(spec.limits.run_seconds, _DEADLINE_SHARE * spec.deadline_seconds)
    return spec.limits.model_copy(update={"run_seconds": seconds})
