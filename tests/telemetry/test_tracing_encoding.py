"""Spans as OTLP, protobuf and JSON: what was written is read back, and garbage is refused."""

from __future__ import annotations

import base64
import json
import os
import zlib
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from setsuden.schemas.errors import TraceDataError
from setsuden.telemetry import (
    Offset,
    ResourceSpans,
    Span,
    SpanEvent,
    SpanKind,
    SpanLink,
    derived_span_id,
    otlp,
    protobuf,
)

HEX = "0123456789abcdef"
TRACE_IDS = st.text(HEX, min_size=32, max_size=32)
SPAN_IDS = st.text(HEX, min_size=16, max_size=16)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = NAMES | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FLOATS
ATTRIBUTES = st.dictionaries(NAMES, VALUES, max_size=5)
TIMES = st.integers(0, 2**63 - 1)
SPANS = st.builds(
    Span,
    trace_id=TRACE_IDS,
    span_id=SPAN_IDS,
    parent_id=st.none() | SPAN_IDS,
    name=st.just("event") | NAMES,
    kind=st.sampled_from(SpanKind),
    start_ns=TIMES,
    end_ns=TIMES,
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(SpanEvent, NAMES, TIMES, ATTRIBUTES), max_size=2).map(tuple),
    later=st.none(),
    links=st.lists(st.builds(SpanLink, TRACE_IDS, SPAN_IDS), max_size=2).map(tuple),
    error=st.none() | NAMES,
)
SOME = st.lists(SPANS, max_size=4)
OFFSETS = st.builds(Offset, st.integers(-(10**12), 10**12), st.integers(0, 10**12))
CLOCK = (
    "setsuden.clock.offset_ms",
    "setsuden.clock.offset_error_ms",
    "setsuden.clock.corrected",
)
SPAN = Span("ab" * 16, "cd" * 8, None, "event", SpanKind.SERVER, 10**18, 10**18 + 5, {})


