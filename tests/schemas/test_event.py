"""An event's headers: what is written is read back, and what is malformed is named."""

from __future__ import annotations

import string
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setsuden.schemas import escalation
from setsuden.schemas.errors import InvalidEventError
from setsuden.schemas.event import Event
from setsuden.schemas.subjects import Place
from setsuden.schemas.trace_context import MAX_CHARACTERS, parse_traceparent, traceparent

TOKENS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)
TEXTS = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=256
)
MOMENTS = st.integers(0, 7_258_118_399_999).map(
    lambda milliseconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
)
PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=256)
IDS = f"{'a' * 32}-{'b' * 16}"
HEX32 = st.text("0123456789abcdef", min_size=32, max_size=32)
EVENTS = st.builds(
    Event,
    id=TEXTS,
    source=TEXTS,
    type=TEXTS,
    pipeline=TOKENS,
    device=TOKENS,
    content_type=TEXTS,
    tensor_header_bytes=st.none() | st.integers(2, 10**9),
    time=st.none() | MOMENTS,
    deadline=st.none() | MOMENTS,
    residency=st.none() | TEXTS,
    priority=st.integers(0, 9),
    idempotency_key=st.none() | TEXTS,
    reply=st.none() | TEXTS,
    trace_id=st.none() | HEX32,
    traceparent=st.none() | PRINTABLE,
    tracestate=st.none() | PRINTABLE,
    baggage=st.none() | PRINTABLE,
    data=st.binary(max_size=50),
)


@given(EVENTS)
def test_headers_are_read_back_as_the_same_event(event: Event) -> None:
    headers = event.headers()
    assert all(name == name.lower() for name in headers)
    read = Event.from_headers(headers, event.data, pipeline=event.pipeline, device=event.device)
    assert read == event


@given(EVENTS, st.none() | st.integers(0, 10**9))
def test_an_escalation_is_read_back_without_what_stays_on_the_device(
    event: Event, ttl_ms: int | None
) -> None:
    context = traceparent("ab" * 16, "cd" * 8)
    headers = escalation.headers(event, ttl_ms, context)
    place = Place("r", event.pipeline, event.device, "d-00000000-1")
    read = escalation.read(headers, event.data, place)
    assert read[:3] == (place, ttl_ms, False)
    assert (read.content_type, read.data) == (event.content_type, event.data)
    assert read.tensor_header_bytes == event.tensor_header_bytes
    assert headers["traceparent"] == context
    assert not {"ce-reply", "ce-idempotencykey", "ce-traceid", "ce-ttlms"} & set(headers)


@pytest.mark.parametrize("ttl_ms", [0, 1, 999_999_999_999, 10**12, 10**15, -1])
def test_any_time_to_live_that_is_written_is_read(ttl_ms: int) -> None:
    """A device in 1970 has 13 digits to live; one digit too many made a dead letter of it."""
    event = Event(id="1", source="s", pipeline="p", device="d", data=b"")
    headers = escalation.headers(event, ttl_ms, traceparent("ab" * 16, "cd" * 8))
    read = escalation.read(headers, b"", Place("r", "p", "d", "d-00000000-1"))
    assert read.ttl_ms == min(max(ttl_ms, 0), escalation.MAX_TTL_MS)


def read(headers: dict[str, str]) -> Event:
    return Event.from_headers(
        {"ce-id": "1", "ce-source": "s"} | headers, b"", pipeline="p", device="d"
    )


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"ce-specversion": "0.3"}, "specversion"),
        ({"ce-id": ""}, "id"),
        ({"ce-source": ""}, "source"),
        ({"ce-id": "x" * 257}, "id"),
        ({"ce-deadline": "tomorrow"}, "deadline"),
        ({"ce-deadline": "2026-01-01T00:00:00"}, "deadline"),
        ({"ce-deadline": "9999-12-31T23:59:59Z"}, "deadline"),
        ({"ce-deadline": "0001-01-01T00:00:00+23:59"}, "deadline"),
        ({"ce-datacontenttype": "image/png", "content-type": "image/jpeg"}, "datacontenttype"),
        ({"ce-time": "1969-12-31T23:59:59Z"}, "time"),
        ({"ce-priority": "10"}, "priority"),
        ({"ce-priority": "-1"}, "priority"),
        ({"ce-priority": "٣"}, "priority"),
        ({"ce-priority": "1" * 13}, "priority"),
        ({"ce-traceid": "AB" * 16}, "trace_id"),
        ({"inference-header-content-length": "1"}, "tensor_header_bytes"),
        ({"inference-header-content-length": "1e3"}, "tensor_header_bytes"),
    ],
)
def test_a_malformed_attribute_is_named(headers: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidEventError) as caught:
        read(headers)
    assert caught.value.field == field
    assert caught.value.http_status == 400


