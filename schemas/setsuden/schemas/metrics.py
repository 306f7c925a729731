"""Names of energy metrics, in one table from which exporters and documentation are made.

``hw.*`` and ``process.*`` are OpenTelemetry's own names (semantic conventions 1.44, in
development). They have no name for joules of a request, so those are ours; no name of theirs is
given another meaning. Units are UCUM and never part of a name.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

SITE: Final = "setsuden.site"
TIER: Final = "setsuden.tier"
PIPELINE: Final = "setsuden.pipeline"
MODEL: Final = "setsuden.model.name"
COMPONENT: Final = "setsuden.energy.component"
SOURCE: Final = "setsuden.energy.source"
BOUNDARY: Final = "setsuden.energy.boundary"
BUCKET: Final = "setsuden.energy.bucket"
KNOWN: Final = "setsuden.energy.known"
HW_ID: Final = "hw.id"
HW_TYPE: Final = "hw.type"
HW_NAME: Final = "hw.name"
HW_PARENT: Final = "hw.parent"

ATTRIBUTES: Final[dict[str, str]] = {
    SITE: "`energy.site`: where the machine stands",
    TIER: "whose joules: edge, broker or cloud",
    PIPELINE: "the pipeline's name",
    MODEL: "bundle/model",
    COMPONENT: "dynamic, idle or overhead; the last is the process's own and has no model",
    SOURCE: "measured … table_model",
    BOUNDARY: "what is inside the figure; absent where primary domains differ in it",
    BUCKET: "other, idle_unused or quarantined",
    KNOWN: "true for windows whose joules are known",
    HW_ID: "the domain's id, stable on its machine",
    HW_TYPE: "cpu, memory, gpu, battery, enclosure, …",
    HW_NAME: "as the device names it",
    HW_PARENT: "the domain whose figure already holds this one's",
}
"""Every attribute of a metric's points."""


class MetricRow(NamedTuple):
    """One metric."""

    name: str
    kind: Literal["counter"]
    """Monotonic and cumulative since the meter began: a report that is lost costs nothing."""
    unit: str
    attributes: tuple[str, ...]
    meaning: str

    @property
    def prometheus(self) -> str:
        """Its name at a Prometheus endpoint, by OpenTelemetry's rules: unit, then ``_total``."""
        return "_".join([underscored(self.name), *_UNITS.get(self.unit, ()), "total"])


_UNITS: Final[dict[str, tuple[str, ...]]] = {"J": ("joules",), "s": ("seconds",)}
"""Words for units; one in braces is none."""
_WORK: Final = (SITE, TIER, PIPELINE, MODEL)


def underscored(name: str) -> str:
    """A name or an attribute's key as Prometheus writes it."""
    return name.replace(".", "_")


INFERENCE_ENERGY: Final = MetricRow(
    "setsuden.inference.energy",
    "counter",
    "J",
    (*_WORK, COMPONENT, SOURCE, BOUNDARY),
    "joules of all events, sampled as spans or not; windows of unknown joules are not in it",
)
INFERENCE_COUNT: Final = MetricRow(
    "setsuden.inference.count",
    "counter",
    "{inference}",
    _WORK,
    "observations that models answered; a run in two windows counts in part in each",
)
INFERENCE_CPU_TIME: Final = MetricRow(
    "setsuden.inference.cpu.time", "counter", "s", _WORK, "exact CPU time of the models' runs"
)
UNATTRIBUTED: Final = MetricRow(
    "setsuden.energy.unattributed",
    "counter",
    "J",
    (SITE, TIER, BUCKET, SOURCE, BOUNDARY),
    "joules of the machine that are no event's: of other processes, of reserved idle time nobody "
    "used, of windows that could not be attributed",
)
WINDOWS: Final = MetricRow(
    "setsuden.energy.windows",
    "counter",
    "{window}",
    (SITE, TIER, KNOWN),
    "settled windows; joules count those that are known",
)
ROWS_DROPPED: Final = MetricRow(
    "setsuden.energy.rows.dropped",
    "counter",
    "{row}",
    (SITE, TIER),
    "window rows given up for want of room or of a working disk",
)
HW_ENERGY: Final = MetricRow(
    "hw.energy",
    "counter",
    "J",
    (SITE, HW_ID, HW_TYPE, HW_NAME, HW_PARENT, SOURCE, BOUNDARY),
    "a domain of the machine, parents and children alike: never to be summed, and the same from "
    "every process of the machine",
)
HW_HOST_ENERGY: Final = MetricRow(
    "hw.host.energy",
    "counter",
    "J",
    (SITE, HW_ID, HW_NAME, SOURCE, BOUNDARY),
    "the whole machine; the same from every process of it",
)
PROCESS_CPU_TIME: Final = MetricRow(
    "process.cpu.time",
    "counter",
    "s",
    (SITE, TIER),
    "of the metered process since its meter began, user and system together",
)

METRICS: Final[tuple[MetricRow, ...]] = (
    INFERENCE_ENERGY,
    INFERENCE_COUNT,
    INFERENCE_CPU_TIME,
    UNATTRIBUTED,
    WINDOWS,
    ROWS_DROPPED,
    HW_ENERGY,
    HW_HOST_ENERGY,
    PROCESS_CPU_TIME,
)
"""Every energy metric there is."""
