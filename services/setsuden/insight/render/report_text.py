"""Display names of a report's enumerations, and the sentences of its headline."""

from __future__ import annotations

from setsuden.insight.render.numbers import Unit, at_least, bounds, digits, figure, percent
from setsuden.insight.report.model import (
    Amount,
    Counterfactual,
    Difference,
    Part,
    Report,
    Severity,
    Verdict,
)
from setsuden.schemas.energy import Boundary, Method, Quality, Source

COMPONENTS = {
    Part.EDGE: "Edge",
    Part.BROKER: "Broker",
    Part.NETWORK: "Network",
    Part.CLOUD: "Cloud",
}
SOURCES = {
    Source.MEASURED: "measured",
    Source.DERIVED: "derived from a sensor",
    Source.RELAYED: "relayed from a sensor",
    Source.CALIBRATED_MODEL: "calibrated model",
    Source.TABLE_MODEL: "table",
    Source.DECLARED: "declared",
    Source.NONE: "none",
}
SOURCE_MEANINGS = {
    Source.MEASURED: "an energy counter or a power sensor was read",
    Source.DERIVED: "computed from what a sensor read, for instance volts times amperes",
    Source.RELAYED: "read by a sensor of another machine and passed on",
    Source.CALIBRATED_MODEL: "a curve fitted on this very machine, driven by exact CPU time",
    Source.TABLE_MODEL: "published values of similar hardware, driven by exact CPU time",
    Source.DECLARED: "a person wrote it down",
}
BOUNDARIES = {
    Boundary.WALL_AC: "at the plug",
    Boundary.HOST: "whole host",
    Boundary.BOARD_DC: "board (DC)",
    Boundary.MODULE: "compute module",
    Boundary.SOCKET: "CPU socket",
    Boundary.CPU_PACKAGE: "CPU package",
    Boundary.CPU_CORE: "CPU cores",
    Boundary.LINK: "network link",
}
METHODS = {
    Method.EXCLUSIVE: "one run at a time",
    Method.THREAD: "per thread",
    Method.SHARED_POOL: "shared pool",
    Method.BATCH_WEIGHTED: "share of a batch",
    Method.AMORTISED: "spread over all messages",
}
QUALITIES = {
    Quality.OK: "",
    Quality.PROVISIONAL: "provisional",
    Quality.DEGRADED: "degraded",
    Quality.QUARANTINED: "quarantined",
}
VERDICTS = {
    Verdict.SAVES: "The cascade saves",
    Verdict.COSTS: "The cascade costs",
    Verdict.CANNOT_TELL: "Cannot tell",
}
SCENARIOS = {"all_edge": "All on the devices", "all_cloud": "All in the cloud"}
SEVERITIES = (Severity.ERROR, Severity.WARNING, Severity.INFO)
_ESTIMATES = {
    Source.CALIBRATED_MODEL: "Estimated by a model calibrated on the machine: "
    "no power sensor was read.",
    Source.TABLE_MODEL: "Estimated by a table: no power sensor was read.",
    Source.DECLARED: "Declared: no power sensor was read.",
}
_REST = {
    Source.CALIBRATED_MODEL: "a calibrated model",
    Source.TABLE_MODEL: "a table",
    Source.DECLARED: "what was declared",
}


def boundary(value: Boundary | None) -> str:
    """Its display name; None stands for parts with different ones."""
    return "different boundaries" if value is None else BOUNDARIES[value]


def labels(amount: Amount | None) -> tuple[str, ...]:
    """Source, boundary, and the quality when that is not ``ok``."""
    if amount is None or amount.source is Source.NONE:
        return ("none",)
    names = (SOURCES[amount.source], boundary(amount.boundary), QUALITIES[amount.quality])
    return tuple(filter(None, names))


def amount_text(amount: Amount | None, unit: Unit) -> str:
    """``412 J``, ``at least 412 J`` when a part is unknown, or ``none``."""
    return "none" if amount is None else at_least(figure(amount.joules, unit), amount.complete)


def interval(amount: Amount | None, unit: Unit) -> str:
    """``206 to 824 J``; empty when nothing is known."""
    return "" if amount is None else bounds(amount.low, amount.high, unit)


def provenance(report: Report, headline: Amount) -> str:
    """One sentence on the sources of the headline."""
    measured = report.coverage.measured
    if headline.source is Source.NONE:
        return "No joules are known for this run."
    if not measured:
        return _ESTIMATES.get(headline.source, f"Source: {SOURCES[headline.source]}.")
    if headline.source not in _REST:
        return "Measured: every known joule was read from a power sensor."
    return (
        f"Partly measured: {percent(measured)} of the joules were read from power sensors, "
        f"the rest is estimated, at worst from {_REST[headline.source]}."
    )


def comparison(other: Counterfactual, unit: Unit) -> str:
    """What the other way would use, as a sentence with its interval."""
    where = "in the cloud" if other.scenario == "all_cloud" else "on the devices"
    difference = other.difference
    if difference is None or difference.joules is None:
        reason = other.reason or "a part of it has no known joules"
        return f"What all events {where} would use is not known: {reason}"
    amount, bounds_text = _more(difference.joules, unit), _range(difference, unit)
    if other.verdict is Verdict.CANNOT_TELL:
        return f"All events {where} would use {amount}: {bounds_text}."
    return f"All events {where} would use {amount} ({bounds_text})."


def _more(joules: float, unit: Unit) -> str:
    if joules == 0:
        return "as much"
    return f"{figure(abs(joules), unit)} {'more' if joules > 0 else 'less'}"


def _range(difference: Difference, unit: Unit) -> str:
    low, high = difference.low, difference.high
    if low is None or high is None:
        return _half_open(difference, unit)
    if low >= 0:
        return f"{bounds(low, high, unit)} more"
    if high <= 0:
        return f"{bounds(-high, -low, unit)} less"
    return f"between {_more(low, unit)} and {_more(high, unit)}"


def _half_open(difference: Difference, unit: Unit) -> str:
    if difference.low is not None:
        return f"from {_more(difference.low, unit)}, no upper bound is known"
    if difference.high is not None:
        return f"up to {_more(difference.high, unit)}, no lower bound is known"
    return "no bounds are known"


def signed(value: float | None, unit: Unit) -> str:
    """With its sign, ``+412 J``; ``none`` when unknown."""
    if value is None:
        return "none"
    return f"{'+' if value > 0 else ''}{digits(value / unit.size)} {unit.name}"
