"""Trace and span ids, and the W3C header that carries them."""

from __future__ import annotations

import hashlib
import re
from random import Random

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$")


def new_trace_id(random: Random) -> str:
    """32 hex digits, never all zero."""
    return f"{random.getrandbits(128) or 1:032x}"


def derived_span_id(trace_id: str, name: str) -> str:
    """16 hex digits that ``name`` always has in this trace: replays are identical."""
    return hashlib.blake2b(f"{trace_id}/{name}".encode(), digest_size=8).hexdigest()


def traceparent(trace_id: str, span_id: str) -> str:
    """The W3C header, sampled."""
    return f"00-{trace_id}-{span_id}-01"


def parse_traceparent(header: str | None) -> tuple[str, str] | None:
    """(trace id, span id), or None when there is no usable header."""
    match = _TRACEPARENT.match(header or "")
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None
    return match[1], match[2]
