"""What a written page holds: whether its tags close, its words, and its drawings."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from xml.etree.ElementTree import Element, fromstring

_VOID = {"meta", "link"}


class Whole(HTMLParser):
    """Raises when a tag is closed that is not open, or left open, or listens to an event."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value is not None]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A mark of a drawing that closes itself."""
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def words(text: str) -> str:
    """The page's text without its tags and its style."""
    body = text.rsplit("</style>", maxsplit=1)[-1]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body))).strip()


def drawings(text: str) -> dict[str, Element]:
    """Each drawing by its title, read as strict XML."""
    found = {}
    for drawn in re.findall(r"<figure[^>]*>(<svg.*?</svg>)</?fig", text, re.DOTALL):
        element = fromstring(drawn)  # noqa: S314  # our own output
        title = element.find("title")
        assert title is not None
        found[title.text or ""] = element
    return found
