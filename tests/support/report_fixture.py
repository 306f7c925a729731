"""Reports of runs that never were: a plausible one, and one at every edge of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from setsuden.insight.report.model import (
    Amount,
    Carbon,
    CarbonRow,
    Cell,
    ComponentReport,
    Cost,
    CostRow,
    Counterfactual,
    Coverage,
    Curve,
    Difference,
    Events,
    Finding,
    HourReport,
    MachineReport,
    MeterReport,
    ModelReport,
    Part,
    Report,
    RowsRead,
    Sci,
    Series,
    Severity,
    Utilisation,
    Verdict,
)
from setsuden.schemas.energy import Boundary, Method, Quality, Source
from setsuden.schemas.windows import Access

START = 1_795_766_400_000_000_000  # 2026-11-27 08:00 UTC
INFERENCES = 1_296_000
SECONDS = 21_600.0
_DEVICES = 24
UNKNOWN = Amount()
NONE = Cell(total=UNKNOWN, per_1000=UNKNOWN)


def amount(
    joules: float,
    factor: float = 2.0,
    source: Source = Source.TABLE_MODEL,
    boundary: Boundary | None = Boundary.HOST,
    **more: object,
) -> Amount:
    """Joules with a symmetric factor around them."""
    return Amount.model_validate(
        {
            "joules": joules,
            "low": joules / factor,
            "high": joules * factor,
            "source": source,
            "boundary": boundary,
            **more,
        }
    )


def cell(
    per_1000: float,
    factor: float = 2.0,
    source: Source = Source.TABLE_MODEL,
    boundary: Boundary | None = Boundary.HOST,
    **more: object,
) -> Cell:
    """A figure of 1,000 inferences, and of all of them."""
    return Cell(
        total=amount(per_1000 * INFERENCES / 1000, factor, source, boundary, **more),
        per_1000=amount(per_1000, factor, source, boundary, **more),
    )


def component(
    part: Part, parts: Sequence[Cell | None], whole: Cell, *, cpu: float = 0.0, **more: object
) -> ComponentReport:
    """One component of a run of six hours."""
    dynamic, idle, overhead = parts
    return ComponentReport.model_validate(
        {
            "component": part,
            "whole": whole,
            "dynamic": dynamic,
            "idle": idle,
            "overhead": overhead,
            "idle_unused": idle.total if idle is not None else None,
            "other": None,
            "cpu_seconds": cpu,
            "inference_cpu_seconds": cpu * 0.71,
            "cpu_seconds_per_1000": cpu / INFERENCES * 1000,
            "utilisation": None,
            "meters": 0,
            "seconds": 0.0,
            "unknown_seconds": 0.0,
            **more,
        }
    )


def _edge() -> ComponentReport:
    labels = (1.1, Source.MEASURED, Boundary.BOARD_DC)
    return component(
        Part.EDGE,
        (cell(61.3, *labels), cell(148.0, *labels), cell(9.42, *labels)),
        cell(218.72, 1.12, *labels[1:]),
        cpu=11_340.0,
        utilisation=Utilisation(machine=0.19, ours=0.131, inference=0.093, steal=0.0),
        meters=_DEVICES,
        seconds=SECONDS * _DEVICES,
        unknown_seconds=412.0,
    )


def _broker() -> ComponentReport:
    return component(
        Part.BROKER,
        (cell(0.84), cell(6.1), cell(0.22)),
        cell(7.16),
        cpu=388.2,
        utilisation=Utilisation(machine=0.041, ours=0.0183, inference=0.0175, steal=0.0021),
        meters=1,
        seconds=SECONDS,
    )


def _network() -> ComponentReport:
    labels = (3.4, Source.TABLE_MODEL, Boundary.LINK)
    return component(
        Part.NETWORK,
        (cell(11.9, *labels), None, None),
        cell(11.9, *labels),
        cpu_seconds_per_1000=None,
        note="a fixed line: 0.0065 kWh/GB (Carbon Trust 2021), from marginal to 0.06 kWh/GB",
    )


def _cloud() -> ComponentReport:
    labels = (1.35, Source.CALIBRATED_MODEL, Boundary.HOST)
    return component(
        Part.CLOUD,
        (cell(84.1, *labels), cell(97.6, *labels), cell(21.3, *labels)),
        cell(203.0, *labels),
        cpu=18_930.0,
        other=amount(412_000.0, *labels),
        utilisation=Utilisation(machine=0.447, ours=0.361, inference=0.274, steal=0.012),
        meters=3,
        seconds=SECONDS * 3,
    )


def _all_cloud() -> Counterfactual:
    return Counterfactual(
        scenario="all_cloud",
        per_1000=amount(1193.0, 1.5, boundary=None),
        by_component={
            Part.EDGE: amount(152.0, 1.1, Source.MEASURED, Boundary.BOARD_DC),
            Part.BROKER: amount(21.4),
            Part.NETWORK: amount(79.6, 3.4, Source.TABLE_MODEL, Boundary.LINK),
            Part.CLOUD: amount(940.0, 1.35, Source.CALIBRATED_MODEL),
        },
        difference=Difference(joules=752.2, low=318.0, high=1294.0),
        verdict=Verdict.SAVES,
        cpu_seconds_per_1000=97.4,
        bytes_per_1000=31_400_000.0,
        assumptions=(
            "every event is published to the broker and answered by the teacher",
            "the devices stay on: their idle power is counted",
            "the cloud's idle power grows with the replicas that the load would need",
        ),
    )


def _all_edge() -> Counterfactual:
    return Counterfactual(
        scenario="all_edge",
        per_1000=amount(209.9, 1.12, Source.MEASURED, Boundary.BOARD_DC),
        by_component={Part.EDGE: amount(209.9, 1.12, Source.MEASURED, Boundary.BOARD_DC)},
        difference=Difference(joules=-230.9, low=-342.0, high=-158.0),
        verdict=Verdict.COSTS,
        cpu_seconds_per_1000=8.61,
        bytes_per_1000=0.0,
        assumptions=(
            "every event is answered by the student; its answers are those of the students alone",
            "nothing is sent, so broker, network and cloud use nothing",
        ),
    )


def _watts(base: float, swing: float, gap: range = range(0)) -> tuple[float | None, ...]:
    return tuple(
        None
        if place in gap
        else base + swing * math.sin(place / 23) + 0.06 * base * math.sin(place * 1.7)
        for place in range(300)
    )


def series() -> Series:
    """Six hours of which the cloud's meter missed one."""
    return Series(
        start_ns=START,
        step_seconds=72.0,
        curves=(
            Curve(component=Part.EDGE, watts=_watts(13.1, 1.1)),
            Curve(component=Part.BROKER, watts=_watts(0.43, 0.02)),
            Curve(component=Part.NETWORK, watts=_watts(0.71, 0.3)),
            Curve(component=Part.CLOUD, watts=_watts(12.2, 5.0, range(171, 192))),
        ),
        inferences_per_second=tuple(value or 0.0 for value in _watts(60.0, 14.0)),
    )


