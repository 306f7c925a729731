"""The link with whoever may be at the other end: publishers, and brokers that are none."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.hostile import Conversation, HostileServer, info

from setsuden.link import Delivery, Incoming, JetStream, Link, LinkOptions, LinkState, Stored
from setsuden.link import headers as header_blocks
from setsuden.link.answers import MAX_ANSWERS, MAX_BYTES, AnswerQueue
from setsuden.link.durability import check_version
from setsuden.link.messages import Outcome
from setsuden.link.untrusted import json_object, number, printable
from setsuden.link.window import parse_ack
from setsuden.schemas.errors import (
    ForbiddenError,
    LinkError,
    MessageTooLargeError,
    NotDurableError,
    StreamFullError,
    UnavailableError,
)
from setsuden.testing.broker import LocalBroker

QUICK = {
    "durability": "relaxed",
    "connect_timeout_seconds": 1.0,
    "publish_timeout_seconds": 1.0,
    "ping_interval_seconds": 0.2,
    "ping_timeout_seconds": 0.3,
    "reconnect_max_seconds": 0.1,
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["EVT", "10071", 10071, 1e999]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "stream", "seq", "err_code", "description", "duplicate"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


def quick(url: str) -> LinkOptions:
    return LinkOptions.model_validate(QUICK | {"urls": (url,)})


@asynccontextmanager
async def linked(options: LinkOptions) -> AsyncIterator[Link]:
    """A link that was started, whatever came of it."""
    link = Link(options, "test")
    link.start()
    yield link
    await link.close()


# -- reading what cannot be trusted ---------------------------------------------------------------


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda rest: b"NATS/1.0" + rest))
def test_any_header_block_is_read_and_only_its_first_line_gives_a_status(block: bytes) -> None:
    head = header_blocks.read(block)
    assert head.status == "" or (len(head.status) == 3 and head.status.isdigit())
    if head.status:
        assert block.startswith(b"NATS/1.0 " + head.status.encode())


@pytest.mark.parametrize(
    ("block", "status", "description"),
    [
        (b"NATS/1.0\r\nStatus: 404\r\n\r\n", "", ""),
        (b"NATS/1.0\r\nstatus: 200\r\nSTATUS: abc\r\n\r\n", "", ""),
        (b"NATS/1.0 404 No Messages\r\nStatus: 200\r\n\r\n", "404", "No Messages"),
        (b"NATS/1.0 503\r\n\r\n", "503", ""),
        (b"NATS/1.0 100 Idle Heartbeat\r\nDescription: consumer deleted\r\n\r\n", "100", None),
        (b"NATS/1.0", "", ""),
        (b"NATS/1.0 ", "", ""),
        (b"NATS/1.0 4041\r\n\r\n", "", ""),
        ("NATS/1.0 ٤٠٤\r\n\r\n".encode(), "", ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "", ""),
        (b"\r\nNATS/1.0 404\r\n\r\n", "", ""),
    ],
)
def test_a_header_named_status_is_a_header(
    block: bytes, status: str, description: str | None
) -> None:
    head = header_blocks.read(block)
    assert head.status == status
    if description is not None:
        assert head.description == description


def test_of_a_repeated_header_the_last_counts_which_is_the_servers() -> None:
    block = b"NATS/1.0\r\nNats-Sequence: 999\r\n\r\nNats-Sequence: 7\r\n\r\n"
    assert header_blocks.read(block).headers["Nats-Sequence"] == "7"


def test_a_header_block_over_its_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes of headers"):
        header_blocks.read(b"NATS/1.0\r\n" + b"a: b\r\n" * 20_000)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=4))
def test_headers_of_any_text_add_no_line(headers: dict[str, str]) -> None:
    try:
        block = header_blocks.block(headers)
    except UnicodeEncodeError:
        return
    if block is not None:
        assert block.count(b"\r\n") == len(headers) + 2
        assert block.count(b"\n") == block.count(b"\r") == len(headers) + 2


@given(JSON)
def test_no_acknowledgement_raises_and_none_is_believed_beyond_its_types(body: object) -> None:
    for data in (json.dumps(body).encode(), json.dumps({"error": body}).encode()):
        outcome = parse_ack(data, "")
        assert isinstance(outcome, Stored | LinkError)
        if isinstance(outcome, Stored):
            assert type(outcome.sequence) is int
            assert 0 < outcome.sequence < 1 << 63
            assert type(outcome.stream) is str
            assert type(outcome.duplicate) is bool


@pytest.mark.parametrize(
    "data",
    [
        b'{"stream":"EVT","seq":true}',
        b'{"stream":"EVT","seq":"7"}',
        b'{"stream":"EVT","seq":-1}',
        b'{"stream":"EVT","seq":0}',
        b'{"stream":"EVT","seq":1e999}',
        b'{"stream":"EVT","seq":7.0}',
        b'{"stream":"EVT","seq":9223372036854775808}',
        b'{"stream":"EVT","seq":' + b"9" * 5000 + b"}",
        b'{"stream":7,"seq":7}',
        b'{"stream":"' + b"x" * 300 + b'","seq":7}',
        b'{"stream":"a\\r\\nb","seq":7}',
        b'{"error":{"err_code":1e999}}',
        b'{"error":{"err_code":"10071"}}',
        b'{"error":{"err_code":true}}',
        b'{"error":[]}',
        b'{"error":"x"}',
        b"[" * 16_000,
        b'{"error":' * 1_700,
    ],
)
def test_an_acknowledgement_of_wrong_types_is_tried_again(data: bytes) -> None:
    assert type(parse_ack(data, "")) is UnavailableError


@pytest.mark.parametrize(
    ("code", "description", "expected"),
    [
        (10077, "maximum bytes exceeded", StreamFullError),
        (10077, "maximum messages exceeded", StreamFullError),
        (10077, "message too large", MessageTooLargeError),
        (10077, "store is closed", UnavailableError),
        (10002, "resource limits exceeded for account", StreamFullError),
        (10047, "insufficient storage resources available", StreamFullError),
        (10054, "message size exceeds maximum allowed", MessageTooLargeError),
        (10097, "header size exceeds maximum allowed of 64k", MessageTooLargeError),
        (10008, "JetStream system temporarily unavailable", UnavailableError),
        (10039, "JetStream not enabled for account", UnavailableError),
        (10158, "duplicate message id is in process", UnavailableError),
        (10167, "too many requests", UnavailableError),
        (10122, "stream max bytes exceeds account limit max stream bytes", UnavailableError),
    ],
)
def test_a_refusal_is_what_the_server_means_by_its_code(
    code: int, description: str, expected: type[LinkError]
) -> None:
    body = {"error": {"code": 400, "err_code": code, "description": description}}
    assert type(parse_ack(json.dumps(body).encode(), "")) is expected


def test_a_refusal_quotes_no_more_than_a_line() -> None:
    body = {"error": {"err_code": 1, "description": "x\r\n\x1b[31m" + "y" * 9000}}
    outcome = parse_ack(json.dumps(body).encode(), "")
    assert isinstance(outcome, UnavailableError)
    assert len(outcome.message) < 300
    assert outcome.message.isprintable()


@given(st.binary(max_size=200))
def test_bytes_are_a_json_object_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(json_object(data), dict)


@pytest.mark.parametrize("data", [b"[" * 99_000, b'{"a":' * 99_000, b'{"a":[' + b"[]," * 200_000])
def test_json_bombs_are_refused_before_they_are_built(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"deeply|too many"):
        json_object(data)
    with pytest.raises(ValueError, match="over"):
        json_object(data, 1000)


@given(st.text(max_size=25) | st.integers().map(str))
def test_only_decimal_digits_are_a_number(text: str) -> None:
    try:
        value = number(text)
    except ValueError:
        return
    assert text.encode().isdigit()
    assert 0 <= value < 1 << 63


@given(st.lists(st.text(max_size=22), max_size=13).map(".".join))
def test_any_reply_subject_is_a_delivery_or_a_value_error(tail: str) -> None:
    for reply in (tail, f"$JS.ACK.{tail}"):
        try:
            delivery = Delivery.of(reply)
        except ValueError:
            continue
        assert all(0 <= value < 1 << 63 for value in delivery)


@pytest.mark.parametrize("bad", ["-1", "1_0", "٣", " 1", "1e3", "9" * 19, "9" * 5000, ""])
def test_a_delivery_of_absurd_numbers_is_refused(bad: str) -> None:
    for place in range(5):
        parts = ["1", "2", "3", "4", "5"]
        parts[place] = bad
        with pytest.raises(ValueError, match="number"):
            Delivery.of(f"$JS.ACK.ESC.teacher.{'.'.join(parts)}")


@given(st.text())
def test_any_version_is_new_enough_or_not_durable(version: str) -> None:
    with suppress(NotDurableError):
        check_version(version)


@pytest.mark.parametrize("version", ["2.15.0", "2.15", "2.15-dev", "3.0.0", "2.100.1"])
def test_versions_from_the_floor_on_are_new_enough(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["", "2.14.9", "2", "²·¹⁵", "2.x", "v2.15", "9" * 4000])
def test_other_versions_are_not(version: str) -> None:
    with pytest.raises(NotDurableError):
        check_version(version)


@given(st.text())
def test_a_foreign_text_is_shown_as_one_short_line(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= 201
    assert all(character.isprintable() for character in shown)


# -- publishers on a real broker ------------------------------------------------------------------


HOSTILE_BLOCKS = [
    b"NATS/1.0\r\nStatus: 404\r\n\r\n",
    b"NATS/1.0\r\nStatus: 200\r\n\r\n",
    b"NATS/1.0\r\nstatus: abc\r\nDescription: Consumer Deleted\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 404 no line ends",
    b"NATS/1.0",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\nNats-Sequence: 999\r\nNats-Subject: evt.p.other\r\n\r\n",
    b"NATS/1.0\r\nnats-sequence: 999\r\nNats-Last-Sequence: -1\r\n\r\n",
    b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\xff\xfe: \xff\r\n: nameless\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(3000)) + b"\r\n",
    b"\x00" * 40,
    b"xy",  # of one byte nats-server 2.15.1 dies itself, where a stream republishes
]


async def publish_raw(broker: LocalBroker, subject: str, block: bytes, body: bytes) -> None:
    """One HPUB as no client library would send it; returns once a stream has it, if one does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    await reader.readline()
    writer.write(b'CONNECT {"headers":true,"verbose":false}\r\nSUB ack 1\r\n')
    size = len(block) + len(body)
    command = f"HPUB {subject} ack {len(block)} {size}\r\n".encode()
    writer.write(command + block + body + b"\r\nPING\r\n")
    end = b"MSG ack 1" if subject.startswith("evt.") else b"PONG"
    while not (line := await reader.readline()).startswith(end):
        assert line, "the broker refused it"
    writer.close()


