"""A sender that may only publish as itself: what it cannot make of the bridge, or of others."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from tests.support import otlp_raw as raw
from tests.support.cloud import eventually, until
from tests.support.processes import Process

from setsuden.energy.metering.instruments import Instrument, MetricPoint
from setsuden.link import Incoming, JetStream, Link
from setsuden.link.tasks import end
from setsuden.schemas import metrics as names
from setsuden.schemas import spans as table
from setsuden.schemas import streams, subjects
from setsuden.schemas.errors import MessageTooLargeError, TraceDataError
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Tier
from setsuden.services.bridge import rules
from setsuden.services.bridge.bridge import Bridge
from setsuden.services.bridge.process import metrics_sinks_of, sinks_of
from setsuden.services.bridge.rules import RefusalReason
from setsuden.services.config import BridgeOptions, CloudConfig
from setsuden.telemetry import Span, SpanEvent, SpanKind, SpanLink, metrics_protobuf, protobuf
from setsuden.telemetry.span import Value
from setsuden.testing.broker import LocalBroker

DEVICE = subjects.TelemetrySource(Tier.EDGE, "dev-1")
WORKER = subjects.TelemetrySource(Tier.CLOUD, "worker-0")
EDGE: dict[str, Value] = {"service.name": "edge-agent", "device.id": "dev-1", "host.id": "h"}
CLOUD: dict[str, Value] = {"service.name": "worker", "host.id": "h"}
NOW = raw.NOW
SECOND, DAY = 10**9, 86_400 * 10**9
TRACE, ONE, TWO = "ab" * 16, "cd" * 8, "ef" * 8


def span(name: str = "event", **fields: Any) -> Span:
    made = Span(TRACE, ONE, None, name, SpanKind.SERVER, NOW, NOW + 1, {})
    return made._replace(**fields)


def judged(
    *spans: Span,
    resource: dict[str, Value] | None = None,
    sender: subjects.TelemetrySource = DEVICE,
    stored_ns: int = NOW,
) -> rules.BridgeVerdict:
    whose = EDGE if sender.tier is Tier.EDGE else CLOUD
    data = protobuf.encode(whose if resource is None else resource, spans)
    return rules.spans(data, sender, stored_ns)


def refused(verdict: rules.BridgeVerdict) -> dict[str, int]:
    return {reason.value: count for reason, count in verdict.refused.items()}


# -- whose spans they are ------------------------------------------------------------------------


def test_what_a_sender_says_of_itself_is_passed_on_as_the_same_bytes() -> None:
    for sender, whose, name in ((DEVICE, EDGE, "event"), (WORKER, CLOUD, "process ESC")):
        data = protobuf.encode(whose, [span(name)])
        assert rules.spans(data, sender, NOW) == (data, 1, {})


@pytest.mark.parametrize(
    "resource",
    [
        {},
        {"service.name": "edge-agent"},
        {"service.name": "worker", "device.id": "dev-1"},
        {"service.name": "nats", "device.id": "dev-1", "server.name": "hub"},
        {"service.name": "edge-agent", "device.id": "dev-2"},
        {"service.name": "edge-agent", "device.id": "dev-1", "server.name": "hub"},
        {"service.name": "edge-agent", "device.id": True},
        {"service.name": "somebody's", "device.id": "dev-1"},
    ],
)
def test_a_device_is_no_other_device_and_no_other_service(resource: dict[str, Value]) -> None:
    verdict = judged(span(), span(span_id=TWO), resource=resource)
    assert (verdict.data, verdict.items, refused(verdict)) == (b"", 0, {"sender": 2})


def test_a_device_that_is_called_as_a_worker_is_still_a_device() -> None:
    sender = subjects.TelemetrySource(Tier.EDGE, "worker-0")
    own = EDGE | {"device.id": "worker-0"}
    assert judged(span(), resource=own, sender=sender).items == 1
    assert refused(judged(span("process ESC"), resource=CLOUD, sender=sender)) == {"sender": 1}


@pytest.mark.parametrize("extra", [{"device.id": "dev-1"}, {"server.name": "hub"}])
def test_a_worker_is_no_device_and_no_broker(extra: dict[str, Value]) -> None:
    verdict = judged(span("infer"), resource=CLOUD | extra, sender=WORKER)
    assert refused(verdict) == {"sender": 1}


def test_a_second_name_beside_the_right_one_is_refused() -> None:
    twice = b"".join(
        raw.field(1, raw.pair(*one))
        for one in (
            ("service.name", "edge-agent"),
            ("device.id", "dev-1"),
            ("service.name", "worker"),
        )
    )
    verdict = rules.spans(raw.traces(raw.span(), resource=twice), DEVICE, NOW)
    assert refused(verdict) == {"sender": 1}


def test_of_two_groups_one_of_another_spoils_both() -> None:
    other = protobuf.encode(EDGE | {"device.id": "dev-2"}, [span()])
    verdict = rules.spans(protobuf.encode(EDGE, [span()]) + other, DEVICE, NOW)
    assert refused(verdict) == {"sender": 2}


@pytest.mark.parametrize(
    ("event_id", "whose"),
    [
        ("dev-1-00000000-1", None),
        ("dev-2-00000000-1", "sender"),
        ("dev-1", "sender"),
        ("", "sender"),
        (7, "sender"),
    ],
)
def test_an_event_is_its_devices(event_id: Value, whose: str | None) -> None:
    verdict = judged(span(attributes={"setsuden.event_id": event_id}))
    assert refused(verdict) == ({} if whose is None else {whose: 1})
    assert judged(span("process ESC", attributes={"setsuden.event_id": "dev-2-00000000-1"}),
                  sender=WORKER).items == 1  # fmt: skip


@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize("name", [*sorted(table.NAMES), "", "event dev-1", "GET /"])
def test_spans_have_names_of_their_service_alone(tier: Tier, name: str) -> None:
    sender = DEVICE if tier is Tier.EDGE else WORKER
    service = table.SERVICE_EDGE if tier is Tier.EDGE else table.SERVICE_WORKER
    verdict = judged(span(name), sender=sender)
    assert refused(verdict) == ({} if name in table.names_of(service) else {"name": 1})


# -- what they say -------------------------------------------------------------------------------

BAD_SPANS: list[tuple[str, Span]] = [
    ("id", span(trace_id="00" * 16)),
    ("id", span(trace_id="ab")),
    ("id", span(span_id="00" * 8)),
    ("id", span(span_id="")),
    ("id", span(parent_id="00" * 8)),
    ("id", span(parent_id="ab")),
    ("id", span(parent_id=ONE)),
    ("id", span(links=(SpanLink("00" * 16, TWO),))),
    ("id", span(links=(SpanLink(TRACE, "00" * 8),))),
    ("time", span(start_ns=1, end_ns=2)),
    ("time", span(start_ns=0, end_ns=NOW)),
    ("time", span(start_ns=NOW + 2, end_ns=NOW + 1)),
    ("time", span(start_ns=NOW + 2 * DAY, end_ns=NOW + 2 * DAY)),
    ("time", span(end_ns=NOW + 2 * DAY)),
    ("time", span(end_ns=2**64 - 1)),
    ("time", span(start_ns=NOW - 400 * DAY)),
    ("time", span(events=(SpanEvent("x", 0, {}),))),
    ("time", span(events=(SpanEvent("x", 2**63, {}),))),
    ("name", span(events=(SpanEvent("x" * 129, NOW, {}),))),
    ("amount", span(attributes={"setsuden.energy.joules": -1e9})),
    ("amount", span(attributes={"setsuden.energy.joules": -1e-300})),
    ("amount", span(attributes={"setsuden.energy.trace_joules_high": float("nan")})),
    ("amount", span(attributes={"setsuden.energy.joules_low": float("inf")})),
    ("amount", span(attributes={"setsuden.energy.joules": 1e300})),
    ("amount", span(attributes={"setsuden.energy.joules": 5})),
    ("amount", span(attributes={"setsuden.energy.joules": "-5"})),
    ("amount", span(attributes={"setsuden.energy.joules": True})),
    ("amount", span(attributes={"setsuden.cpu.seconds": -1.0})),
    ("amount", span(attributes={"setsuden.sampling.adjusted_count": -1.0})),
    ("amount", span(events=(SpanEvent("x", NOW, {"setsuden.energy.joules": -1.0}),))),
    ("attribute", span(attributes={"setsuden.gate.confidence": float("nan")})),
    ("attribute", span(attributes={"x": "y" * 1025})),
    ("attribute", span(attributes={"x" * 129: "y"})),
    ("attribute", span(error="x" * 1025)),
    ("too_many", span(attributes={str(number): 1 for number in range(129)})),
    ("too_many", span(events=tuple(SpanEvent("x", NOW, {}) for _ in range(129)))),
    ("too_many", span(links=tuple(SpanLink(TRACE, TWO) for _ in range(9)))),
]


@pytest.mark.parametrize(("reason", "bad"), BAD_SPANS)
def test_a_span_that_cannot_be_is_taken_out_and_counted_and_the_others_go_on(
    reason: str, bad: Span
) -> None:
    good = [span(span_id=f"{number:016x}") for number in (1, 2)]
    verdict = judged(good[0], bad, good[1])
    assert refused(verdict) == {reason: 1}
    assert verdict.items == 2
    (group,) = protobuf.decode(verdict.data)
    assert group.spans == good
    assert group.resource == EDGE
    assert judged(good[0], bad, good[1]) == verdict  # a repetition is the same bytes


@pytest.mark.parametrize(
    ("start_ns", "end_ns"),
    [
        (rules.EARLIEST_NS, rules.EARLIEST_NS),
        (NOW - 365 * DAY, NOW),
        (NOW, NOW + DAY),
        (NOW + DAY, NOW + DAY),
    ],
)
def test_a_long_offline_or_badly_set_device_is_believed_within_bounds(
    start_ns: int, end_ns: int
) -> None:
    assert judged(span(start_ns=start_ns, end_ns=end_ns)).items == 1


def test_a_batch_is_linked_to_as_many_as_a_worker_may_run_at_once() -> None:
    links = [SpanLink(TRACE, f"{number:016x}") for number in range(1, 4098)]
    most = span("infer batch", links=tuple(links[:4096]))
    assert judged(most, sender=WORKER).items == 1
    more = span("infer batch", links=tuple(links))
    assert refused(judged(more, sender=WORKER)) == {"too_many": 1}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        raw.field(5, b""),
        raw.field(5, raw.field(1, raw.field(1, b"x"))),
        raw.field(6, raw.field(1, raw.pair("a", "b"))),
        raw.field(7, b"bytes"),
        raw.nested(20),
    ],
)
def test_attributes_are_scalars(value: bytes) -> None:
    bad = raw.span(raw.field(9, raw.pair("x", value)))
    assert refused(rules.spans(raw.traces(bad), DEVICE, NOW)) == {"attribute": 1}


@pytest.mark.parametrize(
    "data",
    [
        raw.traces(raw.span()) + raw.field(99, b"what is this"),
        raw.traces(raw.span(raw.field(99, b"x" * 1000))),
        raw.traces(raw.span(b"\xa3\x06\xa4\x06")),
        raw.traces(raw.span(raw.field(7, b"\x01"))),
        raw.traces(raw.span(raw.field(9, raw.pair("x", raw.nested(2000))))),
        raw.traces(raw.span())[:-1],
        raw.traces(raw.span()) + b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        raw.traces(raw.span()) + b"\x0a\x7f",
        b"\x0a" + b"\xff" * 9 + b"\x01",
    ],
)
def test_what_otlp_does_not_have_is_refused_unparsed(data: bytes) -> None:
    with pytest.raises(TraceDataError):
        rules.spans(data, DEVICE, NOW)


@pytest.mark.parametrize("number", [9, 11, 13])
def test_parts_are_counted_before_they_are_parsed(number: int) -> None:
    for count, enough in ((protobuf.MAX_PARTS // 2, True), (protobuf.MAX_PARTS, False)):
        data = raw.traces(raw.span(raw.field(number, b"") * count))
        if enough:
            assert refused(rules.spans(data, DEVICE, NOW)) == {"too_many": 1}
        else:
            with pytest.raises(TraceDataError, match="parts"):
                rules.spans(data, DEVICE, NOW)


def test_more_spans_than_any_segment_has_are_refused_together() -> None:
    many = [raw.span(identity=number) for number in range(1, rules.MAX_SPANS + 2)]
    assert rules.spans(raw.traces(*many[:-1]), DEVICE, NOW).items == rules.MAX_SPANS
    assert refused(rules.spans(raw.traces(*many), DEVICE, NOW)) == {"too_many": len(many)}


@pytest.mark.parametrize(
    "beside",
    [
        raw.field(3, b"https://example.org/schema"),
        raw.field(2, raw.field(1, raw.field(1, b"another scope"))),
        raw.field(2, raw.field(1, raw.field(1, b"setsuden") + raw.field(3, raw.pair("a", "b")))),
    ],
)
def test_nothing_is_said_beside_the_spans(beside: bytes) -> None:
    data = raw.traces(raw.span())
    inner = data[len(data) - len(_content(data)) :]
    assert refused(rules.spans(raw.field(1, inner + beside), DEVICE, NOW)) == {"attribute": 1}


def _content(data: bytes) -> bytes:
    """Of the only group."""
    return TracesData.FromString(data).resource_spans[0].SerializeToString()


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_bytes_are_spans_or_our_error(data: bytes) -> None:
    try:
        verdict = rules.spans(data, DEVICE, NOW)
    except TraceDataError:
        return
    assert verdict.items == 0 or verdict.data


FLIPPED = protobuf.encode(
    EDGE,
    [
        span(
            attributes={"setsuden.energy.joules": 0.5, "setsuden.event_id": "dev-1-00000000-1"},
            events=(SpanEvent("gate.decision", NOW, {"setsuden.gate.reason": "confident"}),),
            links=(SpanLink(TRACE, TWO),),
            error="expired",
        )
    ],
)


@settings(max_examples=500)
@given(st.integers(0, len(FLIPPED) * 8 - 1))
def test_what_is_passed_on_of_a_damaged_message_keeps_the_rules(bit: int) -> None:
    data = bytearray(FLIPPED)
    data[bit // 8] ^= 1 << bit % 8
    try:
        verdict = rules.spans(bytes(data), DEVICE, NOW)
    except TraceDataError:
        return
    if verdict.items:
        assert rules.spans(verdict.data, DEVICE, NOW) == (verdict.data, verdict.items, {})
        (group,) = protobuf.decode(verdict.data)
        assert (group.resource["service.name"], group.resource["device.id"]) == (
            "edge-agent",
            "dev-1",
        )


# -- gzip ----------------------------------------------------------------------------------------

MEMBER = raw.packed(raw.traces(raw.span()))


@pytest.mark.parametrize(
    "data",
    [
        MEMBER + b"x",
        MEMBER + bytes(512),
        MEMBER + MEMBER,
        MEMBER + raw.packed(bytes(1 << 24)),
        raw.packed(bytes(protobuf.MAX_SEGMENT_BYTES + 1)),
        raw.packed(bytes(1 << 26)),
        raw.packed(MEMBER)[:-4],
    ],
)
def test_only_one_whole_gzip_member_within_the_bound_is_unpacked(data: bytes) -> None:
    with pytest.raises(TraceDataError):
        protobuf.decompress(data)


# -- metrics -------------------------------------------------------------------------------------


def metric(
    row: names.MetricRow = names.INFERENCE_ENERGY,
    value: float = 1.0,
    attributes: dict[str, str] | None = None,
    *,
    start_ns: int = NOW - SECOND,
    at_ns: int = NOW,
    resource: dict[str, Value] | None = None,
) -> bytes:
    point = MetricPoint(
        {names.SITE: "fr", names.TIER: "edge"} if attributes is None else attributes, value
    )
    made = [Instrument(row, (point,))]
    return metrics_protobuf.encode(EDGE if resource is None else resource, made, start_ns, at_ns)


def changed(change: Callable[[Any], None]) -> bytes:
    """A message whose one metric was changed."""
    data = MetricsData.FromString(metric())
    change(data.resource_metrics[0].scope_metrics[0].metrics[0])
    return data.SerializeToString()


def _as_gauge(found: Any) -> None:
    found.gauge.data_points.add(as_double=1.0)


def _add_exemplar(found: Any) -> None:
    found.sum.data_points[0].exemplars.add(as_double=1.0)


BAD_METRICS: list[tuple[str, bytes]] = [
    ("sender", metric(resource=EDGE | {"device.id": "dev-2"})),
    ("sender", metric(resource=CLOUD)),
    ("sender", metric(attributes={names.TIER: "cloud"})),
    ("amount", metric(value=-1e9)),
    ("amount", metric(value=float("nan"))),
    ("amount", metric(value=float("inf"))),
    ("amount", metric(value=1e300)),
    ("time", metric(start_ns=0)),
    ("time", metric(start_ns=1, at_ns=2)),
    ("time", metric(at_ns=NOW + 2 * DAY)),
    ("attribute", metric(attributes={"made.up": "x"})),
    ("attribute", metric(attributes={names.SITE: "x" * 1025})),
    ("name", metric(names.INFERENCE_ENERGY._replace(name="made.up"))),
    ("name", metric(names.INFERENCE_ENERGY._replace(unit="kW"))),
    ("name", changed(_as_gauge)),
    ("name", changed(lambda found: setattr(found.sum, "is_monotonic", False))),
    ("name", changed(lambda found: setattr(found.sum, "aggregation_temporality", 1))),
    ("amount", changed(lambda found: setattr(found.sum.data_points[0], "as_int", -5))),
    ("attribute", changed(lambda found: setattr(found, "description", "x"))),
    ("attribute", changed(_add_exemplar)),
]


@pytest.mark.parametrize(("reason", "data"), BAD_METRICS)
def test_a_metric_that_cannot_be_is_not_passed_on(reason: str, data: bytes) -> None:
    verdict = rules.metrics(data, DEVICE, NOW)
    assert (verdict.items, refused(verdict)) == (0, {reason: 1})


def test_the_other_metrics_of_a_message_go_on() -> None:
    whole = metric() + metric(value=-1.0) + metric(names.PROCESS_CPU_TIME)
    verdict = rules.metrics(whole, DEVICE, NOW)
    assert (verdict.items, refused(verdict)) == (2, {"amount": 1})


def test_metrics_of_every_row_are_passed_on_as_the_same_bytes() -> None:
    for row in names.METRICS:
        attributes = {key: "edge" if key == names.TIER else "x" for key in row.attributes}
        data = metric(row, 1e9, attributes)
        assert rules.metrics(data, DEVICE, NOW) == (data, 1, {})


# -- a real bridge -------------------------------------------------------------------------------

BRIDGE = """
import sys
from pathlib import Path
from setsuden.process.config import load_toml, validate
from setsuden.services.bridge.process import run_bridge
from setsuden.services.config import CloudConfig
path = Path(sys.argv[1])
sys.exit(run_bridge(validate(CloudConfig, load_toml(path)), path.parent))
"""
CONFIG = """\
[nats]
urls = ["{url}"]
monitor_url = "{monitor_url}"
[bridge]
file = "spans.jsonl"
metrics_file = "metrics.jsonl"
[[pipelines]]
name = "tiny"
bundle = "bundle"
"""
ROUNDS = 40
MAX_GROWTH_MIB = 50


def hostile_spans() -> list[bytes]:
    """Messages that fit the broker's bound, each of another kind; all as ``dev-1``'s."""
    noise = random.Random(7).randbytes
    floods = [raw.traces(raw.span(raw.field(number, b"") * 400_000)) for number in (9, 11, 13)]
    texts = raw.field(9, raw.pair("x", "y" * 900_000))
    deep = raw.field(9, raw.pair("x", raw.nested(5_000)))
    many = [raw.span(identity=number) for number in range(1, 5_000)]
    bad = [protobuf.encode(EDGE, [found]) for _, found in BAD_SPANS]
    forged = [protobuf.encode(EDGE | {"device.id": "dev-2"}, [span()])]
    packed = [
        b"\x0a\x00" * (1 << 19),
        b"\x0a\x00" * (1 << 23),
        raw.field(1, b"\x12\x00" * (1 << 18)),
        raw.field(1, raw.field(2, b"\x12\x00" * (1 << 18))),
        raw.field(99, noise(200_000)),
        raw.traces(raw.span(texts)),
        raw.traces(raw.span(deep)),
        raw.traces(raw.span(raw.field(9, raw.pair("x", raw.field(5, b"\x0a\x00" * 400_000))))),
        raw.traces(*many),
        raw.traces(*many[:2048]),
        bytes(1 << 24),
        *floods,
        *bad,
        *forged,
    ]
    plain = [b"", b"no gzip", noise(250_000), MEMBER + MEMBER, MEMBER + noise(200_000)]
    return [*map(raw.packed, packed), *plain]


def hostile_metrics() -> list[bytes]:
    made = [data for _, data in BAD_METRICS]
    flood = raw.field(1, raw.field(2, raw.field(2, raw.field(7, b"\x0a\x00" * 400_000))))
    return [*map(raw.packed, [*made, flood, b"\x0a\x00" * (1 << 19)]), b"no gzip"]


def hostile_hops() -> list[bytes]:
    header = {"traceparent": [f"00-{TRACE}-{ONE}-01"]}
    step = {
        "type": "in",
        "ts": "2001-11-24T15:08:59Z",
        "subj": "esc.a.b.c.d",
        "acc": "A",
        "kind": 0,
    }
    server = {"name": "hub", "host": "h", "id": "N" * 56, "ver": "2"}
    long_ago = {"server": server, "request": {"header": header}, "events": [step]}
    return [
        b"{",
        b"[" * 200_000,
        b'{"request":' * 20_000,
        json.dumps(long_ago).encode(),
        json.dumps(long_ago | {"events": [step] * 1000}).encode(),
        json.dumps(long_ago | {"server": server | {"name": "x" * 100_000}}).encode(),
        os.urandom(200_000),
    ]


def memory_mib(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(name)


async def emptied(jetstream: JetStream) -> None:
    async def empty() -> bool:
        info = await jetstream.api(f"STREAM.INFO.{streams.SPANS}")
        return bool(info["state"]["messages"] == 0)

    await eventually(empty, 200)


@pytest.fixture
def bridge(tmp_path: Path, broker: LocalBroker, jetstream: JetStream) -> Iterator[Process]:
    """A bridge process that writes files."""
    config = tmp_path / "cloud.toml"
    config.write_text(CONFIG.format(url=broker.url, monitor_url=broker.monitor_url))
    running = Process(BRIDGE, str(config), log=tmp_path / "bridge.log")
    yield running
    running.kill()


async def test_thousands_of_hostile_messages_leave_the_bridge_as_it_was(
    tmp_path: Path, link: Link, jetstream: JetStream, bridge: Process
) -> None:
    """It grows by less than 50 MiB at its highest, passes on what is honest, counts the rest."""
    await bridge.until("bridge_started")
    honest = [
        protobuf.compress(protobuf.encode(EDGE, [span(span_id=f"{number:016x}")]))
        for number in range(1, 41)
    ]
    counted = protobuf.compress(metric())
    for message in honest[:20]:
        await link.store(subjects.spans(*DEVICE), message)
        await link.store(subjects.metrics(*DEVICE), counted)
    await emptied(jetstream)
    before = memory_mib(bridge.popen.pid, "VmRSS")
    sets = [
        (subjects.spans(*DEVICE), hostile_spans()),
        (subjects.metrics(*DEVICE), hostile_metrics()),
        (subjects.HOPS, hostile_hops()),
    ]
    sent = 0
    for turn in range(ROUNDS):
        for subject, messages in sets:
            for message in messages:
                await link.store(subject, message)
                sent += 1
        if turn % 2 == 0:
            await link.store(subjects.spans(*DEVICE), honest[20 + turn // 2])
    await emptied(jetstream)
    assert sent > 3_000
    assert bridge.popen.poll() is None
    assert memory_mib(bridge.popen.pid, "VmHWM") - before < MAX_GROWTH_MIB
    bridge.popen.send_signal(signal.SIGTERM)
    assert await bridge.ended() == 0
    lines = (tmp_path / "spans.jsonl").read_text().splitlines()
    passed = [found for line in lines for found in _spans_of(line)]
    assert {found["spanId"] for found in passed} >= {f"{number:016x}" for number in range(1, 41)}
    text = "\n".join(lines)
    assert "dev-2" not in text
    assert "-1e" not in text
    (stopped,) = [one for one in bridge.events() if one.get("event") == "bridge_stopped"]
    reasons = {reason.value for reason in RefusalReason}
    assert set(stopped["refused"]) == reasons  # type: ignore[call-overload]  # a line of JSON
    assert stopped["messages"] == sent + 60
    warned = [one for one in bridge.events() if "level" in one and one["level"] == "warning"]
    assert len(warned) < 100


def _spans_of(line: str) -> list[dict[str, Any]]:
    groups = json.loads(line)["resourceSpans"]
    return [one for group in groups for scope in group["scopeSpans"] for one in scope["spans"]]


async def test_the_broker_takes_no_telemetry_over_its_bound(
    link: Link, jetstream: JetStream
) -> None:
    """A bridge holds some hundred messages at once, whoever sent them."""
    large = os.urandom(streams.SPANS_MAX_MESSAGE_BYTES + 1)
    for subject in (subjects.spans(*DEVICE), subjects.metrics(*DEVICE), subjects.HOPS):
        with pytest.raises(MessageTooLargeError):
            await link.store(subject, large)
        await link.store(subject, large[:-1000])


@pytest.mark.parametrize("subject", [subjects.spans(*DEVICE), subjects.metrics(*DEVICE)])
async def test_what_no_consumer_delivered_is_answered_nowhere(
    tmp_path: Path, broker: LocalBroker, link: Link, jetstream: JetStream, subject: str
) -> None:
    """Its reply subject would be written to with the bridge's rights."""
    consumer = streams.BRIDGE if subject.startswith("otel.spans") else streams.BRIDGE_METRICS
    settings = CloudConfig(
        nats=broker.options,
        pipelines=(PipelineSpec(name="tiny", bundle="bundle"),),
        bridge=BridgeOptions(file="spans.jsonl", metrics_file="metrics.jsonl"),
    )
    sinks = sinks_of(settings, tmp_path), metrics_sinks_of(settings, tmp_path)
    own = Link(broker.options, "bridge")
    own_jetstream = JetStream(own)
    await own_jetstream.start()
    bridge = Bridge(settings, own, own_jetstream, *sinks)
    running = asyncio.create_task(bridge.run())
    own.start()
    await own.wait_up(10)
    answered: list[Incoming] = []
    await link.subscribe("victim", answered.append)
    good = protobuf.compress(protobuf.encode(EDGE, [span()]))
    inbox = f"{own.inbox}.pull-{consumer}.1"
    for data in (good, b"no gzip"):
        await link.send(inbox, data, reply="victim")
    await link.store(subjects.spans(*DEVICE), good)
    await emptied(jetstream)
    await until(lambda: bridge.spans.forwarded == 1)
    assert answered == []
    assert (bridge.spans.messages, bridge.spans.dropped) == (1, 0)
    assert not running.done()
    await end(running)
    await own.close()
