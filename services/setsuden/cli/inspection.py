"""What ``validate`` looks at: the file itself, its bundles and their models, the broker."""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setsuden.pipelines import bundle as bundles
from setsuden.process.config import (
    ConfigProblem,
    Document,
    parse,
    problems,
    read_text,
    syntax_problem,
    validate,
    whereabouts,
)
from setsuden.process.toml_places import KeyPath, place_of
from setsuden.schemas.bundle import Manifest
from setsuden.schemas.errors import (
    ConfigError,
    LinkError,
    MissingExtraError,
    SetsudenError,
    UnavailableError,
)
from setsuden.schemas.pipeline import Limits
from setsuden.schemas.redact import masked_address
from setsuden.services.config import CloudConfig

from .loading import BUNDLE, CLOUD, kind_of, link_name, model_of, overlay

if TYPE_CHECKING:
    from setsuden.edge_agent.config import AgentConfig
    from setsuden.link import LinkOptions
    from setsuden.schemas.pipeline import PipelineSpec

EDGE_REMEDY = "pip install 'setsuden[edge]'"


@dataclass(slots=True)
class Inspection:
    """What ``validate`` says of one file."""

    path: Path
    """As it was given."""
    kind: str
    file: Path
    """The file itself, in a bundle folder its manifest."""
    text: str = ""
    problems: list[ConfigProblem] = field(default_factory=list)
    unreachable: list[ConfigProblem] = field(default_factory=list)
    """The broker could not be asked: nothing is wrong with the file for that."""
    checked: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when there is no problem and the broker could be asked."""
        return not self.problems and not self.unreachable


def inspect(path: Path, *, load: bool | None, connect: bool) -> Inspection:
    """Everything wrong with one file or bundle folder.

    Raises MissingExtraError when models are to run and there is nothing to run them.
    """
    able = find_spec("onnxruntime") is not None
    if load and not able:
        raise MissingExtraError("onnxruntime is not installed", remedy=EDGE_REMEDY)
    running = able if load is None else load
    folder = os.path.isdir(path)  # noqa: PTH112  # Path.is_dir raises where nobody may look
    file = path / bundles.MANIFEST if folder else path
    report = Inspection(path, BUNDLE if folder else "file", file)
    try:
        report.text = read_text(file)
    except ConfigError as error:
        report.problems.append(ConfigProblem(str(file), error.message, remedy=error.remedy))
        return report
    report.kind = kind_of(file, report.text)
    if report.kind == BUNDLE:
        _inspect_bundle(report, load=running)
    else:
        _inspect_config(report, load=running, connect=connect)
    return report


def _inspect_config(report: Inspection, *, load: bool, connect: bool) -> None:
    document = _document(report)
    if document is None:
        return
    model = model_of(report.kind)
    try:
        document = overlay(document, model, ())
    except ConfigError as error:
        report.problems.append(ConfigProblem("environment", error.message, remedy=error.remedy))
        return
    report.problems += problems(model, document)
    if report.problems:
        return
    config: AgentConfig | CloudConfig = validate(model, document)  # type: ignore[assignment]  # kind_of chose it
    report.problems += secret_files(config, document)
    report.problems += _state(config.state, document)
    for index, spec in enumerate(config.pipelines):
        found = list(_pipeline_problems(report, spec, load=load))
        report.problems += [_placed(problem, document, index) for problem in found]
        report.checked.append(f"pipeline {spec.name}{'' if found or not load else ' runs'}")
    if connect and not report.problems:
        _connect(report, config.nats, link_name(config))


def _document(report: Inspection) -> Document | None:
    try:
        return parse(report.file, report.text)
    except tomllib.TOMLDecodeError as error:
        report.problems.append(syntax_problem(report.file, error))
        return None


def secret_files(config: AgentConfig | CloudConfig, document: Document) -> Iterator[ConfigProblem]:
    """Files that the configuration names by a key ending in ``_file`` and that cannot be read."""
    for path, value in _files_in(config.model_dump(mode="json"), ()):
        words = _unreadable(document.path.parent / value, value)
        if not words:
            continue
        where, place = whereabouts(document, path)
        yield ConfigProblem(where, f"{'.'.join(path)}: {words}", ".".join(path), place)


def _unreadable(file: Path, value: str) -> str:
    """Why this file is of no use; empty when it is."""
    try:
        with file.open("rb") as opened:
            return "" if opened.read(1) else f"{value} is empty"
    except PermissionError:
        return f"user {os.geteuid()} may not read {value}"
    except OSError:
        return f"there is no file {value}"


def _files_in(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _files_in(part, (*path, key))
    elif path and path[-1].endswith("_file") and isinstance(value, str):
        yield path, value


def _state(state: str, document: Document) -> Iterator[ConfigProblem]:
    """A state folder that this user cannot make or write to."""
    folder = (document.path.parent / state).absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.path.isdir(there):  # noqa: PTH112  # as above
        words, remedy = f"{there} is no folder", "name another folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        words = f"user {os.geteuid()} may not write to {there}"
        remedy = "run this as the user that the process runs as, or give that user the folder"
    else:
        return
    where, place = whereabouts(document, ("state",))
    yield ConfigProblem(where, f"state: {words}", "state", place, remedy=remedy)


def _pipeline_problems(
    report: Inspection, spec: PipelineSpec, *, load: bool
) -> Iterator[ConfigProblem]:
    """Problems of one pipeline's bundle, by the key of the pipeline they concern."""
    folder = report.path.parent / spec.bundle
    if not os.path.isdir(folder):  # noqa: PTH112  # as above
        yield ConfigProblem("", f"there is no bundle folder {folder}", "bundle")
        return
    inner = Inspection(folder, BUNDLE, folder / bundles.MANIFEST)
    manifest = _manifest(inner)
    if manifest is None:
        yield from inner.problems
        return
    if spec.teacher not in manifest.models:
        names = sorted(manifest.models)
        near = next(iter(get_close_matches(spec.teacher, names, n=1)), None)
        words = f"the bundle has no model {spec.teacher!r}, only {', '.join(names)}"
        yield ConfigProblem("", words, "teacher", near=near)
    yield from _gate_problems(spec, manifest)
    wanted = spec.teacher if report.kind == CLOUD else "student"
    if wanted in manifest.models:
        yield from _model_problems(folder, manifest, [wanted], spec.limits, load=load)


