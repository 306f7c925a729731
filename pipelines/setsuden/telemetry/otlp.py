"""Spans as OTLP JSON lines, the form that Jaeger's upload tab and the Collector take.

Ids are hexadecimal and 64-bit integers are strings, as the OTLP/JSON encoding demands. Written
as text: building the document and dumping it took three times as long, and was most of what an
escalation cost its worker.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring_ascii as _quoted
from math import isfinite
from typing import Any

from setsuden.schemas.errors import TraceDataError

from .span import ResourceSpans, Span, SpanEvent, SpanKind, SpanLink, Value

SCOPE = "setsuden"
_ERROR = 2
_BROKEN = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError
)  # fmt: skip
"""What reading JSON of any shape raises; the last two for infinite times and deep nesting."""


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
    text = ""
    if span.events:
        events = [
            f'{{"name":{_quoted(event.name)},"timeUnixNano":"{event.at_ns}",'
            f'"attributes":{_attributes(event.attributes)}}}'
            for event in span.events
        ]
        text += f',"events":[{",".join(events)}]'
    if span.links:
        links = [
            f'{{"traceId":{_quoted(link.trace_id)},"spanId":{_quoted(link.span_id)}}}'
            for link in span.links
        ]
        text += f',"links":[{",".join(links)}]'
    if span.error is not None:
        text += f',"status":{{"code":{_ERROR},"message":{_quoted(span.error)}}}'
    return text


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


def read(text: str | bytes) -> list[ResourceSpans]:
    """The spans of one OTLP JSON document; raises TraceDataError.

    Also of one wrapped as Jaeger's query API answers: ``{"result": {"resourceSpans": …}}``.
    """
    try:
        document = json.loads(text)
        groups = document.get("result", document)["resourceSpans"]
        return [_group(group) for group in groups]
    except _BROKEN as error:
        raise TraceDataError(f"no OTLP JSON document: {error!r}"[:300]) from error


def _group(group: dict[str, Any]) -> ResourceSpans:
    scopes = group.get("scopeSpans", [])
    spans = [_read_span(span) for scope in scopes for span in scope.get("spans", [])]
    return ResourceSpans(_values(group.get("resource", {}).get("attributes", [])), spans)


def _read_span(span: dict[str, Any]) -> Span:
    status = span.get("status", {})
    return Span(
        span["traceId"].lower(),
        span["spanId"].lower(),
        span.get("parentSpanId", "").lower() or None,
        span["name"],
        _kind(span.get("kind", 1)),
        int(span["startTimeUnixNano"]),
        int(span["endTimeUnixNano"]),
        _values(span.get("attributes", [])),
        tuple(
            SpanEvent(one["name"], int(one["timeUnixNano"]), _values(one.get("attributes", [])))
            for one in span.get("events", [])
        ),
        tuple(
            SpanLink(one["traceId"].lower(), one["spanId"].lower()) for one in span.get("links", [])
        ),
        status.get("message", "") if status.get("code") in {_ERROR, "STATUS_CODE_ERROR"} else None,
    )


def _kind(value: int | str) -> SpanKind:
    """Protobuf's JSON writes enumerations by number or by name."""
    if isinstance(value, str):
        return (
            SpanKind[value.removeprefix("SPAN_KIND_")]
            if value[10:] in SpanKind.__members__
            else SpanKind(1)
        )
    return SpanKind(value or SpanKind.INTERNAL)


def _values(pairs: Iterable[dict[str, Any]]) -> dict[str, Value]:
    """Scalars as they are; what we never write (arrays, maps, bytes) as JSON text."""
    return {pair["key"]: _scalar(pair.get("value", {})) for pair in pairs}


def _scalar(value: dict[str, Any]) -> Value:
    kind, content = next(iter(value.items()), ("stringValue", ""))
    if kind == "intValue":
        return int(content)
    if kind == "doubleValue":
        return float(content)
    return content if isinstance(content, str | bool) else json.dumps(content)
