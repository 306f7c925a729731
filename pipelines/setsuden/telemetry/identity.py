"""Trace and span ids; the W3C header that carries them belongs to the contract."""

from __future__ import annotations

import hashlib
from random import Random

from setsuden.schemas.trace_context import TraceContext, parse_traceparent, traceparent

__all__ = [
    "TraceContext",
    "derived_span_id",
    "derived_trace_id",
    "new_trace_id",
    "parse_traceparent",
    "traceparent",
]


def new_trace_id(random: Random) -> str:
    """32 hex digits, never all zero."""
    return f"{random.getrandbits(128) or 1:032x}"


def derived_trace_id(name: str) -> str:
    """32 hex digits that ``name`` always has."""
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def derived_span_id(trace_id: str, name: str) -> str:
    """16 hex digits that ``name`` always has in this trace: replays are identical."""
    return hashlib.blake2b(f"{trace_id}/{name}".encode(), digest_size=8).hexdigest()
