"""What an operator sees: whole traces in a real Jaeger, through outages and skewed clocks."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support import ml, site
from tests.support.agent import DEVICE, digits
from tests.support.cloud import eventually, until
from tests.support.leaf import LeafSite
from tests.support.spans import spooled

from setsuden.client import AsyncClient
from setsuden.insight.traces import read, tree
from setsuden.insight.traces.critical_path import critical_path
from setsuden.insight.traces.found import WARNINGS, FoundSpan
from setsuden.insight.traces.jaeger import JaegerQuery, trace_ids
from setsuden.insight.traces.lint import lint
from setsuden.insight.traces.tree import Trace
from setsuden.link import Incoming, JetStream, Link
from setsuden.link.tasks import end
from setsuden.schemas import escalation, streams
from setsuden.schemas.result import Result, Tier
from setsuden.schemas.streams import SPANS
from setsuden.schemas.subjects import HOPS
from setsuden.services.bridge.bridge import Bridge
from setsuden.services.bridge.sinks import LinesFile, OtlpEndpoint, Sink
from setsuden.services.config import CloudConfig
from setsuden.telemetry import Span, SpanKind, otlp, protobuf, traceparent
from setsuden.testing.broker import LocalBroker
from setsuden.testing.jaeger import LocalJaeger

pytestmark = [pytest.mark.jaeger]
HOUR = timedelta(hours=1)
SKEW_NS = 400_000_000
SKEWED = """
import time
_true = time.time_ns
time.time_ns = lambda: _true() + ({skew})
_seconds = time.time
time.time = lambda: _seconds() + ({skew}) / 1e9
"""


class Watched:
    """A site whose spans a bridge passes on to a Jaeger and a file."""

    def __init__(self, up: site.Site, jaeger: LocalJaeger, bridge: Bridge, file: Path) -> None:
        self.up, self.jaeger, self.bridge, self.file = up, jaeger, bridge, file
        self.query = JaegerQuery(jaeger.query_url)

    async def run(self, bodies: list[bytes]) -> list[Result]:
        """Submit events and return when Jaeger has all their spans; ends agent and worker."""
        finals = await self.up.submit_all(bodies)
        await self.settle()
        return finals

    async def settle(self) -> None:
        """Return when Jaeger has every span; agent and worker have ended then."""
        if self.up.agent.process is not None and self.up.agent.process.poll() is None:
            await asyncio.to_thread(self.up.agent.terminate)
        if self.up.worker is not None:
            await self.up.worker.aclose()
        await self.emptied()

    async def emptied(self) -> None:
        """Return when the broker holds no span any more."""

        async def empty() -> bool:
            info = await self.up.jetstream.api(f"STREAM.INFO.{SPANS}")
            return bool(info["state"]["messages"] == 0)

        await eventually(empty, 60)
        assert (self.bridge.spans.refused, self.bridge.spans.dropped) == ({}, 0)

    def trace(self, trace_id: str, *, raw: bool = False) -> Trace:
        """One trace as Jaeger gives it."""
        found = self.query.trace(trace_id, raw=raw)
        assert found is not None, trace_id
        groups = otlp.read(json.dumps(found))
        return tree.trace_of(FoundSpan(g.resource, span) for g in groups for span in g.spans)

    async def all_traces(self) -> list[str]:
        """Ids of every trace that was passed on; ends agent and worker."""
        await self.settle()
        return sorted(tree.traces_of(read.load([str(self.file)])))

    def warned(self, trace_ids: Iterable[str]) -> list[str]:
        """What Jaeger has to say of these traces, by its stable API and by its older one."""
        said = []
        for trace_id in trace_ids:
            trace = self.trace(trace_id)
            said += [f"v3 {one.span.name}: {one.text(WARNINGS)}" for one in warnings([trace])]
            url = f"{self.jaeger.query_url}/api/traces/{trace_id}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                (old,) = json.load(answer)["data"]
            assert len(old["spans"]) == len(trace.spans)
            said += [
                f"v1 {one['operationName']}: {word}"
                for one in old["spans"]
                for word in one["warnings"] or []
            ]
            said += [f"v1 trace: {word}" for word in old["warnings"] or []]
        return said

    def around(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        return {"start": now - HOUR, "end": now + HOUR}


@asynccontextmanager
async def watched(
    folder: Path, broker: LocalBroker | LeafSite, jaeger: LocalJaeger, **options: Any
) -> AsyncIterator[Watched]:
    async with AsyncExitStack() as ends:
        named: dict[str, Any] = {"bundle_folder": digits(), "pipeline": "digits"} | options
        up = await ends.enter_async_context(site.site(folder, broker, **named))
        link = Link(broker.options, "bridge")
        ends.push_async_callback(link.close)
        jetstream = JetStream(link)
        await jetstream.start()
        config = CloudConfig.model_validate(
            {
                "nats": broker.options,
                "pipelines": [{"name": "any", "bundle": "any"}],
                "bridge": {"endpoint": jaeger.otlp_url, "ack_wait_seconds": 6.0},
            }
        )
        file = folder / "bridged.jsonl"
        sinks: list[Sink] = [OtlpEndpoint(jaeger.otlp_url, {}, 5.0), LinesFile(file)]
        bridge = Bridge(config, link, jetstream, sinks)
        running = asyncio.create_task(bridge.run())
        ends.push_async_callback(end, running)
        link.start()
        yield Watched(up, jaeger, bridge, file)


@pytest.fixture
async def hard(tmp_path: Path, broker: LocalBroker, jaeger: LocalJaeger) -> AsyncIterator[Watched]:
    """Three of ten digits escalate."""
    async with watched(tmp_path, broker, jaeger, gate="gate = { escalate = 0.3 }") as up:
        yield up


def slow_bundle(folder: Path) -> Path:
    """A teacher whose inference is most of an escalation."""
    return ml.write_bundle(folder / "mine", student=True, repeats=400)


def escalated(finals: Iterable[Result]) -> set[str]:
    return {r.trace_id for r in finals if r.decision is not None and r.decision.escalates}


def warnings(traces: Iterable[Trace]) -> list[FoundSpan]:
    return [found for trace in traces for found in trace.spans if found.warned]


async def test_every_event_is_one_whole_trace_in_jaeger(hard: Watched) -> None:
    """Checks 1, 3, 4 and 8: roots, parents, names, joules, search, dependencies, the file."""
    finals = await hard.run(site.images(60))
    wanted = escalated(finals)
    assert wanted
    traces = {final.trace_id: hard.trace(final.trace_id) for final in finals}
    assert [finding.words() for finding in lint(traces)] == []
    assert hard.warned(await hard.all_traces()) == []
    for trace_id in wanted:
        trace = traces[trace_id]
        assert [root.span.name for root in trace.roots] == ["event"]
        assert {found.service for found in trace.spans} == {"edge-agent", "nats", "worker"}
        (escalate,) = trace.named("escalate")
        for name in ("store ESC", "process ESC", "store RES"):
            assert [trace.parent(found) for found in trace.named(name)] == [escalate]
        (root,) = trace.roots
        assert root.span.attributes["setsuden.energy.complete"] is True
        assert isinstance(root.span.attributes["setsuden.energy.trace_joules"], float)
        assert root.span.attributes["setsuden.sampling.adjusted_count"] == 1.0
    found = hard.query.find_by_attributes(
        "edge-agent", {"setsuden.escalated": "true"}, limit=500, **hard.around()
    )
    assert found == wanted
    edges = {
        (one.parent, one.child)
        for one in hard.query.dependencies(datetime.now(UTC) + HOUR, 2 * HOUR)
    }
    assert {("edge-agent", "worker"), ("edge-agent", "nats")} <= edges
    in_file = tree.traces_of(read.load([str(hard.file)]))
    shown = await asyncio.to_thread(hard.query.transform, hard.file.read_bytes())
    assert {one["traceID"]: len(one["spans"]) for one in shown} == {
        trace_id: len(trace.spans) for trace_id, trace in in_file.items()
    }
    assert all(len(traces[t].spans) == len(in_file[t].spans) for t in traces)


async def test_costly_events_are_found_by_their_class(hard: Watched) -> None:
    """Check 3: ``setsuden.energy.class=high`` gives those whose root says so, and no others."""
    finals = await hard.run(site.images(400))
    by_class = {
        trace_id: trace.roots[0].text("setsuden.energy.class")
        for trace_id, trace in tree.traces_of(read.load([str(hard.file)])).items()
        if trace.roots and trace.roots[0].span.name == "event"
    }
    expected = {trace_id for trace_id, name in by_class.items() if name == "high"}
    assert expected
    assert expected <= {final.trace_id for final in finals}
    found = hard.query.find_by_attributes(
        "edge-agent", {"setsuden.energy.class": "high"}, limit=1000, **hard.around()
    )
    assert found == expected


async def test_the_critical_path_runs_through_the_teacher_and_a_batch_has_a_trace(
    tmp_path: Path, broker: LocalBroker, jaeger: LocalJaeger
) -> None:
    """Checks 2 and 5; and slow traces are found by their duration."""
    async with watched(
        tmp_path, broker, jaeger, bundle_folder=slow_bundle(tmp_path), pipeline="mine"
    ) as up:
        finals = await up.run([ml.observation(index) for index in range(12)])
        traces = [up.trace(final.trace_id) for final in finals]
        batches = set()
        for trace in traces:
            (infer,) = trace.named("infer", "worker")
            assert infer.key in {section.found.key for section in critical_path(trace)}
            batches.add(str(infer.text("setsuden.batch.trace_id")))
        members = {found.key for trace in traces for found in trace.named("infer", "worker")}
        for batch_id in batches:
            (root,) = up.trace(batch_id).roots
            linked = [(link.trace_id, link.span_id) for link in root.span.links]
            assert set(linked) <= members
            shares = [
                found.number("setsuden.batch.share") or 0.0
                for trace in traces
                for found in trace.spans
                if found.key in linked
            ]
            assert sum(shares) == pytest.approx(1.0, abs=1e-9)
        shortest = min(infer.ms for trace in traces for infer in trace.named("infer", "worker"))
        slow = up.query.search(
            "worker",
            limit=100,
            min_duration=timedelta(milliseconds=shortest / 2),
            **up.around(),
        )
        assert {trace.trace_id for trace in traces} <= trace_ids(slow)


async def test_spans_outlast_jaeger_and_broker_and_come_once(
    hard: Watched, broker: LocalBroker
) -> None:
    """Check 6: Jaeger down and back, nats-server down and back, and a replay on top of it."""
    hard.jaeger.kill()
    finals = await hard.up.submit_all(site.images(30))
    await asyncio.to_thread(broker.kill)
    body = site.images(1)[0]
    status, _ = await asyncio.to_thread(hard.up.agent.event, body, pipeline="digits")
    assert status in {200, 202}
    await asyncio.to_thread(broker.start)
    await hard.up.link.wait_up(20)
    await eventually(lambda: refused(hard.bridge), 30)
    await asyncio.to_thread(hard.jaeger.start)
    await eventually(lambda: shipped_again(hard.up), 60)
    await hard.settle()
    traces = {final.trace_id: hard.trace(final.trace_id) for final in finals}
    assert [finding.words() for finding in lint(traces)] == []
    again = LinesFile(hard.file.with_name("copy.jsonl"))
    endpoint = OtlpEndpoint(hard.jaeger.otlp_url, {}, 5.0)
    for group in read_groups(hard.file):
        data = protobuf.encode(*group)
        for sink in (endpoint, endpoint, again):
            await asyncio.to_thread(sink.put, data)
    for trace_id, trace in traces.items():
        replayed = hard.trace(trace_id)
        assert len(replayed.spans) == len(trace.spans)
    assert spooled(hard.up.folder) == []


async def shipped_again(up: site.Site) -> bool:
    """True once the agent's link is back and what was sealed meanwhile is on its way."""
    status = await asyncio.to_thread(up.agent.ready)
    back = status is not None and bool(status["checks"]["link"]["ok"])
    return back and not any(up.folder.rglob("*.pb.gz"))


