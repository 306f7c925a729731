"""A meter's totals as metrics: what every event used, never what sampled spans say.

Unknown is no point. Joules of a meter whose source is ``none``, or of a domain that was never
read, are left out and not 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from setsuden.energy.metering.meter import Meter
from setsuden.energy.metering.totals import Summed
from setsuden.schemas import metrics as names
from setsuden.schemas.energy import Boundary
from setsuden.schemas.metrics import MetricRow
from setsuden.schemas.windows import Component, DomainRow, MeterRow

WHOLE_HOST = frozenset({Boundary.WALL_AC, Boundary.HOST, Boundary.BOARD_DC})
"""Boundaries that hold all of the machine."""


class MetricPoint(NamedTuple):
    """One value of one set of attributes."""

    attributes: Mapping[str, str]
    value: float
    """Cumulative since the meter began."""


class Instrument(NamedTuple):
    """One metric with its points."""

    row: MetricRow
    points: tuple[MetricPoint, ...]


def instruments(meter: Meter) -> list[Instrument]:
    """Everything the meter counts, as of its newest settled window; from any thread."""
    journal = meter.journal
    return points_of(journal.meter, meter.totals.summed(), meter.domain_joules(), journal.dropped)


def points_of(
    meter: MeterRow, summed: Summed, domains: Mapping[str, float], dropped: int
) -> list[Instrument]:
    """The same, from figures; metrics without a point are left out."""
    own = {names.SITE: meter.site, names.TIER: meter.component.value}
    found = {
        names.INFERENCE_ENERGY: _inference(meter, summed, own),
        names.INFERENCE_COUNT: _work(meter, summed.items, own),
        names.INFERENCE_CPU_TIME: _work(meter, summed.cpu_seconds, own),
        names.UNATTRIBUTED: _unattributed(meter, summed, own),
        names.WINDOWS: _windows(summed, own),
        names.ROWS_DROPPED: iter((MetricPoint(own, dropped),)),
        names.HW_ENERGY: _hardware(meter, domains, whole=False),
        names.HW_HOST_ENERGY: _hardware(meter, domains, whole=True),
        names.PROCESS_CPU_TIME: iter((MetricPoint(own, summed.process_cpu_seconds),)),
    }
    made = [Instrument(row, tuple(points)) for row, points in found.items()]
    return [instrument for instrument in made if instrument.points]


def _inference(meter: MeterRow, summed: Summed, own: dict[str, str]) -> Iterator[MetricPoint]:
    own = own | _provenance(meter)
    for (pipeline, model, part), joules in summed.inference_joules.items():
        work = _of_model(meter, pipeline, model)
        yield MetricPoint({**own, **work, names.COMPONENT: part}, joules)
    if summed.windows > summed.unknown_windows:
        yield MetricPoint({**own, names.COMPONENT: "overhead"}, summed.overhead_joules)


def _work(
    meter: MeterRow, figures: Mapping[tuple[str, str], float], own: dict[str, str]
) -> Iterator[MetricPoint]:
    if meter.component is Component.BROKER:
        return  # its work is messages: they are no inferences
    for (pipeline, model), figure in figures.items():
        yield MetricPoint(own | _of_model(meter, pipeline, model), figure)


def _of_model(meter: MeterRow, pipeline: str, model: str) -> dict[str, str]:
    """Whose work it is; a broker's is everybody's."""
    if meter.component is Component.BROKER:
        return {}
    return {names.PIPELINE: pipeline, names.MODEL: model}


def _unattributed(meter: MeterRow, summed: Summed, own: dict[str, str]) -> Iterator[MetricPoint]:
    for bucket, joules in summed.unattributed_joules.items():
        yield MetricPoint({**own, **_provenance(meter), names.BUCKET: bucket}, joules)


def _windows(summed: Summed, own: dict[str, str]) -> Iterator[MetricPoint]:
    yield MetricPoint(own | {names.KNOWN: "true"}, summed.windows - summed.unknown_windows)
    yield MetricPoint(own | {names.KNOWN: "false"}, summed.unknown_windows)


def _provenance(of: MeterRow | DomainRow) -> dict[str, str]:
    found = {names.SOURCE: of.source.value}
    return found if of.boundary is None else found | {names.BOUNDARY: of.boundary.value}


def _hardware(
    meter: MeterRow, domains: Mapping[str, float], *, whole: bool
) -> Iterator[MetricPoint]:
    for domain in meter.domains:
        joules = domains.get(domain.id)
        if joules is not None and _whole_host(domain) is whole:
            attributes = {names.SITE: meter.site, **_component(domain), **_provenance(domain)}
            yield MetricPoint(attributes, joules)


def _whole_host(domain: DomainRow) -> bool:
    """OpenTelemetry: the whole host's energy MUST be ``hw.host.energy`` and no ``hw.energy``."""
    return domain.boundary in WHOLE_HOST and domain.parent is None


def _component(domain: DomainRow) -> dict[str, str]:
    found = {names.HW_ID: domain.id, names.HW_NAME: domain.name}
    if _whole_host(domain):
        return found
    found[names.HW_TYPE] = domain.hw_type
    return found if domain.parent is None else found | {names.HW_PARENT: domain.parent}