def carbon() -> Carbon:
    """Two sites in one grid."""
    grid = {
        "zone": "FR",
        "intensity_g_per_kwh": 41.9,
        "year": 2025,
        "intensity_method": "average",
        "intensity_source": "Ember and Energy Institute, processed by Our World in Data, CC BY 4.0",
        "complete": True,
    }
    rows = (
        (Part.EDGE, "plant-lyon", 0.0787, None, 3.3, 5.8, "declared by the maker, 2025"),
        (Part.BROKER, "fr-par-2", 0.00299, 1.16, 0.125, None, "no embodied emissions declared"),
        (Part.NETWORK, "fr-par-2", 0.00428, None, 0.18, None, "no embodied emissions declared"),
        (Part.CLOUD, "fr-par-2", 0.0848, 1.16, 3.55, 4.1, "declared by the operator, 2026"),
    )
    made = tuple(
        CarbonRow.model_validate(
            {
                "component": part,
                "site": site,
                "kwh": kwh,
                "pue": pue,
                "operational_g": grams,
                "operational_low": grams / 1.4,
                "operational_high": grams * 1.4,
                "embodied_g": embodied,
                "embodied_source": source,
                "water_l": 0.018 if pue is not None else None,
                **grid,
            }
        )
        for part, site, kwh, pue, grams, embodied, source in rows
    )
    return Carbon(
        rows=made,
        operational_g=7.155,
        operational_low=5.11,
        operational_high=10.0,
        embodied_g=9.9,
        water_l=0.036,
        complete=True,
        undeclared=("embodied emissions of the broker's machine at fr-par-2",),
    )


