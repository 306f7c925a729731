"""Configuration files: TOML in, a frozen model out, and errors a person can act on.

Order of worth: flag > environment (``SETSUDEN_*``) > file > default. Every problem is reported
at once, each with file, line, key and the nearest right name.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from setsuden.schemas.errors import ConfigError

ENVIRONMENT_PREFIX = "SETSUDEN_"
MAX_CONFIG_BYTES = 1 << 20
ModelT = TypeVar("ModelT", bound=BaseModel)
Path_ = tuple[str | int, ...]

_TABLE = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_.\"'-]+)\s*=")


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file, and its text to find lines in."""

    path: Path
    text: str
    data: dict[str, Any]
    origins: Mapping[Path_, str]
    """Where a value came from when it was not the file."""


def load_toml(path: Path, error: type[ConfigError] = ConfigError) -> Document:
    """The parsed file; raises ``error`` when it is missing, too large or no TOML."""
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
        text = content.decode("utf-8")
        return Document(path, text, tomllib.loads(text), {})
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise error(f"{path} is no TOML: {problem}") from problem


def with_environment(document: Document, environment: Mapping[str, str]) -> Document:
    """The document with ``SETSUDEN_NATS__URLS='["nats://…"]'`` and the like laid over it.

    A value is read as TOML and, failing that, as a string.
    """
    data, origins = _copy(document.data), dict(document.origins)
    for name, raw in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        path = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        _put(data, path, _value(raw))
        origins[path] = f"environment {name}"
    return replace(document, data=data, origins=origins)


def with_value(document: Document, path: tuple[str, ...], value: object, origin: str) -> Document:
    """The document with one value laid over it, as a command-line flag does."""
    data = _copy(document.data)
    _put(data, path, value)
    return replace(document, data=data, origins={**document.origins, path: origin})


def validate(
    model: type[ModelT], document: Document, error: type[ConfigError] = ConfigError
) -> ModelT:
    """The document as ``model``; raises ``error`` with every problem, one line each."""
    try:
        return model.model_validate(document.data)
    except ValidationError as problem:
        lines = [
            _describe(model, document, tuple(found["loc"]), found["type"], found["msg"])
            for found in problem.errors(include_url=False, include_input=False)
        ]
        raise error("\n".join(lines)) from problem


def _describe(
    model: type[BaseModel], document: Document, path: Path_, kind: str, message: str
) -> str:
    where = document.origins.get(path) or f"{document.path}:{line_of(document.text, path)}"
    key = ".".join(str(part) for part in path) or document.path.name
    if kind != "extra_forbidden":
        return f"{where}: {key}: {message.removeprefix('Value error, ')}"
    near = difflib.get_close_matches(str(path[-1]), _names(model, path[:-1]), n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown key {key!r}{hint}"


def _names(model: Any, path: Path_) -> list[str]:
    """The keys that may stand at ``path`` under ``model``."""
    for part in path:
        if isinstance(part, str) and _is_model(model) and part in model.model_fields:
            model = model.model_fields[part].annotation
        model = _inner(model)
    return list(model.model_fields) if _is_model(model) else []


def _inner(annotation: Any) -> Any:
    """The model inside ``X | None``, ``tuple[X, ...]`` or ``dict[str, X]``."""
    if _is_model(annotation):
        return annotation
    inner = [_inner(part) for part in get_args(annotation)]
    return next((part for part in inner if _is_model(part)), annotation)


def _is_model(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseModel)


def line_of(text: str, path: Path_) -> int:
    """The line (from 1) where ``path`` stands, else that of the nearest table above it."""
    wanted = tuple(str(part) for part in path)
    best, depth = 1, 0
    table: tuple[str, ...] = ()
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = _table_path(header[1], header[2], seen)
            here = table
        elif key := _KEY.match(line):
            here = (*table, *_parts(key[1]))
        else:
            continue
        if wanted[: len(here)] == here and len(here) > depth:
            best, depth = number, len(here)
    return best


def _table_path(bracket: str, name: str, seen: dict[tuple[str, ...], int]) -> tuple[str, ...]:
    """The path of a table header, arrays of tables with their index."""
    path: tuple[str, ...] = ()
    parts = _parts(name)
    for position, part in enumerate(parts):
        path = (*path, part)
        if bracket == "[[" and position == len(parts) - 1:
            seen[path] = seen.get(path, -1) + 1
        if path in seen:
            path = (*path, str(seen[path]))
    return path


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in name.split("."))


def _value(raw: str) -> object:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _copy(data: dict[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in data.items()}


def _put(data: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        nested = data.get(part)
        data[part] = nested = nested if isinstance(nested, dict) else {}
        data = nested
    data[path[-1]] = value