async def test_no_header_of_a_stored_message_looks_like_the_brokers_answer(
    broker: LocalBroker, link: Link, jetstream: JetStream
) -> None:
    """One of them once stalled a pipeline for ever: ready, and not a line in the log."""
    for n, block in enumerate(HOSTILE_BLOCKS):
        await publish_raw(broker, "evt.p.dev-1", block, bytes((n,)))
    await link.store("evt.p.dev-1", b"last")
    request: dict[str, object] = {"next_by_subj": "evt.p.dev-1", "seq": 1, "batch": 100}
    found = await jetstream.read("EVT", request)
    bodies = [bytes((n,)) for n in range(len(HOSTILE_BLOCKS))]
    assert [message.data for message in found] == [*bodies, b"last"]
    sequences = [int(message.headers["Nats-Sequence"]) for message in found]
    assert sequences == list(range(1, len(found) + 1))
    assert {message.headers["Nats-Subject"] for message in found} == {"evt.p.dev-1"}
    assert link.connections == 1


@pytest.mark.parametrize("block", HOSTILE_BLOCKS)
async def test_the_newest_message_is_found_whatever_its_headers_say(
    broker: LocalBroker, link: Link, jetstream: JetStream, block: bytes
) -> None:
    await publish_raw(broker, "evt.p.dev-1", block, b"body")
    found = await jetstream.last("EVT", "evt.p.dev-1")
    assert found is not None
    assert (found.data, found.headers["Nats-Sequence"]) == (b"body", "1")
    assert await jetstream.last("EVT", "evt.p.dev-2") is None


