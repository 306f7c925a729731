"""The manifest of a bundle: names, shapes, dtypes and classes, so that no code knows a workload."""

from __future__ import annotations

from enum import StrEnum
from math import prod
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from .base import Model, ShortText, Token

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""A file in the bundle folder itself: no separators, so no path can leave it."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Dimension = Annotated[int, Field(ge=1, le=1_000_000)]
MAX_ELEMENTS = 64 * 1024 * 1024

ITEM_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "float16": 2, "uint32": 4,
    "int32": 4, "float32": 4, "uint64": 8, "int64": 8, "float64": 8,
}  # fmt: skip


class DType(StrEnum):
    """Element types by their numpy names."""

    BOOL = "bool"
    UINT8 = "uint8"
    INT8 = "int8"
    UINT16 = "uint16"
    INT16 = "int16"
    UINT32 = "uint32"
    INT32 = "int32"
    UINT64 = "uint64"
    INT64 = "int64"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class OutputKind(StrEnum):
    """What a model's output means, which decides how it becomes probabilities."""

    LOGITS = "logits"
    LOG_PROBS = "log_probs"
    PROBS = "probs"


class Observation(Model):
    """What an event carries, as it travels: the raw reading, before any pre-processing."""

    dtype: DType = Field(strict=False)
    """Element type as it travels."""
    shape: tuple[Dimension, ...] = Field(strict=False, min_length=1, max_length=8)
    """Size of each axis of one observation."""
    sample: FileName | None = None
    """A file in the bundle folder that holds one recorded observation, exactly as it travels;
    every model is tried on it before it is used."""
    sample_label: ShortText | None = None
    """The class that every model of the bundle must give to the sample."""

    @property
    def nbytes(self) -> int:
        """Bytes of one observation."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if prod(self.shape) > MAX_ELEMENTS:
            raise ValueError(f"shape has more than {MAX_ELEMENTS} elements")
        if self.sample_label is not None and self.sample is None:
            raise ValueError("sample_label needs a sample")
        return self


class ModelSpec(Model):
    """One ONNX file, and how an observation becomes its input.

    ``input = observation * scale + offset``, axes reordered by ``transpose``, then reshaped to
    ``shape`` and cast to ``dtype``. The arithmetic is in floating point; a value that an integer
    ``dtype`` cannot hold is refused, never wrapped.
    """

    file: FileName
    """The ONNX file, in the bundle folder itself."""
    sha256: Digest | None = None
    """Checked at load when given; a bundle written by hand may leave it out."""
    input: ShortText
    """Name of the graph's only input."""
    output: ShortText
    """Name of the output that holds one score for each class."""
    kind: OutputKind = Field(default=OutputKind.LOGITS, strict=False)
    """What the scores are."""
    dtype: DType = Field(strict=False)
    """Element type of the graph's input."""
    shape: tuple[Dimension, ...] = Field(strict=False, min_length=1, max_length=8)
    """One item; the graph has a batch axis in front of it."""
    transpose: tuple[Annotated[int, Field(ge=0, le=7)], ...] | None = Field(
        default=None, strict=False, min_length=1, max_length=8
    )
    """Axes of the observation in the order the graph wants them, e.g. [2, 0, 1] for an image with
    its channels last; [0, 1, …] says that a plain reshape is meant."""
    scale: float = 1.0
    """Factor of the pre-processing."""
    offset: float = 0.0
    """Added after the factor."""
    max_batch: int = Field(default=32, ge=1, le=4096)
    """Events in one inference at most."""
    threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of one inference; with 1 its CPU time is exact."""


class OperatingPoint(Model):
    """The threshold that escalated this share on the validation split."""

    escalated: float = Field(ge=0, le=1)
    """Share of the validation split."""
    threshold: float = Field(ge=0, le=1)
    """Confidence below which that share lies."""


class CurvePoint(Model):
    """Expected accuracy of the cascade on the test split."""

    escalated: float = Field(ge=0, le=1)
    """Share that the teacher answers."""
    accuracy: float = Field(ge=0, le=1)
    """Share of right answers of the cascade."""


class GateSpec(Model):
    """How sure the student must be to answer alone."""

    score: Annotated[str, StringConstraints(pattern="^max_softmax$")] = "max_softmax"
    """How confidence is found: the largest probability."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Divides the student's logits, so that its confidence is honest."""
    threshold: float = Field(ge=0, le=1)
    """Confidence below which the teacher is asked; 1 escalates everything."""
    points: tuple[OperatingPoint, ...] = Field(default=(), strict=False, max_length=1000)

    def threshold_for(self, escalated: float) -> float:
        """The threshold of the nearest fitted share; 0 escalates none, 1 escalates all.

        Raises ValueError when the bundle has no fitted points.
        """
        if escalated <= 0:
            return 0.0
        if escalated >= 1:
            return 1.0
        if not self.points:
            raise ValueError("the bundle has no [[gate.points]]: set gate.threshold instead")
        return min(self.points, key=lambda point: abs(point.escalated - escalated)).threshold


class Manifest(Model):
    """``bundle.toml``."""

    name: Token
    """The bundle's name in results and traces."""
    version: ShortText
    """The bundle's version in results and traces."""
    classes: tuple[ShortText, ...] = Field(strict=False, min_length=2, max_length=10_000)
    """Labels in the order of the models' scores."""
    observation: Observation
    models: dict[Token, ModelSpec] = Field(min_length=1, max_length=16)
    gate: GateSpec | None = None
    curve: tuple[CurvePoint, ...] = Field(default=(), strict=False, max_length=1000)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "student" in self.models and self.gate is None:
            raise ValueError("a bundle with a student needs a [gate] with a threshold")
        label = self.observation.sample_label
        if label is not None and label not in self.classes:
            raise ValueError(f"observation.sample_label {label!r} is none of the classes")
        for name, spec in self.models.items():
            self._check_shape(name, spec)
        return self

    def _check_shape(self, name: str, spec: ModelSpec) -> None:
        own = self.observation.shape
        if prod(spec.shape) != prod(own):
            raise ValueError(
                f"models.{name}.shape {list(spec.shape)} has {prod(spec.shape)} elements, "
                f"the observation has {prod(own)}"
            )
        if spec.transpose is not None and sorted(spec.transpose) != list(range(len(own))):
            raise ValueError(
                f"models.{name}.transpose {list(spec.transpose)} must name each axis of "
                f"{list(own)} once, counted from 0"
            )
