"""Configuration files: TOML in, a frozen model out, and errors a person can act on.

Order of worth: flag > environment (``SETSUDEN_*``) > file > default. Every problem is reported
at once, each with file, line, key and the nearest right name.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from setsuden.schemas.base import Model
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.redact import masked

from .toml_places import KeyPath, TomlPlace, place_of, places

ENVIRONMENT_PREFIX = "SETSUDEN_"
MAX_CONFIG_BYTES = 1 << 20
DEFAULT = "default"
SURELY_MEANT = 0.8
"""Similarity (difflib) above which another name in the environment is taken for a typing error."""
ModelT = TypeVar("ModelT", bound=BaseModel)
Loc = tuple[str | int, ...]

_SYNTAX_PLACE = re.compile(r"\s*\(at line (\d+), column (\d+)\)$")


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file, its text to find lines in, and what was laid over it."""

    path: Path
    text: str
    data: dict[str, Any]
    origins: Mapping[KeyPath, str]
    """Where a value came from when it was not the file."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong, where, and the nearest right name."""

    where: str
    """``file:line``, ``environment NAME`` or the flag."""
    message: str
    key: str = ""
    place: TomlPlace | None = None
    """Set when it stands in the file."""
    near: str | None = None
    remedy: str = ""

    def __str__(self) -> str:
        """One line."""
        hint = f", did you mean {self.near!r}?" if self.near else ""
        return masked(f"{self.where}: {self.message}{hint}")


# -- reading ----------------------------------------------------------------------------------


def load_toml(path: Path, error: type[ConfigError] = ConfigError) -> Document:
    """The parsed file; raises ``error`` when it is missing, too large or no TOML."""
    text = read_text(path, error)
    try:
        return parse(path, text)
    except tomllib.TOMLDecodeError as problem:
        raise error(str(syntax_problem(path, problem))) from problem


def read_text(path: Path, error: type[ConfigError] = ConfigError) -> str:
    """The file's text without a byte order mark.

    Raises ``error`` when it is missing, too large or no UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as problem:
        raise error(
            f"cannot read {path}: {problem.strerror}", remedy="`setsuden init DIR` writes one"
        ) from problem
    if len(content) > MAX_CONFIG_BYTES:
        raise error(f"{path} is over {MAX_CONFIG_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")  # Windows editors put a mark in front
    except UnicodeDecodeError as problem:
        raise error(
            f"{path} is no TOML: it is not UTF-8 ({problem.reason})",
            remedy="save it as UTF-8 in your editor",
        ) from problem


def parse(path: Path, text: str) -> Document:
    """The document; raises TOMLDecodeError."""
    return Document(path, text, tomllib.loads(text), {})


def syntax_problem(path: Path, error: tomllib.TOMLDecodeError) -> ConfigProblem:
    """Why a text is no TOML, and where."""
    text = str(error)
    match = _SYNTAX_PLACE.search(text)
    if match is None:
        return ConfigProblem(str(path), f"no TOML: {text}")
    place = TomlPlace(int(match[1]), int(match[2]))
    return ConfigProblem(f"{path}:{place.line}", f"no TOML: {text[: match.start()]}", place=place)


# -- laying over ------------------------------------------------------------------------------


def with_environment(
    document: Document,
    environment: Mapping[str, str],
    model: type[BaseModel],
    foreign: Collection[str] = (),
) -> Document:
    """The document with ``SETSUDEN_NATS__URLS='["nats://…"]'`` and the like laid over it.

    A name without ``__`` counts when it is, or nearly is, one of the model's top-level keys:
    Kubernetes sets ``SETSUDEN_SERVICE_HOST`` and more of that kind on its own. One that begins
    with a key of ``foreign`` belongs to another file, whose process shares this environment.
    """
    for name, raw in sorted(environment.items()):
        path = _variable_path(name, model)
        if path and (path[0] in model.model_fields or path[0] not in foreign):
            value = value_of(raw, model, path)
            document = with_value(document, path, value, f"environment {name}")
    return document


def _variable_path(name: str, model: type[BaseModel]) -> KeyPath:
    if not name.startswith(ENVIRONMENT_PREFIX):
        return ()
    path = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
    if len(path) > 1 or difflib.get_close_matches(path[0], model.model_fields, 1, SURELY_MEANT):
        return path
    return ()


def with_flag(document: Document, assignment: str, model: type[BaseModel]) -> Document:
    """The document with ``nats.urls=nats://…`` laid over it; raises ConfigError."""
    key, equals, raw = assignment.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError(
            f"--set {assignment!r} is no assignment", remedy="write --set nats.user=anna"
        )
    return with_value(document, path, value_of(raw.strip(), model, path), f"--set {key.strip()}")