def models() -> tuple[ModelReport, ...]:
    """A student, a teacher and the broker's messages."""
    rows = (
        (Part.EDGE, "bearing-student/int8", Method.EXCLUSIVE, 1_296_000.0, 6.21),
        (Part.BROKER, "messages", Method.AMORTISED, 404_800.0, 0.93),
        (Part.CLOUD, "bearing-teacher/fp32", Method.BATCH_WEIGHTED, 171_100.0, 78.5),
    )
    return tuple(
        ModelReport(
            component=part,
            pipeline="bearing-wear",
            model=model,
            digest="sha256:" + 8 * "9f3c01ba",
            method=method,
            runs=items / (6.5 if method is Method.BATCH_WEIGHTED else 1),
            items=items,
            cpu_seconds=items * ms / 1000,
            cpu_ms_per_item=ms,
            dynamic=amount(79_400.0),
            idle=amount(11_200.0),
            joules_per_1000_items=amount(ms * 11.3),
        )
        for part, model, method, items, ms in rows
    )


def meter(part: Part, number: int, **more: object) -> MeterReport:
    """One meter of six hours."""
    return MeterReport.model_validate(
        {
            "meter": f"01J{part.value[:2].upper()}{number:019d}",
            "component": part,
            "name": f"press-{number:02d}" if part is Part.EDGE else f"{part.value}-{number}",
            "host_id": f"{number:08x}9a31c7de55f0",
            "site": "plant-lyon" if part is Part.EDGE else "fr-par-2",
            "access": Access.FIXED,
            "sensor": "ina3221" if part is Part.EDGE else "calibrated",
            "origin": "INA3221 rail VDD_IN, factor 1.1 (judgement)",
            "source": Source.MEASURED if part is Part.EDGE else Source.CALIBRATED_MODEL,
            "boundary": Boundary.BOARD_DC if part is Part.EDGE else Boundary.HOST,
            "factor": 1.1 if part is Part.EDGE else 1.35,
            "idle_origin": "calibrated",
            "idle_factor": 1.08,
            "idle_watts": 0.371,
            "exponent": 0.6,
            "reserved_share": 1.0 if part is Part.EDGE else 0.25,
            "reserved_why": "a device of its own" if part is Part.EDGE else "cpu.max 200000 100000",
            "cores": 6,
            "software": "setsuden 0.1.0",
            "config_sha256": 8 * "5d20ee41",
            "windows": 21_580,
            "unknown_windows": 0,
            "degraded_windows": 4,
            "quarantined_windows": 0,
            "gap_seconds": 20.0,
            "seconds": 21_580.0,
            "joules": 11_790.0,
            "watts": 0.546,
            **more,
        }
    )


def hours(many: int = 6) -> tuple[HourReport, ...]:
    """The edge and the cloud, hour by hour."""
    return tuple(
        HourReport(
            hour=f"2026-11-27T{8 + place % 16:02d}:00:00Z",
            site="plant-lyon" if part is Part.EDGE else "fr-par-2",
            component=part,
            seconds=3600.0 * (_DEVICES if part is Part.EDGE else 3),
            joules=joules,
            low=joules / 1.2,
            high=joules * 1.2,
            complete=place != 3,
            inferences=216_000.0,
            operational_g=joules * 41.9 / 3.6e6,
        )
        for place in range(many)
        for part, joules in ((Part.EDGE, 47_200.0), (Part.CLOUD, 43_900.0))
    )


def findings() -> tuple[Finding, ...]:
    """One of each severity, not in their order."""
    return (
        Finding(
            code="quiet-broker",
            severity=Severity.INFO,
            words="The broker used 1.83 % of its machine.",
        ),
        Finding(
            code="missing-windows",
            severity=Severity.WARNING,
            words="A cloud meter wrote nothing for 25 minutes.",
            advice="Look for a full disk on fr-par-2, or a process that was killed.",
            evidence={"meter": "cloud-2", "seconds": 1512.0, "windows": 1512},
        ),
        Finding(
            code="cascade-costs",
            severity=Severity.ERROR,
            words="The cascade uses more than the students alone.",
            advice="Raise the gate's threshold only if the accuracy is worth these joules.",
            evidence={"escalation_rate": 0.132},
        ),
    )


