"""A pipeline as a person declares it."""

from __future__ import annotations

from pydantic import Field

from .base import Model, Token


class Limits(Model):
    """Bounds of one pipeline; past them an event is refused, or a model's run is ended."""

    max_body_bytes: int = Field(default=1_000_000, ge=1, le=64_000_000)
    """Refused before parsing. The broker's own max_payload (1 MB by default) also holds."""
    run_seconds: float = Field(default=10.0, ge=0.05, le=3600)
    """One run of a model, whatever its batch; past it the run is ended and has failed."""
    run_memory_bytes: int = Field(default=1 << 30, ge=1 << 24, le=1 << 40)
    """What one run may allocate on top of the loaded model; past it the run has failed."""


class GateOverride(Model):
    """The operating point chosen for this site; at most one of the two."""

    escalate: float | None = Field(default=None, ge=0, le=1)
    """Share of events to escalate, looked up among the bundle's fitted points."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Confidence below which the teacher is asked; 1 escalates everything."""


class PipelineSpec(Model):
    """Student, teacher, gate and limits of one declared cascade."""

    name: Token
    """The pipeline's name in subjects, results and requests."""
    bundle: str = Field(min_length=1)
    """Folder with ``bundle.toml``; relative paths are relative to the configuration file."""
    teacher: Token = "teacher"  # a model's name
    """Which of the bundle's models the cloud runs."""
    deadline_seconds: float | None = Field(default=None, gt=0, le=30 * 86400)
    """Applied to events that state none; without it an event waits for the cloud without limit."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Failed runs of the teacher before the event becomes a dead letter."""
    gate: GateOverride = GateOverride()
    limits: Limits = Limits()
