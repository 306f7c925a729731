"""``[traces]``: how spans wait and travel."""

from __future__ import annotations

from pydantic import Field

from setsuden.schemas.base import Model


class TraceOptions(Model):
    """The ``[traces]`` table: spans wait in a spool and travel over NATS to the span bridge."""

    enabled: bool = True
    """Without spans, results and metrics still carry joules and times."""
    spool: str = "spool"
    """Folder of sealed spans; relative paths are relative to the state folder."""
    spool_max_bytes: int = Field(default=64 << 20, ge=1 << 14)
    """Past it the oldest are dropped and counted, those of escalated and failed events last."""
    spool_max_age_seconds: float = Field(default=7 * 86_400.0, gt=0)
    """Older spans are dropped and counted."""
    segment_seconds: float = Field(default=1.0, gt=0, le=3600)
    """Spans wait so long for company before they are sealed. A killed process loses that much,
    and what waits for a window of its joules to close (``energy.window_seconds``)."""
    queue_max_spans: int = Field(default=20_000, ge=100)
    """Spans waiting to be sealed; past it new ones are dropped and counted."""
    settle_seconds: float = Field(default=15.0, ge=0, le=600)
    """Spans wait so long for the window of their joules to close; then they are sealed with the
    provisional ones."""
    ship: bool = True
    """Send sealed spans to ``otel.spans.<tier>.<name>`` while the link is up."""
    metrics_seconds: float = Field(default=60.0, ge=0, le=86_400)
    """How often energy metrics go to ``otel.metrics.<tier>.<name>`` while the link is up; 0 for
    never."""
    easy_share: float = Field(default=0.01, ge=0, le=1)
    """Share of the easy events that are traced. Escalated, failed, slow and costly ones always."""
    slow_ms: float = Field(default=250.0, gt=0)
    """An easy event that took longer is traced."""
    clock_seconds: float = Field(default=60.0, ge=1, le=86_400)
    """How often a device asks the cloud for its time."""
    environment: str | None = Field(default=None, min_length=1, max_length=64)
    """``deployment.environment.name`` of every span, e.g. ``production``."""
    host_id: str | None = Field(default=None, min_length=1, max_length=128)
    """``host.id`` of every span where ``/etc/machine-id`` is not the machine's own, as in some
    containers: Jaeger takes spans of one id for spans of one clock."""