async def refused(bridge: Bridge) -> bool:
    """True once Jaeger's absence was met."""
    return bridge.spans.later > 0


def read_groups(file: Path) -> list[tuple[Any, list[Span]]]:
    """Resources and spans, line by line, as they were handed over."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(group.resource, group.spans) for line in lines for group in otlp.read(line)]


@pytest.mark.parametrize("skew_ns", [SKEW_NS, -SKEW_NS])
async def test_a_wrong_device_clock_is_measured_said_and_corrected(
    tmp_path: Path, broker: LocalBroker, jaeger: LocalJaeger, skew_ns: int
) -> None:
    """Check 7: estimate within its error, no warnings; moved back by it, Jaeger warns."""
    (tmp_path / "skew").mkdir()
    (tmp_path / "skew" / "sitecustomize.py").write_text(SKEWED.format(skew=skew_ns))
    async with watched(
        tmp_path,
        broker,
        jaeger,
        gate="gate = { threshold = 1.0 }",
        traces='host_id = "a-device"',
        environment={"PYTHONPATH": str(tmp_path / "skew")},
    ) as up:
        finals = await up.run(site.images(10))
        traces = {final.trace_id: up.trace(final.trace_id) for final in finals}
        assert [finding.words() for finding in lint(traces)] == []
        (root,) = traces[finals[0].trace_id].roots
        offset = root.number("setsuden.clock.offset_ms") or 0.0
        error = root.number("setsuden.clock.offset_error_ms") or 0.0
        assert abs(offset + skew_ns / 1e6) <= error + 1.0  # the two readings of the host differ
        assert root.flag("setsuden.clock.corrected") is True
        assert up.warned(await up.all_traces()) == []
        wrong = uncorrected(up, finals[0].trace_id, -round(offset * 1e6))
        assert warnings([wrong]) != []
        said = up.warned([wrong.trace_id])
        assert {one.split()[0] for one in said} == {"v1", "v3"}


def uncorrected(up: Watched, trace_id: str, by_ns: int) -> Trace:
    """The same trace under another id, its device spans where the device's clock had them."""
    other = f"{int(trace_id, 16) ^ 1:032x}"
    endpoint = OtlpEndpoint(up.jaeger.otlp_url, {}, 5.0)
    for resource, spans in read_groups(up.file):
        moved = [
            span._replace(trace_id=other, start_ns=span.start_ns + by, end_ns=span.end_ns + by)
            for span in spans
            if span.trace_id == trace_id
            for by in [by_ns if resource["service.name"] == "edge-agent" else 0]
        ]
        endpoint.put(protobuf.encode(resource, moved))
    return up.trace(other)


