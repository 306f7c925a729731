"""The span bridge: what a device sealed reaches the endpoint whole, whenever that is there."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from tests.support import meters
from tests.support.cloud import eventually, until

from setsuden.energy import WorkKey
from setsuden.energy.metering.instruments import Instrument, MetricPoint, instruments
from setsuden.link import Incoming, JetStream, Link
from setsuden.link.tasks import end
from setsuden.schemas import metrics as names
from setsuden.schemas import streams, subjects
from setsuden.schemas.energy import Method
from setsuden.schemas.errors import ConfigError, StreamFullError
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Tier
from setsuden.services.bridge import forwarder, payload
from setsuden.services.bridge.bridge import Bridge
from setsuden.services.bridge.forwarder import REQUEST_BYTES
from setsuden.services.bridge.process import metrics_sinks_of, sinks_of
from setsuden.services.bridge.sinks import (
    METRICS_PATH,
    LinesFile,
    OtlpEndpoint,
    Sink,
    SinkOutcome,
    read_headers,
)
from setsuden.services.config import BridgeOptions, CloudConfig
from setsuden.telemetry import (
    Offset,
    Recorder,
    Span,
    SpanKind,
    Timeline,
    TraceOptions,
    metrics_protobuf,
    otlp,
    protobuf,
)
from setsuden.telemetry.metrics_ship import MetricsShipper
from setsuden.telemetry.ship import Shipper
from setsuden.telemetry.span import Value
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

DEVICE = subjects.TelemetrySource(Tier.EDGE, "dev-1")
RESOURCE: dict[str, Value] = {"service.name": "edge-agent", "device.id": "dev-1"}
NOW = time.time_ns()
TRACE, PARENT = "ab" * 16, "cd" * 8
GARBAGE = (b"", b"no gzip", protobuf.compress(b"\xff\xff\xff"), protobuf.compress(b"x" * 99)[:-5])


def span(number: int = 1, name: str = "event", **attributes: str | float) -> Span:
    at = NOW + number
    return Span(f"{number:032x}", f"{number:016x}", None, name, SpanKind.SERVER, at, at, attributes)


def segment(*spans: Span) -> bytes:
    return protobuf.compress(protobuf.encode(RESOURCE, spans))


# -- an endpoint ---------------------------------------------------------------------------------


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP endpoint that keeps what it takes."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.body = b""
        self.poison = ""
        """Requests with a span of this name are answered with 400."""
        self.garbled = False
        self.asked = 0
        self.headers: list[dict[str, str]] = []
        self.taken: list[bytes] = []
        self.metrics: list[bytes] = []
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[Span]:
        return [
            one for data in self.taken for group in protobuf.decode(data) for one in group.spans
        ]

    def numbers(self) -> list[int]:
        return sorted(int(one.span_id, 16) for one in self.spans())

    def energies(self) -> list[float]:
        """Values of all points of metrics, in order."""
        return sorted(
            point.as_double
            for data in self.metrics
            for group in MetricsData.FromString(data).resource_metrics
            for metric in group.scope_metrics[0].metrics
            for point in metric.sum.data_points
        )

    def answer(self, path: str, data: bytes) -> int:
        if path == "/v1/metrics":
            return self.answer_metrics(data)
        ExportTraceServiceRequest.FromString(data)
        names = {one.name for group in protobuf.decode(data) for one in group.spans}
        if path != "/v1/traces" or self.poison in names:
            return 400
        if self.status == 200:
            self.taken.append(data)
        return self.status

    def answer_metrics(self, data: bytes) -> int:
        request = ExportMetricsServiceRequest.FromString(data)
        names = {
            one.name for group in request.resource_metrics for one in group.scope_metrics[0].metrics
        }
        if self.poison in names:
            return 400
        if self.status == 200:
            self.metrics.append(data)
        return self.status


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        status = self.server.answer(self.path, protobuf.decompress(body, 4 * REQUEST_BYTES))
        self.server.asked += 1
        if self.server.garbled:
            self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that runs."""
    yield from running(Collector())


