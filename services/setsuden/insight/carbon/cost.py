"""Euros of a time of use, from a declared price. No list of prices is shipped: it would be old."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from setsuden.schemas.base import Model, ShortText

JOULES_PER_KWH = 3.6e6


class Price(Model):
    """A ``[prices.<name>]`` table: what a site's electricity or a rented machine costs."""

    euros_per_kwh: float | None = Field(default=None, ge=0, le=100)
    """The electricity tariff, for machines whose bill you pay."""
    euros_per_hour: float | None = Field(default=None, ge=0, le=10_000)
    """The rent of a whole machine; its electricity is in it."""
    source: ShortText = Field(min_length=1)
    """The contract or price list."""
    retrieved: date
    """When it was read there."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.euros_per_kwh is None and self.euros_per_hour is None:
            raise ValueError("give euros_per_kwh or euros_per_hour")
        return self


class Cost(NamedTuple):
    """Euros; None, never 0, when it cannot be known."""

    euros: float | None
    method: str
    """``rent``, ``electricity`` or ``undeclared``."""
    source: str


def cost(
    price: Price | None,
    *,
    joules: float | None,
    seconds: float,
    reserved_share: float,
    pue: float = 1.0,
) -> Cost:
    """Rent of the reserved part where one is declared, else electricity times ``pue``.

    Never both: a rent includes the electricity, and their sum would count it twice.
    """
    if price is None:
        return Cost(None, "undeclared", "no price declared for this site")
    if price.euros_per_hour is not None:
        euros = price.euros_per_hour * seconds / 3600 * reserved_share
        return Cost(euros, "rent", price.source)
    per_joule = (price.euros_per_kwh or 0.0) / JOULES_PER_KWH
    return Cost(None if joules is None else joules * pue * per_joule, "electricity", price.source)