async def test_late_work_leaves_the_events_trace_short_and_links_to_it(
    tmp_path: Path, broker: LocalBroker, jaeger: LocalJaeger
) -> None:
    """Check 9: the deadline passes without a worker; what comes later is another trace."""
    async with watched(
        tmp_path,
        broker,
        jaeger,
        gate="gate = { threshold = 1.0 }\ndeadline_seconds = 0.3",
        worker=False,
    ) as up:
        (final,) = await up.up.submit_all(site.images(1), half=None)
        assert final.status == "expired"
        await site._add_worker(up.up, digits(), AsyncExitStack())

        await up.up.all_settled()
        await up.settle()
        trace = up.trace(final.trace_id)
        (escalate,) = trace.named("escalate")
        assert [event.name for event in escalate.span.events] == ["deadline.exceeded"]
        assert escalate.span.error == "expired"
        assert trace.named("process ESC") == []
        late = [
            found
            for found in read.load([str(up.file)])
            if found.span.name == "process ESC" and found.flag("setsuden.escalation.late")
        ]
        assert [link.trace_id for found in late for link in found.span.links] == [final.trace_id]
        apart = up.trace(late[0].span.trace_id)
        names = [row.found.span.name for row in apart.walk()]
        assert names == ["process ESC", "infer", "store RES"]
        assert up.warned(await up.all_traces()) == []


