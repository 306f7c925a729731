"""``setsuden init``: files that are valid, complete and true to the models."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from tests.support.command import Command

from setsuden.cli.export_schemas import schema_of
from setsuden.cli.init import BUNDLE_FILES
from setsuden.cli.options import all_tables, table_of
from setsuden.edge_agent.config import AgentConfig
from setsuden.pipelines import bundle
from setsuden.process.config import annotation_of, load_toml, model_in, validate
from setsuden.schemas.bundle import Manifest
from setsuden.services.config import CloudConfig

MODELS: dict[str, type[BaseModel]] = {"agent.toml": AgentConfig, "cloud.toml": CloudConfig}
HEADER = re.compile(r"^#?\[\[?([\w.]+)\]\]?$")
OPTIONAL = re.compile(r"(?ms)^#\[.*?(?=^\[|\Z)")
"""A table that is not there unless somebody writes it."""
DEFAULT = re.compile(r"^#(\w+) =(.*)$")


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def folder(setsuden: Command, tmp_path: Path) -> Path:
    assert setsuden("init", tmp_path / "meter").code == 0
    return tmp_path / "meter"


def commented(path: Path) -> dict[tuple[str, ...], object]:
    """Every option shown as a comment, with its default."""
    found: dict[tuple[str, ...], object] = {}
    table: tuple[str, ...] = ()
    for line in path.read_text().splitlines():
        if header := HEADER.match(line):
            table = tuple(header[1].split("."))
        elif option := DEFAULT.match(line):
            text = option[2].strip()
            value = None if not text or text[0] == "#" else tomllib.loads(f"v = {text}")["v"]
            found[*table, option[1]] = value
    return found


def default_of(model: type[BaseModel], path: tuple[str, ...]) -> Any:
    """The model's own default of an option, asked of the model itself."""
    owner = model
    for part in path[:-1]:
        inner = annotation_of(owner, (part,))
        nested = annotation_of(owner, (part, "0"))
        owner = nested if isinstance(nested, type) and issubclass(nested, BaseModel) else inner
        owner = model_in(owner) or owner
    if owner.model_fields[path[-1]].is_required():
        return None
    value = owner.model_fields[path[-1]].get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value


def test_it_writes_files_and_a_bundle_that_can_be_used(folder: Path) -> None:
    agent = validate(AgentConfig, load_toml(folder / "agent.toml"))
    cloud = validate(CloudConfig, load_toml(folder / "cloud.toml"))
    assert agent.pipelines == cloud.pipelines
    assert agent.state != cloud.state  # both write a traces.jsonl
    found = bundle.load(folder / agent.pipelines[0].bundle)
    for name in found.manifest.models:
        assert found.read(name)


@pytest.mark.parametrize("name", MODELS)
def test_every_commented_default_is_the_model_s(folder: Path, name: str) -> None:
    found = commented(folder / name)
    assert len(found) > 30
    assert found == {path: default_of(MODELS[name], path) for path in found}


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_there_once(folder: Path, name: str) -> None:
    set_here = tomllib.loads((folder / name).read_text())
    set_here["pipelines"] = set_here["pipelines"][0]
    shown = [".".join(path) for path in commented(folder / name)]
    options = [
        option.path for table in all_tables(table_of(MODELS[name])) for option in table.options
    ]
    for path in options:
        node: Any = set_here
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        assert (node is not None) + shown.count(".".join(path)) == 1, path


@pytest.mark.parametrize("name", MODELS)
def test_the_files_with_every_comment_removed_mean_the_same(folder: Path, name: str) -> None:
    shown = OPTIONAL.sub("", (folder / name).read_text())
    text = re.sub(r"(?m)^#(\w+ = [^ #].*)$", r"\1", shown)
    path = folder / "all.toml"
    path.write_text(text)
    model = MODELS[name]
    assert validate(model, load_toml(path)) == validate(model, load_toml(folder / name))


@pytest.mark.parametrize("model", [AgentConfig, CloudConfig, Manifest])
def test_every_option_says_what_it_means(model: type[BaseModel]) -> None:
    silent = [
        ".".join(option.path)
        for table in all_tables(table_of(model))
        for option in table.options
        if not option.meaning
    ]
    assert silent == []


@pytest.mark.parametrize(("name", "schema"), [("agent", "agent-config"), ("cloud", "cloud-config")])
def test_the_files_fit_the_exported_schema(folder: Path, name: str, schema: str) -> None:
    document = json.loads(json.dumps(tomllib.loads((folder / f"{name}.toml").read_text())))
    jsonschema.Draft202012Validator(schema_of(schema)).validate(document)


def test_another_pipeline_s_name_is_used_throughout(setsuden: Command, tmp_path: Path) -> None:
    assert setsuden("init", tmp_path, "--pipeline", "meters").code == 0
    agent = validate(AgentConfig, load_toml(tmp_path / "agent.toml"))
    assert [(found.name, found.bundle) for found in agent.pipelines] == [
        ("meters", "bundles/meters")
    ]
    assert (tmp_path / "bundles/meters/bundle.toml").exists()


def test_a_name_that_cannot_stand_in_a_subject_is_refused(
    setsuden: Command, tmp_path: Path
) -> None:
    ended = setsuden("init", tmp_path / "x", "--pipeline", "a.b")
    assert ended.code == 2
    assert not (tmp_path / "x").exists()


def test_it_overwrites_nothing_unless_forced(setsuden: Command, folder: Path) -> None:
    (folder / "cloud.toml").unlink()
    (folder / "agent.toml").write_text("mine")
    ended = setsuden("init", folder)
    assert ended.code == 1
    assert (folder / "agent.toml").read_text() == "mine"
    assert not (folder / "cloud.toml").exists()
    assert str(folder / "agent.toml") in ended.err
    assert str(folder / "cloud.toml") not in ended.err
    assert setsuden("init", folder, "--force").code == 0
    assert (folder / "agent.toml").read_text() != "mine"


def test_the_written_paths_are_data_and_what_to_do_next_is_words(
    setsuden: Command, tmp_path: Path
) -> None:
    ended = setsuden("init", tmp_path / "meter")
    paths = [Path(line) for line in ended.out.splitlines()]
    assert all(path.is_file() for path in paths)
    assert {path.name for path in paths} == {"agent.toml", "cloud.toml", "nats.conf", *BUNDLE_FILES}
    assert [line.strip() for line in ended.err.splitlines() if line.startswith("  ")] == [
        "nats-server -c nats.conf",
        "setsuden worker run --config cloud.toml",
        "setsuden agent run --config agent.toml",
        "head -c 784 /dev/zero | setsuden event pub digits --device device-1 -",
    ]
