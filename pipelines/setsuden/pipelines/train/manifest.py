"""Writes ``bundle.toml`` from a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from setsuden.schemas.bundle import Manifest

THREADS = {"models": {"__all__": {"threads"}}}
"""Left to the site: how many threads a model gets is no property of the bundle."""


def render(manifest: Manifest) -> str:
    """The manifest as TOML that reads back as an equal one."""
    return (
        "\n".join(_table(manifest.model_dump(mode="json", exclude=THREADS, exclude_none=True), ""))
        + "\n"
    )


def _table(table: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in table.items():
        if not _nested(value):
            # JSON's strings, numbers and flat lists are TOML as they stand.
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _section(value, prefix + key)
        elif _nested(value):
            for item in value:
                yield from ("", f"[[{prefix}{key}]]", *_table(item, f"{prefix}{key}."))


def _section(table: dict[str, Any], name: str) -> Iterator[str]:
    if not all(map(_nested, table.values())):
        yield from ("", f"[{name}]")
    yield from _table(table, f"{name}.")


def _nested(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )
