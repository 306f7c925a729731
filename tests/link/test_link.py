"""The link against real servers: coming up, being refused, storing, permissions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from setsuden.link import Delivery, Incoming, JetStream, Link, LinkOptions, LinkState, Stored
from setsuden.link.connection import Connection
from setsuden.link.durability import Proof, check_sync
from setsuden.schemas import streams
from setsuden.schemas.errors import (
    AlreadyStoredError,
    ForbiddenError,
    LinkError,
    NotDurableError,
    StreamFullError,
    UnavailableError,
)
from setsuden.schemas.escalation import EXPECTED_SUBJECT_SEQUENCE, MSG_ID_HEADER
from setsuden.schemas.streams import StreamBounds
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

FIRST = {EXPECTED_SUBJECT_SEQUENCE: "0"}
USERS = """
authorization {
  users = [
    { user: app, password: right, permissions: {
      publish: { deny: ["evt.Closed.*", "$JS.API.STREAM.INFO.DEAD"] }
      subscribe: { deny: ["shut.>"] }
    } }
  ]
}
"""


@asynccontextmanager
async def linked(options: LinkOptions) -> AsyncIterator[Link]:
    """A link that was started, whatever came of it."""
    link = Link(options, "test")
    link.start()
    yield link
    await link.close()


@pytest.fixture
def guarded(tmp_path: Path) -> LocalBroker:
    """A broker with users, not started yet."""
    return LocalBroker(tmp_path / "guarded", accounts=USERS)


def as_user(broker: LocalBroker, password: str) -> LinkOptions:
    file = broker.folder / "password"
    file.write_text(f"{password}\n", encoding="utf-8")
    return broker.options.model_copy(update={"user": "app", "password_file": str(file)})


# -- coming up ----------------------------------------------------------------------------------


async def test_a_link_comes_up_and_says_so(broker: LocalBroker) -> None:
    told: list[LinkState] = []
    link = Link(broker.options, "test")
    link.listen(told.append)
    link.start()
    await link.wait_up(10)
    assert (link.state, link.problem, link.connections) == (LinkState.UP, None, 1)
    await link.close()
    assert told == [LinkState.UP, LinkState.DOWN]


async def test_starting_without_a_broker_waits_for_it(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path / "late")
    async with linked(broker.options) as link:
        with pytest.raises(UnavailableError, match="nats-server"):
            await link.wait_up(0.3)
        with pytest.raises(UnavailableError):
            await link.store("evt.p.d", b"")
        await asyncio.to_thread(broker.start)
        await link.wait_up(30)
    broker.stop()


async def test_the_next_address_is_tried(broker: LocalBroker) -> None:
    urls = (f"nats://127.0.0.1:{free_port()}", broker.url)
    async with linked(broker.options.model_copy(update={"urls": urls})) as link:
        await link.wait_up(10)


async def test_a_broker_that_acks_before_its_disk_is_refused_with_the_remedy(
    tmp_path: Path,
) -> None:
    with LocalBroker(tmp_path / "default-sync", sync="2m") as broker:
        async with linked(broker.options) as link:
            with pytest.raises(NotDurableError, match="sync_interval: always"):
                await link.wait_up(2)
            assert link.state is LinkState.REFUSED
            with pytest.raises(NotDurableError):
                await link.store("evt.p.d", b"")


async def test_relaxed_durability_takes_that_broker(tmp_path: Path) -> None:
    with LocalBroker(tmp_path / "default-sync", sync="2m") as broker:
        relaxed = LinkOptions(urls=(broker.url,), durability="relaxed")
        async with linked(relaxed) as link:
            await link.wait_up(10)


async def test_strict_durability_without_proof_is_refused_with_the_remedy(
    broker: LocalBroker,
) -> None:
    async with linked(LinkOptions(urls=(broker.url,))) as link:
        with pytest.raises(NotDurableError, match=r"monitor_url.*relaxed"):
            await link.wait_up(2)


@pytest.mark.parametrize("path", ["", "/healthz#"])
async def test_a_monitor_address_that_is_none_is_refused(broker: LocalBroker, path: str) -> None:
    """The first is the NATS port itself, which speaks no HTTP at all."""
    address = f"{broker.monitor_url}{path}" if path else f"http://127.0.0.1:{broker.port}"
    async with linked(LinkOptions(urls=(broker.url,), monitor_url=address)) as link:
        with pytest.raises(NotDurableError):
            await link.wait_up(2)
        assert link.state is LinkState.REFUSED


# -- proof by somebody else ---------------------------------------------------------------------


QUESTION = "cloud.dev-1.proof"


async def asked(connection: Connection) -> None:
    answer = await connection.ask(QUESTION, b"", 2)
    check_sync(json.loads(answer.data))


@asynccontextmanager
async def proven(broker: LocalBroker, proof: Proof, **more: object) -> AsyncIterator[Link]:
    """A link that cannot read the monitoring port and has this proof instead."""
    changes = {"monitor_url": None, "connect_timeout_seconds": 1.0} | more
    link = Link(broker.options.model_copy(update=changes), "dev-1", proof)
    link.start()
    yield link
    await link.close()


@pytest.mark.parametrize("sync", [True, False])
async def test_a_device_without_the_monitoring_port_is_told_by_who_can_read_it(
    broker: LocalBroker, link: Link, sync: bool
) -> None:
    told = json.dumps({"jetstream": {"config": {"sync_always": sync}}}).encode()
    replies: asyncio.Queue[str] = asyncio.Queue()
    await link.subscribe(QUESTION, lambda message: replies.put_nowait(message.reply))
    assert link._connection is not None
    assert await link._connection.flush(5)
    async with proven(broker, asked) as device:
        reply = await asyncio.wait_for(replies.get(), 5)
        assert reply.startswith(device.inbox)
        await link.send(reply, told)
        if sync:
            await device.wait_up(5)
        else:
            with pytest.raises(NotDurableError, match="acknowledges before its disk"):
                await device.wait_up(5, refused_ends=True)
            assert device.state is LinkState.REFUSED


async def test_a_proof_is_asked_for_at_each_connection(broker: LocalBroker) -> None:
    times: asyncio.Queue[Connection] = asyncio.Queue()

    async def proof(connection: Connection) -> None:
        times.put_nowait(connection)

    async with proven(broker, proof) as device:
        await device.wait_up(5)
        assert device._connection is not None
        device._connection.lost.set()
        await device.wait_up(5)
    assert times.qsize() == 2


async def never(connection: Connection) -> None:
    await asyncio.Event().wait()


async def silent(connection: Connection) -> None:
    await connection.ask("$JS.API.nothing.answers.here", b"", 5)


async def broken(connection: Connection) -> None:
    raise KeyError("secret")


async def forbidden(connection: Connection) -> None:
    await connection.ask("evt.Closed.d", b"", 30)


@pytest.mark.parametrize(
    ("proof", "kind", "told"),
    [
        (never, UnavailableError, "nobody proved in time"),
        (asked, UnavailableError, f"nobody answers {QUESTION}"),
        (silent, UnavailableError, r"nobody (proved|answers)"),
        (broken, NotDurableError, "failed: KeyError"),
    ],
)
async def test_a_proof_that_is_not_given_is_none(
    broker: LocalBroker, proof: Proof, kind: type[LinkError], told: str
) -> None:
    async with proven(broker, proof) as device:
        with pytest.raises(kind, match=told) as caught:
            await device.wait_up(1.5, refused_ends=True)
        assert "secret" not in str(caught.value)


async def test_a_proof_that_may_not_be_asked_for_is_told_at_once(guarded: LocalBroker) -> None:
    with guarded:
        login = as_user(guarded, "right").model_dump()
        async with proven(guarded, forbidden, **login | {"monitor_url": None}) as device:
            with pytest.raises(ForbiddenError, match=r"evt\.closed\.d"):
                await device.wait_up(5, refused_ends=True)


@pytest.mark.parametrize("change", [{"durability": "relaxed"}, {"monitor_url": "monitor"}])
async def test_no_proof_is_asked_for_where_none_is_needed(
    broker: LocalBroker, change: dict[str, str]
) -> None:
    if "monitor_url" in change:
        change = {"monitor_url": broker.monitor_url}
    async with proven(broker, broken, **change) as device:
        await device.wait_up(5)


async def test_a_server_that_is_no_nats_server_is_unavailable(broker: LocalBroker) -> None:
    options = LinkOptions(
        urls=(f"nats://127.0.0.1:{broker.monitor_port}",),
        connect_timeout_seconds=0.5,
        durability="relaxed",
    )
    async with linked(options) as link:
        with pytest.raises(UnavailableError):
            await link.wait_up(2)


async def test_wrong_credentials_are_refused(guarded: LocalBroker) -> None:
    with guarded:
        async with linked(as_user(guarded, "wrong")) as link:
            with pytest.raises(ForbiddenError, match="refused the credentials"):
                await link.wait_up(2)
            assert link.state is LinkState.REFUSED


async def test_a_password_file_that_is_missing_is_told(guarded: LocalBroker) -> None:
    options = as_user(guarded, "right").model_copy(update={"password_file": "/nowhere/password"})
    with guarded:
        async with linked(options) as link:
            with pytest.raises(ForbiddenError, match="/nowhere/password"):
                await link.wait_up(1)


# -- permissions --------------------------------------------------------------------------------


async def test_a_store_that_is_not_allowed_fails_promptly_and_others_do_not(
    guarded: LocalBroker,
) -> None:
    with guarded:
        async with linked(as_user(guarded, "right")) as link:
            jetstream = await made(link)
            closed = asyncio.create_task(link.store("evt.Closed.d", b""))
            opened = asyncio.create_task(link.store("evt.open.d", b""))
            with pytest.raises(ForbiddenError, match=r"evt\.closed\.d"):
                await asyncio.wait_for(closed, link.options.publish_timeout_seconds / 2)
            assert (await opened).sequence == 1
            with pytest.raises(ForbiddenError, match=r"stream\.info\.dead"):
                await jetstream.ask("$JS.API.STREAM.INFO.DEAD", b"", timeout_seconds=0.3)


async def test_a_subscription_that_is_not_allowed_refuses_the_link(guarded: LocalBroker) -> None:
    with guarded:
        link = Link(as_user(guarded, "right"), "test")
        await link.subscribe("shut.x", lambda _: None)
        link.start()
        with pytest.raises(ForbiddenError, match=r"subscription.*shut\.x"):
            await link.wait_up(2)
        assert link.state is LinkState.REFUSED
        await link.close()


# -- storing ------------------------------------------------------------------------------------


async def made(link: Link) -> JetStream:
    """JetStream with the events stream, once the link is up."""
    await link.wait_up(10)
    jetstream = JetStream(link)
    await jetstream.start()
    await jetstream.apply_stream(streams.events(StreamBounds()))
    return jetstream


async def test_a_store_tells_where_the_message_lies(link: Link, jetstream: JetStream) -> None:
    assert await link.store("evt.p.d", b"1") == Stored("EVT", 1, duplicate=False)
    assert await link.store("evt.p.d", b"2") == Stored("EVT", 2, duplicate=False)


async def test_headers_arrive_as_sent_and_a_line_end_smuggles_nothing(
    link: Link, jetstream: JetStream
) -> None:
    headers = {"ce-id": "ü 7", "ce-empty": "", "ce-bad": "x\r\nNats-Msg-Id: 1\r\n\r\nPUB a 0"}
    await link.store("evt.p.d", b"body\r\n", headers)
    found = await jetstream.last("EVT", "evt.p.d")
    assert found is not None
    assert found.data == b"body\r\n"
    assert (found.headers["ce-id"], found.headers["ce-empty"]) == ("ü 7", "")
    assert "\n" not in found.headers["ce-bad"]
    assert "Nats-Msg-Id" not in found.headers


async def test_the_same_message_id_is_stored_once(link: Link, jetstream: JetStream) -> None:
    headers = {MSG_ID_HEADER: "one"}
    first = await link.store("evt.p.d", b"1", headers)
    again = await link.store("evt.p.d", b"1", headers)
    assert again == Stored("EVT", first.sequence, duplicate=True)
    assert headers == {MSG_ID_HEADER: "one"}


async def test_the_second_final_result_is_refused(link: Link, jetstream: JetStream) -> None:
    await link.store("res.r.p.d.d-00000000-1", b"first", FIRST)
    with pytest.raises(AlreadyStoredError):
        await link.store("res.r.p.d.d-00000000-1", b"second", FIRST)
    stored = await jetstream.last("RES", "res.r.p.d.d-00000000-1")
    assert stored is not None
    assert stored.data == b"first"


async def test_of_many_writers_of_one_result_one_wins(link: Link, jetstream: JetStream) -> None:
    stores = [link.store("res.r.p.d.d-00000000-2", bytes([n]), FIRST) for n in range(50)]
    outcomes = await asyncio.gather(*stores, return_exceptions=True)
    assert sum(isinstance(outcome, Stored) for outcome in outcomes) == 1
    assert all(isinstance(outcome, Stored | LinkError) for outcome in outcomes)


async def test_a_full_stream_refuses_and_drops_nothing(link: Link, jetstream: JetStream) -> None:
    await jetstream.apply_stream(streams.events(StreamBounds(events_max_bytes=1 << 16)))
    await link.store("evt.p.d", bytes(60_000))
    with pytest.raises(StreamFullError):
        await link.store("evt.p.d", bytes(60_000))
    assert await jetstream.last("EVT", "evt.p.d") is not None


async def test_a_subject_of_no_stream_is_unavailable_with_the_remedy(link: Link) -> None:
    with pytest.raises(UnavailableError, match="setsuden cloud streams"):
        await link.store("nowhere.at.all", b"")


@pytest.mark.parametrize("size", [1_048_577, 1_048_576 - 40])
async def test_over_max_payload_is_forbidden_and_the_link_stays(
    link: Link, jetstream: JetStream, size: int
) -> None:
    """The server counts headers too, and would drop the whole connection."""
    with pytest.raises(ForbiddenError, match="max_payload"):
        await link.store("evt.p.d", bytes(size), {"ce-id": "x" * 30})
    assert (await link.store("evt.p.d", b"small")).sequence == 1
    assert link.connections == 1


async def test_the_largest_message_that_fits_is_stored(link: Link, jetstream: JetStream) -> None:
    headers = {"ce-id": "ü" * 30}
    head = len("NATS/1.0\r\n") + len(b"ce-id: \r\n") + 60 + len("\r\n")
    assert (await link.store("evt.p.d", bytes(1_048_576 - head), headers)).sequence == 1
    with pytest.raises(ForbiddenError):
        await link.store("evt.p.d", bytes(1_048_577 - head), headers)


async def test_more_bytes_than_the_bound_in_flight_wait_their_turn(
    broker: LocalBroker, jetstream: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("setsuden.link.link.MAX_PENDING_BYTES", 1 << 12)
    async with linked(broker.options) as link:
        await link.wait_up(10)
        stores = [link.store("evt.p.d", bytes(50_000)) for _ in range(60)]
        outcomes = await asyncio.gather(*stores)
    assert sorted(outcome.sequence for outcome in outcomes) == list(range(1, 61))


# -- reading ------------------------------------------------------------------------------------


async def test_a_batch_read_ends_where_the_stream_does(link: Link, jetstream: JetStream) -> None:
    for n in range(5):
        await link.store(f"evt.p.d{n % 2}", bytes([n]))
    request: dict[str, object] = {"next_by_subj": "evt.*.d0", "seq": 1, "batch": 100}
    found = await jetstream.read("EVT", request)
    assert [message.data for message in found] == [b"\x00", b"\x02", b"\x04"]
    assert await jetstream.read("EVT", request | {"seq": 6}) == []


async def test_what_is_not_stored_is_none(link: Link, jetstream: JetStream) -> None:
    assert await jetstream.last("RES", "res.r.p.d.none") is None
    assert await jetstream.find("STREAM.INFO.NONE") is None


async def test_an_api_error_carries_the_servers_words(link: Link, jetstream: JetStream) -> None:
    with pytest.raises(LinkError, match="stream not found"):
        await jetstream.api("STREAM.INFO.NONE")


async def test_the_stream_notifies_the_device(link: Link, jetstream: JetStream) -> None:
    heard: asyncio.Queue[Incoming] = asyncio.Queue()
    await link.subscribe("notify.d.*", heard.put_nowait)
    await link.store("evt.p.d", b"body", {"ce-id": "7"})
    notice = await asyncio.wait_for(heard.get(), 10)
    assert (notice.subject, notice.headers["ce-id"]) == ("notify.d.p", "7")
    assert int(notice.headers["Nats-Sequence"]) == 1


# -- streams as data ----------------------------------------------------------------------------


async def test_streams_are_applied_idempotently(link: Link, jetstream: JetStream) -> None:
    for stream in streams.all_streams(StreamBounds()):
        assert not await jetstream.apply_stream(stream)
    wanted = streams.teacher_consumer("r", "p", ack_wait_seconds=30, max_ack_pending=10)
    assert await jetstream.apply_consumer("ESC", wanted)
    assert not await jetstream.apply_consumer("ESC", wanted)


async def test_a_changed_bound_is_applied_and_keeps_what_is_stored(
    link: Link, jetstream: JetStream
) -> None:
    await link.store("evt.p.d", b"kept")
    changed = streams.events(StreamBounds(events_max_bytes=1 << 20))
    assert await jetstream.apply_stream(changed)
    info = await jetstream.api("STREAM.INFO.EVT")
    assert (info["config"]["max_bytes"], info["state"]["messages"]) == (1 << 20, 1)


async def test_a_change_that_would_lose_messages_is_refused(
    link: Link, jetstream: JetStream
) -> None:
    with pytest.raises(LinkError, match="retention"):
        await jetstream.apply_stream(streams.events(StreamBounds()) | {"retention": "workqueue"})


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.ESC.teacher.3.17.21.1700000000000000000.9",
        "$JS.ACK.hub.ACCOUNT.ESC.teacher.3.17.21.1700000000000000000.9",
        "$JS.ACK._.ACCOUNT.ESC.teacher.3.17.21.1700000000000000000.9.random",
    ],
)
def test_a_delivery_is_read_from_every_form_of_its_reply_subject(reply: str) -> None:
    assert Delivery.of(reply) == Delivery(3, 17, 1_700_000_000_000_000_000, 9)


@pytest.mark.parametrize(
    "reply",
    ["", "_INBOX.x", "$JS.ACK.ESC.t.1.2.3.4", "$JS.ACK.ESC.t.x.2.3.4.5", "$JS.NAK.E.t.1.2.3.4.5"],
)
def test_what_is_no_delivery_is_refused(reply: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Delivery.of(reply)


# -- ending -------------------------------------------------------------------------------------


async def test_closing_leaves_no_task_and_fails_what_is_in_flight(broker: LocalBroker) -> None:
    before = asyncio.all_tasks()
    link = Link(broker.options, "test")
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    await link.wait_up(10)
    waiting = asyncio.create_task(link.store("nowhere", b"", {"expected": "nothing"}))
    await link.close()
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], UnavailableError)
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("steps", [*range(0, 60, 3), *range(60, 400, 20)])
async def test_closing_while_it_connects_leaves_no_task(broker: LocalBroker, steps: int) -> None:
    """Whatever moment of connecting it meets: some swallow a cancellation."""
    before = asyncio.all_tasks()
    link = Link(LinkOptions(urls=(broker.url,), durability="relaxed"), "test")
    link.start()
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await link.close()
    assert asyncio.all_tasks() <= before
