"""The one number of an answer that somebody else's device gave."""

from __future__ import annotations

import json
from math import isfinite, nan

MAX_BYTES = 65_536
"""The longest answer: meters say a few hundred bytes, a controller some thousands."""


def number_in(text: bytes | str, field: str) -> float:
    """The number at the dotted path ``field``; an empty path means the whole text.

    A list is entered by position (``meters.0.power``). Numbers in quotes count, as home automation
    servers send them. Raises ValueError, in words, for anything that is no finite number of 0 or
    more: a meter that feeds back or says ``null`` has no joules to tell.
    """
    return number_of(_at(_json(text), field), repr(field) if field else "the answer")


def number_of(value: object, name: str) -> float:
    """The value as a finite number of 0 or more; raises ValueError, in words."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{name} is no number")  # noqa: TRY004  # data, no caller's type
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = nan
    if not isfinite(number):
        raise ValueError(f"{name} is no number")
    if number < 0:
        raise ValueError(f"{name} is negative")
    return number


def object_in(text: bytes | str) -> dict[str, object]:
    """A JSON object; raises ValueError, in words."""
    value = _json(text)
    if not isinstance(value, dict):
        raise ValueError("the answer is no JSON object")  # noqa: TRY004  # data, no caller's type
    return value


def _json(text: bytes | str) -> object:
    if len(text) > MAX_BYTES:
        raise ValueError(f"the answer is longer than {MAX_BYTES} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # 64 KiB of brackets are deeper than Python's stack
        raise ValueError("the answer is no JSON") from None


def _at(value: object, field: str) -> object:
    for name in field.split(".") if field else ():
        if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            raise ValueError(f"the answer has no field {field!r}")
    return value