def with_value(document: Document, path: KeyPath, value: object, origin: str) -> Document:
    """The document with one value laid over it; other keys stay. Raises ConfigError."""
    try:
        data = _laid(document.data, path, value)
    except LookupError as error:
        raise ConfigError(f"{origin}: {error.args[0]}") from error
    leaves = list(_leaves(path, value))
    kept = {
        known: told
        for known, told in document.origins.items()
        if not any(known[: len(leaf)] == leaf for leaf in leaves)
    }
    return replace(document, data=data, origins=kept | dict.fromkeys(leaves, origin))


def _leaves(path: KeyPath, value: object) -> Iterator[KeyPath]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves((*path, str(key)), part)
    else:
        yield path


def _laid(node: Any, path: KeyPath, value: object) -> Any:
    """``node`` with the value at ``path``; tables are merged, everything else is replaced."""
    if not path:
        if not isinstance(node, dict) or not isinstance(value, dict):
            return value
        return node | {key: _laid(node.get(key), (), part) for key, part in value.items()}
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        index = int(head) if head.isdecimal() else len(node)
        if index >= len(node):
            raise LookupError(f"there is no entry {head!r} among {len(node)}")
        return [*node[:index], _laid(node[index], rest, value), *node[index + 1 :]]
    if node is not None and not isinstance(node, dict):
        raise LookupError(f"there is a value, no table, above {head!r}")
    table = node or {}
    return {**table, head: _laid(table.get(head), rest, value)}


def value_of(raw: str, model: type[BaseModel], path: KeyPath) -> object:
    """Text from a flag or the environment as what the option takes.

    TOML first, then the text itself, then a list of its parts between commas.
    """
    candidates = [*_toml(raw), raw, [part.strip() for part in raw.split(",")]]
    annotation = annotation_of(model, path)
    return next((each for each in candidates if _fits(each, annotation)), candidates[0])


def _toml(raw: str) -> list[object]:
    try:
        read = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return []
    return [read["value"]] if len(read) == 1 else []


def _fits(value: object, annotation: Any) -> bool:
    if annotation is None or isinstance(value, dict) or _is_model(annotation):
        return True
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        return False
    return True


# -- checking ---------------------------------------------------------------------------------


def validate(
    model: type[ModelT], document: Document, error: type[ConfigError] = ConfigError
) -> ModelT:
    """The document as ``model``; raises ``error`` with every problem, one line each."""
    try:
        return model.model_validate(document.data)
    except ValidationError as problem:
        lines = [str(each) for each in _problems(model, document, problem)]
        raise error("\n".join(lines)) from problem


def problems(model: type[BaseModel], document: Document) -> list[ConfigProblem]:
    """Everything that is wrong with the document as ``model``."""
    try:
        model.model_validate(document.data)
    except ValidationError as error:
        return _problems(model, document, error)
    return []


def _problems(
    model: type[BaseModel], document: Document, error: ValidationError
) -> list[ConfigProblem]:
    found = error.errors(include_url=False, include_input=False)
    locs = [entry["loc"] for entry in found]
    return [
        _problem(model, document, entry["loc"], entry["type"], entry["msg"])
        for entry in found
        if entry["type"] != "too_short" or not _has_below(locs, entry["loc"])
    ]


def _has_below(locs: list[Loc], loc: Loc) -> bool:
    """True when an entry is wrong: pydantic leaves it out and then counts too few."""
    return any(other[: len(loc)] == loc and len(other) > len(loc) for other in locs)


