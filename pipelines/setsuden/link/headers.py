"""Header blocks of NATS messages (ADR-4), written and read.

First a line ``NATS/1.0[ STATUS[ DESCRIPTION]]``, then one ``name: value`` in each. A status is the
server's own answer ("404 No Messages"). The server takes it off the first line of what is
published to a stream, so only that line is believed, never a header called ``Status``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

FIRST_LINE = b"NATS/1.0\r\n"
MAX_BYTES = (64 << 10) + (4 << 10)
"""JetStream stores 64 KiB at most, and adds a few headers of its own when it hands them out."""
_VERSION = "NATS/1.0"
NO_HEADERS: Mapping[str, str] = {}


class Head(NamedTuple):
    """A header block as it was read."""

    status: str
    """Three digits, or empty."""
    description: str
    headers: Mapping[str, str]


def read(block: bytes) -> Head:
    """The block's status and headers, of a repeated name the last; raises ValueError if too large.

    The server appends its headers (``Nats-Sequence``) behind the publisher's, so the last one is
    the one to believe. What is not UTF-8 is replaced, and a line without a colon is skipped.
    """
    # nats-py looks at each character of each name: 20 µs for a message of ours, 4 here.
    if len(block) > MAX_BYTES:
        raise ValueError(f"{len(block)} bytes of headers are over {MAX_BYTES}")
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    if first == _VERSION:
        return Head("", "", headers)
    return Head(*_status(first), headers)


def _status(first: str) -> tuple[str, str]:
    version, _, answer = first.partition(" ")
    status, _, description = answer.partition(" ")
    if version == _VERSION and len(status) == 3 and status.isascii() and status.isdigit():
        return status, description
    return "", ""


def lines(headers: Mapping[str, str]) -> str:
    """The headers as they travel."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


def block(headers: Mapping[str, str]) -> bytes | None:
    """The whole block, or None when a name or value holds a line end; raises UnicodeEncodeError."""
    # nats-py takes each header apart: 25 µs for a message of ours, 4 here.
    text = lines(headers)
    if text.count("\r") != len(headers) or text.count("\n") != len(headers):
        return None
    return b"%s%s\r\n" % (FIRST_LINE, text.encode())
