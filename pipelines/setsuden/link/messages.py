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


ACK, TERM, IN_PROGRESS = b"+ACK", b"+TERM", b"+WPI"
"""Replies to a delivery: it is done, it shall not come again, it is still being worked on."""


def nak(delay_seconds: int = 0) -> bytes:
    """The reply that gives a delivery back, to come again after the delay."""
    return b'-NAK {"delay": %d}' % (delay_seconds * 1_000_000_000) if delay_seconds else b"-NAK"


Outcome = Stored | LinkError
"""What became of a store: kept, or why not."""
Done = Callable[[Outcome], None]
Handler = Callable[[Incoming], None]
"""Called in the event loop; must not block. What it raises is counted and logged."""