@given(st.dictionaries(st.sampled_from([
    "ce-id", "ce-source", "ce-type", "ce-time", "ce-deadline", "ce-priority", "ce-reply",
    "ce-traceid", "ce-idempotencykey", "traceparent", "inference-header-content-length",
]), st.text(max_size=300)))  # fmt: skip
def test_no_header_raises_anything_else(headers: dict[str, str]) -> None:
    with suppress(InvalidEventError):
        assert read(headers).pipeline == "p"


def test_a_time_of_any_zone_is_kept_as_the_same_moment() -> None:
    local = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))
    event = read({"ce-deadline": local.isoformat()})
    assert event.deadline == local
    assert event.headers()["ce-deadline"] == "2026-01-31T10:00:00.000Z"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00-00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.5Z", datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456789Z", datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)),
        ("2026-01-31T12:00:00+23:59", datetime(2026, 1, 30, 12, 1, tzinfo=UTC)),
        ("2026-01-31t12:00:00.25-05:30", datetime(2026, 1, 31, 17, 30, 0, 250_000, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2016-12-31T15:59:60.5-08:00", datetime(2017, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
    ],
)
def test_every_form_of_rfc_3339_is_read(text: str, moment: datetime) -> None:
    assert read({"ce-time": text}).time == moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31",
        "2026-01-31T12:00:00",
        "20260131T120000Z",
        "2026-W05-6T12:00:00Z",
        "2026-01-31T12:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:00:60Z",
        "2026-01-31T12:00:61Z",
        "2026-02-29T12:00:00Z",
        "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00,5Z",
        "2026-01-31T12:00:00+0200",
        "2026-01-31T12:00:00+24:00",
        "2026-01-31T12:00:00+02:60",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "٢٠٢٦-01-31T12:00:00Z",
        " 2026-01-31T12:00:00Z",
        "1769860800",
    ],
)
def test_what_is_no_rfc_3339_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidEventError) as caught:
        read({"ce-time": text})
    assert (caught.value.field, bool(caught.value.remedy)) == ("time", True)


@given(st.text(max_size=40))
def test_no_text_is_a_time_but_rfc_3339(text: str) -> None:
    with suppress(InvalidEventError):
        read({"ce-time": text})


@given(TEXTS, TEXTS)
def test_header_values_are_ascii_and_read_back(id_: str, source: str) -> None:
    event = Event(id=id_, source=source, pipeline="p", device="d", data=b"")
    headers = event.headers()
    assert all(value.isascii() and " " not in value for value in headers.values())
    assert Event.from_headers(headers, b"", pipeline="p", device="d").id == id_


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%61%62c", "abc"),
        ("%e2%82%ac", "€"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ('"quoted \\"text\\""', 'quoted "text"'),
        ('"%41"', "A"),
        ('"', '"'),
        ("Zähler 7", "Zähler 7"),
    ],
)
def test_a_header_value_is_decoded_once(raw: str, value: str) -> None:
    assert read({"ce-id": raw}).id == value


@pytest.mark.parametrize("raw", ["%C0%A0", "%ff", "%E2%82", "%ED%A0%80", "a%0Ab", "%7f", "%C2%85"])
def test_bytes_that_are_no_text_of_an_attribute_are_refused(raw: str) -> None:
    with pytest.raises(InvalidEventError) as caught:
        read({"ce-id": raw})
    assert caught.value.field == "id"


@pytest.mark.parametrize("name", ["id", "source", "reply", "residency", "content_type"])
def test_control_characters_are_refused_however_an_event_is_made(name: str) -> None:
    fields = {"id": "1", "source": "s", "pipeline": "p", "device": "d", "data": b""}
    with pytest.raises(InvalidEventError) as caught:
        Event.of(**(fields | {name: "a\r\nNats-Msg-Id: 1"}))
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("header", "hint"),
    [("ce-idempotency-key", "idempotencykey"), ("ce-trace_id", "traceid"), ("ce-a.b", "rename")],
)
def test_a_name_that_is_no_attributes_is_refused_with_the_one_that_was_meant(
    header: str, hint: str
) -> None:
    with pytest.raises(InvalidEventError, match="no attribute name") as caught:
        read({header: "k"})
    assert hint in caught.value.remedy


def test_names_may_be_written_in_any_case() -> None:
    headers = {"Ce-Id": "1", "CE-SOURCE": "s", "Content-Type": "application/octet-stream"}
    assert Event.from_headers(headers, b"", pipeline="p", device="d").id == "1"