async def test_work_that_the_deadline_overtook_is_apart(
    tmp_path: Path, broker: LocalBroker, jaeger: LocalJaeger
) -> None:
    """Taken in time and answered too late: the device's wait has ended meanwhile."""
    folder = ml.write_bundle(tmp_path / "mine", student=True, repeats=20_000)
    gate = "gate = { threshold = 1.0 }\ndeadline_seconds = 0.06"
    options: dict[str, Any] = {"bundle_folder": folder, "pipeline": "mine", "gate": gate}
    async with watched(tmp_path, broker, jaeger, **options) as up:
        (final,) = await up.up.submit_all([ml.observation(1)], half=None)
        assert final.status == "expired"
        await up.up.all_settled()
        assert up.warned(await up.all_traces()) == []
        trace = up.trace(final.trace_id)
        assert trace.named("process ESC") == []
        (work,) = [f for f in read.load([str(up.file)]) if f.span.name == "process ESC"]
        assert work.span.links[0].span_id == trace.named("escalate")[0].span.span_id


async def test_jaeger_warns_of_no_dead_event(
    tmp_path: Path, broker: LocalBroker, jaeger: LocalJaeger
) -> None:
    folder = ml.write_bundle(tmp_path / "mine", poisoned=True)
    async with watched(tmp_path, broker, jaeger, bundle_folder=folder, pipeline="mine") as up:
        bodies = [ml.observation(1, first=ml.POISON), *map(ml.observation, range(5))]
        finals = await up.run(bodies)
        assert finals[0].status == "dead"
        assert up.warned(await up.all_traces()) == []
        trace = up.trace(finals[0].trace_id)
        assert [found.span.error for found in trace.named("process ESC")] == ["teacher_raised"]
        assert len(trace.named("store DEAD")) == 1
        assert [finding.words() for finding in lint({trace.trace_id: trace})] == []


