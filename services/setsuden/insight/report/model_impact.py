"""Grams, litres and euros of a report."""

from __future__ import annotations

from pydantic import Field

from setsuden.insight.report.model_base import Part
from setsuden.schemas.base import WireModel


class CarbonRow(WireModel):
    """One component's grams at one site, of the whole run."""

    component: Part
    site: str
    kwh: float | None
    """At the plug of the site: joules times PUE."""
    pue: float | None
    zone: str | None
    intensity_g_per_kwh: float | None
    """Of its grid's year, or the mean over the hours of its joules, weighted with them."""
    year: int | None
    """Null also when figures of several years are in the mean."""
    intensity_method: str | None
    """``average`` of the year; ``average, hourly``, with what stands in for hours that lack."""
    intensity_source: str
    operational_g: float | None
    """Sum over its hours, each with its own intensity: a lower bound where hours have none."""
    operational_low: float | None
    operational_high: float | None
    embodied_g: float | None
    """Null: undeclared."""
    embodied_source: str
    water_l: float | None
    """Null: no water use is known for the site."""
    complete: bool
    """False when its joules are a lower bound, or its grams for want of an hour's intensity."""


class Carbon(WireModel):
    """Grams of CO2e and litres, of the whole run."""

    rows: tuple[CarbonRow, ...] = Field(strict=False)
    operational_g: float | None
    operational_low: float | None
    operational_high: float | None
    embodied_g: float | None
    """Of the machines for which it is declared; null: of none."""
    water_l: float | None
    complete: bool
    """False when a component's operational grams are missing or a lower bound."""
    undeclared: tuple[str, ...] = Field(strict=False)
    """What would have to be declared, in words."""


class Sci(WireModel):
    """SCI = (E x I + M) / R after ISO/IEC 21031:2024, R = 1,000 inferences."""

    grams: float | None
    """Null while an intensity is undeclared or no inference ended."""
    low: float | None
    high: float | None
    operational_g: float | None
    """E x I per R."""
    embodied_g: float | None
    """M per R; null: undeclared and left out."""
    functional_unit: str
    boundary: str
    complete: bool


class CostRow(WireModel):
    """Euros of one component, of the whole run; null: undeclared."""

    component: Part
    electricity_eur: float | None
    instance_eur: float | None
    """Rent; it holds the electricity."""
    device_eur: float | None
    """Price over lifetime, for the time it was reserved."""
    whole_eur: float | None
    complete: bool


class Cost(WireModel):
    """Euros: of the run, and per 1,000 events of it and of the counterfactuals."""

    rows: tuple[CostRow, ...] = Field(strict=False)
    per_1000_eur: float | None
    all_edge_per_1000_eur: float | None
    all_cloud_per_1000_eur: float | None
    complete: bool
    undeclared: tuple[str, ...] = Field(strict=False)
    """What would have to be declared, in words."""
