"""Spans as OTLP: the official message types read what we write, and nothing is lost in silence."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]  # it ships no stubs
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from setsuden.pipelines.tracing import (
    Kind,
    Link,
    Recorder,
    Span,
    SpanEvent,
    TraceOptions,
    derived_span_id,
    otlp,
)
from setsuden.pipelines.tracing.file import TraceFile

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
    name=NAMES,
    kind=st.sampled_from(Kind),
    start_ns=TIMES,
    end_ns=TIMES,
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(SpanEvent, NAMES, TIMES, ATTRIBUTES), max_size=2).map(tuple),
    links=st.lists(st.builds(Link, TRACE_IDS, SPAN_IDS), max_size=2).map(tuple),
    error=st.none() | NAMES,
)


def span(number: int = 1, size: int = 0) -> Span:
    trace_id = f"{number:032x}"
    attributes: dict[str, str | int] = {"setsuden.event_id": "d-00000000-1", "pad": "x" * size}
    return Span(
        trace_id, derived_span_id(trace_id, "a"), None, "event", Kind.SERVER, 1, 2, attributes
    )


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


def plain(attributes: object) -> dict[str, object]:
    return {
        one.key: getattr(one.value, one.value.WhichOneof("value"))
        for one in attributes  # type: ignore[attr-defined]  # a protobuf sequence
    }


@given(SPANS)
def test_the_official_types_read_back_every_span(sent: Span) -> None:
    line = otlp.line({"service.name": "edge-agent"}, [sent])
    assert line.endswith("\n")
    assert line.count("\n") == 1
    (resource,) = proto_of(line).resource_spans
    (found,) = resource.scope_spans[0].spans
    assert plain(resource.resource.attributes) == {"service.name": "edge-agent"}
    assert (found.trace_id.hex(), found.span_id.hex()) == (sent.trace_id, sent.span_id)
    assert found.parent_span_id.hex() == (sent.parent_id or "")
    assert (found.name, found.kind) == (sent.name, int(sent.kind))
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (sent.start_ns, sent.end_ns)
    assert plain(found.attributes) == sent.attributes
    assert [(e.name, e.time_unix_nano, plain(e.attributes)) for e in found.events] == list(
        sent.events
    )
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in found.links] == list(sent.links)
    assert (found.status.code == 2) == (sent.error is not None)
    assert found.status.message == (sent.error or "")


def test_kinds_have_their_otlp_numbers() -> None:
    assert {f"SPAN_KIND_{kind.name}": int(kind) for kind in Kind}.items() <= dict(
        ProtoSpan.SpanKind.items()
    ).items()


def test_a_derived_id_is_the_same_in_every_life_and_differs_by_name() -> None:
    assert derived_span_id("ab" * 16, "a") == derived_span_id("ab" * 16, "a")
    assert derived_span_id("ab" * 16, "a") != derived_span_id("ab" * 16, "b")


# -- the file -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(1, 700), max_size=6), max_size=40),
    cap=st.integers(200, 2000),
)
def test_the_file_never_outgrows_its_cap_and_counts_every_line(
    batches: list[list[int]], cap: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("traces") / "traces.jsonl"
    file = TraceFile(path, cap)
    written = 0
    for batch in batches:
        file.write("".join("x" * (size - 1) + "\n" for size in batch))
        written += len(batch)
        assert sum(part.stat().st_size for part in path.parent.iterdir()) <= cap
    file.close()
    kept = sum(len(part.read_bytes().splitlines()) for part in path.parent.iterdir())
    assert kept + file.dropped_lines == written


def test_the_newest_lines_are_the_ones_kept(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "t", 100)
    for n in range(100):
        file.write(f"{n:09}\n")
    file.close()
    older = (tmp_path / "t.1").read_text().split()
    newer = (tmp_path / "t").read_text().split()
    assert [int(line) for line in older + newer] == list(range(90, 100))


def test_a_next_life_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for n in range(3):
        file = TraceFile(tmp_path / "t", 1000)
        file.write(f"{n}\n")
        file.close()
    assert (tmp_path / "t").read_text() == "0\n1\n2\n"


def test_a_smaller_cap_holds_for_what_an_earlier_life_left(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("x\n" * 500)
    (tmp_path / "t.1").write_text("x\n" * 500)
    file = TraceFile(tmp_path / "t", 100)
    file.write("y\n")
    file.close()
    assert sum(part.stat().st_size for part in tmp_path.iterdir()) <= 100
    assert file.dropped_lines == 1000


# -- the recorder -------------------------------------------------------------------------------


class Collector(HTTPServer):
    """An OTLP/HTTP endpoint that keeps what it was sent."""

    def __init__(self, answers: list[int]) -> None:
        self.answers = answers
        self.received: Queue[ExportTraceServiceRequest] = Queue()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 200 and self.path == "/v1/traces":
            self.server.received.put(ExportTraceServiceRequest.FromString(body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that runs."""
    with Collector([]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def trace_ids(data: ExportTraceServiceRequest | TracesData) -> list[str]:
    return [found.trace_id.hex() for found in data.resource_spans[0].scope_spans[0].spans]


def recorder(folder: Path, **options: object) -> Recorder:
    return Recorder(TraceOptions.model_validate(options), folder, "edge-agent", {"x": 1})


def test_spans_are_posted_with_their_ids_times_and_resource(
    tmp_path: Path, collector: Collector
) -> None:
    running = recorder(tmp_path, endpoint=collector.url)
    parent = span()._replace(error="student_failed", links=(Link("cd" * 16, "ef" * 8),))
    child = Span(
        parent.trace_id, "12" * 8, parent.span_id, "infer", Kind.INTERNAL, 3, 4, {"j": 0.5}
    )
    running.add([parent, child])
    request = collector.received.get(timeout=20)
    running.close()
    (resource,) = request.resource_spans
    attributes = plain(resource.resource.attributes)
    assert (attributes["service.name"], attributes["x"]) == ("edge-agent", 1)
    assert attributes["host.id"]
    first, second = resource.scope_spans[0].spans
    assert (first.trace_id.hex(), first.span_id.hex()) == (parent.trace_id, parent.span_id)
    assert (first.status.code, first.links[0].trace_id.hex()) == (2, "cd" * 16)
    assert second.parent_span_id == first.span_id
    assert (second.start_time_unix_nano, second.end_time_unix_nano) == (3, 4)
    assert plain(second.attributes) == {"j": 0.5}


def test_the_file_has_what_the_endpoint_has(tmp_path: Path, collector: Collector) -> None:
    running = recorder(tmp_path, endpoint=collector.url)
    running.add(span(n) for n in range(1, 1001))
    running.close()
    sent = [name for request in collector.received.queue for name in trace_ids(request)]
    lines = running.path.read_text().splitlines()
    assert len(sent) == len(lines) == running.recorded == 1000
    assert sent == [name for line in lines for name in trace_ids(proto_of(line))]
    assert (running.dropped, running.unsent, running.lost) == (0, 0, 0)


def test_without_its_collector_everything_is_in_the_file_and_the_rest_is_counted(
    tmp_path: Path, collector: Collector
) -> None:
    collector.answers[:] = [400] * 50
    running = recorder(tmp_path, endpoint=collector.url)
    running.add([span()])
    running.close()
    assert (running.recorded, running.unsent, running.lost) == (1, 1, 0)
    assert len(running.path.read_text().splitlines()) == 1


def test_past_the_queue_spans_are_dropped_and_counted(tmp_path: Path) -> None:
    running = recorder(tmp_path, queue_max_spans=100)
    running.add(span(n) for n in range(1, 5001))
    running.close()
    assert running.recorded + running.dropped == 5000
    assert running.dropped > 0
    assert running.lost == running.dropped


def test_a_batch_over_the_cap_stays_under_it(tmp_path: Path) -> None:
    running = recorder(tmp_path, file_max_bytes=1 << 16)
    running.add(span(n, 500) for n in range(1, 513))
    running.close()
    kept = sum(len(part.read_bytes().splitlines()) for part in tmp_path.iterdir())
    assert sum(part.stat().st_size for part in tmp_path.iterdir()) <= 1 << 16
    assert kept + running.lost == 512