def realistic(more: Mapping[str, object] | None = None, **size: int) -> Report:
    """Six hours of 24 devices with sensors and three modelled replicas."""
    edge, broker, network, cloud = _edge(), _broker(), _network(), _cloud()
    edge_meters, many_hours = size.get("edge_meters", _DEVICES), size.get("many_hours", 6)
    fields: dict[str, object] = {
        "name": "bearing-wear-2026-11-27",
        "start_ns": START,
        "end_ns": START + int(SECONDS * 1e9),
        "since_ns": None,
        "until_ns": None,
        "devices": _DEVICES,
        "inferences": INFERENCES,
        "escalation_rate": 0.132,
        "events": Events(
            local=1_124_100,
            cloud=170_820,
            expired=1_062,
            dead=18,
            escalated=171_100,
            answered=171_344,
            messages=404_800,
            bytes_up=5_130_000_000,
            bytes_down=48_200_000,
            packets=4_410_000,
        ),
        "whole": cell(440.78, 1.29, Source.TABLE_MODEL, None),
        "boundary": "Inside: the devices at their DC input, the reserved part of the broker's and "
        "the replicas' hosts, the fixed line between them. Outside: displays, gateways, training "
        "of the models, people.",
        "components": (edge, broker, network, cloud),
        "coverage": Coverage(
            measured=0.4962,
            modelled=0.5038,
            declared=0.0,
            by_source={
                Source.MEASURED: 0.4962,
                Source.CALIBRATED_MODEL: 0.4605,
                Source.TABLE_MODEL: 0.0433,
            },
            unknown=(),
            unknown_seconds_share=0.00068,
        ),
        "all_edge": _all_edge(),
        "all_cloud": _all_cloud(),
        "carbon": carbon(),
        "sci": Sci(
            grams=0.0132,
            low=0.0116,
            high=0.0154,
            operational_g=0.00552,
            embodied_g=0.00764,
            functional_unit="1,000 inferences",
            boundary="operation of edge, broker, network and cloud; training left out",
            complete=False,
        ),
        "cost": Cost(
            rows=(
                CostRow(
                    component=Part.EDGE,
                    electricity_eur=0.0149,
                    instance_eur=None,
                    device_eur=0.394,
                    whole_eur=0.409,
                    complete=True,
                ),
                CostRow(
                    component=Part.CLOUD,
                    electricity_eur=None,
                    instance_eur=1.62,
                    device_eur=None,
                    whole_eur=1.62,
                    complete=True,
                ),
            ),
            per_1000_eur=0.00157,
            all_edge_per_1000_eur=0.000316,
            all_cloud_per_1000_eur=0.00744,
            complete=False,
            undeclared=("the rent or tariff of the broker's machine at fr-par-2",),
        ),
        "models": models(),
        "machines": tuple(
            MachineReport(
                host_id=f"{number:08x}9a31c7de55f0",
                components=(Part.CLOUD, Part.BROKER) if number == 0 else (Part.CLOUD,),
                joules=981_000.0,
                ours=569_000.0 if number else 578_280.0,
                other=412_000.0 if number else None,
            )
            for number in range(3)
        ),
        "meters": (
            *(meter(Part.EDGE, number) for number in range(edge_meters)),
            *(meter(Part.CLOUD, number, watts=45.4, joules=981_000.0) for number in range(3)),
        ),
        "hours": hours(many_hours),
        "series": series(),
        "assumptions": (
            "INA3221 rails are right within a factor of 1.1 (judgement)",
            "a fixed line uses 0.0065 kWh/GB (Carbon Trust 2021)",
            "the grid of FR emitted 41.9 g/kWh in 2025 (Ember and Energy Institute)",
            "fr-par-2 has a PUE of 1.16 (Scaleway documentation, reviewed 2025-06-09)",
        ),
        "rows": RowsRead(
            meters=27,
            windows=582_660,
            torn=1,
            duplicates=0,
            sha256=8 * "c0ffee12",
            assumptions_sha256=8 * "ab12cd34",
        ),
        "findings": findings(),
        **(more or {}),
    }
    return Report.model_validate(fields)


LONG = "a-very-long-name-without-any-room-to-break-it-" * 6


def unknown(scenario: str) -> Counterfactual:
    """Another way for which the run has no coefficients."""
    return Counterfactual.model_validate(
        {
            "scenario": scenario,
            "per_1000": None,
            "by_component": {},
            "difference": None,
            "verdict": Verdict.CANNOT_TELL,
            "cpu_seconds_per_1000": None,
            "bytes_per_1000": None,
            "assumptions": (),
            "reason": "no event was escalated in this run",
        }
    )