def running(server: Collector) -> Iterator[Collector]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def config(broker: LocalBroker, **bridge: object) -> CloudConfig:
    return CloudConfig(
        nats=broker.options,
        pipelines=(PipelineSpec(name="tiny", bundle="bundle"),),
        bridge=BridgeOptions.model_validate({"timeout_seconds": 5.0, **bridge}),
    )


@asynccontextmanager
async def bridging(
    link: Link, jetstream: JetStream, settings: CloudConfig, sinks: list[Sink] | None = None
) -> AsyncIterator[Bridge]:
    """A bridge that runs and must not fail."""
    metrics_sinks = metrics_sinks_of(settings, Path())
    bridge = Bridge(settings, link, jetstream, sinks or sinks_of(settings, Path()), metrics_sinks)
    task = asyncio.create_task(bridge.run())
    try:
        yield bridge
        assert not task.done(), task.exception()
    finally:
        await end(task)


async def until_empty(jetstream: JetStream) -> None:
    """Return once every message of the stream was acknowledged or terminated."""

    async def empty() -> bool:
        info = await jetstream.api(f"STREAM.INFO.{streams.SPANS}")
        return bool(info["state"]["messages"] == 0)

    await eventually(empty)


async def send(link: Link, *messages: bytes, subject: str = "") -> None:
    for data in messages:
        await link.store(subject or subjects.spans(*DEVICE), data)


# -- from spool to endpoint ----------------------------------------------------------------------


@asynccontextmanager
async def shipping(
    link: Link, recorder: Recorder, timeline: Timeline | None = None
) -> AsyncIterator[Shipper]:
    shipper = Shipper(link, recorder, DEVICE, timeline)
    task = asyncio.create_task(shipper.run())
    try:
        yield shipper
        assert not task.done(), task.exception()
    finally:
        await end(task)
        recorder.close()


def recorder(folder: Path, timeline: Timeline | None = None, **options: object) -> Recorder:
    made = TraceOptions.model_validate({"segment_seconds": 0.01, **options})
    return Recorder(made, folder, "edge-agent", {"device.id": "dev-1"}, timeline)


async def test_spans_arrive_whole(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, tmp_path: Path
) -> None:
    made = recorder(tmp_path)
    sent = [span(number, j=0.5, s="x") for number in range(1, 2001)]
    async with (
        shipping(link, made) as shipper,
        bridging(link, jetstream, config(broker, endpoint=collector.url)) as bridge,
    ):
        for first in range(0, 2000, 4):
            made.add(sent[first : first + 4], keep=first % 8 == 0)
        await until(lambda: bridge.spans.forwarded == 2000, pause_seconds=0.01)
    assert sorted(collector.spans()) == sorted(sent)
    assert shipper.shipped == made.recorded == 2000
    assert (len(made.spool), made.lost, bridge.spans.dropped) == (0, 0, 0)
    resources = [group.resource for data in collector.taken for group in protobuf.decode(data)]
    assert {(one["service.name"], one["device.id"]) for one in resources} == {
        ("edge-agent", "dev-1")
    }


async def test_hops_of_the_broker_arrive_as_spans_and_foreign_ones_do_not(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector
) -> None:
    async with bridging(link, jetstream, config(broker, endpoint=collector.url)) as bridge:
        sampled = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        await link.store(
            subjects.Place("local", "tiny", "dev-1", "dev-1-00000000-1").escalation, b"x", sampled
        )
        await link.subscribe("foreign.*", lambda _: None)
        connection = link._connection
        assert connection is not None
        await connection.publish("foreign.x", b"x", reply="", headers=sampled)
        await until(lambda: bridge.spans.hops + bridge.spans.foreign == 2, pause_seconds=0.01)
        await until_empty(jetstream)
    assert [(one.name, one.parent_id) for one in collector.spans()] == [("store ESC", PARENT)]
    assert (bridge.spans.hops, bridge.spans.foreign, bridge.spans.dropped) == (1, 1, 0)


