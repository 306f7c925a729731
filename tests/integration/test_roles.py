"""Who may do what on a real broker: every role, verb and subject, reply subjects included."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from tests.support import roles
from tests.support.roles import NAMES, JwtBroker, RolesBroker

from setsuden.link import JetStream, Link
from setsuden.schemas import streams
from setsuden.schemas.errors import AlreadyStoredError
from setsuden.schemas.streams import StreamBounds

BARRIERS = (
    "evt.barrier.x", "esc.b.b.x.barrier", "res.b.b.x.barrier", "dead.barrier.x", "lease.barrier",
)  # fmt: skip
"""Stored after everything else: a stream that answers for it has done what came before."""


@pytest.fixture(scope="module", params=[RolesBroker, JwtBroker])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RolesBroker | JwtBroker]:
    """Accounts in the server's configuration file, and the same ones as JWTs."""
    with request.param(tmp_path_factory.mktemp("roles")) as running:
        yield running


class People:
    """Everybody of the site, connected with a bare client that checks nothing itself."""

    def __init__(self, clients: dict[str, Client], link: Link, jetstream: JetStream) -> None:
        self.clients, self.link, self.jetstream = clients, link, jetstream

    async def flush(self) -> None:
        """Return when the server has done all that was sent, streams included."""
        for client in self.clients.values():
            await client.flush()
        for subject in BARRIERS:
            with suppress(AlreadyStoredError):
                await self.link.store(subject, b"")

    async def state(self) -> dict[str, dict[str, int]]:
        """Messages of every subject of every stream, and the consumers there are."""
        found: dict[str, dict[str, int]] = {}
        for stream in roles.STREAMS:
            info = await self.jetstream.find(f"STREAM.INFO.{stream}")
            every: dict[str, object] = {"subjects_filter": ">"}
            if info is not None:
                info = await self.jetstream.api(f"STREAM.INFO.{stream}", every)
                held = dict(info["state"].get("subjects") or {})
                own = {subject: count for subject, count in held.items() if subject not in BARRIERS}
                found[stream] = own | {"consumers": info["state"]["consumer_count"]}
        return found


@pytest.fixture
async def people(broker: RolesBroker | JwtBroker) -> AsyncIterator[People]:
    link = Link(broker.login("operator"), "operator")
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    await link.wait_up(10)
    for stream in streams.all_streams(StreamBounds()):
        await jetstream.apply_stream(stream)
        await jetstream.api(f"STREAM.PURGE.{stream['name']}")
    for region in roles.REGIONS:
        for pipeline in roles.PIPELINES:
            wanted = streams.teacher_consumer(
                region, pipeline, ack_wait_seconds=30, max_ack_pending=100
            )
            await jetstream.apply_consumer(streams.ESCALATIONS, wanted)
    for make in (streams.bridge_consumer, streams.metrics_consumer):
        await jetstream.apply_consumer(
            streams.SPANS, make(ack_wait_seconds=30, max_ack_pending=100)
        )
    clients = {name: await connect(broker, name) for name in NAMES}
    ready = People(clients, link, jetstream)
    await ready.flush()
    yield ready
    await ready.flush()
    for client in clients.values():
        await client.close()
    await link.close()


async def connect(broker: RolesBroker | JwtBroker, name: str) -> Client:
    async def ignore(_: Exception) -> None:
        """Permission errors are what most of this is about."""

    return await nats.connect(
        broker.url, error_cb=ignore, allow_reconnect=False, **broker.credentials(name)
    )


async def test_a_message_reaches_the_streams_account_from_whom_the_documents_say(
    people: People,
) -> None:
    """Every principal publishes to every subject; the operator hears what arrived."""
    arrived: set[tuple[str, str]] = set()
    done = asyncio.Event()

    async def hear(message: Msg) -> None:
        if "Nats-Stream" not in (message.headers or {}):  # else the broker's own copy
            arrived.add((message.subject, message.data.decode()))
        if message.data == b"the end":
            done.set()

    await people.clients["operator"].subscribe(">", cb=hear)
    replies_of = [subject for subject in roles.subjects() if subject.startswith("reply.")]
    heard_by_application = await listen(people, ("a1", "a2"), *replies_of)
    await people.flush()
    wanted = set()
    for name in NAMES[:-1]:
        for subject in roles.subjects():
            await people.clients[name].publish(subject, name.encode())
            if roles.may_send(name, subject) and not subject.startswith("reply."):
                wanted.add((roles.arrives_as(name, subject), name))
    await people.flush()
    await people.clients["operator"].publish("the.end", b"the end")
    await asyncio.wait_for(done.wait(), 30)
    await asyncio.sleep(0)
    named = {pair for pair in arrived if pair[1] in NAMES}
    assert named == wanted
    replies = {
        (app, name)
        for app, messages in heard_by_application.items()
        for name in {m.data.decode() for m in messages}
    }
    assert replies == {("a1", "d1"), ("a1", "d2"), ("a2", "d2")}


