"""Impact Framework manifest: one row an hour and component, ready for ``if-run``.

Names as its built-in plugins have them: ``energy`` in kWh, ``carbon-operational`` and
``carbon-embodied`` in g CO2e, ``duration`` in seconds. Its ``Sum`` and ``Sci`` are set up where
the run has what they need.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from setsuden.insight.carbon.intensity import JOULES_PER_KWH
from setsuden.insight.report.figures.timeline import HOUR_NS
from setsuden.insight.report.model import CarbonRow, HourReport, Report

UNIT = "inferences"


def text(report: Report) -> str:
    """The manifest as JSON, which is YAML 1.2 too."""
    return json.dumps(manifest(report), indent=2, ensure_ascii=False) + "\n"


def manifest(report: Report) -> dict[str, Any]:
    """The manifest as plain data."""
    carbon = {(row.component, row.site): row for row in report.carbon.rows}
    terms = _terms(report)
    children: dict[str, Any] = {}
    for hour in report.hours:
        row = carbon.get((hour.component, hour.site))
        name = f"{hour.component}-{hour.site}"
        child = children.setdefault(name, {"pipeline": {"compute": _compute(terms)}, "inputs": []})
        child["inputs"].append(_input(report, hour, row, terms))
    return {
        "name": report.name,
        "description": (
            f"SCI per {UNIT}. Boundary: {report.boundary}. {_complete(report)} "
            f"SHA-256 of the rows: {report.rows.sha256}"
        ),
        "tags": {"kind": "setsuden"},
        "initialize": {"plugins": _plugins(terms)},
        "tree": {"children": children},
    }


def _complete(report: Report) -> str:
    if report.whole.total.complete:
        return "Nothing of it is unknown."
    return f"A lower bound, unknown: {'; '.join(report.coverage.unknown)}."


def _terms(report: Report) -> list[str]:
    """Terms of carbon that every row has: a sum that lacks one somewhere would be too low."""
    if not report.hours or any(hour.operational_g is None for hour in report.hours):
        return []
    embodied = ["carbon-embodied"] if report.carbon.embodied_g is not None else []
    return ["carbon-operational", *embodied]


def _compute(terms: list[str]) -> list[str]:
    return ["sum-carbon", "sci"] if terms else []


def _plugins(terms: list[str]) -> dict[str, Any]:
    if not terms:
        return {}
    return {
        "sum-carbon": {
            "path": "builtin",
            "method": "Sum",
            "config": {"input-parameters": terms, "output-parameter": "carbon"},
        },
        "sci": {"path": "builtin", "method": "Sci", "config": {"functional-unit": UNIT}},
    }


def _input(
    report: Report, hour: HourReport, row: CarbonRow | None, terms: list[str]
) -> dict[str, Any]:
    begin = max(_ns(hour), report.start_ns)
    end = min(_ns(hour) + HOUR_NS, report.end_ns)
    # Sci refuses a row of under a second, which may remain at the edge of an hour.
    seconds = max(1.0, (end - begin) / 1e9)
    values: dict[str, Any] = {"timestamp": _stamp(begin), "duration": seconds}
    if hour.joules is not None:
        values["energy"] = hour.joules / JOULES_PER_KWH * (row.pue or 1.0 if row else 1.0)
    if hour.operational_g is not None:
        values["carbon-operational"] = hour.operational_g
    if "carbon-embodied" in terms:
        values["carbon-embodied"] = _embodied(report, hour, row)
    # The whole run's, so that the components' scores add up to the run's.
    values[UNIT] = sum(other.inferences for other in report.hours if other.hour == hour.hour)
    return values


def _embodied(report: Report, hour: HourReport, row: CarbonRow | None) -> float:
    """The hour's share by time; 0 where undeclared, as in the report's own SCI."""
    if row is None or row.embodied_g is None:
        return 0.0
    return row.embodied_g * hour.seconds / (sum(_times(report, hour)) or 1.0)


def _times(report: Report, of: HourReport) -> Iterator[float]:
    for hour in report.hours:
        if (hour.component, hour.site) == (of.component, of.site):
            yield hour.seconds


def _ns(hour: HourReport) -> int:
    return round(datetime.fromisoformat(hour.hour).timestamp()) * 10**9


def _stamp(ns: int) -> str:
    moment = datetime.fromtimestamp(ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns // 10**6 % 1000:03d}Z"
