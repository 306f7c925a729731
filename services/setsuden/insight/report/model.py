"""The report of a run: what ``setsuden report --json`` prints and every other form is drawn from.

Derived from the run's rows and its ``assumptions.json`` alone, so that ``--recompute`` finds every
figure again. Unknown is null, never 0.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from setsuden.schemas.base import WireModel
from setsuden.schemas.energy import Boundary, Method, Quality, Source
from setsuden.schemas.windows import Access

REPORT_VERSION = 1
MAX_POINTS = 300
"""Of a curve over the run."""


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


# -- joules ---------------------------------------------------------------------------------------


class Utilisation(WireModel):
    """Parts of the machines' CPU time, 0 to 1; joules per inference depend on them."""

    machine: float | None
    """Busy for anybody."""
    ours: float | None
    """Busy for the metered processes."""
    inference: float | None
    """Busy with runs of models."""
    steal: float | None
    """Taken by the hypervisor for others."""


class ComponentReport(WireModel):
    """One component's joules. ``dynamic + idle + overhead`` is ``whole``, which is the headline."""

    component: Part
    whole: Cell
    """Its bounds are narrower than the parts' together: a baseline that is too high takes from
    the dynamic part what it gives to the idle part."""
    dynamic: Cell | None
    """Above idle, of runs of models; of the network all. Null: the component has no such part."""
    idle: Cell | None
    """Of the reserved part of the machine, while a run was open or not."""
    overhead: Cell | None
    """Above idle, of our processes outside their runs."""
    idle_unused: Amount | None
    """The part of ``idle`` in which no run was open."""
    other: Amount | None
    """Not ours, in no sum: everyone else on these machines, seen by each meter."""
    cpu_seconds: float
    """Of the metered processes, exact; any better coefficient can start from them."""
    inference_cpu_seconds: float
    """The part of them in runs of models."""
    cpu_seconds_per_1000: float | None
    utilisation: Utilisation | None
    """Null for the network."""
    meters: int
    seconds: float
    """Time under meters, summed over them."""
    unknown_seconds: float
    """The part of it whose joules could not be read."""
    note: str = ""
    """Why it is unknown, or why it is left out."""


class Coverage(WireModel):
    """What the headline's joules stand on; the shares sum to 1. Null when no joules are known."""

    measured: float | None
    """Read from sensors: measured, derived, relayed."""
    modelled: float | None
    """Calibrated or table models."""
    declared: float | None
    by_source: dict[Source, float]
    """The same by exact source; only those that occur."""
    unknown: tuple[str, ...] = Field(strict=False)
    """What has no joules at all, in words."""
    unknown_seconds_share: float
    """Part of the time under meters whose joules could not be read."""


class ModelReport(WireModel):
    """One model in one pipeline on one component."""

    component: Part
    pipeline: str
    model: str
    """bundle/model; of a broker its messages."""
    digest: str
    method: Method
    runs: float
    items: float
    """Observations, of a broker messages."""
    cpu_seconds: float
    cpu_ms_per_item: float | None
    dynamic: Amount
    idle: Amount
    """While its runs were open."""
    joules_per_1000_items: Amount | None
    """Of both; overhead and unused idle time are not in it."""


class MachineReport(WireModel):
    """One machine, whoever of ours ran on it."""

    host_id: str
    components: tuple[Part, ...] = Field(strict=False)
    joules: float | None
    """Of the whole machine, by the meter that saw most of it."""
    ours: float | None
    """What all our meters on it answer for."""
    other: float | None
    """The rest: everyone else's. Null when our meters claim more than the machine used."""


class MeterReport(WireModel):
    """One life of one meter."""

    meter: str
    component: Part
    name: str
    host_id: str
    site: str
    access: Access
    sensor: str
    origin: str
    source: Source
    boundary: Boundary | None
    factor: float | None
    """95 % factor of its windows' joules."""
    idle_origin: str
    idle_factor: float | None
    idle_watts: float | None
    """Mean over its windows."""
    exponent: float = 1.0
    """Bend of the machine's dynamic power over utilisation; 1 is straight."""
    reserved_share: float
    reserved_why: str
    cores: int
    software: str
    config_sha256: str
    windows: int
    unknown_windows: int
    """Without joules."""
    degraded_windows: int
    quarantined_windows: int
    gap_seconds: float
    """Between its windows: rows that were dropped, or a clock that was set."""
    seconds: float
    joules: float | None
    """Of the machine."""
    watts: float | None
    """Mean, of the machine."""


