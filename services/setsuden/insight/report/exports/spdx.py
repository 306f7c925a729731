"""SPDX 3.0.1 JSON-LD: ``ai_inferenceEnergyConsumption`` of every model of the run.

Made to be merged into the models' own bill of materials, which knows what the rows do not:
licence, supplier, place and date of release. So conformance to the AI profile is not claimed.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from setsuden.insight.report.amounts import JOULES_PER_KWH, added
from setsuden.insight.report.model import ModelReport, Part, Report

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
VERSION = "3.0.1"
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_CREATION = "_:creation"


def text(report: Report) -> str:
    """The document as JSON."""
    return json.dumps(document(report), indent=2, ensure_ascii=False) + "\n"


def document(report: Report) -> dict[str, Any]:
    """The document as plain data."""
    base = f"urn:setsuden:report:{report.rows.sha256[:32]}"
    packages = [
        _package(f"{base}#model-{number}", models)
        for number, models in enumerate(_models(report), start=1)
    ]
    return {"@context": CONTEXT, "@graph": [*_head(report, base, packages), *packages]}


def _models(report: Report) -> Iterator[Sequence[ModelReport]]:
    """Rows of the same model together; the broker's messages are no model."""
    found: defaultdict[tuple[str, str], list[ModelReport]] = defaultdict(list)
    for model in report.models:
        if model.component is not Part.BROKER:
            found[model.model, model.digest].append(model)
    yield from found.values()


def _head(report: Report, base: str, packages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    created = datetime.fromtimestamp(report.end_ns // 10**9, UTC)
    return [
        {
            "type": "CreationInfo",
            "@id": _CREATION,
            "specVersion": VERSION,
            "created": f"{created:%Y-%m-%dT%H:%M:%SZ}",
            "createdBy": [f"{base}#setsuden"],
        },
        {
            "type": "SoftwareAgent",
            "spdxId": f"{base}#setsuden",
            "creationInfo": _CREATION,
            "name": "Setsuden",
        },
        {
            "type": "SpdxDocument",
            "spdxId": base,
            "creationInfo": _CREATION,
            "name": report.name,
            "comment": f"Energy of inference. Boundary: {report.boundary}",
            "profileConformance": ["core"],
            "rootElement": [package["spdxId"] for package in packages],
        },
    ]


def _package(spdx_id: str, models: Sequence[ModelReport]) -> dict[str, Any]:
    first = models[0]
    known = [kwh for model in models if (kwh := _kwh(model)) is not None]
    found: dict[str, Any] = {
        "type": "ai_AIPackage",
        "spdxId": spdx_id,
        "creationInfo": _CREATION,
        "name": first.model,
        "comment": "; ".join(_words(model) for model in models),
        "software_primaryPurpose": "model",
    }
    digest = _SHA256.fullmatch(first.digest)
    if digest is not None:
        found["verifiedUsing"] = [{"type": "Hash", "algorithm": "sha256", "hashValue": digest[1]}]
    if known:
        found["ai_energyConsumption"] = {
            "type": "ai_EnergyConsumption",
            "ai_inferenceEnergyConsumption": [
                {
                    "type": "ai_EnergyConsumptionDescription",
                    "ai_energyQuantity": _decimal(kwh),
                    "ai_energyUnit": "kilowattHour",
                }
                for kwh in known
            ],
        }
    return found


def _kwh(model: ModelReport) -> float | None:
    joules = added((model.dynamic, model.idle)).joules
    return None if joules is None else joules / JOULES_PER_KWH


def _words(model: ModelReport) -> str:
    whole = added((model.dynamic, model.idle))
    told = f"{model.component}, pipeline {model.pipeline}: {model.items:.0f} inferences"
    if whole.joules is None or whole.low is None or whole.high is None:
        return f"{told}, energy unknown"
    low, high = whole.low / JOULES_PER_KWH, whole.high / JOULES_PER_KWH
    least = "" if whole.complete else ", a lower bound: some joules could not be read"
    boundary = f", boundary {whole.boundary}" if whole.boundary is not None else ""
    return (
        f"{told}, {low:.3g} to {high:.3g} kWh (95 %), source {whole.source}{boundary}{least}; "
        "without overhead and unused idle time of its process"
    )


def _decimal(value: float) -> str:
    """xsd:decimal has no exponent."""
    return format(Decimal(repr(value)), "f")
