"""CloudEvents against the official SDK, both ways and in every mode; over HTTP and over NATS."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.agent import DEVICE, AgentProcess, config

from setsuden.link import Incoming, JetStream, Link
from setsuden.schemas import subjects
from setsuden.schemas.event import Event
from setsuden.testing.broker import LocalBroker

sdk = pytest.importorskip("cloudevents.core.bindings.http")
core = pytest.importorskip("cloudevents.core.v1.event")

EASY = bytes(784)
OCTETS = "application/octet-stream"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
ANSWER_ALL = "gate = { threshold = 0.0 }"
TRACE_ID = "ab" * 16
TRACEPARENT = f"00-{TRACE_ID}-{'cd' * 8}-01"
AWKWARD = 'Zähler 7 "Süd" 100% 😀'
TEXTS = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u0085"),
    min_size=1,
    max_size=60,
)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """An agent that answers everything itself."""
    running = AgentProcess(tmp_path_factory.mktemp("ce"), config(pipeline_extra=ANSWER_ALL))
    running.start(link=False)
    yield running
    running.kill()


def event(data: Any = EASY, **attributes: Any) -> Any:
    """An event of the SDK's."""
    named = {"type": "reading", "source": "/test", "datacontenttype": OCTETS, "pipeline": "digits"}
    return core.CloudEvent(attributes={**named, **attributes}, data=data)


def post(agent: AgentProcess, message: Any) -> tuple[int, dict[str, Any]]:
    return agent.post("/events", message.body, dict(message.headers))


MODES = [sdk.to_binary_event, sdk.to_structured_event]
Mode = Callable[[Any], Any]


# -- in over HTTP -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_attribute_of_the_sdks_event_arrives(agent: AgentProcess, mode: Mode) -> None:
    sent = event(id=AWKWARD, traceparent=TRACEPARENT, subject="unused", colour="rot")
    status, result = post(agent, mode(sent))
    assert (status, result["status"]) == (200, "final")
    assert (result["source_id"], result["trace_id"]) == (AWKWARD, TRACE_ID)


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("second", MODES)
def test_an_idempotency_key_is_one_key_in_both_modes(
    agent: AgentProcess, first: Mode, second: Mode
) -> None:
    key = f"Schlüssel {first.__name__} {second.__name__}"
    _, one = post(agent, first(event(idempotencykey=key)))
    _, two = post(agent, second(event(idempotencykey=key)))
    assert one["event_id"] == two["event_id"]
    assert one["idempotency_key"] == key


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("second", MODES)
def test_an_event_that_is_sent_again_is_the_same_event(
    agent: AgentProcess, first: Mode, second: Mode
) -> None:
    sent = event(id=f"{first.__name__} {second.__name__}")
    _, one = post(agent, first(sent))
    _, two = post(agent, second(sent))
    assert one["event_id"] == two["event_id"]


def test_a_constant_id_does_not_give_another_reading_the_first_ones_answer(
    agent: AgentProcess,
) -> None:
    other = bytes(392) + b"\xff" * 392
    results = [
        post(agent, sdk.to_binary_event(event(data, id="1", source=source)))[1]
        for data, source in ((EASY, "/a"), (other, "/a"), (EASY, "/b"), (EASY, "/a"))
    ]
    ids = [result["event_id"] for result in results]
    assert len(set(ids)) == 3
    assert ids[0] == ids[3]


def test_no_key_that_an_application_chooses_is_an_events_identity() -> None:
    plain = Event(id="1", source="s", pipeline="p", device="d", data=b"x")
    for key in ("=", plain.key, plain.identity, f"/{plain.identity}"):
        keyed = plain.model_copy(update={"idempotency_key": key})
        assert keyed.key != plain.key


