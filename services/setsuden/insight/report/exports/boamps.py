"""BoAmps report (Boavizta), format 1.1.0: the run as one inference task, one measure a component.

What the rows do not know (kind of data, model family) has the format's own ``other`` or is left
out.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from math import fsum
from typing import Any

from setsuden.insight.report.amounts import JOULES_PER_KWH
from setsuden.insight.report.errors import RowsError
from setsuden.insight.report.model import Amount, ComponentReport, MeterReport, Part, Report

FORMAT = "1.1.0"
URI = "https://github.com/Boavizta/BoAmps/tree/main/model"
QUALITY = ((1.10, "high"), (1.25, "medium"))
"""Its own levels: within 10 %, within 25 %, else low."""


def text(report: Report) -> str:
    """The report as JSON."""
    return json.dumps(document(report), indent=2, ensure_ascii=False) + "\n"


def document(report: Report) -> dict[str, Any]:
    """The report as plain data; raises RowsError when no joules are known."""
    measures = list(_measures(report))
    if not measures:
        raise RowsError(
            "no joules are known, and BoAmps has no report without them",
            remedy="`setsuden energy doctor` says why there are none",
        )
    found = {
        "header": _header(report),
        "task": _task(report),
        "measures": measures,
        "system": {"os": "linux"},
        "software": {"language": "python"},
        "infrastructure": {
            "infraType": "other",
            "components": [_hardware(meter) for meter in report.meters],
        },
        "quality": quality_of(report.whole.total),
    }
    environment = _environment(report)
    return found if environment is None else {**found, "environment": environment}


def _header(report: Report) -> dict[str, Any]:
    return {
        "formatVersion": FORMAT,
        "formatVersionSpecificationUri": URI,
        "reportId": str(uuid.UUID(report.rows.sha256[:32], version=4)),
        "reportDatetime": _stamp(report.end_ns),
        "reportStatus": "draft",
        "publisher": {"confidentialityLevel": "internal"},
    }


def _task(report: Report) -> dict[str, Any]:
    pipelines = {model.pipeline for model in report.models if model.component is not Part.BROKER}
    names = {model.model for model in report.models if model.component is not Part.BROKER}
    algorithms = [
        {"algorithmType": "neural network", "algorithmName": name, "framework": "onnxruntime"}
        for name in sorted(names)
    ]
    return {
        "taskStage": "inference",
        "taskFamily": f"cascade: {', '.join(sorted(pipelines))}",
        "nbRequest": report.inferences,
        "algorithms": algorithms or [{"algorithmType": "neural network"}],
        "dataset": [
            {"dataUsage": usage, "dataType": "other", "dataQuantity": report.inferences}
            for usage in ("input", "output")
        ],
        "taskDescription": f"Edge-to-cloud cascade. Boundary: {report.boundary}",
    }


def _measures(report: Report) -> Iterator[dict[str, Any]]:
    for component in report.components:
        if component.whole.total.joules is not None:
            yield _measure(report, component, component.whole.total.joules)


def _measure(report: Report, component: ComponentReport, joules: float) -> dict[str, Any]:
    sensors = {m.sensor for m in report.meters if m.component is component.component}
    found: dict[str, Any] = {
        "measurementMethod": f"setsuden {component.component} ({component.whole.total.source})",
        "cpuTrackingMode": ", ".join(sorted(sensors)) or "bytes on the wire",
        "powerConsumption": joules / JOULES_PER_KWH,
        "measurementDuration": (report.end_ns - report.start_ns) / 1e9,
        "measurementDateTime": _stamp(report.start_ns),
    }
    used = component.utilisation
    if used is not None and used.machine is not None:
        found["averageUtilizationCpu"] = min(used.machine, 1.0)
    return found


def _hardware(meter: MeterReport) -> dict[str, Any]:
    return {
        "componentName": f"{meter.component} {meter.name}",
        "componentType": "cpu",
        "nbComponent": meter.cores,
        "share": meter.reserved_share,
    }


def _environment(report: Report) -> dict[str, Any] | None:
    """Only where the whole run stood in one grid: the format has room for one."""
    zones = {row.zone for row in report.carbon.rows}
    zone = zones.pop() if len(zones) == 1 else None
    if zone is None:
        return None
    sites = sorted({row.site for row in report.carbon.rows})
    found = {"country": zone.partition("-")[0], "location": ", ".join(sites)}
    grams = _grams_per_kwh(report)
    return found if grams is None else {**found, "powerSourceCarbonIntensity": grams}


def _grams_per_kwh(report: Report) -> float | None:
    """Of all components together: with hourly figures each has a mean of its own."""
    known = [
        (row.operational_g, row.kwh)
        for row in report.carbon.rows
        if row.operational_g is not None and row.kwh is not None
    ]
    kwh = fsum(part for _, part in known)
    return fsum(grams for grams, _ in known) / kwh if kwh > 0 else None


def quality_of(whole: Amount) -> str:
    """By the interval's upper half, which is the wider one."""
    if not whole.joules or whole.high is None or not whole.complete:
        return "low"
    factor = whole.high / whole.joules
    return next((name for limit, name in QUALITY if factor <= limit), "low")


def _stamp(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%d %H:%M:%S}"
