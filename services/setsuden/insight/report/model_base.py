"""The words of a report: whose joules, with which bounds and labels."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from setsuden.schemas.base import WireModel
from setsuden.schemas.energy import Boundary, Method, Quality, Source


class Part(StrEnum):
    """Whose joules: the figures of a report have four of them."""

    EDGE = "edge"
    BROKER = "broker"
    NETWORK = "network"
    CLOUD = "cloud"


class Verdict(StrEnum):
    """Whether the cascade uses less than what it is compared with."""

    SAVES = "saves"
    """The whole interval says that it uses less."""
    COSTS = "costs"
    """The whole interval says that it uses more."""
    CANNOT_TELL = "cannot tell"
    """The interval holds both, or a part is unknown."""


class Severity(StrEnum):
    """How much a finding matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Amount(WireModel):
    """Joules with bounds and labels; all three null with source ``none``."""

    joules: float | None = None
    low: float | None = None
    high: float | None = None
    source: Source = Source.NONE
    """The worst of its parts."""
    boundary: Boundary | None = None
    """Null when its parts have different ones."""
    method: Method | None = None
    """Null when its parts have different ones, or when none was needed."""
    quality: Quality = Quality.OK
    """The worst of its parts."""
    complete: bool = True
    """False when a part of it is unknown: then the joules are at least these."""

    @model_validator(mode="after")
    def _unknown_is_null(self) -> Self:
        values = (self.joules, self.low, self.high)
        if (self.source is Source.NONE) != all(value is None for value in values):
            raise ValueError("joules must be given unless, and only unless, source is 'none'")
        return self


class Cell(WireModel):
    """One figure of the table: of the whole run, and of 1,000 inferences."""

    total: Amount
    per_1000: Amount | None
    """Null when no inference ended in the run."""