@pytest.mark.parametrize(
    "time",
    [
        datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
        datetime(2026, 1, 31, 12, tzinfo=timezone(-timedelta(hours=3, minutes=30))),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_the_sdks_times_are_read(agent: AgentProcess, mode: Mode, time: datetime) -> None:
    assert post(agent, mode(event(time=time)))[0] == 200


def test_data_in_json_is_the_observation(agent: AgentProcess) -> None:
    """Nested or flat, as the value or as its text."""
    for data in ([[0] * 28] * 28, [0] * 784, [[[0] * 28] * 28]):
        document = {"specversion": "1.0", "id": "1", "source": "/json", "type": "t"}
        body = json.dumps(document | {"pipeline": "digits", "data": data}).encode()
        status, result = agent.post("/events", body, {"content-type": STRUCTURED})
        assert (status, result["status"]) == (200, "final")
    binary = sdk.HTTPMessage(
        {"content-type": "application/json", "ce-id": "1", "ce-source": "/json"},
        json.dumps([0] * 784).encode(),
    )
    # The same reading under the same source and id: one event, in whatever form it came.
    assert post(agent, binary)[1]["event_id"] == result["event_id"]


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        ({"data": "no numbers", "datacontenttype": "text/plain"}, 415, None, "content_type"),
        ({"data": {"a": 1}}, 422, "tensor_invalid", "data"),
        ({"data": [True] * 784}, 422, "tensor_invalid", "data"),
        ({"data": ["1"] * 784}, 422, "tensor_invalid", "data"),
        ({"data": [0] * 3}, 422, "tensor_invalid", "data"),
        ({"data_base64": "AAAA", "data": [0]}, 400, "event_invalid", "data_base64"),
        ({"data_base64": "A A="}, 400, "event_invalid", "data_base64"),
        ({"data_base64": 7}, 400, "event_invalid", "data_base64"),
        ({}, 422, "tensor_invalid", "data"),
        ({"data": None}, 422, "tensor_invalid", "data"),
        ({"datacontenttype": 7}, 400, "event_invalid", "datacontenttype"),
        ({"datacontenttype": STRUCTURED, "data": "{}"}, 400, "event_invalid", "datacontenttype"),
        ({"specversion": "0.3"}, 400, "event_invalid", "specversion"),
        ({"id": ""}, 400, "event_invalid", "id"),
        ({"id": None}, 400, "event_invalid", "id"),
        ({"id": [1]}, 400, "event_invalid", "id"),
        ({"id": "a\r\nce-reply: x"}, 400, "event_invalid", "id"),
        ({"id": "\ud800"}, 400, "event_invalid", "id"),
        ({"idempotency_key": "k"}, 400, "event_invalid", "idempotency_key"),
        ({"idempotency\ud800": "k"}, 400, "event_invalid", "idempotency\\ud800"),
        ({"priority": 10}, 400, "event_invalid", "priority"),
        ({"priority": True}, 400, "event_invalid", "priority"),
        ({"deadline": 1.5}, 400, "event_invalid", "deadline"),
        ({"pipeline": "nope"}, 404, "pipeline_unknown", "pipeline"),
    ],
)
def test_a_structured_event_that_is_wrong_is_refused_by_name_and_trace(
    agent: AgentProcess, changes: dict[str, Any], status: int, code: str | None, field: str
) -> None:
    document = {"specversion": "1.0", "id": "1", "source": "/wrong", "type": "t"}
    document |= {"traceparent": TRACEPARENT} | changes
    body = json.dumps(document).encode()
    answered, answer = agent.post("/events", body, {"content-type": STRUCTURED})
    assert (answered, answer["error"]["field"]) == (status, field)
    assert answer["error"]["code"] == (code or "content_type_unsupported")
    assert answer["trace_id"] == TRACE_ID


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"7",
        b"[]",
        b"{",
        b"\xff\xfe{\x00}\x00",
        b'{"id": NaN}',
        b"{" * 50_000,
        b'{"specversion": "1.0", "id": "1", "id": "2", "source": "s", "data_base64": ""}',
    ],
)
def test_a_body_that_is_no_event_is_refused(agent: AgentProcess, body: bytes) -> None:
    status, answer = agent.post("/events", body, {"content-type": STRUCTURED})
    assert (status, answer["error"]["code"]) == (400, "event_invalid")


