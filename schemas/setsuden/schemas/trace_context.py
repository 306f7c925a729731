"""The W3C headers that carry a trace: ``traceparent``, ``tracestate`` and ``baggage``."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?P<rest>-.*)?"
)
_SAMPLED: Final = 1
MAX_CHARACTERS: Final = {"traceparent": 256, "tracestate": 512, "baggage": 8192}
"""What W3C asks everybody to pass on at least. A longer header is dropped, never the event."""
_PRINTABLE = re.compile("[ -~]+")


class TraceContext(NamedTuple):
    """What a ``traceparent`` says."""

    trace_id: str
    span_id: str
    sampled: bool
    """False: the caller's own spans are exported by nobody, so ours would hang under none."""


def traceparent(trace_id: str, span_id: str, *, sampled: bool = True) -> str:
    """The header, in version 00."""
    return f"00-{trace_id}-{span_id}-0{sampled:d}"


def parse_traceparent(header: str | None) -> TraceContext | None:
    """The context, or None when there is no usable header: then a new trace begins.

    A later version is read as far as it agrees with 00 (W3C Trace Context, section 4.3).
    """
    if header is None:
        return None
    match = _TRACEPARENT.fullmatch(header)
    if match is None or (match["rest"] and match["version"] == "00"):
        return None
    trace_id, span_id, flags = match.group(2, 3, 4)
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def can_be_passed_on(name: str, value: str) -> bool:
    """True unless it is a header of a trace that is too long, or not printable ASCII."""
    most = MAX_CHARACTERS.get(name)
    return most is None or (len(value) <= most and _PRINTABLE.fullmatch(value) is not None)
