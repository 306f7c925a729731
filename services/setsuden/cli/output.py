"""Standard output and error that never raise, whatever the terminal can show."""

from __future__ import annotations

import codecs
import io
import sys

_NAME = "setsuden"
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
