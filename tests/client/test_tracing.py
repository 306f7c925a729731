"""An application's trace goes on through the client, and costs nothing without OpenTelemetry."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from tests.support import site
from tests.support.agent import DEVICE, digits

from setsuden.client import Answer, Status
from setsuden.insight.traces import tree
from setsuden.insight.traces.lint import lint
from setsuden.schemas.trace_context import traceparent
from setsuden.testing import Event, FakeAsyncClient, LocalBroker

APPLICATION = """
import asyncio, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from setsuden.client import AsyncClient, Client, SetsudenError

memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)
url, device = sys.argv[1:]


def submit_from_a_thread():
    with Client(url, device=device) as client:
        with trace.get_tracer("application").start_as_current_span("threaded"):
            handle = client.submit("digits", bytes(784))
        return handle.result(timeout=60).trace_id


async def submit_in_a_loop():
    async with AsyncClient(url, device=device) as client:
        with trace.get_tracer("application").start_as_current_span("looped"):
            handle = await client.submit("digits", bytes(784))
        try:
            await client.submit("not a name", b"")
        except SetsudenError as error:
            refused = error.trace_id
        return (await handle.result(timeout=60)).trace_id, refused


threaded = submit_from_a_thread()
looped, refused = asyncio.run(submit_in_a_loop())
spans = [
    {
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{span.context.trace_id:032x}",
        "span": f"{span.context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else None,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes),
    }
    for span in memory.get_finished_spans()
]
print(json.dumps({"threaded": threaded, "looped": looped, "refused": refused, "spans": spans}))
"""


async def run_python(*arguments: str) -> Any:
    """What a fresh Python prints, as JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(printed)


@pytest.mark.slow
async def test_one_trace_from_the_applications_span_through_the_agents_and_the_workers(
    tmp_path: Path, broker: LocalBroker
) -> None:
    hard = "gate = { threshold = 1.0 }"
    async with site.site(
        tmp_path, broker, bundle_folder=digits(), pipeline="digits", gate=hard
    ) as up:
        report = await run_python("-c", APPLICATION, broker.url, DEVICE)
        traces = tree.traces_of(await up.spans())
    ours = {report[name]: traces[report[name]] for name in ("threaded", "looped")}
    assert [finding.words() for finding in lint(ours)] == []
    own = {(span["trace"], span["name"]): span for span in report["spans"]}
    for name in ("threaded", "looped"):
        trace_id = report[name]
        submit = own[trace_id, "setsuden.submit"]
        assert submit["kind"] == "PRODUCER"
        assert submit["parent"] == own[trace_id, name]["span"]
        assert submit["attributes"]["setsuden.pipeline"] == "digits"
        assert submit["attributes"]["setsuden.device"] == DEVICE
        spans = {span.span.name: span.span for span in traces[trace_id].spans}
        assert spans.keys() >= {"event", "preprocess", "infer", "escalate", "process ESC"}
        assert spans["event"].parent_id == spans["store EVT"].parent_id == submit["span"]
    refused = own[report["refused"], "setsuden.submit"]
    assert (refused["status"], refused["parent"]) == ("ERROR", None)


@pytest.fixture
async def client() -> AsyncIterator[FakeAsyncClient]:
    """A client whose submitted events can be read."""

    def answer(event: Event) -> Answer:
        return Answer(label="a", index=0, confidence=1.0)

    async with FakeAsyncClient(answer, device=DEVICE) as started:
        yield started


def current(state: TraceState | None = None, *, sampled: bool = True) -> SpanContext:
    return SpanContext(
        trace_id=0xAB,
        span_id=0xCD,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT),
        trace_state=state,
    )


@pytest.mark.parametrize("sampled", [True, False])
async def test_a_current_span_is_the_parent_without_a_tracer_provider_too(
    client: FakeAsyncClient, sampled: bool
) -> None:
    context = current(TraceState([("vendor", "1"), ("other", "x")]), sampled=sampled)
    with trace.use_span(NonRecordingSpan(context)):
        handle = await client.submit("digits", b"")
    (event,) = client.events
    assert event.traceparent == traceparent(f"{0xAB:032x}", f"{0xCD:016x}", sampled=sampled)
    assert (event.tracestate, event.trace_id) == ("vendor=1,other=x", None)
    assert handle.trace_id == f"{0xAB:032x}"
    assert (await handle.result(timeout=5)).status is Status.FINAL


async def test_a_tracestate_over_the_bound_is_dropped_and_the_event_sent(
    client: FakeAsyncClient,
) -> None:
    state = TraceState([(f"vendor{number}", "x" * 200) for number in range(3)])
    with trace.use_span(NonRecordingSpan(current(state))):
        await client.submit("digits", b"")
    assert client.events[0].traceparent is not None
    assert client.events[0].tracestate is None


async def test_a_given_traceparent_is_sent_in_place_of_the_current_span(
    client: FakeAsyncClient,
) -> None:
    given = traceparent("12" * 16, "34" * 8)
    with trace.use_span(NonRecordingSpan(current())):
        await client.submit("digits", b"", traceparent=given)
    assert (client.events[0].traceparent, client.events[0].tracestate) == (given, None)


async def test_without_a_span_and_a_provider_the_client_chooses_the_trace_id(
    client: FakeAsyncClient,
) -> None:
    handle = await client.submit("digits", b"")
    (event,) = client.events
    assert (event.traceparent, event.tracestate) == (None, None)
    assert event.trace_id == handle.trace_id


async def test_without_opentelemetry_a_submission_imports_nothing_of_it() -> None:
    program = """
import json, sys
from setsuden.testing import FakeClient
from setsuden.client import Answer
with FakeClient(lambda event: Answer(label="a", index=0, confidence=1.0), device="d") as client:
    client.submit("digits", b"").result(timeout=5)
print(json.dumps([name for name in sys.modules if name.startswith("opentelemetry")]))
"""
    assert await run_python("-c", program) == []
