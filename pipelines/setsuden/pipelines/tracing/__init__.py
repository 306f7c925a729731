"""Spans of an event, built in one go when it ends, and written as OTLP.

An event's spans are made from what its outbox row and its result say, with ids derived from the
trace id. So they survive a killed agent, cost nothing while the event runs, and a replay is
identical.
"""

from .identity import derived_span_id, new_trace_id, parse_traceparent, traceparent
from .recorder import Recorder, TraceOptions
from .span import Kind, Link, Span, SpanEvent

__all__ = [
    "Kind",
    "Link",
    "Recorder",
    "Span",
    "SpanEvent",
    "TraceOptions",
    "derived_span_id",
    "new_trace_id",
    "parse_traceparent",
    "traceparent",
]