async def test_any_block_reaches_a_handler_without_ending_the_reader(
    broker: LocalBroker, link: Link
) -> None:
    heard: asyncio.Queue[Incoming] = asyncio.Queue()
    await link.subscribe("plain.*", heard.put_nowait)
    assert link._connection is not None
    assert await link._connection.flush(5)
    for n, block in enumerate(HOSTILE_BLOCKS):
        await publish_raw(broker, f"plain.{n}", block, b"")
        async with asyncio.timeout(5):
            assert (await heard.get()).subject == f"plain.{n}"
    assert link.connections == 1


async def test_subjects_that_are_no_text_arrive_as_something_that_is(
    broker: LocalBroker, link: Link
) -> None:
    heard: asyncio.Queue[Incoming] = asyncio.Queue()
    await link.subscribe("bell.>", heard.put_nowait)
    assert link._connection is not None
    assert await link._connection.flush(5)
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    await reader.readline()
    writer.write(b"CONNECT {}\r\nPUB bell.\xff\xfe 0\r\n\r\nPUB bell.ok 0\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await heard.get()).subject == "bell.��"
        assert (await heard.get()).subject == "bell.ok"
    writer.close()


# -- our own callbacks ----------------------------------------------------------------------------


def failing(message: object) -> None:
    raise KeyError("secret payload")


async def test_a_handler_that_raises_is_counted_and_the_next_message_is_handled(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    heard: asyncio.Queue[Incoming] = asyncio.Queue()
    await link.subscribe("bad", failing)
    await link.subscribe("good", heard.put_nowait)
    for _ in range(100):
        await link.send("bad", b"secret payload")
    await link.send("good", b"")
    await asyncio.wait_for(heard.get(), 5)
    assert (link.handler_errors, link.connections) == (100, 1)
    lines = [record for record in caplog.records if record.message == "link_handler_failed"]
    assert 0 < len(lines) <= 20
    assert "secret" not in "".join(str(record.__dict__) for record in lines)
    assert "test_hostile.py" in str(lines[0].__dict__["line"])


async def test_a_done_callback_that_raises_spoils_no_other_store(
    link: Link, jetstream: JetStream
) -> None:
    def done(outcome: Outcome) -> None:
        raise ValueError("x")

    for _ in range(3):
        await link.post("evt.p.d", b"", None, done)
    assert (await link.store("evt.p.d", b"")).sequence == 4
    assert link.handler_errors == 3


async def test_listeners_and_done_callbacks_that_raise_do_not_keep_the_link_down(
    broker: LocalBroker,
) -> None:
    def done(outcome: Outcome) -> None:
        raise ValueError("x")

    link = Link(broker.options, "test")
    link.listen(failing)
    link.start()
    await link.wait_up(10)
    await link.post("nowhere", b"", {"a": "b"}, done)
    assert link._connection is not None
    link._connection.lost.set()
    await link.wait_up(10)
    assert link.connections == 2
    assert link.handler_errors >= 3
    await link.close()


async def test_an_exception_inside_the_link_is_counted_and_the_link_comes_back(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: a task that ends in silence would leave the process alone for ever."""
    link = Link(broker.options, "test")
    broken = iter((True, True, False))

    def wire_once_broken() -> object:
        if next(broken, False):
            raise RuntimeError("a fault of ours")
        return link._past

    link.start()
    await link.wait_up(10)
    assert link._connection is not None
    monkeypatch.setattr(link._connection, "wire", wire_once_broken)
    link._connection.lost.set()
    await link.wait_up(10)
    assert link.connections == 2
    assert link.handler_errors >= 1
    await link.close()


async def test_an_outage_does_not_grow_the_error_that_everybody_is_told(
    broker: LocalBroker, link: Link
) -> None:
    """Each ``raise`` of one instance adds a frame to it, and keeps what is in that frame."""
    await asyncio.to_thread(broker.kill)
    for _ in range(500):
        with pytest.raises(UnavailableError):
            await link.store("evt.p.d", b"")
    frames, trace = 0, None if link.problem is None else link.problem.__traceback__
    while trace is not None:
        frames, trace = frames + 1, trace.tb_next
    assert frames < 20


async def test_half_a_surrogate_pair_is_refused_and_the_link_stays(
    link: Link, jetstream: JetStream
) -> None:
    for subject, headers in (("evt.p.\ud800", None), ("evt.p.d", {"ce-id": "\ud800"})):
        with pytest.raises(ForbiddenError, match="no text"):
            await link.store(subject, b"", headers)
    assert (await link.store("evt.p.d", b"")).sequence == 1


# -- a server that is none ------------------------------------------------------------------------


BAD_GREETINGS = [
    b"",
    b"\r\n",
    b"INFO\r\n",
    b"INFO {\r\n",
    b"INFO []\r\n",
    b"INFO 7\r\n",
    b"INFO null\r\n",
    b"INFO " + b"[" * 20_000 + b"\r\n",
    b"INFO " + b" " * 200_000,
    b"INFO {}" + b" " * 100_000 + b"\r\n",
    b"\xff\xfe\x00" * 1000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"-ERR\r\n",
    b"-ERR 'Authorization Violation'\r\n",
    info(max_payload="x"),
    info(max_payload=-1),
    info(max_payload=True),
    info(max_payload=1e99),
    info(max_payload=None),
    info(version=["2", "15"]),
    info(nonce=7),
    info() + b"-ERR 'no'\r\n",
    info() + b"-ERR\r\n",
    info() + b"-ERR \xff\r\n",
    info() + b"INFO {}\r\n",
    info() + b"MSG x 1 5\r\nhello\r\n",
    info() + b"\r\n",
]


@pytest.mark.parametrize("greeting", BAD_GREETINGS)
async def test_a_greeting_that_is_none_is_told_in_time_and_a_good_one_after_it_is_taken(
    greeting: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    turns = count()

    async def greet(conversation: Conversation) -> None:
        if next(turns) < 2:
            await conversation.send(greeting)
            return
        await conversation.send(info())
        await conversation.serve()

    async with HostileServer(greet) as server, linked(quick(server.url)) as link:
        await link.wait_up(15)
        assert server.accepted == 3
        await link.send("x", b"")
    details = [str(record.__dict__.get("detail", "")) for record in caplog.records]
    assert all(len(detail) < 500 and detail.isprintable() for detail in details)


async def test_a_greeting_with_an_absurd_max_payload_does_not_raise_our_bounds() -> None:
    async with (
        HostileServer(greeting(max_payload=1 << 60)) as server,
        linked(quick(server.url)) as link,
    ):
        await link.wait_up(5)
        assert link._connection is not None
        assert link._connection.max_payload < 1 << 27


def greeting(**changes: object) -> Callable[[Conversation], Any]:
    async def greet(conversation: Conversation) -> None:
        await conversation.send(info(**changes))
        await conversation.serve()

    return greet


BAD_BYTES = [
    b"-ERR 'x'\r\n" * 1000,
    b"-ERR\r\n",
    b"-ERR \r\n",
    b"-ERR '\xff'\r\n",
    b"-ERR 'Permissions Violation for Publish to \"" + b"a" * 60_000 + b"\"'\r\n",
    b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n" * 2000,
    b"-ERR 'Permissions Violation'\r\n" * 2000,
    b"MSG\r\n",
    b"MSG x\r\n",
    b"MSG x 1 -5\r\n",
    b"MSG x 1 99999999999999999999999\r\n",
    b"MSG x 1 " + b"9" * 4000 + b"\r\n",
    b"MSG x 1 " + b"9" * 5000 + b"\r\n",
    b"MSG x " + b"9" * 5000 + b" 1\r\nx\r\n",
    b"MSG x y 5\r\nhello\r\n",
    b"MSG x 999 5\r\nhello\r\n",
    b"HMSG x 1 99999999999 5\r\nhello\r\n",
    b"HMSG x 1 8 8\r\nNATS/1.0\r\n",
    b"HMSG x 1 0 0\r\n\r\n",
    b"HMSG x 1 3 5\r\n\xff\xff\xffab\r\n",
    b"HMSG x 1 60000 60000\r\n" + b"a:\r\n" * 15_000 + b"\r\n",
    b"HMSG x 1 900000 900000\r\n" + b"a" * 900_000 + b"\r\n",
    b"INFO []\r\n",
    b"INFO \xff\r\n",
    b"INFO " + b"[" * 60_000 + b"\r\n",
    b"PONG\r\n" * 5000,
    b"PING\r\n" * 5000,
    b"+OK\r\n" * 5000,
    b"QUIT\r\n",
    b"\r\n",
    b"\x00" * 5000,
    b"x" * 300_000,
    b"INFO " + b"x" * 300_000,
]


@pytest.mark.parametrize("data", BAD_BYTES)
async def test_bytes_that_are_no_nats_end_at_most_the_connection(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    turns = count()

    async def misbehave(conversation: Conversation) -> None:
        await conversation.send(info())
        if next(turns) == 0:
            await conversation.serve(pings=2)  # it is up by then
            await conversation.send(data.replace(b" 1 ", b" %d " % conversation.number("ear"), 1))
        await conversation.serve()

    async with HostileServer(misbehave) as server:
        link = Link(quick(server.url), "test")
        await link.subscribe("ear", lambda _: None)
        link.start()
        await link.wait_up(5)
        await survives(link, server)
        await link.close()
    assert len(caplog.records) < 60


async def survives(link: Link, server: HostileServer) -> None:
    """Within the bounds of pings and pauses the link is up, and the server hears from it."""
    options = link.options
    bound = options.ping_interval_seconds + options.ping_timeout_seconds
    async with asyncio.timeout(bound + options.connect_timeout_seconds + 5):
        while True:
            await link.wait_up(5)
            connection = link._connection
            if connection is not None and await connection.flush(2):
                return


@pytest.mark.parametrize("begin", [b"MSG x 1 4000000000\r\n", b"INFO {"])
async def test_what_has_no_end_costs_the_connection_and_no_memory(begin: bytes) -> None:
    async def endless(conversation: Conversation) -> None:
        await conversation.send(info())
        await conversation.serve(pings=2)
        await conversation.send(begin)
        while True:
            await conversation.send(bytes(1 << 20))

    problems: list[str] = []
    async with HostileServer(endless) as server, linked(quick(server.url)) as link:
        link.listen(lambda _: problems.append(str(link.problem)))
        before = peak_mib()
        while server.accepted < 5:
            await asyncio.wait_for(server.connected.wait(), 10)
            server.connected.clear()
        assert peak_mib() - before < 40
        assert any("not the NATS protocol" in problem for problem in problems)


async def test_a_flood_of_servers_that_a_broker_names_is_not_kept() -> None:
    async def name_many(conversation: Conversation) -> None:
        await conversation.send(info(connect_urls=["10.0.0.1:4222"]))
        await conversation.serve(pings=2)
        for n in range(100):
            await conversation.send(info(connect_urls=[f"10.0.{n}.{m}:4222" for m in range(200)]))
        await conversation.serve()

    async with HostileServer(name_many) as server, linked(quick(server.url)) as link:
        await link.wait_up(5)
        await survives(link, server)
        assert link._connection is not None
        assert len(link._connection._client._server_pool) == 1
        assert link.connections == 1


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def test_a_broker_that_drops_every_connection_is_come_back_to_with_growing_pauses() -> None:
    async def drop(conversation: Conversation) -> None:
        await conversation.send(info())
        await conversation.serve(pings=2)

    async with HostileServer(drop) as server:
        options = quick(server.url).model_copy(update={"reconnect_max_seconds": 30.0})
        async with linked(options) as link:
            start = asyncio.get_running_loop().time()
            while link.connections < 5:
                await asyncio.wait_for(server.connected.wait(), 20)
                server.connected.clear()
            assert asyncio.get_running_loop().time() - start > 0.3
            await asyncio.sleep(0)
            assert link.connections < 8


async def test_what_the_broker_says_as_it_ends_the_connection_is_told() -> None:
    async def end(conversation: Conversation) -> None:
        await conversation.send(info())
        await conversation.serve(pings=2)
        await conversation.send(b"-ERR 'User Authentication Expired'\r\n")

    states: asyncio.Queue[LinkState] = asyncio.Queue()
    async with HostileServer(end) as server:
        link = Link(quick(server.url), "test")
        problems: list[str] = []
        link.listen(lambda state: problems.append(str(link.problem)))
        link.listen(states.put_nowait)
        link.start()
        while await asyncio.wait_for(states.get(), 10) is not LinkState.DOWN:
            pass
        assert "user authentication expired" in problems[1]
        await link.close()


# -- answers of JetStream -------------------------------------------------------------------------


@asynccontextmanager
async def answered(answer: Callable[[str], bytes]) -> AsyncIterator[tuple[Link, JetStream]]:
    """JetStream behind a server that answers each request with these bytes."""

    async def serve(conversation: Conversation) -> None:
        await conversation.send(info())
        await conversation.serve(pings=2)
        while line := await conversation.reader.readline():
            if line == b"PING\r\n":
                await conversation.send(b"PONG\r\n")
            elif line.startswith((b"PUB ", b"HPUB ")):
                reply = line.split()[2].decode()
                await conversation.reader.readexactly(int(line.split()[-1]) + 2)
                await conversation.send(answer(reply).replace(b"SID", b"%d" % number_of(reply)))

    def number_of(reply: str) -> int:
        return conversations[-1].number("api" if ".api." in reply else "ack")

    conversations: list[Conversation] = []

    async def script(conversation: Conversation) -> None:
        conversations.append(conversation)
        await serve(conversation)

    async with HostileServer(script) as server:
        link = Link(quick(server.url), "test")
        jetstream = JetStream(link)
        await jetstream.start()
        link.start()
        await link.wait_up(10)
        yield link, jetstream
        await link.close()


def message(subject: str, body: bytes, head: bytes = b"") -> bytes:
    if head:
        size = len(head) + len(body)
        return f"HMSG {subject} SID {len(head)} {size}\r\n".encode() + head + body + b"\r\n"
    return f"MSG {subject} SID {len(body)}\r\n".encode() + body + b"\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 90_000,
        b'{"a":[' + b"[]," * 200_000,
        b'{"config":7,"ts":"x"}',
        b'{"config":[],"ts":1e999}',
        b'{"config":"x","ts":"10000-01-01T00:00:00Z"}',
        b'{"error":7}',
        b'{"error":{"code":"x","err_code":[],"description":{}}}',
        b'{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"}}',
        b'{"error":{"code":503,"err_code":10039,"description":"not enabled for account"}}',
        b" " * (5 << 20),
    ],
)
async def test_an_api_answer_of_any_kind_is_a_link_error(body: bytes) -> None:
    async with answered(lambda reply: message(reply, body)) as (link, jetstream):
        for call in (
            jetstream.apply_stream({"name": "EVT", "retention": "limits"}),
            jetstream.apply_consumer("EVT", {"durable_name": "d"}),
        ):
            with pytest.raises(LinkError) as caught:
                async with asyncio.timeout(8):
                    await call
            assert len(str(caught.value)) < 500
        assert link.connections == 1


@pytest.mark.parametrize(("code", "kind"), [(503, UnavailableError), (403, ForbiddenError)])
async def test_an_api_error_that_passes_is_told_apart_from_one_that_stays(
    code: int, kind: type[LinkError]
) -> None:
    body = json.dumps({"error": {"code": code, "err_code": 10008, "description": "no"}}).encode()
    async with answered(lambda reply: message(reply, body)) as (_, jetstream):
        for call in (jetstream.api("STREAM.INFO.EVT"), jetstream.find("STREAM.INFO.EVT")):
            with pytest.raises(kind):
                await call


STORED = b"NATS/1.0\r\nNats-Subject: a\r\nNats-Sequence: 1\r\n\r\n"


@pytest.mark.parametrize("body", [b"", bytes(1 << 16)])
async def test_answers_that_never_end_are_given_up_within_bounds(body: bytes) -> None:
    async def endless(conversation: Conversation) -> None:
        await conversation.send(info())
        await conversation.serve(pings=2)
        while not (line := await conversation.reader.readline()).startswith(b"PUB "):
            await conversation.send(b"PONG\r\n" if line == b"PING\r\n" else b"")
        answer = message(line.split()[2].decode(), body, STORED)
        answer = answer.replace(b"SID", b"%d" % conversation.number("api"))
        while True:
            await conversation.send(answer * 16)

    async with HostileServer(endless) as server:
        options = quick(server.url).model_copy(update={"ping_timeout_seconds": 10.0})
        link = Link(options, "test")
        jetstream = JetStream(link)
        await jetstream.start()
        link.start()
        await link.wait_up(10)
        before = peak_mib()
        with pytest.raises(UnavailableError, match="larger than any request"):
            async with asyncio.timeout(8):
                await jetstream.read("EVT", {"batch": 10})
        assert peak_mib() - before < 60
        await link.close()


def test_answers_are_bounded_in_number_and_bytes() -> None:
    for size, most in ((0, MAX_ANSWERS), (1 << 20, MAX_BYTES >> 20)):
        answers = AnswerQueue()
        for _ in range(2 * MAX_ANSWERS):
            answers.put_nowait(Incoming("a", "", {}, bytes(size)))
        assert answers.qsize() <= most + 1
        *_, last = (answers.get_nowait() for _ in range(answers.qsize()))
        assert last.status == "ended"


@pytest.mark.parametrize(
    "head",
    [
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: 1\r\n\r\n",
        b"NATS/1.0\r\nNats-Subject: x\r\n\r\n",
        b"NATS/1.0 408 Bad Request\r\n\r\n",
        b"NATS/1.0 500 x\r\n\r\n",
    ],
)
async def test_a_direct_get_without_the_servers_stamp_is_no_stored_message(head: bytes) -> None:
    async with answered(lambda reply: message(reply, b"x", head)) as (_, jetstream):
        with pytest.raises(UnavailableError, match="cannot be read now"):
            await jetstream.read("EVT", {"batch": 1})
        with pytest.raises(UnavailableError, match="cannot be read now"):
            await jetstream.last("EVT", "evt.p.d")


async def test_a_question_fails_at_once_when_the_link_is_lost(
    broker: LocalBroker, link: Link, jetstream: JetStream
) -> None:
    loop = asyncio.get_running_loop()
    await link.subscribe("nobody.answers", lambda _: None)  # else the broker itself answers 503
    again = asyncio.create_task(jetstream.ask("nobody.answers", b"", timeout_seconds=30))
    assert link._connection is not None
    assert await link._connection.flush(5)
    start = loop.time()
    await asyncio.to_thread(broker.kill)
    with pytest.raises(UnavailableError, match="link to the broker is down"):
        await again
    assert loop.time() - start < 2


async def test_a_question_that_is_not_allowed_fails_at_once(tmp_path: Any) -> None:
    users = (
        "authorization { users = [ { user: app, password: x, permissions: {"
        ' publish: { deny: ["$JS.API.STREAM.INFO.DEAD"] } } } ] }'
    )
    with LocalBroker(tmp_path / "nats", accounts=users) as broker:
        url = broker.url.replace("://", "://app:x@")
        link = Link(broker.options.model_copy(update={"urls": (url,)}), "test")
        jetstream = JetStream(link)
        await jetstream.start()
        link.start()
        await link.wait_up(10)
        with pytest.raises(ForbiddenError, match=r"stream\.info\.dead"):
            async with asyncio.timeout(2):
                await jetstream.ask("$JS.API.STREAM.INFO.DEAD", b"", timeout_seconds=30)
        await link.close()


# -- everything at once ---------------------------------------------------------------------------


FUZZ_SECONDS = 20.0
FUZZ_SEED = 20_261_128
PIECES = [
    *BAD_BYTES[:28],
    info(),
    info(connect_urls=["127.0.0.1:1"] * 50),
    b"MSG ACK SID 26\r\n" + b'{"stream":"EVT","seq":1e9}\r\n',
    b"MSG ACK SID 4\r\nnull\r\n",
    b"HMSG ACK SID 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
    b"MSG API SID 2\r\n{}\r\n",
    b"HMSG API SID 53 53\r\nNATS/1.0\r\nNats-Subject: a\r\nNats-Sequence: 1\r\n\r\n\r\n",
    b"MSG ear SID 5\r\nhello\r\n",
    b"MSG ear SID 5 5\r\nhello\r\n",
]


def mangled(draw: random.Random, conversation: Conversation) -> bytes:
    """A piece, aimed at a subscription of the client's, perhaps cut or with changed bytes."""
    subject, number = draw.choice(list(conversation.subscribed.items()) or [("x", 1)])
    piece = draw.choice(PIECES)
    piece = piece.replace(b"SID", b"%d" % number)
    token = b"%x" % draw.randrange(1, 40)
    for name in (b"ACK", b"API", b"ear"):
        piece = piece.replace(name, subject.encode().replace(b"*", token))
    chance = draw.random()
    if chance < 0.3 and piece:
        mutable = bytearray(piece)
        for _ in range(draw.randrange(1, 8)):
            mutable[draw.randrange(len(mutable))] = draw.randrange(256)
        return bytes(mutable)
    if chance < 0.5:
        return piece[: draw.randrange(len(piece) + 1)]
    return piece * draw.choice((1, 1, 1, 50))


@pytest.mark.slow
async def test_a_hostile_broker_never_ends_the_link_nor_holds_it_nor_fills_the_memory() -> None:
    draw = random.Random(FUZZ_SEED)
    hostile, conversations = True, 0

    async def script(conversation: Conversation) -> None:
        nonlocal conversations
        conversations += 1
        if hostile and draw.random() < 0.2:
            await conversation.send(draw.choice(BAD_GREETINGS))
            return
        await conversation.send(info())
        if not hostile:
            await conversation.serve()
            return
        await conversation.serve(pings=draw.choice((0, 1, 2, 2, 2, 3)))
        for _ in range(draw.randrange(1, 12)):
            await conversation.send(mangled(draw, conversation))

    async with HostileServer(script) as server:
        link = Link(quick(server.url), "fuzz")
        jetstream = JetStream(link)
        await jetstream.start()
        await link.subscribe("ear", failing)
        link.start()
        memory = psutil.Process().memory_info().rss
        ends = time.monotonic() + FUZZ_SECONDS
        told: list[type] = []
        while time.monotonic() < ends:
            told += await use(link, jetstream)
        assert link._task is not None
        assert not link._task.done()
        assert psutil.Process().memory_info().rss - memory < 150 << 20
        hostile = False
        await link.wait_up(10)
        await survives(link, server)
        await link.close()
    assert conversations > 50
    assert len(told) > 50


async def use(link: Link, jetstream: JetStream) -> list[type]:
    """One of each call, at once; each ends in its bounds with what it says it raises."""
    calls = [
        link.store("evt.p.d", b"x", {"a": "b"}),
        link.store("evt.p.d", bytes(100_000)),
        link.send("x", b""),
        jetstream.ask("x", b"", timeout_seconds=0.5),
        jetstream.read("EVT", {"batch": 2}, timeout_seconds=0.5),
        jetstream.api("STREAM.INFO.EVT"),
        jetstream.find("STREAM.INFO.EVT"),
        link.wait_up(0.2),
    ]
    async with asyncio.timeout(12):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        assert not isinstance(outcome, BaseException) or isinstance(outcome, LinkError)
    return [type(outcome) for outcome in outcomes]
