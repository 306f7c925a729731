"""The exported schemas and reference pages say what the code says."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from setsuden.cli import export_schemas
from setsuden.schemas.decision import Action, Decision, Reason
from setsuden.schemas.energy import Boundary, EnergyReading, Method, Source
from setsuden.schemas.result import Energy, Result, Status, Tier
from setsuden.schemas.spans import ATTRIBUTES, SPANS
from setsuden.schemas.subjects import SUBJECTS

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(not (REPOSITORY / "docs").is_dir(), reason="needs the repository")
def test_nothing_exported_is_stale() -> None:
    """Else: python -m setsuden.cli.export_schemas."""
    assert export_schemas.stale(REPOSITORY) == []


def test_a_stale_a_missing_and_an_orphaned_file_are_found(tmp_path: Path) -> None:
    for path, text in export_schemas.exports():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert export_schemas.stale(tmp_path) == []
    (tmp_path / "schemas/result.schema.json").write_text("{}")
    (tmp_path / "docs/subjects.md").unlink()
    (tmp_path / "schemas/old.schema.json").write_text("{}")
    assert export_schemas.stale(tmp_path) == [
        "schemas/result.schema.json",
        "docs/subjects.md",
        "schemas/old.schema.json",
    ]


@pytest.mark.parametrize("name", export_schemas.MODELS)
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(export_schemas.schema_of(name))


@pytest.mark.parametrize("name", ["agent-config", "cloud-config", "bundle", "pipeline"])
def test_what_a_person_writes_has_no_unknown_keys(name: str) -> None:
    schema = export_schemas.schema_of(name)
    assert schema["additionalProperties"] is False
    assert all(
        inner["additionalProperties"] is False
        for inner in schema.get("$defs", {}).values()
        if inner["type"] == "object"
    )


def test_an_event_s_schema_holds_attributes_and_no_body() -> None:
    schema = export_schemas.schema_of("event")
    assert "data" not in schema["properties"]
    assert set(schema["required"]) == {"id", "source", "pipeline", "device"}


def test_fields_are_described_by_the_text_under_them() -> None:
    schema = export_schemas.schema_of("energy-reading")
    assert schema["properties"]["cpu_seconds"]["description"].startswith("Exact CPU time")


def test_a_result_as_it_travels_fits_its_schema() -> None:
    reading = EnergyReading(
        joules=0.4,
        joules_low=0.2,
        joules_high=0.8,
        cpu_seconds=0.1,
        source=Source.TABLE_MODEL,
        boundary=Boundary.WALL_AC,
        method=Method.THREAD,
    )
    decision = Decision(action=Action.ESCALATE, reason=Reason.LOW_CONFIDENCE, confidence=0.4)
    result = Result.model_validate_json(
        Result.model_construct(
            event_id="dev-00000000-1",
            pipeline="digits",
            device="dev",
            status=Status.FINAL,
            tier=Tier.CLOUD,
            decision=decision,
            energy=Energy(edge=reading),
            trace_id="0" * 32,
            at="2026-01-31T12:00:00Z",
        ).model_dump_json(warnings=False)
    )
    document = result.model_dump(mode="json")
    jsonschema.Draft202012Validator(export_schemas.schema_of("result")).validate(document)


def test_the_pages_name_every_subject_attribute_and_option() -> None:
    pages = {path: page() for path, page in export_schemas.PAGES.items()}
    assert all(f"`{found.pattern}`" in pages["docs/subjects.md"] for found in SUBJECTS)
    assert all(f"`{name}`" in pages["docs/tracing.md"] for name in ATTRIBUTES)
    assert all(f"`{row.name}`" in pages["docs/tracing.md"] for row in SPANS)
    assert "@@" not in pages["docs/tracing.md"]
    options = (
        "`device`",
        "`ack_wait_seconds`",
        "### `[[pipelines]]`",
        "### `[models.<name>]`",
    )
    assert all(option in pages["docs/configuration.md"] for option in options)
