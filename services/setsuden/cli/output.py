"""What goes to standard output: text that any terminal can show, and values as TOML."""

from __future__ import annotations

import codecs
import io
import json
import re
import sys
from typing import Any

_NAME = "setsuden"
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ASCII = {
    "█": "#",
    "▌": "|",
    "▒": ":",
    "·": ".",
    "─": "-",
    "│": "|",
    "├": "|",
    "└": "`",
    "…": "...",
    "±": "+/-",
    "÷": "/",
    "≥": ">=",
    "µ": "u",
    "₂": "2",
    "€": "EUR",
    "«": '"',
    "»": '"',
    "§": "section ",
}
"""What stands for a sign of ours where a terminal lacks it. All else becomes an escape."""


def tolerate_any_terminal() -> None:
    """Show signs that the streams' encoding lacks as ASCII, and undecodable names as escapes."""
    codecs.register_error(_NAME, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(_ASCII.get(sign, _escaped(sign)) for sign in part), error.end


def _escaped(sign: str) -> str:
    r"""``\u65e5``, which TOML and JSON read back; a byte that is no text as ``\xff``."""
    if "\udc80" <= sign <= "\udcff":
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("ascii", "backslashreplace").decode("ascii")


def toml(value: Any) -> str:
    """One value as it stands behind ``=``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 100_000 else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the characters past U+FFFF, which need none.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(part) for part in value)}]"
    if isinstance(value, dict):
        pairs = (f"{toml_key(key)} = {toml(part)}" for key, part in value.items())
        return f"{{ {', '.join(pairs)} }}"
    raise TypeError(f"{type(value).__name__} has no form in TOML")


def toml_key(key: str) -> str:
    """The key, quoted when it must be."""
    return key if _BARE.fullmatch(key) else toml(key)