async def test_two_bridges_share_the_work(
    broker: LocalBroker,
    link: Link,
    jetstream: JetStream,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarder, "BATCH_MESSAGES", 2)
    settings = config(broker, endpoint=collector.url)
    other = Link(broker.options, "other")
    other.start()
    await other.wait_up(10)
    second_jetstream = JetStream(other)
    await second_jetstream.start()
    async with (
        bridging(link, jetstream, settings) as first,
        bridging(other, second_jetstream, settings) as second,
    ):
        await send(link, *[segment(span(number)) for number in range(1, 51)])
        await until_empty(jetstream)
    await other.close()
    assert collector.numbers() == list(range(1, 51))
    assert first.spans.forwarded + second.spans.forwarded == 50


# -- an endpoint that is away --------------------------------------------------------------------


@pytest.mark.parametrize("status", [503, 500, 429, 408])
async def test_what_an_endpoint_cannot_take_now_waits_and_arrives(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, status: int
) -> None:
    collector.status = status
    async with bridging(link, jetstream, config(broker, endpoint=collector.url)) as bridge:
        await send(link, *[segment(span(number)) for number in range(1, 21)])
        await until(lambda: bridge.spans.later > 0, pause_seconds=0.01)
        collector.status = 200
        await until_empty(jetstream)
    assert collector.numbers() == list(range(1, 21))
    assert (bridge.spans.forwarded, bridge.spans.dropped) == (20, 0)


async def test_what_a_closed_port_cannot_take_waits_and_arrives(
    broker: LocalBroker, link: Link, jetstream: JetStream
) -> None:
    port = free_port()
    settings = config(broker, endpoint=f"http://127.0.0.1:{port}")
    async with bridging(link, jetstream, settings) as bridge:
        await send(link, *[segment(span(number)) for number in range(1, 21)])
        await until(lambda: bridge.spans.later > 0, pause_seconds=0.01)
        for collector in running(Collector(port)):
            await until_empty(jetstream)
            assert collector.numbers() == list(range(1, 21))
    assert bridge.spans.dropped == 0


async def test_what_a_bridge_that_died_had_in_hand_the_next_one_passes_on(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector
) -> None:
    settings = config(broker, endpoint=collector.url, ack_wait_seconds=1.5)
    collector.status = 503
    async with bridging(link, jetstream, settings) as first:
        await send(link, *[segment(span(number)) for number in range(1, 6)])
        await until(lambda: first.spans.later > 0, pause_seconds=0.01)
    collector.status = 200
    other = Link(broker.options, "other")
    other.start()
    await other.wait_up(10)
    second_jetstream = JetStream(other)
    await second_jetstream.start()
    async with bridging(other, second_jetstream, settings):
        await until_empty(jetstream)
    await other.close()
    assert sorted(set(collector.numbers())) == [1, 2, 3, 4, 5]


# -- what nobody takes ---------------------------------------------------------------------------


async def test_of_a_refused_batch_only_the_poison_is_given_up(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector
) -> None:
    collector.poison = "preprocess"
    messages = [segment(span(number)) for number in range(1, 11)]
    messages[4] = segment(span(5, "preprocess"), span(5))
    await send(link, *messages)
    async with bridging(link, jetstream, config(broker, endpoint=collector.url)) as bridge:
        await until_empty(jetstream)
    assert collector.numbers() == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert (bridge.spans.forwarded, bridge.spans.dropped) == (9, 2)


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_damaged_message_is_given_up_and_counted(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, garbage: bytes
) -> None:
    async with bridging(link, jetstream, config(broker, endpoint=collector.url)) as bridge:
        await send(link, segment(span(1)), garbage, segment(span(2)))
        await until_empty(jetstream)
        await until(lambda: bridge.spans.forwarded == 2, pause_seconds=0.01)
    assert collector.numbers() == [1, 2]
    assert bridge.spans.dropped == 1


