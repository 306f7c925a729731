"""Spans as OTLP JSON lines, the form that Jaeger's upload tab and the Collector take.

Ids are hexadecimal and 64-bit integers are strings, as the OTLP/JSON encoding demands. Written
as text: building the document and dumping it took three times as long, and was most of what an
escalation cost its worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring_ascii as _quoted
from math import isfinite

from .span import Span, Value

SCOPE = "setsuden"
_ERROR = 2


def line(resource: Mapping[str, Value], spans: Iterable[Span]) -> str:
    """One ``{"resourceSpans": …}`` document on one line; raises ValueError on NaN."""
    return (
        f'{{"resourceSpans":[{{"resource":{{"attributes":{_attributes(resource)}}},'
        f'"scopeSpans":[{{"scope":{{"name":"{SCOPE}"}},'
        f'"spans":[{",".join([_span(span) for span in spans])}]}}]}}]}}\n'
    )


def _span(span: Span) -> str:
    parent = f',"parentSpanId":{_quoted(span.parent_id)}' if span.parent_id is not None else ""
    return (
        f'{{"traceId":{_quoted(span.trace_id)},"spanId":{_quoted(span.span_id)}{parent},'
        f'"name":{_quoted(span.name)},"kind":{int(span.kind)},'
        f'"startTimeUnixNano":"{span.start_ns}","endTimeUnixNano":"{span.end_ns}",'
        f'"attributes":{_attributes(span.attributes)},"flags":1{_rest(span)}}}'
    )


def _rest(span: Span) -> str:
    """What most spans do not have."""
    found = ""
    if span.events:
        events = [
            f'{{"name":{_quoted(event.name)},"timeUnixNano":"{event.at_ns}",'
            f'"attributes":{_attributes(event.attributes)}}}'
            for event in span.events
        ]
        found += f',"events":[{",".join(events)}]'
    if span.links:
        links = [
            f'{{"traceId":{_quoted(link.trace_id)},"spanId":{_quoted(link.span_id)}}}'
            for link in span.links
        ]
        found += f',"links":[{",".join(links)}]'
    if span.error is not None:
        found += f',"status":{{"code":{_ERROR},"message":{_quoted(span.error)}}}'
    return found


def _attributes(attributes: Mapping[str, Value]) -> str:
    pairs = [
        f'{{"key":{_quoted(key)},"value":{_value(value)}}}' for key, value in attributes.items()
    ]
    return f"[{','.join(pairs)}]"


def _value(value: Value) -> str:
    if isinstance(value, str):
        return f'{{"stringValue":{_quoted(value)}}}'
    if isinstance(value, bool):
        return f'{{"boolValue":{"true" if value else "false"}}}'
    if isinstance(value, int):
        return f'{{"intValue":"{value}"}}'
    if not isfinite(value):
        raise ValueError(f"{value} is no JSON number")
    return f'{{"doubleValue":{float.__repr__(value)}}}'
