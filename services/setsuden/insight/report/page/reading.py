"""How to read the page: the words it uses, and which boundaries and sources occur in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from setsuden.insight.report.figures.statements import INSIDE
from setsuden.insight.report.model import Report
from setsuden.insight.report.page.parts import facts, section
from setsuden.insight.report.page.words import BOUNDARIES, SOURCES
from setsuden.schemas.energy import Boundary, Source

_Word = TypeVar("_Word", Boundary, Source)
_TERMS = {
    "Inference": (
        "An event with a final result on the device: answered there, answered by the cloud, "
        "expired or dead."
    ),
    "Dynamic": (
        "Joules above the idle power of the machine, spent while models ran. They grow with "
        "the number of inferences."
    ),
    "Idle": (
        "What the reserved part of a machine draws by being on, whether a model runs or "
        "not. Fewer inferences make each of them dearer."
    ),
    "Overhead": (
        "Joules above idle of our own processes outside the runs: queues, connections, telemetry."
    ),
    "Interval": (
        "With 95 % confidence the true value lies in it, given the sources named here. A "
        "saving counts only when the whole interval says so."
    ),
    "At least": (
        "A part has no known joules and is left out of the sum, so the true figure is greater."
    ),
    "None": "Not known, and not 0: nothing read it, and no model was willing to say.",
    "SCI": (
        "Software Carbon Intensity: grams of CO₂e for a functional unit, from energy, the "
        "grid's intensity and the making of the hardware."
    ),
}
_SOURCES = {
    Source.MEASURED: "an energy counter or a power sensor was read",
    Source.DERIVED: "computed from what a sensor read, for instance volts times amperes",
    Source.RELAYED: "read by a sensor of another machine and passed on",
    Source.CALIBRATED_MODEL: "a curve fitted on this very machine, driven by exact CPU time",
    Source.TABLE_MODEL: "published values of similar hardware, driven by exact CPU time",
    Source.DECLARED: "a person wrote it down",
}


def reading(report: Report) -> str:
    """The section."""
    return section(
        "reading",
        "How to read this",
        "",
        facts(_TERMS.items()),
        "<h3>Boundary of the headline</h3>",
        facts((("Inside and outside", report.boundary),)),
        _used("Boundaries of the figures", INSIDE, BOUNDARIES, _boundaries(report)),
        _used("Sources of the figures", _SOURCES, SOURCES, _sources(report)),
    )


def _boundaries(report: Report) -> set[Boundary | None]:
    found = {component.whole.total.boundary for component in report.components}
    return found | {meter.boundary for meter in report.meters}


def _sources(report: Report) -> set[Source]:
    found = {component.whole.total.source for component in report.components}
    return found | {meter.source for meter in report.meters} | set(report.coverage.by_source)


def _used(
    title: str, meanings: dict[_Word, str], names: dict[_Word, str], found: Iterable[object]
) -> str:
    used = set(found)
    pairs = [(names[word].capitalize(), said) for word, said in meanings.items() if word in used]
    return f"<h3>{title}</h3>{facts(pairs)}" if pairs else ""
