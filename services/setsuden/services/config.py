"""``cloud.toml``: the configuration of workers, the Serve application and its supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from setsuden.energy import EnergyOptions
from setsuden.link import LinkOptions
from setsuden.schemas.base import Model, Token
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.streams import StreamBounds
from setsuden.telemetry import TraceOptions


class WorkerOptions(Model):
    """The ``[worker]`` table: how one worker pulls, runs and settles."""

    RETIRED: ClassVar[Mapping[str, str]] = {
        "prefetch_factor": "2 batches",
        "pull_expires_seconds": "30 s",
    }

    ack_wait_seconds: float = Field(default=5.0, gt=0.5, le=3600)
    """Work not acknowledged or heard of for this long goes to another worker.

    Everything in hand is reported as in progress every third of it.
    """
    max_batch: int | None = Field(default=None, ge=1, le=4096)
    """Events in one inference; without it what the bundle's model declares."""
    max_ack_pending: int = Field(default=8192, ge=1, le=1_000_000)
    """Events in the hands of all workers of a pipeline together; above replicas x prefetch."""
    inline_below_ms: float = Field(default=1.0, ge=0, le=1000)
    """A batch expected to take longer runs in a thread of its own, so that acks go on."""
    stall_seconds: float = Field(default=30.0, gt=0, le=3600)
    """Work in hand and no progress for this long: unhealthy."""
    drain_seconds: float = Field(default=10.0, gt=0, le=600)
    """How long a stop waits for results in flight."""


class BridgeOptions(Model):
    """The ``[bridge]`` table: where ``setsuden cloud bridge`` puts spans."""

    RETIRED: ClassVar[Mapping[str, str]] = {"batch_messages": "64"}

    endpoint: str | None = Field(default=None, pattern="^https?://")
    """OTLP/HTTP, e.g. ``http://jaeger:4318``; ``/v1/traces`` is added."""
    headers_file: str | None = None
    """File of ``Name: value`` lines sent along, such as an API key; relative to this file."""
    file: str | None = None
    """OTLP JSON Lines are appended here, unbounded; relative to this file."""
    metrics_endpoint: str | None = Field(default=None, pattern="^https?://")
    """OTLP/HTTP for energy metrics, e.g. a Collector or Prometheus' ``/api/v1/otlp``;
    ``/v1/metrics`` is added. Jaeger takes none. Without it and ``metrics_file`` metrics are dropped
    and counted."""
    metrics_headers_file: str | None = None
    """As ``headers_file``, for ``metrics_endpoint``."""
    metrics_file: str | None = None
    """Energy metrics as OTLP JSON Lines are appended here, unbounded; relative to this file."""
    timeout_seconds: float = Field(default=10.0, gt=0, le=300)
    """An endpoint that has not answered by then is tried again later."""
    ack_wait_seconds: float = Field(default=60.0, gt=1, le=3600)
    """Spans not acknowledged for this long go to another bridge; above ``timeout_seconds``."""
    max_ack_pending: int = Field(default=4096, ge=1, le=1_000_000)
    """Messages in the hands of all bridges together."""


class ServeOptions(Model):
    """The ``[serve]`` table: replicas of the teacher on Ray Serve."""

    RETIRED: ClassVar[Mapping[str, str]] = {
        "upscale_delay_seconds": "5 s",
        "poll_seconds": "2 s",
        "local_cpus": "max_replicas x num_cpus of every pipeline",
        "local_store_bytes": "100 MB",
        "probe_seconds": "2 s",
        "silence_seconds": "15 s",
    }

    min_replicas: int = Field(default=1, ge=0, le=1000)
    """Never fewer, even without work; 0 lets the first event wait for a replica to start."""
    max_replicas: int = Field(default=4, ge=1, le=1000)
    """Never more, however long the queue."""
    target_lag: int = Field(default=256, ge=1)
    """Events waiting or in hand that one replica is meant to have; more adds replicas."""
    target_age_seconds: float = Field(default=10.0, gt=0)
    """An event older than this adds a replica, however few are waiting."""
    downscale_delay_seconds: float = Field(default=60.0, ge=0, le=86_400)
    """Idleness must last this long before replicas go."""
    num_cpus: float = Field(default=1.0, gt=0, le=256)
    """CPUs that Ray reserves for a replica; scheduling only, threads are the bundle's."""
    health_check_seconds: float = Field(default=5.0, gt=0.1, le=600)
    """Period of the replicas' health checks; a check may take twice as long."""
    carry_max_bytes: int = Field(default=64 << 20, ge=0, le=512 << 20)
    """Up to this size the teacher travels to the replicas' nodes with the deployment; a larger
    bundle must lie at the same path on every node."""
    ready_seconds: float = Field(default=120.0, gt=0, le=3600)
    """A deployment not running by then is torn down and built again."""
    auth: Literal["token", "disabled"] = "token"
    """Ray's own authentication; ``token`` makes one for the local Ray, and for ``--address``
    takes the one that Ray finds (RAY_AUTH_TOKEN or its file)."""


class CloudConfig(Model):
    """The configuration of the cloud tier."""

    region: Token = "local"  # a place, no secret
    """Which escalations are served: ``esc.<region>.…``."""
    state: str = "state"
    """Folder of trace files; relative paths are relative to this file."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is written."""
    pipelines: tuple[PipelineSpec, ...] = Field(strict=False, min_length=1, max_length=64)
    """Cascades whose teachers run here."""
    nats: LinkOptions = LinkOptions()
    """How to reach the broker."""
    streams: StreamBounds = StreamBounds()
    """Bounds of the streams."""
    worker: WorkerOptions = WorkerOptions()
    """How a worker pulls, runs and settles."""
    serve: ServeOptions = ServeOptions()
    """Replicas on Ray Serve."""
    bridge: BridgeOptions = BridgeOptions()
    """Where spans go from the broker."""
    energy: EnergyOptions = EnergyOptions()
    """How CPU-seconds become joules."""
    traces: TraceOptions = TraceOptions()
    """How spans reach the broker."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [pipeline.name for pipeline in self.pipelines]
        if len(set(names)) != len(names):
            raise ValueError("two pipelines have the same name")
        if self.serve.max_replicas < self.serve.min_replicas:
            raise ValueError("serve.max_replicas is below serve.min_replicas")
        return self

    def pipeline(self, name: str | None) -> PipelineSpec:
        """The named pipeline, or the only one; raises ConfigError."""
        if name is None and len(self.pipelines) == 1:
            return self.pipelines[0]
        for pipeline in self.pipelines:
            if pipeline.name == name:
                return pipeline
        names = ", ".join(pipeline.name for pipeline in self.pipelines)
        problem = f"no pipeline {name!r}" if name else "several pipelines are declared"
        raise ConfigError(problem, remedy=f"name one of {names}")