async def test_jaeger_warns_of_no_event_that_waited_for_room_or_was_delivered_again(
    tmp_path: Path, broker: LocalBroker, jaeger: LocalJaeger
) -> None:
    """The results stream was full for a while, and copies came after the answer."""
    gate = "gate = { threshold = 1.0 }"
    async with watched(tmp_path, broker, jaeger, gate=gate) as up:
        link, jetstream = up.up.link, up.up.jetstream
        escalations: list[Incoming] = []
        told: list[Incoming] = []
        await link.subscribe("esc.>", escalations.append)
        await link.subscribe(HOPS, told.append)
        consumer = f"CONSUMER.INFO.ESC.{streams.consumer_name('local', 'digits')}"

        async def topology_is_there() -> bool:
            return await jetstream.find(consumer) is not None

        await eventually(topology_is_there, 30)
        info = await jetstream.api("STREAM.INFO.RES")
        await jetstream.api("STREAM.UPDATE.RES", info["config"] | {"max_bytes": 1})
        submitting = asyncio.create_task(up.up.submit_all(site.images(1), half=None))
        await until(lambda: any(b'"error"' in message.data for message in told))
        await jetstream.api("STREAM.UPDATE.RES", info["config"])
        (final,) = await submitting
        (first,) = escalations
        # As after a lost acknowledgement: the broker tells of no second arrival. The worker looks
        # for a result of what says that it is a copy, and finds out of the other when it stores.
        for extra in ({}, {escalation.COPY_HEADER: "1"}):
            copy = {**first.headers, "Nats-Trace-Dest": "trace disabled", **extra}
            copy["Nats-Msg-Id"] = f"copy {len(extra)}"
            await link.store(first.subject, first.data, copy)
            await up.up.all_settled()
        assert up.warned(await up.all_traces()) == []
        trace = up.trace(final.trace_id)
        assert len(trace.named("process ESC")) == 1
        works = [f for f in read.load([str(up.file)]) if f.span.name == "process ESC"]
        again = [f for f in works if f.span.trace_id != final.trace_id]
        assert [f.span.links[0].trace_id for f in again] == [final.trace_id] * 2
        errors = {f.text("setsuden.result.store_error") for f in again}
        assert errors == {"already_stored", None}