@pytest.mark.parametrize(
    "told",
    [
        b"{",
        b"[" * 100_000,
        b'{"server": {"name": "\\ud800", "host": "h", "id": "i", "ver": "v"}, "request": {"header":'
        b' {"traceparent": ["00-%s-%s-01"]}}, "events": [{"type": "in", "subj": "esc.a.b.c",'
        b' "ts": "1901-01-01T00:00:00Z"}]}' % (TRACE.encode(), PARENT.encode()),
    ],
)
async def test_a_damaged_tale_of_a_hop_is_given_up_and_counted(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, told: bytes
) -> None:
    async with bridging(link, jetstream, config(broker, endpoint=collector.url)) as bridge:
        await send(link, told, subject=subjects.HOPS)
        await send(link, segment(span(1)))
        await until_empty(jetstream)
        await until(lambda: bridge.spans.forwarded == 1, pause_seconds=0.01)
    assert bridge.spans.dropped == 1


# -- the endpoint --------------------------------------------------------------------------------


def endpoint(collector: Collector, headers: dict[str, str] | None = None) -> OtlpEndpoint:
    return OtlpEndpoint(collector.url + "/", headers or {}, 5.0)


async def test_headers_of_the_file_are_sent(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, tmp_path: Path
) -> None:
    text = "Authorization: Bearer a:b c\n\n  X-Scope-OrgID :  7  \n"
    (tmp_path / "headers").write_text(text, encoding="utf-8")
    settings = config(broker, endpoint=collector.url, headers_file="headers")
    async with bridging(link, jetstream, settings, sinks_of(settings, tmp_path)):
        await send(link, segment(span()))
        await until_empty(jetstream)
    (headers,) = collector.headers
    assert headers["authorization"] == "Bearer a:b c"
    assert headers["x-scope-orgid"] == "7"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    "content",
    [b"no header", b": value", b"A: b\nrest", b"Bad Name: x", b"A: \xff\xfe", "A: ключ".encode()],
)
def test_a_file_of_no_headers_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "headers").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_headers(tmp_path / "headers")
    assert caught.value.remedy


def test_a_missing_file_of_headers_is_refused_and_none_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_headers(tmp_path / "headers")
    assert read_headers(None) == {}


def test_a_bridge_without_a_sink_is_refused(broker: LocalBroker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        sinks_of(config(broker), tmp_path)


def test_spans_that_a_partial_success_rejected_are_counted(collector: Collector) -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 3
    answer.partial_success.error_message = "too old"
    collector.body = answer.SerializeToString()
    sink = endpoint(collector)
    assert sink.put(protobuf.encode({}, [span()])) is SinkOutcome.TAKEN
    assert sink.put(protobuf.encode({}, [span()])) is SinkOutcome.TAKEN
    assert sink.rejected == 6


@pytest.mark.parametrize("body", [b"", b"OK", b"\xff\xff", b"{}"])
def test_an_answer_of_any_other_body_counts_nothing(collector: Collector, body: bytes) -> None:
    collector.body = body
    sink = endpoint(collector)
    assert sink.put(protobuf.encode({}, [span()])) is SinkOutcome.TAKEN
    assert sink.rejected == 0


def test_what_speaks_no_http_is_tried_again_later(collector: Collector) -> None:
    collector.garbled = True
    sink = endpoint(collector)
    assert sink.put(protobuf.encode({}, [span()])) is SinkOutcome.LATER
    assert sink.problem


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, SinkOutcome.TAKEN),
        (202, SinkOutcome.TAKEN),
        (400, SinkOutcome.REFUSED),
        (413, SinkOutcome.REFUSED),
        (429, SinkOutcome.LATER),
        (502, SinkOutcome.LATER),
        (504, SinkOutcome.LATER),
    ],
)
def test_a_status_says_whether_to_try_again(
    collector: Collector, status: int, outcome: SinkOutcome
) -> None:
    collector.status = status
    assert endpoint(collector).put(protobuf.encode({}, [span()])) is outcome


# -- the file ------------------------------------------------------------------------------------


async def test_lines_of_the_file_are_read_back(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, tmp_path: Path
) -> None:
    settings = config(broker, endpoint=collector.url, file="deep/spans.jsonl")
    async with bridging(link, jetstream, settings, sinks_of(settings, tmp_path)):
        await send(link, *[segment(span(number, j=0.25)) for number in range(1, 31)])
        await until_empty(jetstream)
    lines = (tmp_path / "deep" / "spans.jsonl").read_text(encoding="utf-8").splitlines()
    found = [one for line in lines for group in otlp.read(line) for one in group.spans]
    assert sorted(found) == sorted(span(number, j=0.25) for number in range(1, 31))
    assert sorted(collector.spans()) == sorted(found)


