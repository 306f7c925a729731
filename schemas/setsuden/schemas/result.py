"""What returns to the application."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from .base import ShortText, Token, WireModel, Word
from .decision import Decision
from .energy import EnergyReading
from .subjects import Place


class Status(Word):
    """Where an answer stands. Every accepted event gets exactly one of the final three."""

    PROVISIONAL = "provisional"
    FINAL = "final"
    EXPIRED = "expired"
    DEAD = "dead"
    SUPERSEDED = "superseded"


FINAL_STATUSES = frozenset({Status.FINAL, Status.EXPIRED, Status.DEAD})


class Tier(Word):
    """Who answered."""

    EDGE = "edge"
    CLOUD = "cloud"


class Answer(WireModel):
    """The class a model chose."""

    label: str
    index: int = Field(ge=0)
    confidence: float = Field(ge=0, le=1)
    scores: tuple[float, ...] = ()
    """Probabilities in the order of the bundle's classes, rounded to 6 digits; may be empty."""


class ModelRef(WireModel):
    """Which model answered, to the byte."""

    bundle: Token
    version: ShortText
    model: Token
    digest: str
    """SHA-256 of the ONNX file, hexadecimal."""


class Problem(WireModel):
    """Why there is no better answer."""

    code: Token
    message: str = Field(max_length=1024)


class Energy(WireModel):
    """Joules of one event by tier; ``None`` where that tier did no work."""

    edge: EnergyReading | None = None
    cloud: EnergyReading | None = None


class Timing(WireModel):
    """Milliseconds of one event by hop; ``None`` where there was no such hop."""

    edge_infer_ms: float | None = None
    queue_ms: float | None = None
    """Stored in the escalation stream until a worker took it, both by cloud clocks."""
    cloud_infer_ms: float | None = None
    total_ms: float | None = None
    """Accepted until this result, by the device's monotonic clock."""


class Result(WireModel):
    """One event's answer, provisional or final."""

    event_id: Token
    pipeline: Token
    device: Token
    region: Token = "local"
    """Where the event may be answered, and where its final result is stored."""
    status: Status
    tier: Tier | None = None
    answer: Answer | None = None
    decision: Decision | None = None
    model: ModelRef | None = None
    error: Problem | None = None
    energy: Energy = Energy()
    timing: Timing = Timing()
    source_id: str | None = None
    """The CloudEvents ``id`` the application gave."""
    idempotency_key: str | None = None
    trace_id: str
    durable: bool = True
    """False for an answer that no outbox keeps: it cannot be asked for again."""
    at: datetime
    """When this result came to be, by the clock of the tier that made it."""

    @property
    def place(self) -> Place:
        """Where the event's records are stored."""
        return Place(self.region, self.pipeline, self.device, self.event_id)

    def merged_with(self, cloud: Result) -> Result:
        """The cloud's result of the same event with what only the device knows, which is here.

        A dead letter has no answer: the student's stands in its place, as the best there is.
        """
        best = self if cloud.answer is None else cloud
        timing = {"edge_infer_ms": self.timing.edge_infer_ms}
        return cloud.model_copy(
            update={
                "tier": best.tier,
                "answer": best.answer,
                "model": best.model,
                "decision": self.decision,
                "energy": Energy(edge=self.energy.edge, cloud=cloud.energy.cloud),
                "timing": cloud.timing.model_copy(update=timing),
                "source_id": self.source_id,
                "idempotency_key": self.idempotency_key,
                "trace_id": self.trace_id,
            }
        )

    @property
    def is_final(self) -> bool:
        """True when no other final result of this event will follow."""
        return self.status in FINAL_STATUSES