def test_no_trace_header_costs_an_event() -> None:
    for name, most in (("traceparent", 256), ("tracestate", 512), ("baggage", 8192)):
        assert getattr(read({name: "x" * most}), name) == "x" * most
        assert getattr(read({name: "x" * (most + 1)}), name) is None
        assert getattr(read({name: "a\x00"}), name) is None


def test_the_tracing_extension_is_the_traces_header() -> None:
    inner, outer = traceparent("ab" * 16, "cd" * 8), traceparent("ef" * 16, "cd" * 8)
    assert read({"ce-traceparent": inner}).traceparent == inner
    assert read({"ce-traceparent": inner, "traceparent": outer}).traceparent == outer


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": traceparent("ab" * 16, "cd" * 8)},
        {"ce-traceparent": traceparent("ab" * 16, "cd" * 8)},
        {"ce-traceid": "ab" * 16},
    ],
)
def test_a_refusal_carries_the_senders_trace(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidEventError) as caught:
        read({"ce-priority": "x"} | headers)
    assert caught.value.trace_id == "ab" * 16


@given(EVENTS, EVENTS)
def test_an_identity_is_one_events_alone(one: Event, other: Event) -> None:
    def parts(event: Event) -> tuple[object, ...]:
        return event.pipeline, event.source, event.id, event.data

    assert (one.identity == other.identity) == (parts(one) == parts(other))
    sent_again = one.model_copy(update={"reply": "r", "traceparent": None, "time": None})
    assert sent_again.identity == one.identity


def test_an_identity_does_not_run_its_parts_together() -> None:
    def identity(source: str, id_: str, data: bytes) -> str:
        return Event(id=id_, source=source, pipeline="p", device="d", data=data).identity

    assert len({identity("a", "bc", b""), identity("ab", "c", b""), identity("a", "b", b"c")}) == 3


def test_unknown_headers_of_a_newer_sender_are_ignored() -> None:
    assert read({"ce-colour": "red", "x-other": "1"}).id == "1"


def test_the_observation_is_not_in_the_events_repr() -> None:
    assert "secret" not in repr(Event(id="1", source="s", pipeline="p", device="d", data=b"secret"))


@given(HEX32, st.text("0123456789abcdef", min_size=16, max_size=16), st.booleans())
def test_a_traceparent_is_read_back_unless_it_is_zero(
    trace_id: str, span_id: str, sampled: bool
) -> None:
    usable = int(trace_id, 16) and int(span_id, 16)
    expected = (trace_id, span_id, sampled) if usable else None
    assert parse_traceparent(traceparent(trace_id, span_id, sampled=sampled)) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00-zz",
        f"ff-{IDS}-01",
        f"00-{IDS}-01\n",
        f"00-{IDS}-01-",
        f"00-{IDS}-01-more",
        f"01-{IDS}-01more",
        f"00-{IDS.upper()}-01",
        f"00-{IDS}-1",
        f" 00-{IDS}-01",
    ],
)
def test_a_malformed_traceparent_is_none(header: str | None) -> None:
    assert parse_traceparent(header) is None


@pytest.mark.parametrize("later", [f"01-{IDS}-01", f"cc-{IDS}-01-what-comes", f"01-{IDS}-01-"])
def test_a_later_version_is_read_as_far_as_it_agrees(later: str) -> None:
    assert parse_traceparent(later) == ("a" * 32, "b" * 16, True)


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)]
)
def test_only_the_first_flag_says_whether_the_caller_sampled(flags: str, sampled: bool) -> None:
    assert parse_traceparent(f"00-{IDS}-{flags}") == ("a" * 32, "b" * 16, sampled)


@pytest.mark.parametrize("name", sorted(MAX_CHARACTERS))
@pytest.mark.parametrize("value", ["{}1", "ключ", "a\r\nNats-Msg-Id: b", "\x7f"])
def test_a_header_of_a_trace_that_cannot_be_passed_on_is_dropped_and_the_event_is_not(
    name: str, value: str
) -> None:
    longest = "a" * MAX_CHARACTERS[name]
    assert getattr(read({name: longest}), name) == longest
    assert getattr(read({name: value.format(longest)}), name) is None


@pytest.mark.parametrize(("context", "kept"), [(f"00-{IDS}-01", "a=1"), ("00-zz", None)])
def test_tracestate_goes_on_with_the_trace_it_belongs_to_and_baggage_always(
    context: str, kept: str | None
) -> None:
    event = read({"traceparent": context, "tracestate": "a=1", "baggage": "tenant=7"})
    headers = escalation.headers(event, None, traceparent("c" * 32, "d" * 16))
    assert (headers.get("tracestate"), headers["baggage"]) == (kept, "tenant=7")