@pytest.mark.parametrize(
    ("headers", "status", "field"),
    [
        ({"ce-id": "%C0%A0"}, 400, "id"),
        ({"ce-id": "%ff"}, 400, "id"),
        ({"ce-id": "a%0d%0ab"}, 400, "id"),
        ({"ce-idempotency-key": "k"}, 400, "idempotency-key"),
        ({"ce-specversion": "0.3"}, 400, "specversion"),
        ({"ce-datacontenttype": "image/png"}, 400, "datacontenttype"),
        ({"content-type": "application/cloudevents+avro"}, 415, "content_type"),
        ({"content-type": f"{STRUCTURED}; charset=utf-16"}, 415, "content_type"),
        ({"content-type": "text/plain"}, 415, "content_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "content_type"),
        ({"content-type": "multipart/form-data; boundary=x"}, 415, "content_type"),
        ({"content-type": "image/png"}, 415, "content_type"),
    ],
)
def test_a_binary_event_that_is_wrong_is_refused_by_name_and_trace(
    agent: AgentProcess, headers: dict[str, str], status: int, field: str
) -> None:
    named = {"ce-id": "7", "ce-source": "/wrong", "content-type": OCTETS}
    named |= {"traceparent": TRACEPARENT} | headers
    answered, answer = agent.post("/events", EASY, named)
    assert (answered, answer["error"]["field"]) == (status, field)
    assert answer["trace_id"] == TRACE_ID
    if "ce-id" not in headers:
        assert answer["source_id"] == "7"


def test_a_refusal_names_the_trace_that_has_no_span(agent: AgentProcess) -> None:
    headers = {"ce-id": "1", "ce-source": "s", "content-type": OCTETS, "ce-traceid": TRACE_ID}
    for data in (b"short", EASY + EASY):
        assert agent.post("/events", data, headers)[1]["trace_id"] == TRACE_ID


def test_quoted_and_raw_values_of_older_senders_are_read(agent: AgentProcess) -> None:
    raw = {"ce-source": "s", "content-type": OCTETS}
    quoted = agent.post("/events", EASY, raw | {"ce-id": '"a \\"b\\" c"'})[1]
    assert quoted["source_id"] == 'a "b" c'
    utf8 = agent.post("/events", EASY, raw | {"ce-id": "Zähler".encode().decode("latin-1")})[1]
    assert utf8["source_id"] == "Zähler"


# -- batches ----------------------------------------------------------------------------------


def batch(*events: Any) -> bytes:
    """A batch as its binding says: an array of events in the JSON format."""
    return json.dumps([json.loads(sdk.to_structured_event(one).body) for one in events]).encode()


def post_batch(agent: AgentProcess, body: bytes, content_type: str = BATCH) -> tuple[int, Any]:
    status, _, answer = agent.exchange("/events", body, {"content-type": content_type})
    return status, json.loads(answer)


def test_every_event_of_a_batch_has_its_own_outcome_in_order(agent: AgentProcess) -> None:
    sent = batch(
        event(id="b1"),
        event(b"short", id="b2", traceparent=TRACEPARENT),
        event(id="b3", pipeline="nope"),
        event(id="b1"),
    )
    status, outcomes = post_batch(agent, sent)
    assert status == 207
    first, short, nowhere, again = outcomes
    assert [one["status"] for one in outcomes] == [200, 422, 404, 200]
    assert first["result"]["source_id"] == "b1"
    assert first["result"]["event_id"] == again["result"]["event_id"]
    assert (short["error"]["field"], short["source_id"]) == ("data", "b2")
    assert short["trace_id"] == TRACE_ID
    assert nowhere["error"]["code"] == "pipeline_unknown"


def test_a_batch_without_a_refusal_is_a_plain_success(agent: AgentProcess) -> None:
    sent = batch(*(event(id=f"p{index}") for index in range(256)))
    status, outcomes = post_batch(agent, sent, f"{BATCH}; charset=utf-8")
    assert (status, len(outcomes)) == (200, 256)
    assert post_batch(agent, b"[]") == (200, [])


@pytest.mark.parametrize("body", [b"{}", b"7", b"[", b"[" + b"{}," * 256 + b"{}]"])
def test_a_batch_that_is_none_is_refused_whole(agent: AgentProcess, body: bytes) -> None:
    status, answer = agent.post("/events", body, {"content-type": BATCH})
    assert (status, answer["error"]["code"]) == (400, "event_invalid")


# -- out --------------------------------------------------------------------------------------


def test_an_answer_over_http_is_an_event_of_the_sdks(agent: AgentProcess) -> None:
    message = sdk.to_binary_event(event(id="out"))
    status, headers, body = agent.exchange("/events", message.body, dict(message.headers))
    answer = sdk.from_http_event(sdk.HTTPMessage(headers, body))
    result = json.loads(body)
    assert status == 200
    assert answer.get_type() == "setsuden.result"
    assert answer.get_source() == f"/devices/{DEVICE}/pipelines/digits"
    assert answer.get_id() == f"{result['event_id']}/final"
    assert answer.get_data() == result


@given(TEXTS, TEXTS, st.none() | TEXTS)
def test_the_sdk_reads_the_headers_we_write(id_: str, source: str, key: str | None) -> None:
    made = Event(
        id=id_, source=source, pipeline="p", device="d", idempotency_key=key, data=b"\x00\xff"
    )
    headers = made.headers()
    assert all(value.isascii() for value in headers.values())
    read = sdk.from_binary_event(sdk.HTTPMessage(headers, made.data))
    assert (read.get_id(), read.get_source(), read.get_data()) == (id_, source, made.data)
    assert read.get_extension("idempotencykey") == key


@given(TEXTS, TEXTS, st.integers(0, 7 * 10**15))
def test_we_read_the_messages_that_the_sdk_writes(id_: str, source: str, microseconds: int) -> None:
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    sent = event(id=id_, source=source, time=time, idempotencykey=source)
    for mode in MODES:
        message = mode(sent)
        read = Event.from_headers(message.headers, message.body, pipeline="p", device="d")
        assert (read.id, read.source, read.idempotency_key) == (id_, source, source)
        assert (read.time, read.data, read.content_type) == (time, EASY, OCTETS)


# -- over NATS --------------------------------------------------------------------------------


@pytest.fixture
async def site(
    tmp_path: Path, broker: LocalBroker, link: Link, jetstream: JetStream
) -> AsyncIterator[Link]:
    """A broker with an agent that answers everything itself."""
    running = AgentProcess(tmp_path / "agent", config(broker=broker, pipeline_extra=ANSWER_ALL))
    try:
        await asyncio.to_thread(running.start)
        yield link
    finally:
        running.kill()


async def asked(link: Link, message: Any, token: str) -> dict[str, Any]:
    """The agent's answer to one message on its events subject."""
    reply = f"{subjects.reply_prefix('app', DEVICE, 'sdk')}.{token}"
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_reply(incoming: Incoming) -> None:
        if not answered.done():
            answered.set_result(incoming.data)

    await link.subscribe(reply, on_reply)
    headers = dict(message.headers) | {"ce-reply": reply}
    await link.store(subjects.event("digits", DEVICE), message.body, headers)
    async with asyncio.timeout(20):
        return dict(json.loads(await answered))


async def test_the_broker_carries_both_modes_and_an_event_is_one_over_both(site: Link) -> None:
    sent = event(id=AWKWARD, traceparent=TRACEPARENT)
    binary = await asked(site, sdk.to_binary_event(sent), "a")
    structured = await asked(site, sdk.to_structured_event(sent), "b")
    assert (binary["source_id"], binary["trace_id"]) == (AWKWARD, TRACE_ID)
    assert structured["event_id"] == binary["event_id"]


async def test_nats_names_the_content_type_as_its_binding_says(site: Link) -> None:
    message = sdk.to_binary_event(event(id="n1"))
    headers = {"Ce-Datacontenttype".lower(): OCTETS} | dict(message.headers)
    del headers["content-type"]
    answer = await asked(site, sdk.HTTPMessage(headers, message.body), "c")
    assert answer["status"] == "final"


async def test_a_structured_event_over_nats_is_refused_like_any_other(site: Link) -> None:
    wrong = sdk.to_structured_event(event(b"short", traceparent=TRACEPARENT))
    answer = await asked(site, wrong, "d")
    assert answer["error"]["code"] == "tensor_invalid"
    assert answer["trace_id"] == TRACE_ID
    broken = sdk.HTTPMessage({"content-type": STRUCTURED}, base64.b64decode("AAEC"))
    assert (await asked(site, broken, "e"))["error"]["code"] == "event_invalid"
