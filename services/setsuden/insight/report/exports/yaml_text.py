"""Plain data as YAML, in the part of it that every reader takes the same way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_NO_TEXT = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
"""Words that one version of YAML or another takes for something else."""


def document(value: dict[str, Any]) -> str:
    """The mapping as a YAML document."""
    return "".join(f"{line}\n" for line in _lines(value, 0))


def _lines(value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _entry(f"{pad}{_key(key)}:", below, depth)
    else:
        for below in value:
            if isinstance(below, dict) and below:
                first, *rest = _lines(below, depth + 1)
                yield f"{pad}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{pad}- {scalar(below)}"


def _entry(head: str, value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        yield head
        yield from _lines(value, depth + 1)
    else:
        yield f"{head} {scalar(value)}"


def _key(key: str) -> str:
    plain = _PLAIN_KEY.fullmatch(key) and key.lower() not in _NO_TEXT
    return key if plain else json.dumps(key)


def scalar(value: Any) -> str:
    """A scalar, an empty list or an empty mapping. Text is always quoted, as JSON does."""
    if isinstance(value, float):
        mantissa, mark, exponent = repr(value).partition("e")
        # YAML 1.1 takes 1e-05 for text: it wants a point in every float.
        return mantissa + ("" if "." in mantissa else ".0") + mark + exponent
    return json.dumps(value, ensure_ascii=False)