def _problem(
    model: type[BaseModel], document: Document, loc: Loc, kind: str, message: str
) -> ConfigProblem:
    path = tuple(str(part) for part in loc)
    key = ".".join(path)
    where, place = whereabouts(document, path)
    if kind == "extra_forbidden":
        fixed = _retired(model, path)
        if fixed is not None:
            message, remedy = f"unknown key {key!r}: it is fixed at {fixed} now", "remove it"
            return ConfigProblem(where, message, key, place, remedy=remedy)
        return ConfigProblem(where, f"unknown key {key!r}", key, place, _near(model, path))
    text = "is required" if kind == "missing" else message.removeprefix("Value error, ")
    return ConfigProblem(where, f"{key}: {text}" if key else text, key, place)


def whereabouts(document: Document, path: KeyPath) -> tuple[str, TomlPlace | None]:
    """Where to mend the value at ``path``: the flag, the variable, or the nearest line above."""
    laid = _laid_over(document, path)
    if laid:
        return laid, None
    if path[:1] not in places(document.text):
        below = (told for known, told in document.origins.items() if known[: len(path)] == path)
        return next(below, str(document.path)), None
    place = place_of(document.text, path)
    return f"{document.path}:{place.line}", place


def _retired(model: type[BaseModel], path: KeyPath) -> str | None:
    """The value of what was an option before."""
    table = model_in(annotation_of(model, path[:-1]) if path[:-1] else model)
    if table is None or not issubclass(table, Model):
        return None
    return table.RETIRED.get(path[-1])


def _near(model: type[BaseModel], path: KeyPath) -> str | None:
    """The nearest name in the same table, else the same name in another one."""
    name = path[-1]
    near = difflib.get_close_matches(name, _names(model, path[:-1]), n=1, cutoff=0.5)
    if near:
        return near[0]
    return next((".".join(known) for known in _paths(model) if known[-1] == name), None)


def _names(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that may stand at ``path`` under ``model``."""
    table = model_in(annotation_of(model, path) if path else model)
    return list(table.model_fields) if table else []


def _paths(model: type[BaseModel]) -> Iterator[KeyPath]:
    """Every option that a table outside arrays takes."""
    for name, field in model.model_fields.items():
        yield (name,)
        if _is_model(field.annotation):
            yield from ((name, *rest) for rest in _paths(field.annotation))  # type: ignore[arg-type]  # _is_model says so


def annotation_of(model: type[BaseModel], path: KeyPath) -> Any:
    """The type of the value at ``path``; None when there is no such option."""
    annotation: Any = model
    for part in path:
        annotation = _below(annotation, part)
    return annotation


def _below(annotation: Any, part: str) -> Any:
    if _is_model(annotation):
        field = annotation.model_fields.get(part)
        return None if field is None else _annotated(field)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Annotated, tuple, list}:
        inner = arguments[0]
        return _below(inner, part) if origin is Annotated else inner
    if origin is dict:
        return arguments[1]
    if origin in {Union, UnionType}:
        branches = (_below(inner, part) for inner in arguments if inner is not NoneType)
        return next((inner for inner in branches if inner is not None), None)
    return None


def _annotated(field: FieldInfo) -> Any:
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside ``X``, ``X | None``, ``tuple[X, ...]`` or ``dict[str, X]``."""
    if _is_model(annotation):
        return annotation  # type: ignore[no-any-return]  # _is_model says so
    models = (model_in(part) for part in get_args(annotation))
    return next((inner for inner in models if inner is not None), None)


def _is_model(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseModel)


# -- showing ----------------------------------------------------------------------------------


def origin_of(document: Document, path: KeyPath) -> str:
    """Where the value at ``path`` came from: a flag, ``environment NAME``, file:line, default."""
    laid = _laid_over(document, path)
    if laid:
        return laid
    place = places(document.text).get(path)
    return DEFAULT if place is None else f"{document.path}:{place.line}"


def _laid_over(document: Document, path: KeyPath) -> str | None:
    for length in range(len(path), 0, -1):
        origin = document.origins.get(path[:length])
        if origin is not None:
            return origin
    return None