def proto_of(line: str) -> TracesData:
    """OTLP/JSON writes ids as hex, proto3 JSON as base64: that difference alone is undone."""
    document = json.loads(line)
    for resource in document["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for found in scope["spans"]:
                for part in (found, *found.get("links", ())):
                    for name in ("traceId", "spanId", "parentSpanId"):
                        if name in part:
                            part[name] = _base64(part[name])
    data = TracesData()
    json_format.ParseDict(document, data)
    return data


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def plain(attributes: Any) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def the_types_read(data: TracesData, resource: dict[str, Any], sent: list[Span]) -> None:
    """The official message types find everything that was sent."""
    (group,) = data.resource_spans
    assert plain(group.resource.attributes) == resource
    spans = group.scope_spans[0].spans
    assert len(spans) == len(sent)
    for found, span in zip(spans, sent, strict=True):
        assert (found.trace_id.hex(), found.span_id.hex()) == (span.trace_id, span.span_id)
        assert found.parent_span_id.hex() == (span.parent_id or "")
        assert (found.name, found.kind, found.flags) == (span.name, int(span.kind), 1)
        assert (found.start_time_unix_nano, found.end_time_unix_nano) == span[5:7]
        assert plain(found.attributes) == span.attributes
        events = [(e.name, e.time_unix_nano, plain(e.attributes)) for e in found.events]
        assert events == list(span.events)
        links = [(link.trace_id.hex(), link.span_id.hex()) for link in found.links]
        assert links == list(span.links)
        assert (found.status.code == 2) == (span.error is not None)
        assert found.status.message == (span.error or "")


# -- both encodings ------------------------------------------------------------------------------


@given(ATTRIBUTES, SOME)
def test_the_official_types_read_back_every_span(
    resource: dict[str, Any], sent: list[Span]
) -> None:
    line = otlp.line(resource, sent)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    the_types_read(proto_of(line), resource, sent)
    the_types_read(TracesData.FromString(protobuf.encode(resource, sent)), resource, sent)


@given(ATTRIBUTES, SOME)
def test_what_was_encoded_is_decoded(resource: dict[str, Any], sent: list[Span]) -> None:
    data = protobuf.encode(resource, sent)
    assert protobuf.decode(data) == [ResourceSpans(resource, sent)]
    assert protobuf.parse(data).SerializeToString(deterministic=True) == data


@given(ATTRIBUTES, SOME)
def test_a_line_is_read_back_and_so_is_jaegers_answer_of_it(
    resource: dict[str, Any], sent: list[Span]
) -> None:
    line = otlp.line(resource, sent)
    assert otlp.read(line) == otlp.read(f'{{"result":{line}}}') == [ResourceSpans(resource, sent)]


@given(ATTRIBUTES, SPANS, SPANS)
def test_serialised_spans_may_stand_behind_each_other(
    resource: dict[str, Any], first: Span, second: Span
) -> None:
    data = protobuf.encode(resource, [first]) + protobuf.encode({}, [second])
    assert protobuf.decode(data) == [
        ResourceSpans(resource, [first]),
        ResourceSpans({}, [second]),
    ]


def test_types_of_values_survive() -> None:
    values: dict[str, str | bool | int | float] = {"b": True, "i": 1, "d": 1.0, "s": "1"}
    span = SPAN._replace(attributes=values)
    for found in (protobuf.decode(protobuf.encode({}, [span])), otlp.read(otlp.line({}, [span]))):
        read = found[0].spans[0].attributes
        assert {key: type(value) for key, value in read.items()} == {
            "b": bool,
            "i": int,
            "d": float,
            "s": str,
        }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_number_that_is_none(value: float) -> None:
    with pytest.raises(ValueError, match="no JSON number"):
        otlp.line({}, [SPAN._replace(attributes={"x": value})])


def test_kinds_have_their_otlp_numbers() -> None:
    assert {f"SPAN_KIND_{kind.name}": int(kind) for kind in SpanKind}.items() <= dict(
        ProtoSpan.SpanKind.items()
    ).items()


def test_a_derived_id_is_the_same_in_every_life_and_differs_by_name() -> None:
    assert derived_span_id("ab" * 16, "a") == derived_span_id("ab" * 16, "a")
    assert derived_span_id("ab" * 16, "a") != derived_span_id("ab" * 16, "b")


@given(st.integers(6, 2**31 - 1) | st.just(0))
def test_a_kind_of_another_version_is_internal(number: int) -> None:
    data = TracesData()
    span = data.resource_spans.add().scope_spans.add().spans.add(name="x")
    span.ParseFromString(b"\x30" + _varint(number))
    (found,) = protobuf.decode(data.SerializeToString())[0].spans
    assert found.kind is SpanKind.INTERNAL


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def test_kinds_are_read_by_number_and_by_name() -> None:
    line = otlp.line({}, [SPAN])
    named = line.replace('"kind":2', '"kind":"SPAN_KIND_CONSUMER"')
    assert otlp.read(named)[0].spans[0].kind is SpanKind.CONSUMER
    unknown = line.replace('"kind":2', '"kind":"SPAN_KIND_NEW"')
    assert otlp.read(unknown)[0].spans[0].kind is SpanKind.INTERNAL


# -- the cloud's clock ---------------------------------------------------------------------------


@given(SOME, OFFSETS)
def test_an_offset_moves_every_time_when_it_corrects_and_none_else(
    sent: list[Span], offset: Offset
) -> None:
    shift = offset.offset_ns if abs(offset.offset_ns) > offset.error_ns else 0
    (group,) = protobuf.decode(protobuf.encode({}, sent, offset))
    for before, after in zip(sent, group.spans, strict=True):
        assert after.start_ns == max(0, before.start_ns + shift)
        assert after.end_ns == max(0, before.end_ns + shift)
        moments = [max(0, event.at_ns + shift) for event in before.events]
        assert [event.at_ns for event in after.events] == moments
        told = {**after.attributes}
        if before.name == "event":
            assert told["setsuden.clock.corrected"] is bool(shift)
            assert told["setsuden.clock.offset_ms"] == offset.offset_ns / 1e6
            assert told["setsuden.clock.offset_error_ms"] == offset.error_ns / 1e6
            told = {key: value for key, value in told.items() if key not in CLOCK}
        assert told == before.attributes


@given(ATTRIBUTES, SOME, OFFSETS)
def test_correcting_later_gives_the_same_bytes_as_at_once(
    resource: dict[str, Any], sent: list[Span], offset: Offset
) -> None:
    later = protobuf.corrected(protobuf.encode(resource, sent), offset)
    assert later == protobuf.encode(resource, sent, offset)


@given(SOME)
def test_without_an_offset_events_say_that_they_are_not_corrected(sent: list[Span]) -> None:
    (group,) = protobuf.decode(protobuf.corrected(protobuf.encode({}, sent), None))
    expected = [
        span._replace(attributes={**span.attributes, "setsuden.clock.corrected": False})
        if span.name == "event"
        else span
        for span in sent
    ]
    assert group.spans == expected


# -- gzip ----------------------------------------------------------------------------------------


@given(st.binary(max_size=2000))
def test_compression_is_deterministic_and_undone(data: bytes) -> None:
    packed = protobuf.compress(data)
    assert packed == protobuf.compress(data)
    assert packed[4:8] == bytes(4)  # no time
    assert protobuf.decompress(packed) == data


@given(st.binary(max_size=500), st.data())
def test_cut_gzip_is_refused(data: bytes, draw: st.DataObject) -> None:
    packed = protobuf.compress(data)
    end = draw.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(TraceDataError):
        protobuf.decompress(packed[:end])


@given(st.binary(min_size=1, max_size=500), st.data())
def test_a_changed_byte_never_gives_other_data(data: bytes, draw: st.DataObject) -> None:
    packed = bytearray(protobuf.compress(data))
    place = draw.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= draw.draw(st.integers(1, 255))
    try:
        found = protobuf.decompress(bytes(packed))
    except TraceDataError:
        return
    assert found == data  # the header has bytes that mean nothing


@given(st.binary(max_size=200))
def test_what_is_no_gzip_is_refused(data: bytes) -> None:
    with pytest.raises(TraceDataError):
        protobuf.decompress(data)


@given(st.binary(max_size=100), st.binary(min_size=1, max_size=100))
def test_what_stands_behind_the_gzip_is_refused(data: bytes, behind: bytes) -> None:
    for more in (behind, protobuf.compress(behind)):
        with pytest.raises(TraceDataError, match="behind"):
            protobuf.decompress(protobuf.compress(data) + more)


def test_more_than_the_bound_is_refused_before_it_is_unpacked() -> None:
    whole = protobuf.compress(bytes(protobuf.MAX_SEGMENT_BYTES - 1))
    assert len(protobuf.decompress(whole)) == protobuf.MAX_SEGMENT_BYTES - 1
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(bytes(4 * protobuf.MAX_SEGMENT_BYTES)) + packer.flush()
    assert len(bomb) < 1 << 17
    with pytest.raises(TraceDataError, match="over"):
        protobuf.decompress(bomb)


# -- garbage -------------------------------------------------------------------------------------


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_garbage_is_decoded_or_refused_with_our_error(data: bytes) -> None:
    for reads in (protobuf.decode, protobuf.parse, lambda found: protobuf.corrected(found, None)):
        try:
            reads(data)
        except TraceDataError:
            continue


@settings(max_examples=300)
@given(SPANS, st.data())
def test_damaged_spans_are_decoded_or_refused_with_our_error(
    span: Span, draw: st.DataObject
) -> None:
    data = bytearray(protobuf.encode({"service.name": "x"}, [span]))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        protobuf.decode(bytes(data))
    except TraceDataError:
        return


def test_bytes_that_are_no_spans_are_refused() -> None:
    for reads in (protobuf.decode, protobuf.parse):
        with pytest.raises(TraceDataError):
            reads(b"\xff\xff\xff\xff")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["resourceSpans", "result", "scopeSpans", "spans", "attributes", "events", "kind"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(JSON.map(json.dumps) | st.text(max_size=50) | st.binary(max_size=50))
@example("[" * 100_000)
@example('{"resourceSpans":' + "[" * 100_000)
@example(b"\xff\xfe\x00")
@example('{"resourceSpans": 1}')
def test_json_of_any_shape_is_read_or_refused_with_our_error(text: str | bytes) -> None:
    try:
        otlp.read(text)
    except TraceDataError:
        return


@pytest.mark.parametrize("member", ["startTimeUnixNano", "kind", "attributes", "traceId", "events"])
@pytest.mark.parametrize("value", ["Infinity", "1e999", "null", "[[]]", '"x"', "{}", "-1", "7"])
def test_a_member_of_the_wrong_kind_is_read_or_refused_with_our_error(
    member: str, value: str
) -> None:
    document = json.loads(otlp.line({}, [SPAN]))
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0][member] = "HERE"
    try:
        otlp.read(json.dumps(document).replace('"HERE"', value))
    except TraceDataError:
        return


@pytest.mark.parametrize("text", ["[" * 100_000, '{"resourceSpans":' * 50_000])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(TraceDataError):
        otlp.read(text)


def test_random_bytes_never_pass_for_a_segment() -> None:
    for size in range(64):
        with pytest.raises(TraceDataError):
            protobuf.decode(protobuf.decompress(os.urandom(size)))
