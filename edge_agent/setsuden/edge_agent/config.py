"""``agent.toml``: one frozen model per process, read by its entry point only."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from setsuden.energy import EnergyOptions
from setsuden.link import LinkOptions
from setsuden.schemas.base import Model, Token
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.telemetry import TraceOptions

from .hosts import is_loopback

DeviceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


class HttpOptions(Model):
    """The ``[http]`` table: events in, health and metrics out."""

    host: str = "127.0.0.1"
    """Address to listen on. One that other machines reach (not loopback) needs token_file."""
    port: int = Field(default=8787, ge=0, le=65_535)
    """0 takes a free port and writes it to ``http.port`` in the state folder."""
    allowed_hosts: tuple[str, ...] = Field(default=(), strict=False, max_length=64)
    """More names in the Host and Origin headers of requests, e.g. of a proxy in front."""
    token_file: str | None = None
    """File whose only content is a token that requests must bear; relative to this file."""
    wait_seconds: float = Field(default=10.0, ge=0, le=300)
    """How long an Open Inference request waits for a final answer before a provisional one."""
    max_waiting: int = Field(default=1000, ge=1, le=100_000)
    """Requests being answered at once; past it they are refused with 503."""

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.token_file is None and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reached from other machines: it needs token_file,"
                " a file with a token that requests must bear"
            )
        return self


class OutboxOptions(Model):
    """The ``[outbox]`` table: what the device keeps while the cloud is away."""

    max_bytes: int = Field(default=256 << 20, ge=1 << 12)
    """Observations waiting for the cloud. Past it hard cases are refused, none dropped."""
    max_events: int = Field(default=200_000, ge=1)
    """Events waiting for the cloud, whatever their size."""
    keep_seconds: float = Field(default=86_400.0, ge=0)
    """How long finished events stay known, so that their idempotency keys hold."""
    keep_events: int = Field(default=100_000, ge=0)
    """How many finished events stay known at most."""
    answer_when_full: bool = False
    """While the disk takes nothing, easy events that came over HTTP are answered all the same;
    the result says ``durable: false`` and nothing of them is kept. Hard ones are refused."""


class EscalationOptions(Model):
    """The ``[escalation]`` table: how hard cases travel."""

    window: int = Field(default=256, ge=1, le=10_000)
    """Escalations sent and not yet acknowledged by the broker."""
    live_share: float = Field(default=0.2, gt=0, lt=1)
    """Part of the window that live events keep while an old backlog drains, oldest first."""
    lookup_seconds: float = Field(default=5.0, gt=0, le=3600)
    """A result not pushed by then is looked up; the pause doubles up to twelve times this."""
    redrive_seconds: float = Field(default=60.0, gt=0, le=86_400)
    """A stored escalation without any result by then is sent again."""


class IntakeOptions(Model):
    """The ``[intake]`` table: how events are taken in."""

    batch: int = Field(default=64, ge=1, le=1024)
    """Events judged and committed together; nothing waits for a batch to fill."""
    queue_max_events: int = Field(default=1024, ge=1, le=1_000_000)
    """Events read and not yet judged; past it readers wait."""


class AgentConfig(Model):
    """Everything one agent is told."""

    device: DeviceName
    """This device's name in subjects and ids; no personal data."""
    region: Token = "local"  # a place, no secret
    """Where hard cases may be answered: ``esc.<region>.…``."""
    state: str = "state"
    """Folder of outbox and span spool; relative paths are relative to this file."""
    publish_results: Literal["nats", "all", "none"] = "nats"
    """Final results stored in the results stream: of events that came over NATS, all, or none
    beyond what the cloud stores itself."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is written."""
    pipelines: tuple[PipelineSpec, ...] = Field(strict=False, min_length=1, max_length=64)
    nats: LinkOptions = LinkOptions()
    http: HttpOptions = HttpOptions()
    intake: IntakeOptions = IntakeOptions()
    outbox: OutboxOptions = OutboxOptions()
    escalation: EscalationOptions = EscalationOptions()
    energy: EnergyOptions = EnergyOptions()
    traces: TraceOptions = TraceOptions()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [pipeline.name for pipeline in self.pipelines]
        if len(set(names)) != len(names):
            raise ValueError("two pipelines have the same name")
        return self
