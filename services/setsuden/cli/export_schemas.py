"""Writes the JSON Schemas and reference pages that the repository keeps beside the code.

``python -m setsuden.cli.export_schemas [--check]``, in the repository's root.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic.json_schema import GenerateJsonSchema

from setsuden.demo.report_model import DemoReport
from setsuden.edge_agent.config import AgentConfig
from setsuden.insight.report.model import Report
from setsuden.schemas.bundle import Manifest
from setsuden.schemas.decision import Decision
from setsuden.schemas.energy import EnergyReading
from setsuden.schemas.event import Event
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.refusal import Refusal
from setsuden.schemas.result import Result
from setsuden.schemas.windows import MeterRow, WindowRow
from setsuden.services.config import CloudConfig

from . import reference
from .energy import reference as energy
from .options import meanings_of, plain_words

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import core_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MODELS: dict[str, type[BaseModel]] = {
    "agent-config": AgentConfig,
    "bundle": Manifest,
    "cloud-config": CloudConfig,
    "decision": Decision,
    "demo-report": DemoReport,
    "energy-reading": EnergyReading,
    "event": Event,
    "pipeline": PipelineSpec,
    "refusal": Refusal,
    "report": Report,
    "result": Result,
    "energy-meter-row": MeterRow,
    "energy-window-row": WindowRow,
}
PAGES = {
    "docs/configuration.md": reference.configuration,
    "docs/energy.md": energy.page,
    "docs/subjects.md": reference.subjects,
    "docs/tracing.md": reference.tracing,
}


class _Described(GenerateJsonSchema):
    """JSON Schema with each field's meaning from the source, and no titles made of its name."""

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        """The model's schema, its properties described."""
        made: dict[str, Any] = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        for name, meaning in meanings_of(model).items():
            if name in made.get("properties", {}):
                made["properties"][name]["description"] = meaning
        if "description" in made:
            made["description"] = plain_words(made["description"])
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # pydantic's signature
        """Never: a title that repeats the name says nothing."""
        return False


def schema_of(name: str) -> dict[str, Any]:
    """One exported schema."""
    model = MODELS[name]
    made = model.model_json_schema(schema_generator=_Described)
    if model is Event:
        _attributes_only(made)
    return {"$schema": DIALECT, "$id": f"urn:setsuden:{name}", **made}


def _attributes_only(schema: dict[str, Any]) -> None:
    """An event's body travels as itself, never in JSON."""
    del schema["properties"]["data"]
    schema["required"].remove("data")
    schema["description"] += " Its attributes; the body is the raw observation."


def exports() -> Iterator[tuple[str, str]]:
    """Path and text of every exported file."""
    for name in MODELS:
        text = json.dumps(schema_of(name), ensure_ascii=False, indent=2, sort_keys=True)
        yield f"schemas/{name}.schema.json", text + "\n"
    for path, page in PAGES.items():
        yield path, page()


def stale(root: Path) -> list[str]:
    """Files that are missing, that say something else, or that nothing writes any more."""
    wanted = dict(exports())
    wrong = [path for path, text in wanted.items() if _read(root / path) != text]
    kept = (str(path.relative_to(root)) for path in (root / "schemas").glob("*.schema.json"))
    return wrong + [path for path in kept if path not in wanted]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when a file is stale.")
def main(check: bool) -> None:
    """Write the JSON Schemas and reference pages into the repository."""
    root = Path.cwd()
    if not (root / "schemas" / "setsuden").is_dir():
        raise click.UsageError("run this in the root of Setsuden's repository")
    names = stale(root)
    if check:
        for name in names:
            click.echo(f"stale: {name}: run python -m setsuden.cli.export_schemas", err=True)
        sys.exit(1 if names else 0)
    wanted = dict(exports())
    for name in names:
        if name not in wanted:
            (root / name).unlink()
            continue
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(wanted[name], encoding="utf-8")
        click.echo(name)


if __name__ == "__main__":
    main()