@pytest.mark.parametrize(
    "before", ["", "whole\n", "torn by a full disk", "whole\nand torn by a power cut"]
)
def test_a_torn_last_line_is_ended_before_a_new_one(tmp_path: Path, before: str) -> None:
    file = tmp_path / "spans.jsonl"
    file.write_text(before)
    assert LinesFile(file).put(protobuf.encode(RESOURCE, [span()])) is SinkOutcome.TAKEN
    lines = file.read_text().splitlines()
    assert lines[:-1] == before.splitlines()
    assert otlp.read(lines[-1])[0].spans == [span()]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_takes_whole_lines_or_none(tmp_path: Path) -> None:
    """And what it did not take is taken when there is room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this container may not mount")
    try:
        filler, file = disk / "filler", disk / "spans.jsonl"
        filler.write_bytes(bytes(40_000))
        _hold_whole_lines(file, filler.unlink)
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # root's own


FULL = """
import resource, sys
from pathlib import Path
from tests.services.test_bridge import _hold_whole_lines
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
_hold_whole_lines(
    Path(sys.argv[1]), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
)
"""


def test_a_file_at_its_limit_takes_whole_lines_or_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "spans.jsonl")]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()


def _hold_whole_lines(file: Path, make_room: Callable[[], object]) -> None:
    """Fill a file until no more goes in, make room, go on: every line is whole, none is lost."""
    sink = LinesFile(file)
    taken = 0
    data = [protobuf.encode(RESOURCE, [span(number, s="x" * 900)]) for number in range(1, 41)]
    while sink.put(data[taken]) is SinkOutcome.TAKEN:
        taken += 1
    assert 0 < taken < 39
    assert sink.problem
    assert file.read_bytes().endswith(b"\n")
    assert sink.put(data[taken]) is SinkOutcome.LATER
    make_room()
    for one in data[taken:]:
        assert sink.put(one) is SinkOutcome.TAKEN
    lines = file.read_text().splitlines()
    numbers = [int(one.span_id, 16) for line in lines for one in otlp.read(line)[0].spans]
    assert numbers == list(range(1, 41))


def test_two_bridges_that_share_a_file_do_not_mix_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"

    def fill(first: int) -> None:
        sink = LinesFile(file)
        for number in range(first, first + 50):
            sink.put(protobuf.encode(RESOURCE, [span(number, s="x" * 20_000)]))

    threads = [threading.Thread(target=fill, args=(first,)) for first in (1, 1001)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = file.read_text().splitlines()
    assert len({one.span_id for line in lines for one in otlp.read(line)[0].spans}) == 100


def test_a_file_that_cannot_be_written_is_tried_again_later(tmp_path: Path) -> None:
    sink = LinesFile(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    assert sink.put(protobuf.encode({}, [span()])) is SinkOutcome.LATER
    (tmp_path / "folder").rmdir()
    assert sink.put(protobuf.encode({}, [span()])) is SinkOutcome.TAKEN


def test_a_pipe_takes_lines_only_while_somebody_reads_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    sink, data = LinesFile(pipe), protobuf.encode(RESOURCE, [span(7)])
    assert sink.put(data) is SinkOutcome.LATER
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert sink.put(data) is SinkOutcome.TAKEN
        assert otlp.read(os.read(reader, 1 << 16).decode())[0].spans[0].span_id == span(7).span_id
    finally:
        os.close(reader)
    assert sink.put(data) is SinkOutcome.LATER


# -- metrics -------------------------------------------------------------------------------------


def told(*joules: float, row: names.MetricRow = names.INFERENCE_ENERGY) -> bytes:
    """A message of energy metrics with these points."""
    points = tuple(MetricPoint({names.SITE: "fr-par-2"}, value) for value in joules)
    made = metrics_protobuf.encode(RESOURCE, [Instrument(row, points)], NOW - 1, NOW)
    return protobuf.compress(made)


METRICS = subjects.metrics(*DEVICE)


async def test_metrics_reach_their_own_endpoint_and_file(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "metrics.jsonl"
    settings = config(
        broker,
        file=str(tmp_path / "spans.jsonl"),
        metrics_endpoint=collector.url,
        metrics_file=str(file),
    )
    async with bridging(link, jetstream, settings) as bridge:
        await send(link, told(1.5, 2.5), told(3.5), subject=METRICS)
        await send(link, segment(span(1)))
        await until_empty(jetstream)
        await until(lambda: bridge.spans.forwarded == 1, pause_seconds=0.01)
    assert collector.energies() == [1.5, 2.5, 3.5]
    assert collector.taken == []
    lines = file.read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    assert sum(len(found["resourceMetrics"]) for found in documents) == 2
    assert (bridge.metrics.forwarded, bridge.metrics.unwanted, bridge.metrics.dropped) == (3, 0, 0)


async def test_joules_of_a_meter_arrive_whole(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, tmp_path: Path
) -> None:
    meter = meters.meter(tmp_path)
    run = meter.begin(WorkKey("digits", "digits/student", "0" * 64))
    meter.finish(run, 3, 0.01, Method.THREAD)
    meter.close()
    settings = config(broker, endpoint=collector.url, metrics_endpoint=collector.url)
    async with bridging(link, jetstream, settings):
        await MetricsShipper(link, meter, RESOURCE, DEVICE, 60.0).finish(5.0)
        await until_empty(jetstream)
    sent = [point.value for _, points in instruments(meter) for point in points]
    assert collector.energies() == sorted(sent)
    assert meter.totals.summed().window_joules > 0


async def test_metrics_that_nobody_wants_are_acknowledged_and_counted(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector
) -> None:
    async with bridging(link, jetstream, config(broker, endpoint=collector.url)) as bridge:
        await send(link, told(1.0), b"no gzip", told(2.0), subject=METRICS)
        await until_empty(jetstream)
    assert bridge.metrics.unwanted == 3
    assert (bridge.metrics.forwarded, bridge.metrics.dropped) == (0, 0)
    assert collector.asked == 0


@pytest.mark.parametrize("silent", [False, True])
async def test_a_metrics_endpoint_that_is_away_holds_up_no_spans(
    broker: LocalBroker,
    link: Link,
    jetstream: JetStream,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    silent: bool,
) -> None:
    """Closed, or open and never answering; more metrics wait than one consumer may have out."""
    monkeypatch.setattr(forwarder, "BATCH_MESSAGES", 4)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1] if silent else free_port()
        settings = config(
            broker,
            endpoint=collector.url,
            metrics_endpoint=f"http://127.0.0.1:{port}",
            timeout_seconds=60.0,
            max_ack_pending=8,
        )
        await send(link, *[told(float(number)) for number in range(20)], subject=METRICS)
        async with bridging(link, jetstream, settings) as bridge:
            await send(link, *[segment(span(number)) for number in range(1, 21)])
            await until(lambda: bridge.spans.forwarded == 20, pause_seconds=0.01)
            if silent:
                listening.close()  # lets the waiting request go
    assert collector.numbers() == list(range(1, 21))
    assert (bridge.metrics.forwarded, bridge.metrics.dropped) == (0, 0)


async def test_metrics_wait_for_their_endpoint(
    broker: LocalBroker,
    link: Link,
    jetstream: JetStream,
    collector: Collector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payload, "METRICS", replace(payload.METRICS, retry_seconds=1))
    collector.status = 503
    settings = config(broker, file=str(tmp_path / "spans"), metrics_endpoint=collector.url)
    async with bridging(link, jetstream, settings) as bridge:
        await send(link, told(1.0), told(2.0), subject=METRICS)
        await until(lambda: bridge.metrics.later > 0, pause_seconds=0.01)
        collector.status = 200
        await until_empty(jetstream)
    assert collector.energies() == [1.0, 2.0]
    assert bridge.metrics.dropped == 0


async def test_metrics_that_nobody_took_in_time_make_room_for_spans(
    broker: LocalBroker,
    link: Link,
    jetstream: JetStream,
    collector: Collector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payload, "METRICS", replace(payload.METRICS, keep_seconds=0.0))
    settings = config(broker, file=str(tmp_path / "spans"), metrics_endpoint=collector.url)
    async with bridging(link, jetstream, settings) as bridge:
        await send(link, told(1.0), told(2.0), subject=METRICS)
        await until_empty(jetstream)
    assert bridge.metrics.dropped == 2
    assert collector.asked == 0


async def test_of_refused_and_damaged_metrics_the_others_arrive(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, tmp_path: Path
) -> None:
    collector.poison = names.HW_ENERGY.name
    settings = config(broker, file=str(tmp_path / "spans"), metrics_endpoint=collector.url)
    bad = (told(9.0, row=names.HW_ENERGY), *GARBAGE)
    await send(link, told(1.0), *bad, told(2.0), subject=METRICS)
    async with bridging(link, jetstream, settings) as bridge:
        await until_empty(jetstream)
    assert collector.energies() == [1.0, 2.0]
    assert (bridge.metrics.forwarded, bridge.metrics.dropped) == (2, len(bad))
    assert bridge.spans.dropped == 0


async def test_a_bridge_of_before_metrics_leaves_a_consumer_that_ours_narrows(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, tmp_path: Path
) -> None:
    """A work queue refuses two consumers that overlap; the old one took every subject."""
    wanted = streams.bridge_consumer(ack_wait_seconds=60, max_ack_pending=64)
    del wanted["filter_subjects"]
    await jetstream.apply_consumer(streams.SPANS, wanted)
    await send(link, segment(span(1)))
    await send(link, told(1.0), subject=METRICS)
    settings = config(broker, endpoint=collector.url, metrics_endpoint=collector.url)
    async with bridging(link, jetstream, settings):
        await until_empty(jetstream)
    assert (collector.numbers(), collector.energies()) == ([1], [1.0])


def test_points_that_a_partial_success_rejected_are_counted(collector: Collector) -> None:
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = 3
    answer.partial_success.error_message = "out of order"
    collector.body = answer.SerializeToString()
    sink = OtlpEndpoint(collector.url, {}, 5.0, METRICS_PATH)
    assert sink.put(protobuf.decompress(told(1.0))) is SinkOutcome.TAKEN
    assert sink.rejected == 3


async def test_metrics_have_headers_of_their_own(
    broker: LocalBroker, link: Link, jetstream: JetStream, collector: Collector, tmp_path: Path
) -> None:
    (tmp_path / "spans").write_text("Authorization: spans", encoding="utf-8")
    (tmp_path / "metrics").write_text("Authorization: metrics", encoding="utf-8")
    settings = config(
        broker,
        endpoint=collector.url,
        headers_file=str(tmp_path / "spans"),
        metrics_endpoint=collector.url,
        metrics_headers_file=str(tmp_path / "metrics"),
    )
    async with bridging(link, jetstream, settings):
        await send(link, told(1.0), subject=METRICS)
        await until_empty(jetstream)
    assert [one["authorization"] for one in collector.headers] == ["metrics"]


# -- the same bytes ------------------------------------------------------------------------------


async def test_a_segment_sent_twice_is_the_same_bytes(
    broker: LocalBroker, link: Link, jetstream: JetStream, tmp_path: Path
) -> None:
    """Refused at first: the spans are on a boot's clock, and its offset changes meanwhile."""
    seen: list[Incoming] = []
    await link.subscribe("otel.spans.>", seen.append)
    await filled(jetstream, link)
    filler = len(seen)
    offset = Offset(5_000, 10)
    asked = asyncio.Event()
    timeline = Timeline("0123abcd", lambda: offset if asked.is_set() else None, asked)
    made = recorder(tmp_path, timeline)
    made.add([span(1)])
    made.close()
    (waiting,) = made.spool._segments.values()
    assert waiting.clock == "0123abcd"
    asked.set()
    async with shipping(link, made, timeline) as shipper:
        await until(lambda: len(seen) > filler, pause_seconds=0.01)
        offset = Offset(9_000, 10)
        await jetstream.api(f"STREAM.PURGE.{streams.SPANS}")
        await until(lambda: shipper.shipped == 1, pause_seconds=0.01)
    sent = seen[filler:]
    assert len(sent) >= 2
    assert len({message.data for message in sent}) == 1
    assert len({message.headers["Nats-Msg-Id"] for message in sent}) == 1
    (group,) = protobuf.decode(protobuf.decompress(sent[0].data))
    assert group.spans[0].start_ns == NOW + 1 + 5_000
    assert len(made.spool) == 0