def _gate_problems(spec: PipelineSpec, manifest: Manifest) -> Iterator[ConfigProblem]:
    override = spec.gate
    if override.escalate is not None and override.threshold is not None:
        yield ConfigProblem("", "set either gate.escalate or gate.threshold", "gate")
    if override.escalate is None:
        return
    if manifest.gate is None:
        yield ConfigProblem("", "the bundle has no student, so no gate", "gate.escalate")
        return
    try:
        manifest.gate.threshold_for(override.escalate)
    except ValueError as error:
        yield ConfigProblem("", str(error), "gate.escalate")


def _inspect_bundle(report: Inspection, *, load: bool) -> None:
    manifest = _manifest(report)
    if manifest is not None:
        names = list(manifest.models)
        folder = report.file.parent
        report.problems += _model_problems(folder, manifest, names, Limits(), load=load)
        report.checked += [f"model {name}{' runs' if load else ''}" for name in names]


def _manifest(report: Inspection) -> Manifest | None:
    """The bundle's manifest, or None and the report says why."""
    try:
        report.text = report.text or read_text(report.file)
    except ConfigError as error:
        report.problems.append(ConfigProblem(str(report.file), error.message, remedy=error.remedy))
        return None
    document = _document(report)
    if document is None:
        return None
    report.problems += problems(Manifest, document)
    return None if report.problems else validate(Manifest, document)


def _model_problems(
    folder: Path, manifest: Manifest, names: list[str], limits: Limits, *, load: bool
) -> Iterator[ConfigProblem]:
    """Models whose file is missing, is not the declared one, or does not run."""
    bundle = bundles.Bundle(folder, manifest)
    text = read_text(folder / bundles.MANIFEST)
    for name in names:
        try:
            _try_model(bundle, name, limits, load=load)
        except SetsudenError as error:
            place = place_of(text, ("models", name))
            where = f"{folder / bundles.MANIFEST}:{place.line}"
            words = f"models.{name}: {error.message}"
            yield ConfigProblem(where, words, f"models.{name}", place, remedy=error.remedy)


def _try_model(bundle: bundles.Bundle, name: str, limits: Limits, *, load: bool) -> None:
    """As a tier does before it uses the model: in a process of its own, within limits."""
    if not load:
        bundle.read(name)
        return
    from setsuden.pipelines.models import loading  # noqa: PLC0415  # numpy

    loading.check(bundle, name, limits)


def _placed(problem: ConfigProblem, document: Document, index: int) -> ConfigProblem:
    """A problem of a pipeline at the place of its key in the configuration file."""
    if problem.where:
        return problem
    path = ("pipelines", str(index), *problem.key.split("."))
    where, place = whereabouts(document, path)
    key = ".".join(path)
    return replace(problem, where=where, key=key, message=f"{key}: {problem.message}", place=place)


def _connect(report: Inspection, options: LinkOptions, name: str) -> None:
    try:
        asyncio.run(_try_broker(options, name))
    except LinkError as error:
        found = ConfigProblem("nats", error.message, "nats", remedy=error.remedy)
        away = isinstance(error, UnavailableError)
        (report.unreachable if away else report.problems).append(found)
    else:
        report.checked.append(f"broker {masked_address(options.urls[0])}")


async def _try_broker(options: LinkOptions, name: str) -> None:
    from setsuden.link import Link  # noqa: PLC0415  # nats

    link = Link(options, name)
    link.start()
    try:
        await link.wait_up(2 * options.connect_timeout_seconds, refused_ends=True)
    finally:
        await link.close()
