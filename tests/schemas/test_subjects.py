"""Subjects: what is built can be parsed, and nothing else can be smuggled in."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setsuden.schemas import subjects
from setsuden.schemas.errors import InvalidEventError
from setsuden.schemas.result import Tier
from setsuden.schemas.streams import StreamBounds, all_streams

TOKENS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
PLACE = subjects.Place("r", "p", "d", "d-00000000-1")
DEVICES = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)


@given(TOKENS, TOKENS)
def test_an_event_subject_parses_to_what_built_it(pipeline: str, device: str) -> None:
    assert subjects.parse_event(subjects.event(pipeline, device)) == (pipeline, device)


@given(DEVICES, st.integers(0, 2**32 - 1), st.integers(0, 10**12 - 1))
def test_the_device_is_read_back_from_an_event_id(device: str, epoch: int, sequence: int) -> None:
    identity = subjects.event_id(device, f"{epoch:08x}", sequence)
    assert subjects.device_of(identity) == device
    assert subjects.token(identity, "event_id") == identity


@given(st.text(max_size=80))
def test_a_token_is_exactly_its_grammar(text: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        assert subjects.token(text, "x") == text
    else:
        with pytest.raises(InvalidEventError) as caught:
            subjects.token(text, "x")
        assert caught.value.field == "x"


@pytest.mark.parametrize("bad", ["", "a.b", "*", ">", "a b", "a\n", "ü", "a" * 65, "$JS"])
def test_no_wildcard_separator_or_line_end_is_a_token(bad: str) -> None:
    with pytest.raises(InvalidEventError):
        subjects.token(bad, "x")
    with pytest.raises(InvalidEventError):
        subjects.parse_event(f"evt.{bad}.d")


@given(st.sampled_from(Tier), TOKENS)
def test_a_device_and_a_worker_of_one_name_are_told_apart(tier: Tier, name: str) -> None:
    sender = subjects.TelemetrySource(tier, name)
    for subject in (subjects.spans(*sender), subjects.metrics(*sender)):
        assert subjects.sender_of(subject) == sender


@pytest.mark.parametrize(
    "subject",
    [
        "otel.spans.dev-1",
        "otel.spans.edge",
        "otel.spans.edge.",
        "otel.spans.edge.a.b",
        "otel.spans.edge.a\n",
        "otel.spans.device.a",
        "otel.logs.edge.a",
        "otel.hops",
        "xotel.spans.edge.a",
    ],
)
def test_no_other_subject_has_a_sender(subject: str) -> None:
    with pytest.raises(InvalidEventError):
        subjects.sender_of(subject)


@given(TOKENS, TOKENS, TOKENS, TOKENS)
def test_an_agent_publishes_replies_of_its_own_device_only(
    application: str, device: str, client: str, token: str
) -> None:
    subject = f"{subjects.reply_prefix(application, device, client)}.{token}"
    assert subjects.is_reply_of(subject, device)
    assert not subjects.is_reply_of(subject, device + "x")


@pytest.mark.parametrize(
    "subject",
    [
        "esc.r.p.d.e",
        "reply.a.d.c",
        "reply.a.d.c.t.u",
        "reply.a.d.c.*",
        "reply.a.d.>.t",
        "reply.d.other.c.t",
        "reply.a.d.c.t\n",
        "reply.a.d.c.t\r\nPUB x 0",
        "$JS.API.STREAM.DELETE.EVT",
    ],
)
def test_a_reply_cannot_be_aimed_elsewhere(subject: str) -> None:
    assert not subjects.is_reply_of(subject, "d")


@pytest.mark.parametrize("kind", ["esc", "res", "late"])
def test_a_place_is_read_back_from_each_of_its_subjects(kind: str) -> None:
    subject = {"esc": PLACE.escalation, "res": PLACE.result, "late": PLACE.late}[kind]
    assert subjects.place_of(subject, kind) == PLACE


@pytest.mark.parametrize(
    "subject",
    ["esc.r.p.d", "esc.r.p.d.other-00000000-1", "esc.r.p.d.d-1", "res.r.p.d.d-00000000-1"],
)
def test_a_place_whose_event_is_not_its_devices_is_refused(subject: str) -> None:
    with pytest.raises(InvalidEventError):
        subjects.place_of(subject, "esc")


@pytest.mark.parametrize("bad", ["", "d", "d-0-1", "d-00000000-", "d-0000000G-1", "d-00000000-1\n"])
def test_what_is_no_event_id_is_refused(bad: str) -> None:
    with pytest.raises(InvalidEventError):
        subjects.device_of(bad)


def test_every_subject_of_the_table_is_unique_and_has_a_purpose() -> None:
    patterns = [row.pattern for row in subjects.SUBJECTS]
    assert len(set(patterns)) == len(patterns)
    assert all(row.purpose and row.publisher and row.reader for row in subjects.SUBJECTS)


@pytest.mark.parametrize(
    ("built", "pattern"),
    [
        (subjects.event("p", "d"), "evt.<pipeline>.<device>"),
        (PLACE.escalation, "esc.<region>.<pipeline>.<device>.<event_id>"),
        (PLACE.result, "res.<region>.<pipeline>.<device>.<event_id>"),
        (PLACE.late, "late.<region>.<pipeline>.<device>.<event_id>"),
        (subjects.lease("d"), "lease.<device>"),
        (subjects.dead("p", "d"), "dead.<pipeline>.<device>"),
    ],
)
def test_every_stored_subject_stands_in_the_table_and_in_one_stream(
    built: str, pattern: str
) -> None:
    assert pattern in {row.pattern for row in subjects.SUBJECTS}
    filters = [one for stream in all_streams(StreamBounds()) for one in _filters(stream)]
    assert sum(_matches(one, built) for one in filters) == 1


def _filters(stream: dict[str, object]) -> list[str]:
    found = stream["subjects"]
    assert isinstance(found, list)
    return found


def _matches(pattern: str, subject: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", "[^.]+")
    return re.fullmatch(expression, subject) is not None