async def filled(jetstream: JetStream, link: Link) -> None:
    """The stream takes no more until it is purged."""
    bounds = streams.StreamBounds(spans_max_bytes=1 << 16)
    await jetstream.apply_stream(streams.spans(bounds))
    await store_until_refused(lambda: send(link, bytes(4_000)))
    await store_until_refused(lambda: send(link, b""))


async def store_until_refused(store: Callable[[], Awaitable[None]]) -> None:
    for _ in range(10_000):
        try:
            await store()
        except StreamFullError:
            return
    raise AssertionError("never refused")


async def test_the_next_life_sends_the_same_bytes(
    broker: LocalBroker, link: Link, jetstream: JetStream, tmp_path: Path
) -> None:
    seen: list[Incoming] = []
    await link.subscribe("otel.spans.>", seen.append)
    await filled(jetstream, link)
    filler = len(seen)
    asked = asyncio.Event()
    asked.set()
    first_life = recorder(tmp_path, Timeline("0123abcd", lambda: None, asked))
    first_life.add([span(1)])
    first_life.close()
    async with shipping(link, first_life, Timeline("0123abcd", lambda: None, asked)):
        await until(lambda: len(seen) > filler, pause_seconds=0.01)
    await jetstream.api(f"STREAM.PURGE.{streams.SPANS}")
    timeline = Timeline("0123abcd", lambda: Offset(5_000, 1), asked)
    async with shipping(link, recorder(tmp_path, timeline), timeline) as shipper:
        await until(lambda: shipper.shipped == 1, pause_seconds=0.01)
    sent = seen[filler:]
    assert len(sent) >= 2
    assert len({message.data for message in sent}) == 1


