"""Spans as OTLP protobuf, the form of spool and wire. The one door to the OTLP message types.

The official generated types do the encoding: 23 µs for an event of three spans where the SDK's
tracer takes 65 to 74 µs before anything is encoded (``benchmarks/tracing.py``).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status, TracesData

from setsuden.schemas.errors import TraceDataError
from setsuden.schemas.spans import EVENT

from . import prescan
from .offset import Offset
from .otlp import SCOPE
from .span import ResourceSpans, Span, SpanEvent, SpanKind, SpanLink, Value

MAX_SEGMENT_BYTES = 1 << 20
"""Uncompressed; the recorder seals segments of three quarters of it at most."""
MAX_PARTS = 1 << 15
"""Spans, attributes, links, texts: of one message from elsewhere. Ours have 14,000 at most."""
_KINDS = frozenset(map(int, SpanKind))
_PLAN = prescan.plan_of(TracesData.DESCRIPTOR, prescan.LEAVES)


def encode(
    resource: Mapping[str, Value], spans: Iterable[Span], offset: Offset | None = None
) -> bytes:
    """One serialised ``TracesData`` (the same bytes as an ``ExportTraceServiceRequest``).

    With ``offset`` the spans are put on the cloud's clock, and say so.
    """
    data = TracesData()
    group = data.resource_spans.add()
    _put(group.resource.attributes, resource)
    scope = group.scope_spans.add()
    scope.scope.name = SCOPE
    for span in spans:
        _add(scope.spans, span)
    if offset is not None:
        _correct(data, offset)
    return data.SerializeToString(deterministic=True)


def compress(data: bytes) -> bytes:
    """Gzip without name or time: the same spans are the same bytes."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def decompress(data: bytes, most: int = MAX_SEGMENT_BYTES) -> bytes:
    """What :func:`compress` packed; raises TraceDataError when broken, cut or over ``most`` bytes.

    One gzip member and nothing behind it.
    """
    unpacker = zlib.decompressobj(31)
    try:
        content = unpacker.decompress(data, most)
    except zlib.error as error:
        raise TraceDataError(f"no whole gzip: {error}") from error
    if not unpacker.eof:
        raise TraceDataError(f"cut short, or over {most} bytes")
    if unpacker.unused_data:
        raise TraceDataError(f"{len(unpacker.unused_data)} bytes behind the gzip")
    return content


def parse(data: bytes) -> TracesData:
    """A serialised ``TracesData`` from elsewhere; raises TraceDataError.

    Its parts are counted before it is parsed, and fields that OTLP does not have are refused.
    """
    prescan.check(data, _PLAN, MAX_PARTS)
    return _parse(data)


def decode(data: bytes) -> list[ResourceSpans]:
    """The spans of one serialised ``TracesData``; raises TraceDataError."""
    return [
        ResourceSpans(
            _values(group.resource.attributes),
            [_span(span) for scope in group.scope_spans for span in scope.spans],
        )
        for group in _parse(data).resource_spans
    ]


def corrected(data: bytes, offset: Offset | None) -> bytes:
    """The same spans on the cloud's clock; without an offset they only say that they are not."""
    message = _parse(data)
    _correct(message, offset)
    return message.SerializeToString(deterministic=True)


def _correct(data: TracesData, offset: Offset | None) -> None:
    shift = offset.offset_ns if offset is not None and offset.corrects else 0
    correction = _clock_attributes(offset)
    for group in data.resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:
                if span.name == EVENT:
                    _put(span.attributes, correction)
                if shift:
                    _shift(span, shift)


def _clock_attributes(offset: Offset | None) -> dict[str, Value]:
    if offset is None:
        return {"setsuden.clock.corrected": False}
    return {
        "setsuden.clock.offset_ms": offset.offset_ns / 1e6,
        "setsuden.clock.offset_error_ms": offset.error_ns / 1e6,
        "setsuden.clock.corrected": offset.corrects,
    }


def _shift(span: ProtoSpan, by_ns: int) -> None:
    span.start_time_unix_nano = max(0, span.start_time_unix_nano + by_ns)
    span.end_time_unix_nano = max(0, span.end_time_unix_nano + by_ns)
    for event in span.events:
        event.time_unix_nano = max(0, event.time_unix_nano + by_ns)


def _parse(data: bytes) -> TracesData:
    try:
        return TracesData.FromString(data)
    except DecodeError as error:
        raise TraceDataError(f"no OTLP trace data: {error}") from error


def _add(spans: Any, span: Span) -> None:
    made = spans.add(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        name=span.name,
        kind=int(span.kind),
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        flags=1,
    )
    if span.parent_id is not None:
        made.parent_span_id = bytes.fromhex(span.parent_id)
    _put(made.attributes, span.attributes)
    for event in span.events:
        _put(
            made.events.add(name=event.name, time_unix_nano=event.at_ns).attributes,
            event.attributes,
        )
    for link in span.links:
        made.links.add(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id))
    if span.error is not None:
        made.status.code, made.status.message = Status.STATUS_CODE_ERROR, span.error


def _put(pairs: Any, attributes: Mapping[str, Value]) -> None:
    # Filled in place: building a message for each value took three times as long.
    for key, value in attributes.items():
        pair = pairs.add()
        pair.key = key
        if isinstance(value, str):
            pair.value.string_value = value
        elif isinstance(value, bool):
            pair.value.bool_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.double_value = value


def _span(span: ProtoSpan) -> Span:
    return Span(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex() or None,
        span.name,
        SpanKind(span.kind) if span.kind in _KINDS else SpanKind.INTERNAL,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        tuple(SpanEvent(e.name, e.time_unix_nano, _values(e.attributes)) for e in span.events),
        tuple(SpanLink(link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
    )


def _values(pairs: Iterable[Any]) -> dict[str, Value]:
    """Scalars as they are; what we never write (arrays, maps, bytes) as text."""
    values: dict[str, Value] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind) if kind else ""
        values[pair.key] = str(value) if isinstance(value, bytes | Message) else value
    return values