class HourReport(WireModel):
    """One component at one site in one hour."""

    hour: str
    """Its start in UTC, ISO 8601."""
    site: str
    component: Part
    seconds: float
    """Time under meters, summed over them."""
    joules: float | None
    low: float | None
    high: float | None
    complete: bool
    inferences: float
    operational_g: float | None
    """CO2e; null while site or intensity are undeclared."""


class Curve(WireModel):
    """Mean watts that one component answers for, over the run; null where nothing is known."""

    component: Part
    watts: tuple[float | None, ...] = Field(strict=False)


class Series(WireModel):
    """Curves on one time axis: at most 300 points, each the mean over ``step_seconds``."""

    start_ns: int
    """UTC, of the first point's beginning."""
    step_seconds: float
    curves: tuple[Curve, ...] = Field(strict=False)
    inferences_per_second: tuple[float, ...] = Field(strict=False)


class Difference(WireModel):
    """Joules per 1,000 that the other way would use more (or, below 0, less)."""

    joules: float | None
    low: float | None
    """Null: no lower bound is known."""
    high: float | None
    """Null: no upper bound is known."""


class Counterfactual(WireModel):
    """The same events another way, from the same run's coefficients."""

    scenario: Literal["all_edge", "all_cloud"]
    per_1000: Amount | None
    """Null when the run gives no coefficients for it."""
    by_component: dict[Part, Amount]
    """Joules per 1,000."""
    difference: Difference | None
    """It minus the cascade: above 0 the cascade saves. A coefficient has one value in both, so
    its error is counted once, on the joules by which they differ."""
    verdict: Verdict
    """Of the cascade against it."""
    cpu_seconds_per_1000: float | None
    bytes_per_1000: float | None
    """On the wire between devices and broker, headers included."""
    assumptions: tuple[str, ...] = Field(strict=False)
    reason: str = ""
    """Why there is no figure."""


# -- grams, litres, euros -------------------------------------------------------------------------


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


# -- the whole ------------------------------------------------------------------------------------


class Finding(WireModel):
    """Something about the run that a person may want to act on."""

    code: str
    severity: Severity
    words: str
    advice: str = ""
    evidence: dict[str, float | int | str] = Field(default_factory=dict)


class Events(WireModel):
    """What became of the events. The final ones are the inferences."""

    local: int
    cloud: int
    expired: int
    dead: int
    escalated: int
    answered: int
    messages: int
    bytes_up: int
    bytes_down: int
    packets: int


class RowsRead(WireModel):
    """What the report was made from."""

    meters: int
    windows: int
    torn: int
    """Last lines cut off in the middle: a process was killed while it wrote."""
    duplicates: int
    """Windows that stood in more than one file; counted once."""
    sha256: str
    """Of all rows, whatever their order and files."""
    assumptions_sha256: str


class Report(WireModel):
    """One run: joules, grams and euros per 1,000 inferences."""

    version: int = REPORT_VERSION
    name: str
    """Of the run's folder."""
    start_ns: int
    """UTC."""
    end_ns: int
    """UTC."""
    since_ns: int | None
    """What was asked for; null: everything."""
    until_ns: int | None
    devices: int
    inferences: int
    """Events with a final result on the devices: local + cloud + expired + dead."""
    escalation_rate: float | None
    events: Events
    whole: Cell
    """The headline: dynamic + idle + overhead of edge, broker, network and cloud."""
    boundary: str
    """What is inside and outside the headline, in words."""
    components: tuple[ComponentReport, ...] = Field(strict=False)
    """Always four, in the order edge, broker, network, cloud."""
    coverage: Coverage
    all_edge: Counterfactual
    all_cloud: Counterfactual
    carbon: Carbon
    sci: Sci
    cost: Cost
    models: tuple[ModelReport, ...] = Field(strict=False)
    machines: tuple[MachineReport, ...] = Field(strict=False)
    meters: tuple[MeterReport, ...] = Field(strict=False)
    hours: tuple[HourReport, ...] = Field(strict=False)
    series: Series
    assumptions: tuple[str, ...] = Field(strict=False)
    """Everything that is no reading, each with its source."""
    rows: RowsRead
    findings: tuple[Finding, ...] = Field(default=(), strict=False)