async def test_jaeger_warns_of_no_event_in_a_callers_trace(
    tmp_path: Path, broker: LocalBroker, jaeger: LocalJaeger
) -> None:
    """The caller's own span lasts until it has the answer."""
    async with watched(tmp_path, broker, jaeger, gate="gate = { threshold = 1.0 }") as up:
        trace_id, start = "ab" * 16, time.time_ns()
        header = traceparent(trace_id, "cd" * 8)
        async with AsyncClient(options=broker.options, device=DEVICE) as client:
            handle = await client.submit("digits", site.images(1)[0], traceparent=header)
            await handle.result(timeout=60)
        called = Span(
            trace_id, "cd" * 8, None, "call", SpanKind.CLIENT, start, time.time_ns() + 1_000_000, {}
        )
        app = {"service.name": "app", "host.id": "another"}
        OtlpEndpoint(jaeger.otlp_url, {}, 5.0).put(protobuf.encode(app, [called]))
        assert up.warned([trace_id, *await up.all_traces()]) == []
        trace = up.trace(trace_id)
        below = {found.span.name for found in trace.children["cd" * 8]}
        assert below == {"event", "store EVT"}


async def test_an_easy_event_shows_that_nobody_was_asked(hard: Watched) -> None:
    finals = await hard.run(site.images(30))
    easy = next(final for final in finals if final.tier is Tier.EDGE)
    trace = hard.trace(easy.trace_id)
    assert {found.span.name for found in trace.spans} == {"event", "preprocess", "infer"}
    sent = next(
        found
        for found in read.load([str(hard.file)])
        if found.span.name == "send RES" and found.span.links[0].trace_id == easy.trace_id
    )
    apart = hard.trace(sent.span.trace_id)
    assert [row.found.span.name for row in apart.walk()] == ["send RES", "store RES"]


async def test_every_server_on_the_way_is_a_hop_inside_the_wait(
    tmp_path: Path, jaeger: LocalJaeger
) -> None:
    """Check 10: a device at a leaf, the cloud at the hub."""
    gate = "gate = { threshold = 1.0 }"
    with LeafSite(tmp_path / "leaf") as servers:
        async with watched(tmp_path, servers, jaeger, gate=gate) as up:
            (final,) = await up.run(site.images(1))
            trace = up.trace(final.trace_id)
            assert [finding.words() for finding in lint({trace.trace_id: trace})] == []
            (escalate,) = trace.named("escalate")
            route, store = trace.named("route ESC")[0], trace.named("store ESC")[0]
            assert trace.parent(route) == trace.parent(store) == escalate
            assert (route.resource["server.name"], store.resource["server.name"]) == ("leaf", "hub")
            assert (route.number("setsuden.nats.hop"), store.number("setsuden.nats.hop")) == (0, 1)
            moments = [
                escalate.span.start_ns,
                route.span.start_ns,
                store.span.start_ns,
                store.span.end_ns,
                escalate.span.end_ns,
            ]
            assert moments == sorted(moments)
            assert trace.parent(trace.named("store RES")[0]) == escalate
            assert up.warned(await up.all_traces()) == []