def bare(**more: object) -> Report:
    """Nothing is known but that it ran: no joules, no inference, no grid, no price."""
    nothing = Cell(total=UNKNOWN, per_1000=None)
    fields: dict[str, object] = {
        "name": LONG,
        "devices": 1,
        "inferences": 0,
        "escalation_rate": None,
        "events": Events(
            local=0,
            cloud=0,
            expired=0,
            dead=0,
            escalated=0,
            answered=0,
            messages=0,
            bytes_up=0,
            bytes_down=0,
            packets=0,
        ),
        "whole": nothing,
        "components": tuple(
            component(part, (nothing, None, None), nothing, note="no meter wrote a row", cpu=0.0)
            for part in Part
        ),
        "coverage": Coverage(
            measured=None,
            modelled=None,
            declared=None,
            by_source={},
            unknown=("the edge", "the broker", "the network", "the cloud"),
            unknown_seconds_share=1.0,
        ),
        "all_edge": unknown("all_edge"),
        "all_cloud": unknown("all_cloud"),
        "carbon": Carbon(
            rows=(),
            operational_g=None,
            operational_low=None,
            operational_high=None,
            embodied_g=None,
            water_l=None,
            complete=False,
            undeclared=("the site of the edge",),
        ),
        "sci": Sci(
            grams=None,
            low=None,
            high=None,
            operational_g=None,
            embodied_g=None,
            functional_unit="1,000 inferences",
            boundary="operation of the edge",
            complete=False,
        ),
        "cost": Cost(
            rows=(),
            per_1000_eur=None,
            all_edge_per_1000_eur=None,
            all_cloud_per_1000_eur=None,
            complete=False,
            undeclared=("a price for every site",),
        ),
        "models": (),
        "machines": (),
        "meters": (),
        "hours": (),
        "series": Series(
            start_ns=START,
            step_seconds=72.0,
            curves=tuple(Curve(component=part, watts=(None,) * 5) for part in Part),
            inferences_per_second=(0.0,) * 5,
        ),
        "assumptions": (),
        "findings": (),
        **more,
    }
    return realistic(fields)


def edges() -> Report:
    """One component known, bounds missing, quarantined, long names, a saving below 0."""
    whole = cell(13_400.0, 3.0, quality=Quality.QUARANTINED, complete=False)
    alone = component(Part.EDGE, (cell(0.0), whole, NONE), whole, cpu=11.0, note=LONG)
    others = [
        component(part, (NONE, None, None), NONE, note=f"no meter: {LONG}")
        for part in (Part.BROKER, Part.NETWORK, Part.CLOUD)
    ]
    far = Counterfactual(
        scenario="all_cloud",
        per_1000=amount(4_020_000.0, 3.0, complete=False),
        by_component={Part.EDGE: amount(0.00002)},
        difference=Difference(joules=-40.0, low=None, high=900.0),
        verdict=Verdict.CANNOT_TELL,
        cpu_seconds_per_1000=0.0,
        bytes_per_1000=3.2e15,
        assumptions=(LONG,),
    )
    fields: dict[str, object] = {
        "name": LONG,
        "since_ns": START,
        "until_ns": 2**63,
        "whole": whole,
        "components": (alone, *others),
        "coverage": Coverage(
            measured=0.0,
            modelled=1.0,
            declared=0.0,
            by_source={Source.TABLE_MODEL: 1.0},
            unknown=("the broker", "the cloud"),
            unknown_seconds_share=0.731,
        ),
        "all_edge": unknown("all_edge"),
        "all_cloud": far,
        "models": tuple(one.model_copy(update={"model": LONG, "digest": LONG}) for one in models()),
        "meters": (
            meter(Part.EDGE, 1, name=LONG, origin=LONG, watts=None, joules=None, unknown_windows=9),
        ),
        "assumptions": (LONG,),
        "findings": (Finding(code=LONG, severity=Severity.WARNING, words=LONG, advice=LONG),),
    }
    return realistic(fields)


def bare_with(whole: Cell) -> Report:
    """A run without inferences of which the edge's joules are known."""
    report = bare()
    edge, *others = report.components
    components = (edge.model_copy(update={"whole": whole, "idle": whole}), *others)
    return report.model_copy(update={"whole": whole, "components": components})