async def test_spans_of_another_boot_are_sent_as_they_are_and_say_so(
    broker: LocalBroker, link: Link, jetstream: JetStream, tmp_path: Path
) -> None:
    seen: list[Incoming] = []
    await link.subscribe("otel.spans.>", seen.append)
    old = recorder(tmp_path, Timeline("00000000", lambda: None, asyncio.Event()))
    old.add([span(1)])
    old.close()
    timeline = Timeline("0123abcd", lambda: Offset(5_000, 1), asyncio.Event())
    async with shipping(link, recorder(tmp_path, timeline), timeline) as shipper:
        await until(lambda: shipper.shipped == 1 and bool(seen), pause_seconds=0.01)
    (found,) = protobuf.decode(protobuf.decompress(seen[0].data))[0].spans
    assert found.start_ns == NOW + 1
    assert found.attributes == {"setsuden.clock.corrected": False}


async def test_a_damaged_or_too_large_segment_is_dropped_and_counted_and_the_rest_is_sent(
    broker: LocalBroker, link: Link, jetstream: JetStream, tmp_path: Path
) -> None:
    made = recorder(tmp_path)
    made.spool.add(b"no gzip", 3, keep=True)
    made.spool.add(segment(span(1)), 1, keep=False)
    large = segment(*(span(number, s=os.urandom(500).hex()) for number in range(2, 702)))
    assert len(large) > streams.SPANS_MAX_MESSAGE_BYTES
    made.spool.add(large, 700, keep=True)
    async with shipping(link, made) as shipper:
        await until(lambda: len(made.spool) == 0, pause_seconds=0.01)
    assert shipper.shipped == 1
    assert made.spool.dropped == {"damaged": 3, "too_large": 700}