async def test_a_principal_hears_in_the_streams_account_what_the_documents_say(
    people: People,
) -> None:
    """Every principal subscribes to every subject; the operator publishes to each."""
    heard: set[tuple[str, str]] = set()
    for name in NAMES[:-1]:

        async def hear(message: Msg, name: str = name) -> None:
            if "Nats-Stream" not in (message.headers or {}):  # else the broker's own copy
                heard.add((name, message.data.decode()))

        for subject in roles.subjects():
            await people.clients[name].subscribe(subject, cb=hear)
    await people.flush()
    for subject in roles.subjects():
        if not subject.startswith(("$JS.API.STREAM", "$JS.API.CONSUMER", "$SYS", "$JS.ACK")):
            await people.clients["operator"].publish(subject, f"sent to {subject}".encode())
    await people.flush()
    await people.flush()
    wanted = {
        (name, f"sent to {subject}")
        for name in NAMES[:-1]
        for subject in roles.subjects()
        if roles.may_hear(name, subject)
    }
    assert {pair for pair in heard if pair[1].startswith("sent to ")} == wanted


@pytest.mark.parametrize("name", NAMES[:-1])
async def test_an_answer_can_do_no_more_than_the_one_who_asked(people: People, name: str) -> None:
    """Each request that JetStream answers names every subject there is as its reply subject.

    The answer goes to the asker's account. There it may go on as a message of the asker's own, to
    where the asker may publish anyway; nobody else hears of it, and nothing is lost.
    """
    for other in NAMES[:-1]:
        await store_own(people, other)
    before = await people.state()
    others = tuple(other for other in NAMES[:-1] if other != name)
    victims = await listen(people, others, *roles.subjects(), "_INBOX.>")
    await people.flush()
    for request, body in requests_of(name):
        for subject in roles.subjects():
            await people.clients[name].publish(request, body, reply=subject)
    await people.flush()
    after = await people.state()
    assert lost(before, after) == set()
    more = {subject for subject in grown(before, after) if not roles.may_send(name, subject)}
    assert more <= {roles.hops_of(name)}
    for victim, messages in victims.items():
        wrong = [(m.subject, m.data[:60]) for m in messages if not reaches(name, victim, m)]
        assert wrong == [], (victim, wrong[:3])


def reaches(name: str, victim: str, message: Msg) -> bool:
    """True for what ``name`` may send to ``victim`` without any JetStream: events and replies."""
    if message.subject.startswith("reply."):
        return roles.may_send(name, message.subject) and victim in message.subject.split(".")
    stored_as = (message.headers or {}).get("Nats-Subject", "")
    sent = message.subject.startswith(("notify.", "push."))
    return sent and roles.may_send(name, stored_as) and roles.may_hear(victim, message.subject)


def lost(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> set[str]:
    return {
        subject
        for stream, held in before.items()
        for subject, count in held.items()
        if after[stream].get(subject, 0) < count
    }


def grown(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> set[str]:
    return {
        subject
        for stream, held in after.items()
        for subject, count in held.items()
        if before[stream].get(subject, 0) < count
    }


def requests_of(name: str) -> list[tuple[str, bytes]]:
    """What this principal may ask, with an answer that holds its own bytes."""
    place = {"d1": "r1.p1.d1.d1-00000000-1", "d2": "r2.p2.d2.d2-00000000-1"}
    get = "$JS.API.DIRECT.GET.RES"
    pull = json.dumps({"batch": 1, "no_wait": True}).encode()
    match name:
        case "d1" | "d2":
            own = [(f"{get}.res.{place[name]}", b""), (f"res.{place[name]}x", marked(name))]
            leaf = [(f"{roles.LEAF}.RES.res.{place['d2']}", b"")]
            return own + (leaf if name == "d2" else [])
        case "a1":
            return [(f"{get}.res.{place['d1']}", b""), ("evt.p1.d1", marked(name))]
        case "a2":
            return [(f"{get}.res.{place['d2']}", b""), ("evt.p2.d2", marked(name))]
        case "w1":
            ask = f"$JS.API.CONSUMER.MSG.NEXT.ESC.{roles.consumer('r1', 'p1')}"
            return [(f"{get}.res.{place['d1']}", b""), (ask, pull)]
        case "w2":
            ask = f"$JS.API.CONSUMER.MSG.NEXT.ESC.{roles.consumer('r2', 'p2')}"
            return [(f"{get}.res.{place['d2']}", b""), (ask, pull)]
    return [("$JS.API.CONSUMER.MSG.NEXT.OTEL.bridge", pull)]


def marked(name: str) -> bytes:
    return f"bytes of {name}".encode()


async def store_own(people: People, name: str) -> None:
    """Something that an answer can carry to a victim."""
    for request, body in requests_of(name):
        if body == marked(name) and name in {"d1", "d2"}:
            await people.clients[name].request(request[:-1], body, timeout=5)


async def listen(people: People, names: tuple[str, ...], *subjects: str) -> dict[str, list[Msg]]:
    """What each of them hears where it may listen."""
    heard: dict[str, list[Msg]] = defaultdict(list)
    for name in names:

        async def hear(message: Msg, name: str = name) -> None:
            heard[name].append(message)

        for subject in subjects:
            await people.clients[name].subscribe(subject, cb=hear)
    return heard


@pytest.mark.parametrize(
    ("name", "subject"),
    [("d1", "res.r1.p1.d1.d1-00000000-7"), ("a1", "evt.p1.d1"), ("d1", "lease.d1")],
)
async def test_a_header_of_one_byte_does_not_end_the_server(
    people: People, broker: RolesBroker | JwtBroker, name: str, subject: str
) -> None:
    """nats-server 2.15.1 panics when it republishes one; behind an account import it does not."""
    client = people.clients[name]
    await client._send_command(f"HPUB {subject} 1 5\r\nxbody\r\n".encode())
    await client.flush()
    assert any(subject in held for held in (await people.state()).values())
    assert broker.process is not None
    assert broker.process.poll() is None
