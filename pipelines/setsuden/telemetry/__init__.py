"""Spans of an event, built in one go when it ends, sealed into a spool, shipped over NATS.

An event's spans are made from what its outbox row and its result say, with ids derived from the
trace id. So they cost nothing while the event runs, and a replay is identical.
"""

from setsuden.schemas.trace_context import TraceContext, parse_traceparent, traceparent

from .clock import SpanClock
from .offset import Offset, OffsetEstimator
from .options import TraceOptions
from .recorder import Recorder, Timeline
from .span import (
    ResourceSpans,
    Span,
    SpanEvent,
    SpanKind,
    SpanLink,
    derived_span_id,
    derived_trace_id,
    new_trace_id,
)

__all__ = [
    "Offset",
    "OffsetEstimator",
    "Recorder",
    "ResourceSpans",
    "Span",
    "SpanClock",
    "SpanEvent",
    "SpanKind",
    "SpanLink",
    "Timeline",
    "TraceContext",
    "TraceOptions",
    "derived_span_id",
    "derived_trace_id",
    "new_trace_id",
    "parse_traceparent",
    "traceparent",
]
