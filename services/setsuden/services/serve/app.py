"""The Serve application: built here, by ``serve deploy`` from its import path, or by ``cloud run``.

``import_path: setsuden.services.serve.app:build``, ``args: {config: /etc/setsuden/cloud.toml,
pipeline: NAME}``. The file is read where the application is built; replicas get all they need of
it, the teacher included, with the deployment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from setsuden.process.config import load_toml, validate
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.services.config import CloudConfig

from .deployment import TeacherReplica
from .package import pack

_UPSCALE_DELAY_SECONDS = 5.0
"""Lag must last this long before replicas are added."""
IMPORT_PATH = "setsuden.services.serve.app:build"


def build(args: dict[str, str]) -> serve.Application:
    """The application of one pipeline from a configuration file."""
    path = Path(args["config"])
    config = validate(CloudConfig, load_toml(path))
    config = config.model_copy(update={"nats": config.nats.resolved(path.parent)})
    return application(config, path.parent, config.pipeline(args.get("pipeline")))


def application(config: CloudConfig, base: Path, pipeline: PipelineSpec) -> serve.Application:
    """The application of one pipeline; raises BundleError."""
    options = config.serve
    package = pack(base / pipeline.bundle, pipeline.teacher, options.carry_max_bytes)
    deployment: Any = serve.deployment(  # its overloads hide that a class gives a Deployment
        TeacherReplica,
        name=f"teacher-{pipeline.name}",
        ray_actor_options={"num_cpus": options.num_cpus},
        autoscaling_config=autoscaling(config, pipeline),
        health_check_period_s=options.health_check_seconds,
        health_check_timeout_s=2 * options.health_check_seconds,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=config.worker.drain_seconds + 5,
        max_ongoing_requests=8,
    )
    document = config.model_dump(mode="json")
    built: serve.Application = deployment.bind(
        document, pipeline.name, tuple(package), str(base.resolve())
    )
    return built


def autoscaling(config: CloudConfig, pipeline: PipelineSpec) -> AutoscalingConfig:
    """Replicas by the lag of the pipeline's consumer."""
    options = config.serve
    return AutoscalingConfig(
        min_replicas=options.min_replicas,
        max_replicas=options.max_replicas,
        initial_replicas=max(1, options.min_replicas),
        upscale_delay_s=_UPSCALE_DELAY_SECONDS,
        downscale_delay_s=options.downscale_delay_seconds,
        policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]  # its __init__ has no types
            policy_function="setsuden.services.serve.autoscale:LagPolicy",
            policy_kwargs={
                "nats": config.nats.model_dump(mode="json"),
                "region": config.region,
                "pipeline": pipeline.name,
                "target_lag": options.target_lag,
                "target_age_seconds": options.target_age_seconds,
            },
        ),
    )


def name_of(pipeline: str) -> str:
    """The application's name in Serve."""
    return f"setsuden-{pipeline}"


def document(config: CloudConfig, path: Path) -> dict[str, Any]:
    """What ``serve deploy`` takes: one application for each pipeline, no HTTP."""
    return {
        "proxy_location": "Disabled",
        "applications": [
            {
                "name": name_of(pipeline.name),
                "route_prefix": None,
                "import_path": IMPORT_PATH,
                "args": {"config": str(path.resolve()), "pipeline": pipeline.name},
            }
            for pipeline in config.pipelines
        ],
    }
