"""Reading what somebody else wrote: bounded, typed, and safe to show.

Whoever is on the broker may be hostile, and so may be the broker itself.
"""

from __future__ import annotations

import json
from typing import Any

from setsuden.schemas.redact import masked

MAX_JSON_BYTES = 4 << 20
"""A stream's description with 100,000 subjects, the most that JetStream puts into one."""
MAX_CONTAINERS = 100_000
"""Objects and arrays in one JSON text: 4 MiB of empty ones would take 180 MB once decoded."""
MAX_TEXT = 200
_MAX_SEARCHED = 2000
_INT64 = 1 << 63


redacted = masked
"""The text with ``***`` for user and password of every address in it."""


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """A foreign text for messages and logs: one line of printable characters, at most ``limit``."""
    hidden = redacted(text[:_MAX_SEARCHED])  # before the cut, which may fall before the @
    shown = "".join([character if character.isprintable() else "?" for character in hidden[:limit]])
    return shown + ("…" if len(hidden) > limit else "")


def number(text: str) -> int:
    """Decimal digits as servers write them, below 2⁶³; raises ValueError for anything else.

    ``int`` takes ``-1``, ``1_000``, spaces and digits of other scripts as well.
    """
    if not (len(text) <= 19 and text.isascii() and text.isdigit()):
        raise ValueError("not a number of decimal digits")
    value = int(text)
    if value >= _INT64:
        raise ValueError("a number above 2^63")
    return value


def json_object(data: bytes, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of bounded size; raises ValueError for anything else, however it is nested."""
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes are over {max_bytes}")
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        raise ValueError("too many objects and arrays")
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  # one error for all that it is not
    return value
