"""Spans as OTLP JSON lines, the form that Jaeger's upload tab and the Collector take.

Ids are hexadecimal and 64-bit integers are strings, as the OTLP/JSON encoding demands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .span import Span, Value

SCOPE = "setsuden"
_ERROR = 2


def line(resource: Mapping[str, Value], spans: Iterable[Span]) -> str:
    """One ``{"resourceSpans": …}`` document on one line."""
    document = {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": {"name": SCOPE}, "spans": [_span(s) for s in spans]}],
            }
        ]
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n"


def _span(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": int(span.kind),
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
        "flags": 1,
    }
    if span.parent_id is not None:
        found["parentSpanId"] = span.parent_id
    if span.events:
        found["events"] = [
            {"name": e.name, "timeUnixNano": str(e.at_ns), "attributes": _attributes(e.attributes)}
            for e in span.events
        ]
    if span.links:
        found["links"] = [{"traceId": link.trace_id, "spanId": link.span_id} for link in span.links]
    if span.error is not None:
        found["status"] = {"code": _ERROR, "message": span.error}
    return found


def _attributes(attributes: Mapping[str, Value]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": value}
