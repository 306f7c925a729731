"""Where each key and array entry of a TOML text stands. tomllib reads values, not places."""

from __future__ import annotations

import contextlib
import string
from functools import lru_cache
from typing import NamedTuple

KeyPath = tuple[str, ...]
_BLANK = " \t"
_BLANK_OR_LINE = " \t\r\n"
_BARE = frozenset(string.ascii_letters + string.digits + "_-")
_SCALAR_ENDS = frozenset(",]}#\n")
_ESCAPE_DIGITS = {"u": 4, "U": 8}
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


class TomlPlace(NamedTuple):
    """Where something stands, both from 1."""

    line: int
    column: int


@lru_cache(maxsize=16)
def places(text: str) -> dict[KeyPath, TomlPlace]:
    """The place of every key and array entry, entries by their index: ``("pipelines", "0")``.

    For a text that is no TOML, what was found before the mistake.
    """
    scanner = _Scanner(text)
    with contextlib.suppress(IndexError, ValueError):  # it ended, or is no TOML
        scanner.document()
    return scanner.places_found


def line_of(text: str, path: tuple[str | int, ...]) -> int:
    """The line (from 1) where ``path`` stands, else that of the nearest table above it."""
    return place_of(text, path).line


def place_of(text: str, path: tuple[str | int, ...]) -> TomlPlace:
    """As :func:`line_of`, with the column."""
    known = places(text)
    wanted = tuple(str(part) for part in path)
    for length in range(len(wanted), 0, -1):
        place = known.get(wanted[:length])
        if place is not None:
            return place
    return TomlPlace(1, 1)


class _Scanner:
    """Walks over a text that tomllib accepted, so it checks nothing but its own progress."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._line_start = 0
        self._entries: dict[KeyPath, int] = {}
        """Newest index of each array of tables."""
        self.places_found: dict[KeyPath, TomlPlace] = {}

    def document(self) -> None:
        """Every table and pair, to the end of the text."""
        table: KeyPath = ()
        self._skip(_BLANK_OR_LINE)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK_OR_LINE)

    def _header(self) -> KeyPath:
        place = self._place()
        double = self._text.startswith("[[", self._at)
        self._move(2 if double else 1)
        keys, _ = self._keys()
        if double:
            self._add_entry(keys, place)
        path = self._resolved(keys)
        self._expect("]]" if double else "]")
        for length in range(1, len(path) + 1):
            self.places_found.setdefault(path[:length], place)
        return path

    def _add_entry(self, keys: KeyPath, place: TomlPlace) -> None:
        array = (*self._resolved(keys[:-1]), keys[-1])
        self._entries[array] = self._entries.get(array, -1) + 1
        self.places_found.setdefault(array, place)

    def _resolved(self, keys: KeyPath) -> KeyPath:
        """The header's path, with the newest index behind each array of tables on the way."""
        path: KeyPath = ()
        for key in keys:
            path = (*path, key)
            if path in self._entries:
                path = (*path, str(self._entries[path]))
        return path

    def _pair(self, table: KeyPath) -> None:
        keys, place = self._keys()
        for length in range(1, len(keys) + 1):
            self.places_found.setdefault((*table, *keys[:length]), place)
        self._expect("=")
        self._skip(_BLANK)
        self._value((*table, *keys))

    def _keys(self) -> tuple[KeyPath, TomlPlace]:
        self._skip(_BLANK)
        place, keys = self._place(), [self._key()]
        self._skip(_BLANK)
        while self._text.startswith(".", self._at):
            self._move(1)
            self._skip(_BLANK)
            keys.append(self._key())
            self._skip(_BLANK)
        return tuple(keys), place

    def _key(self) -> str:
        if self._text[self._at] in "\"'":
            return self._string()
        start = self._at
        while self._at < len(self._text) and self._text[self._at] in _BARE:
            self._move(1)
        if self._at == start:
            raise ValueError("no key")
        return self._text[start : self._at]

    def _value(self, path: KeyPath) -> None:
        opening = self._text[self._at]
        if opening in "\"'":
            self._string()
        elif opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            while self._at < len(self._text) and self._text[self._at] not in _SCALAR_ENDS:
                self._move(1)

    def _array(self, path: KeyPath) -> None:
        self._move(1)
        self._skip(_BLANK_OR_LINE)
        index = 0
        while self._text[self._at] != "]":
            entry = (*path, str(index))
            self.places_found.setdefault(entry, self._place())
            self._value(entry)
            self._comma()
            index += 1
        self._move(1)

    def _inline_table(self, path: KeyPath) -> None:
        self._move(1)
        self._skip(_BLANK_OR_LINE)
        while self._text[self._at] != "}":
            self._pair(path)
            self._comma()
        self._move(1)

    def _comma(self) -> None:
        self._skip(_BLANK_OR_LINE)
        if self._text[self._at] == ",":
            self._move(1)
            self._skip(_BLANK_OR_LINE)

    def _string(self) -> str:
        quote = self._text[self._at]
        if self._text.startswith(quote * 3, self._at):
            return self._long_string(quote * 3)
        self._move(1)
        parts: list[str] = []
        while self._text[self._at] != quote:
            escaped = quote == '"' and self._text[self._at] == "\\"
            parts.append(self._escape() if escaped else self._take(1))
        self._move(1)
        return "".join(parts)

    def _long_string(self, quotes: str) -> str:
        """A string over several lines; never a key, so what it says does not matter."""
        self._move(3)
        while not self._text.startswith(quotes, self._at):
            self._move(2 if quotes[0] == '"' and self._text[self._at] == "\\" else 1)
        self._move(3)
        while self._text.startswith(quotes[0], self._at):  # up to two quotes belong to the text
            self._move(1)
        return ""

    def _escape(self) -> str:
        self._move(1)
        kind = self._take(1)
        if kind == "x":
            return chr(int(self._take(2), 16))
        if kind in _ESCAPE_DIGITS:
            return chr(int(self._take(_ESCAPE_DIGITS[kind]), 16))
        return _ESCAPES.get(kind, kind)

    def _take(self, count: int) -> str:
        taken = self._text[self._at : self._at + count]
        self._move(count)
        return taken

    def _skip(self, blanks: str) -> None:
        """Pass over blanks, and comments where a line may end."""
        while self._at < len(self._text):
            if self._text[self._at] in blanks:
                self._move(1)
            elif self._text[self._at] == "#" and "\n" in blanks:
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                return

    def _expect(self, token: str) -> None:
        self._skip(_BLANK)
        if not self._text.startswith(token, self._at):
            raise ValueError(f"no {token}")
        self._move(len(token))

    def _move(self, count: int) -> None:
        for _ in range(count):
            if self._text[self._at] == "\n":
                self._line += 1
                self._line_start = self._at + 1
            self._at += 1

    def _place(self) -> TomlPlace:
        return TomlPlace(self._line, self._at - self._line_start + 1)
