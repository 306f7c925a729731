"""What goes over the link, without the client library's types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from setsuden.schemas.errors import LinkError


class Incoming(NamedTuple):
    """One message as it arrived."""

    subject: str
    reply: str
    headers: Mapping[str, str]
    """As its publisher wrote them, and behind those what the server added."""
    data: bytes
    status: str = ""
    """The server's own answer in three digits ("404"), which no header can imitate."""
    description: str = ""
    """The server's words beside its status."""


class Stored(NamedTuple):
    """A stream's word that it holds the message."""

    stream: str
    sequence: int
    duplicate: bool


Outcome = Stored | LinkError
"""What became of a store: kept, or why not."""
Done = Callable[[Outcome], None]
Handler = Callable[[Incoming], None]
"""Called in the event loop; must not block. What it raises is counted and logged."""
