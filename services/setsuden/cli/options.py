"""Every option of a configuration model with its type, default, bounds and meaning.

The meaning is the text under the field in the source, so what is printed cannot drift from it.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from setsuden.process.config import annotation_of, model_in
from setsuden.process.toml_places import KeyPath
from setsuden.schemas.base import TOKEN_PATTERN

_QUOTED = re.compile(r"``([^`]*)``")
_ROLE = re.compile(r":[a-z]+:`~?([^`]*)`")
_PATTERNS = {
    TOKEN_PATTERN: "letters, digits, _ and -, at most 64",
    TOKEN_PATTERN.replace("64", "40"): "letters, digits, _ and -, at most 40",
    "^https?://": "http:// or https://",
}
ANY_NAME = "<name>"
"""Stands in a table's path for a name of the user's own."""


class Option(NamedTuple):
    """One line of a configuration file."""

    path: KeyPath
    """Below its table or the entry of its array."""
    type: str
    default: Any
    """Plain data; None when the option is not set by default."""
    required: bool
    bounds: str
    meaning: str

    @property
    def name(self) -> str:
        """The key itself."""
        return self.path[-1]


class Table(NamedTuple):
    """A table of a configuration file, its options first, its own tables after them."""

    path: KeyPath
    meaning: str
    options: tuple[Option, ...]
    tables: tuple[Table, ...]
    repeated: bool
    """True for ``[[name]]``."""
    optional: bool = False
    """True for one that is not there unless it is written."""


def table_of(
    model: type[BaseModel], path: KeyPath = (), *, repeated: bool = False, optional: bool = False
) -> Table:
    """The table that a model describes."""
    meanings = meanings_of(model)
    options: list[Option] = []
    tables: list[Table] = []
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        here = (*path, name)
        if inner is None:
            options.append(_option(model, here, field, meanings.get(name, "")))
        else:
            kind = get_origin(field.annotation)
            below = (*here, ANY_NAME) if kind is dict else here
            absent = NoneType in get_args(field.annotation)
            tables.append(table_of(inner, below, repeated=kind is tuple, optional=absent))
    return Table(path, _first_line(model), tuple(options), tuple(tables), repeated, optional)


def all_tables(table: Table) -> Iterator[Table]:
    """The table and every one below it, arrays of tables before the others of their level."""
    yield table
    for inner in sorted(table.tables, key=lambda found: not found.repeated):
        yield from all_tables(inner)


def _option(model: type[BaseModel], path: KeyPath, field: FieldInfo, meaning: str) -> Option:
    required = field.is_required()
    default = None if required else _plain(field.get_default(call_default_factory=True))
    annotation = annotation_of(model, path[-1:])
    return Option(path, _type(annotation), default, required, _bounds(annotation), meaning)


def _plain(value: Any) -> Any:
    if value is PydanticUndefined:
        return None
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return getattr(value, "value", value)


@cache
def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """The text under each field in the model's source, as one line without markup."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            found |= _meanings(kind)
    return found


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found: dict[str, str] = {}
    for statement, following in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = _text(following)
            if text:
                found[statement.target.id] = plain_words(text)
    return found


def _text(statement: ast.stmt) -> str:
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
        return ""
    return statement.value.value if isinstance(statement.value.value, str) else ""


def plain_words(text: str) -> str:
    """A docstring as one line without markup."""
    text = _ROLE.sub(r"\1", _QUOTED.sub(r"\1", text))
    return " ".join(text.split())


def _first_line(model: type[BaseModel]) -> str:
    return plain_words((model.__doc__ or "").split("\n\n")[0])


def _type(annotation: Any) -> str:
    """The option's type in a user's words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if arguments:
        return " or ".join(_type(part) for part in arguments if part is not type(None))
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(annotation: Any) -> str:
    """``1 to 4096`` or the pattern, from wherever in the annotation they stand."""
    found: dict[str, Any] = {}
    for constraint in _constraints(annotation):
        for name in ("ge", "gt", "le", "lt", "pattern"):
            value = getattr(constraint, name, None)
            if value is not None:
                found[name] = value
    pattern = found.pop("pattern", "")
    return _PATTERNS.get(pattern, f"matches {pattern}") if pattern else _range(found)


def _range(found: dict[str, float]) -> str:
    shown = {name: number(value) for name, value in found.items()}
    if shown.keys() >= {"ge", "le"}:
        return f"{shown['ge']} to {shown['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{word} {shown[name]}" for name, word in words.items() if name in shown)


def number(value: float) -> str:
    """A number as a person writes it: 0.5, 3600, 1_000_000."""
    if isinstance(value, float) and not value.is_integer():
        return repr(value)
    return f"{int(value):_}" if abs(value) >= 100_000 else str(int(value))


def _constraints(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        if get_origin(part) is not None:
            yield from _constraints(part)
        elif not isinstance(part, type):
            yield part
            yield from getattr(part, "metadata", ())
