"""``setsuden config show``: what the flags, the environment and the file amount to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .loading import kind_of, laid_over, model_of, set_option

if TYPE_CHECKING:
    from setsuden.process.config import Document

SECRET = "***"  # noqa: S105  # what stands in a secret's place
_WIDEST = 60
"""Longer lines do not push the origins of all others to the right."""


class Setting(NamedTuple):
    """One value in force, and where it came from."""

    path: tuple[str | int, ...]
    """Entries of arrays by their index."""
    value: Any
    origin: str


@click.group()
def config() -> None:
    """Show what a configuration amounts to."""


@config.command("show")
@click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SETSUDEN_CONFIG",
    required=True,
    help="agent.toml, cloud.toml or a bundle.toml.",
)
@set_option
@click.option("--origin", is_flag=True, help="Say of each value where it came from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def show(path: Path, assignments: Sequence[str], origin: bool, as_json: bool) -> None:
    """Print every value in force: flag over environment over file over default.

    The output is TOML that means the same again; options without a value are commented out and
    secrets are masked.
    """
    settings = effective(path, assignments)
    click.echo(_json(settings) if as_json else _toml(settings, origins=origin))


def effective(path: Path, assignments: Sequence[str]) -> list[Setting]:
    """Every value in force; raises ConfigError when the configuration is wrong."""
    from setsuden.process.config import read_text, validate  # noqa: PLC0415  # pydantic

    model = model_of(kind_of(path, read_text(path)))
    document = laid_over(path, model, assignments)
    return list(_settings(validate(model, document).model_dump(mode="json"), (), document))


def _settings(value: Any, path: tuple[str | int, ...], document: Document) -> Iterator[Setting]:
    from setsuden.process.config import origin_of  # noqa: PLC0415

    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _settings(part, (*path, key), document)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, part in enumerate(value):
            yield from _settings(part, (*path, index), document)
    else:
        origin = origin_of(document, tuple(str(part) for part in path))
        yield Setting(path, _shown(str(path[-1]), value), origin)


def _shown(name: str, value: Any) -> Any:
    from setsuden.schemas.redact import is_secret, masked_address  # noqa: PLC0415

    if value is None or isinstance(value, int | float):
        return value
    if is_secret(name):
        return SECRET
    if isinstance(value, list):
        return [_shown(name, part) for part in value]
    return masked_address(value) if isinstance(value, str) else value


def _json(settings: list[Setting]) -> str:
    values = [
        {"key": ".".join(map(str, setting.path)), "value": setting.value, "origin": setting.origin}
        for setting in settings
    ]
    return json.dumps({"values": values}, indent=2)


def _toml(settings: list[Setting], *, origins: bool) -> str:
    """Top-level values first: after the first header they would belong to its table."""
    ordered = sorted(settings, key=lambda setting: len(setting.path) > 1)
    lines: list[tuple[str, str]] = []
    table: tuple[str | int, ...] = ()
    for setting in ordered:
        if setting.path[:-1] != table:
            table = setting.path[:-1]
            lines += [("", ""), (_header(table), "")]
        lines.append((_line(setting), setting.origin))
    if not origins:
        return "\n".join(line for line, _ in lines)
    width = max((len(line) for line, _ in lines if len(line) <= _WIDEST), default=0)
    return "\n".join(f"{line:<{width}}  # {told}" if told else line for line, told in lines)


def _header(table: tuple[str | int, ...]) -> str:
    """``[nats]``, or ``[[pipelines]]`` for an entry of an array of tables."""
    from .output import toml_key  # noqa: PLC0415

    name = ".".join(toml_key(part) for part in table if isinstance(part, str))
    return f"[[{name}]]" if isinstance(table[-1], int) else f"[{name}]"


def _line(setting: Setting) -> str:
    from .output import toml, toml_key  # noqa: PLC0415

    key = toml_key(str(setting.path[-1]))
    return f"#{key} =" if setting.value is None else f"{key} = {toml(setting.value)}"
