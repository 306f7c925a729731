"""What real servers tell of a traced message becomes spans of the service ``nats``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.cloud import eventually, until
from tests.support.leaf import LeafSite
from tests.support.roles import RolesBroker

from setsuden.link import Incoming, JetStream, Link, LinkOptions
from setsuden.schemas import escalation, subjects
from setsuden.schemas.errors import AlreadyStoredError, TraceDataError
from setsuden.schemas.spans import ATTRIBUTES, NAMES, RESOURCE
from setsuden.schemas.streams import StreamBounds, all_streams
from setsuden.services.bridge import hops
from setsuden.telemetry import ResourceSpans, SpanLink, protobuf
from setsuden.testing.broker import LocalBroker

TRACE, PARENT = "ab" * 16, "cd" * 8
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
PLACE = subjects.Place("local", "tiny", "dev-1", "dev-1-00000000-1")
ESC = PLACE.escalation
OTHER = PLACE._replace(event_id="dev-1-00000000-2").escalation
RES = PLACE.result
CREATE = {escalation.EXPECTED_SUBJECT_SEQUENCE: "0"}


class Hub(NamedTuple):
    """A broker with our streams, and all that it tells."""

    link: Link
    near: Link
    """Where messages are published: the leaf, or the hub itself."""
    told: list[Incoming]

    async def heard(self, count: int) -> list[bytes]:
        """The first so many events, once they are there."""
        await until(lambda: len(self.told) >= count)
        return [message.data for message in self.told]

    async def all_heard(self) -> list[bytes]:
        """Every event so far: that of one more message comes after them."""
        count = len(self.told)
        await self.link.store(subjects.dead("end", "dev-1"), b"", SAMPLED)

        def ended() -> bool:
            return any(b"dead.end" in message.data for message in self.told[count:])

        await until(ended)
        return [message.data for message in self.told if b"dead.end" not in message.data]


async def _up(options: LinkOptions, name: str) -> Link:
    link = Link(options, name)
    link.start()
    await link.wait_up(10)
    return link


async def _hub(near: LinkOptions, far: LinkOptions) -> AsyncIterator[Hub]:
    links = [await _up(far, "hub"), await _up(near, "near")]
    ready = JetStream(links[0])
    await ready.start()
    for stream in all_streams(StreamBounds()):
        await ready.apply_stream(stream)
    told: list[Incoming] = []
    await links[0].subscribe(subjects.HOPS, told.append)
    await _passes(links[1], links[0])
    yield Hub(links[0], links[1], told)
    for link in links:
        await link.close()


async def _passes(near: Link, far: Link) -> None:
    """Return once the leaf knows all that is listened to at the hub: it learns that in order."""
    arrived = asyncio.Event()
    await far.subscribe("probe", lambda _: arrived.set())

    async def through() -> bool:
        await near.send("probe", b"")
        return arrived.is_set()

    await eventually(through)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Hub]:
    """Messages are published at a leaf."""
    with LeafSite(tmp_path / "site") as running:
        async for hub in _hub(running.leaf_options, running.hub_options):
            yield hub


@pytest.fixture
async def hub(broker: LocalBroker) -> AsyncIterator[Hub]:
    """Messages are published where they are stored."""
    async for ready in _hub(broker.options, broker.options):
        yield ready


def spans_of(events: list[bytes]) -> list[ResourceSpans]:
    found = [hops.spans_of(event) for event in events]
    return [one for one in found if one is not None]


# -- a leaf and its hub --------------------------------------------------------------------------


async def test_a_message_through_a_leaf_is_routed_there_and_stored_at_the_hub(site: Hub) -> None:
    before = time.time_ns()
    stored = await site.near.store(ESC, b"x" * 100, SAMPLED)
    after = time.time_ns()
    assert stored.stream == "ESC"
    found = spans_of(await site.heard(2))
    by_server = {str(one.resource["server.name"]): one.spans for one in found}
    (route,), (store,) = by_server["leaf"], by_server["hub"]
    assert (route.name, store.name) == ("route ESC", "store ESC")
    assert (route.attributes["setsuden.nats.hop"], store.attributes["setsuden.nats.hop"]) == (0, 1)
    assert {(span.trace_id, span.parent_id) for span in (route, store)} == {(TRACE, PARENT)}
    assert route.span_id != store.span_id
    assert before <= route.start_ns < route.end_ns <= after
    assert before <= store.start_ns < store.end_ns <= after
    assert route.start_ns < store.start_ns
    assert store.attributes["messaging.nats.stream"] == "ESC"
    assert "messaging.nats.stream" not in route.attributes
    assert [span.error or span.attributes.get("error.type") for span in (route, store)] == [
        None
    ] * 2


async def test_each_server_is_a_resource_of_its_own(site: Hub) -> None:
    await site.near.store(ESC, b"x", SAMPLED)
    resources = [one.resource for one in spans_of(await site.heard(2))]
    assert {resource["service.name"] for resource in resources} == {"nats"}
    for key in ("service.instance.id", "host.id", "server.name"):
        assert len({resource[key] for resource in resources}) == 2
    assert {key for resource in resources for key in resource} <= RESOURCE.keys()


async def test_the_same_event_is_always_the_same_bytes_and_another_message_never(
    site: Hub,
) -> None:
    await site.near.store(ESC, b"x", SAMPLED)
    await site.near.store(OTHER, b"x", SAMPLED)
    events = await site.heard(4)
    first, again = spans_of(events), spans_of(events)
    assert first == again
    assert [protobuf.encode(*one) for one in first] == [protobuf.encode(*one) for one in again]
    assert len({span.span_id for one in first for span in one.spans}) == 4


async def test_an_unsampled_message_is_not_told_of(site: Hub) -> None:
    await site.near.store(ESC, b"x", UNSAMPLED)
    await site.near.store(OTHER, b"x")
    assert await site.all_heard() == []


async def test_what_the_spans_say_stands_in_the_table(site: Hub) -> None:
    await site.near.store(ESC, b"x", SAMPLED)
    for found in spans_of(await site.heard(2)):
        for span in found.spans:
            assert span.name in NAMES
            assert span.attributes.keys() <= ATTRIBUTES.keys()
            assert "dev-1" not in json.dumps({**span.attributes})


# -- one server ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "name", "template"),
    [
        (subjects.event("tiny", "dev-1"), "store EVT", "evt.<pipeline>.<device>"),
        (ESC, "store ESC", "esc.<region>.<pipeline>.<device>.<event_id>"),
        (RES, "store RES", "res.<region>.<pipeline>.<device>.<event_id>"),
        (subjects.dead("tiny", "dev-1"), "store DEAD", "dead.<pipeline>.<device>"),
    ],
)
async def test_every_traced_stream_has_its_span(
    hub: Hub, subject: str, name: str, template: str
) -> None:
    await hub.near.store(subject, b"x", SAMPLED)
    ((_, (span,)),) = spans_of(await hub.all_heard())
    assert (span.name, span.attributes["messaging.destination.template"]) == (name, template)
    assert span.attributes["setsuden.nats.hop"] == 0


async def test_messages_of_other_subjects_are_none_of_ours(hub: Hub) -> None:
    """A subscriber somewhere is enough for the server to tell of it."""
    await hub.link.subscribe("foreign.*", lambda _: None)
    await hub.near.store(ESC, b"x", SAMPLED)
    connection = hub.near._connection
    assert connection is not None
    await connection.publish("foreign.x", b"x", reply="", headers=SAMPLED)
    await until(lambda: any(b"foreign.x" in message.data for message in hub.told))
    told = {b"foreign.x" in data: hops.spans_of(data) for data in await hub.heard(2)}
    assert told[True] is None
    assert told[False] is not None


async def test_a_lost_compare_and_set_is_a_trace_of_its_own_that_says_so(hub: Hub) -> None:
    """Whoever waited for the first result has it, and waits no longer."""
    await hub.near.store(RES, b"first", SAMPLED | CREATE)
    with pytest.raises(AlreadyStoredError):
        await hub.near.store(RES, b"second", SAMPLED | CREATE)
    first, second = [one.spans[0] for one in spans_of(await hub.heard(2))]
    assert "error.type" not in first.attributes
    assert (first.trace_id, first.parent_id, first.links) == (TRACE, PARENT, ())
    assert (second.name, second.attributes["error.type"]) == ("store RES", "already_stored")
    assert second.start_ns > first.start_ns
    assert second.trace_id != TRACE
    assert (second.parent_id, second.links) == (None, (SpanLink(TRACE, PARENT),))


async def test_a_repeated_message_is_a_span_of_its_own(hub: Hub) -> None:
    for _ in range(2):
        await hub.near.store(ESC, b"x", SAMPLED | {escalation.MSG_ID_HEADER: "one"})
    first, second = [one.spans[0] for one in spans_of(await hub.heard(2))]
    assert "error.type" not in first.attributes
    assert second.span_id != first.span_id
    assert second.attributes["messaging.nats.stream"] == "ESC"


async def test_a_full_stream_is_shown_as_not_stored(hub: Hub) -> None:
    ready = JetStream(hub.link)
    await ready.start()
    for stream in all_streams(StreamBounds(escalations_max_bytes=1 << 16)):
        await ready.apply_stream(stream)
    await hub.near.store(ESC, bytes(60_000))
    outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    await hub.near.post(ESC, bytes(60_000), SAMPLED, outcome.set_result)
    assert isinstance(await outcome, Exception)
    ((_, (span,)),) = spans_of(await hub.heard(1))
    assert (span.name, span.attributes["error.type"]) == ("store ESC", "not_stored")


# -- garbage -------------------------------------------------------------------------------------

FROM = {"kind": 0, "acc": "APP"}
EVENT: dict[str, Any] = {
    "server": {"name": "hub", "host": "h", "id": "N" + "A" * 55, "ver": "2.15.1"},
    "request": {"header": {"traceparent": [SAMPLED["traceparent"]]}},
    "events": [
        {"type": "in", "ts": "2026-11-24T15:08:59.18647257Z", "subj": ESC, **FROM},
        {"type": "js", "ts": "2026-11-24T15:08:59.186647318Z", "stream": "ESC"},
    ],
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["server", "request", "events", "header", "type", "subj", "ts"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


def test_an_events_times_are_read_to_the_nanosecond() -> None:
    found = hops.spans_of(json.dumps(EVENT).encode())
    assert found is not None
    (span,) = found.spans
    assert (span.start_ns % 10**9, span.end_ns % 10**9) == (186_472_570, 186_647_318)


@settings(max_examples=300)
@given(JSON.map(lambda found: json.dumps(found).encode()) | st.binary(max_size=100))
@example(b"[" * 100_000)
@example(b'{"request":' * 50_000)
def test_garbage_is_refused_with_our_error(data: bytes) -> None:
    try:
        assert hops.spans_of(data) is None
    except TraceDataError:
        return


@settings(max_examples=300)
@given(
    st.sampled_from(
        [
            ("server", "name"),
            ("server", "id"),
            ("server", "ver"),
            ("server",),
            ("request",),
            ("request", "header"),
            ("request", "header", "traceparent"),
            ("request", "header", "Nats-Trace-Hop"),
            ("events",),
            ("events", 0),
            ("events", 0, "ts"),
            ("events", 0, "subj"),
            ("events", 0, "acc"),
            ("events", 0, "kind"),
            ("events", 1, "ts"),
            ("events", 1, "stream"),
            ("events", 1, "error"),
        ]
    ),
    JSON,
)
def test_an_event_with_one_wrong_member_gives_encodable_spans_or_our_error(
    path: tuple[str | int, ...], value: object
) -> None:
    event = json.loads(json.dumps(EVENT))
    place = event
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    try:
        found = hops.spans_of(json.dumps(event).encode())
    except TraceDataError:
        return
    if found is not None:
        (group,) = protobuf.decode(protobuf.encode(found.resource, found.spans))
        assert len(group.spans) == 1


@pytest.mark.parametrize("missing", ["server", "request", "events"])
def test_an_event_without_one_part_is_refused(missing: str) -> None:
    event = {key: value for key, value in EVENT.items() if key != missing}
    with pytest.raises(TraceDataError):
        hops.spans_of(json.dumps(event).encode())


@pytest.mark.parametrize(
    "stamp", ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-24T15:08:59.xZ", None, 7]
)
def test_a_stamp_that_is_none_is_refused(stamp: object) -> None:
    event = json.loads(json.dumps(EVENT))
    event["events"][0]["ts"] = stamp
    with pytest.raises(TraceDataError):
        hops.spans_of(json.dumps(event).encode())


def changed(*path: str | int, to: object) -> bytes:
    """The event with one member changed."""
    event = json.loads(json.dumps(EVENT))
    place = event
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return json.dumps(event).encode()


STEP = EVENT["events"][0]


@pytest.mark.parametrize(
    "data",
    [
        changed("server", "id", to="N1"),
        changed("server", "id", to="n" + "a" * 55),
        changed("server", "name", to="x" * 257),
        changed("server", "ver", to=2),
        changed("events", 0, "acc", to=None),
        changed("events", 0, "kind", to=None),
        changed("events", 0, "kind", to=99),
        changed("events", 1, "stream", to="RES"),
        changed("events", 1, "stream", to="x" * 300),
        changed("events", to=[STEP] * 65),
        changed("events", to=[]),
        changed("request", "header", "x", to=["y" * hops.MAX_BYTES]),
    ],
)
def test_an_event_that_no_server_writes_is_refused(data: bytes) -> None:
    with pytest.raises(TraceDataError):
        hops.spans_of(data)


@pytest.mark.parametrize(
    "data",
    [
        changed("request", "header", "traceparent", to=[UNSAMPLED["traceparent"]]),
        changed("request", "header", "traceparent", to=[SAMPLED["traceparent"]] * 2),
        changed("request", "header", to=None),
        changed("events", 0, "subj", to="esc.a.b.c"),
        changed("events", 0, "subj", to="esc.a.b.c.d.e"),
        changed("events", 0, "subj", to="esc.a.b.c.*"),
        changed("events", 0, "subj", to="res.a.b.dev-1.a b"),
        changed("events", 0, "subj", to="otel.hops"),
    ],
)
def test_an_event_of_a_message_that_is_not_traced_or_not_ours_gives_no_span(data: bytes) -> None:
    assert hops.spans_of(data) is None


@pytest.mark.parametrize(
    ("told_at", "message", "fits"),
    [
        ("otel.hops", ESC, True),
        ("otel.hops.edge.dev-1", ESC, True),
        ("otel.hops.edge.dev-1", RES, True),
        ("otel.hops.edge.dev-1", subjects.dead("tiny", "dev-1"), True),
        ("otel.hops.edge.dev-2", ESC, False),
        ("otel.hops.edge.dev-2", RES, False),
        ("otel.hops.edge.dev-2", subjects.dead("tiny", "dev-1"), False),
        ("otel.hops.edge.dev-1", subjects.event("tiny", "dev-1"), False),
        ("otel.hops.cloud.w1", RES, True),
        ("otel.hops.cloud.w1", subjects.dead("tiny", "dev-1"), True),
        ("otel.hops.cloud.w1", ESC, False),
        ("otel.hops.app.shop", subjects.event("tiny", "dev-1"), True),
        ("otel.hops.app.shop", RES, False),
        ("otel.hops.other.x", ESC, False),
    ],
)
def test_a_hop_is_of_a_message_that_its_sender_may_send(
    told_at: str, message: str, fits: bool
) -> None:
    event = json.loads(changed("events", 0, "subj", to=message))
    event["events"][1]["stream"] = {"esc": "ESC", "res": "RES", "dead": "DEAD", "evt": "EVT"}[
        message.partition(".")[0]
    ]
    data = json.dumps(event).encode()
    if fits:
        assert hops.spans_of(data, told_at) is not None
    else:
        with pytest.raises(TraceDataError, match="sender"):
            hops.spans_of(data, told_at)


async def test_of_everybodys_messages_the_streams_account_is_told_in_their_own_name(
    tmp_path: Path,
) -> None:
    """With an account for each principal: the server writes into the sender's."""
    with RolesBroker(tmp_path / "nats") as broker:
        operator, device, worker, shop = [
            await _up(broker.login(name), name) for name in ("operator", "d1", "w1", "a1")
        ]
        ready = JetStream(operator)
        await ready.start()
        for stream in all_streams(StreamBounds()):
            await ready.apply_stream(stream)
        told: list[Incoming] = []
        await operator.subscribe("otel.hops.>", told.append)
        assert await operator.flush()  # the others have connections of their own
        place = subjects.Place("r1", "p1", "d1", "d1-00000000-1")
        await shop.store(subjects.event("p1", "d1"), b"x", SAMPLED)
        await device.store(place.escalation, b"x", SAMPLED)
        await worker.store(place.result, b"x", SAMPLED | CREATE)
        await until(lambda: len(told) >= 3)
        found = {message.subject: hops.spans_of(message.data, message.subject) for message in told}
        for link in (operator, device, worker, shop):
            await link.close()
    names = {subject: one.spans[0].name for subject, one in found.items() if one is not None}
    assert names == {
        "otel.hops.app.a1": "route EVT",
        "otel.hops.edge.d1": "route ESC",
        "otel.hops.cloud.w1": "route RES",
    }
