"""The main job on real parts: agent process, broker, worker, client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from math import fsum
from pathlib import Path

import numpy as np
import pytest
from tests.support import cloud, ml, site
from tests.support.agent import DEVICE, digits
from tests.support.meters import request_joules, windows

from setsuden.client import AsyncClient
from setsuden.insight.traces import tree
from setsuden.insight.traces.lint import lint
from setsuden.schemas import subjects
from setsuden.schemas.errors import OutboxFullError
from setsuden.schemas.result import Status, Tier
from setsuden.testing.broker import LocalBroker


@pytest.fixture
async def digits_site(tmp_path: Path, broker: LocalBroker) -> AsyncIterator[site.Site]:
    async with site.site(
        tmp_path, broker, bundle_folder=digits(), pipeline="digits", gate="gate = { escalate=0.3 }"
    ) as up:
        yield up


async def test_easy_events_end_on_the_edge_and_hard_ones_in_the_cloud(
    digits_site: site.Site,
) -> None:
    finals = await digits_site.submit_all(site.images(200))
    tiers = {final.tier for final in finals}
    assert tiers == {Tier.EDGE, Tier.CLOUD}
    assert {final.status for final in finals} == {Status.FINAL}
    for final in finals:
        assert final.decision is not None
        assert final.decision.escalates == (final.tier is Tier.CLOUD)
        assert final.energy.edge is not None
        assert (final.energy.cloud is not None) == (final.tier is Tier.CLOUD)
    records = await digits_site.records()
    assert len(records) == 200
    assert site.doubled(records) == 0


async def test_a_header_that_looks_like_the_brokers_answer_stalls_no_pipeline(
    digits_site: site.Site,
) -> None:
    """Such events lie in the stream as the agent reads on from its cursor."""
    await asyncio.to_thread(digits_site.agent.kill)
    body = site.images(1)[0]
    for number, status in enumerate(("404", "200", "abc")):
        headers = {
            "ce-id": f"odd-{number}",
            "ce-source": "test",
            "ce-specversion": "1.0",
            "content-type": "application/octet-stream",
            "Status": status,
        }
        await digits_site.link.store(subjects.event("digits", DEVICE), body, headers)
    await asyncio.to_thread(digits_site.agent.start)
    finals = await digits_site.submit_all(site.images(5))
    assert {final.status for final in finals} == {Status.FINAL}

    async def all_answered() -> bool:
        return len(await digits_site.records()) == 8

    await cloud.eventually(all_answered, 30)


async def test_the_spans_of_a_run_sum_to_the_request_buckets_of_its_rows(
    digits_site: site.Site,
) -> None:
    await digits_site.submit_all(site.images(100))
    found = await digits_site.spans()
    for service, folder in (
        ("edge-agent", digits_site.agent.folder),
        ("worker", digits_site.folder / "cloud"),
    ):
        infers = [one for one in found if one.service == service and one.span.name == "infer"]
        assert {one.text("setsuden.energy.quality") for one in infers} == {"ok"}
        spent = fsum(one.number("setsuden.energy.joules") or 0.0 for one in infers)
        assert spent == pytest.approx(request_joules(folder), rel=1e-9)
    counts = [row.counts for row in windows(digits_site.agent.folder)]
    assert sum(count.local + count.cloud for count in counts) == 100
    assert sum(count.escalated for count in counts) == sum(count.cloud for count in counts)
    assert sum(count.bytes_up for count in counts) > 784 * sum(count.escalated for count in counts)


async def test_one_escalated_event_is_one_whole_trace(digits_site: site.Site) -> None:
    finals = await digits_site.submit_all(site.images(60))
    hard = next(final for final in finals if final.tier is Tier.CLOUD)
    found = await digits_site.spans()
    trace = tree.traces_of(found)[hard.trace_id]
    (root,) = trace.roots
    assert (root.span.name, trace.orphans) == ("event", ())
    (process,) = trace.named("process ESC")
    above = trace.parent(process)
    assert above is not None
    assert above.span.name == "escalate"
    infers = trace.named("infer")
    assert {infer.service for infer in infers} == {"edge-agent", "worker"}
    joules = [infer.number("setsuden.energy.joules") or 0.0 for infer in infers]
    assert all(value > 0 for value in joules)
    low = root.number("setsuden.energy.trace_joules_low") or 0.0
    high = root.number("setsuden.energy.trace_joules_high") or 0.0
    assert low <= sum(joules) <= high
    assert root.flag("setsuden.energy.complete") is True
    assert {hop.span.name for hop in trace.spans if hop.service == "nats"} == {
        "store ESC",
        "store RES",
    }


async def test_every_trace_of_a_site_passes_the_lint(digits_site: site.Site) -> None:
    """Parents, names, microseconds, joules, batches: what ``setsuden trace lint`` looks at."""
    finals = await digits_site.submit_all(site.images(120))
    traces = tree.traces_of(await digits_site.spans())
    assert [finding.words() for finding in lint(traces)] == []
    assert {final.trace_id for final in finals if final.tier is Tier.CLOUD} <= set(traces)


async def test_a_pair_of_models_the_code_never_saw_runs_from_its_folder_alone(
    tmp_path: Path, broker: LocalBroker
) -> None:
    folder = ml.write_bundle(tmp_path / "mine", student=True)
    async with site.site(tmp_path, broker, bundle_folder=folder, pipeline="mine") as up:
        finals = await up.submit_all([ml.observation(index) for index in range(30)])
    labels = [final.answer.label for final in finals if final.answer is not None]
    assert labels == [ml.label(index) for index in range(30)]
    assert {final.tier for final in finals} == {Tier.CLOUD}
    assert all(final.model is not None and final.model.bundle == "tiny" for final in finals)


async def test_events_wait_on_the_broker_while_the_outbox_is_full(
    tmp_path: Path, broker: LocalBroker
) -> None:
    """Room for five observations, forty hard cases: refused none, lost none, in order."""
    async with site.site(
        tmp_path,
        broker,
        bundle_folder=digits(),
        pipeline="digits",
        gate="gate = { threshold = 1.0 }",
        extra="outbox = { max_bytes = 4096 }",
    ) as up:
        finals = await up.submit_all(site.images(40))
        assert {final.tier for final in finals} == {Tier.CLOUD}
        assert len(await up.records()) == 40
        assert up.agent.metric("setsuden_refused_events_total") == 0


async def test_an_event_larger_than_the_whole_outbox_does_not_block_the_others(
    tmp_path: Path, broker: LocalBroker
) -> None:
    folder = ml.write_bundle(tmp_path / "wide", student=True)
    text = (folder / "bundle.toml").read_text(encoding="utf-8")
    (folder / "bundle.toml").write_text(text.replace("shape = [4]", "shape = [2000]"))
    for name in ("student.onnx", "teacher.onnx"):
        (folder / name).write_bytes(ml.linear(np.zeros((2000, 3), np.float32)))
    async with (
        site.site(
            tmp_path,
            broker,
            bundle_folder=folder,
            pipeline="wide",
            extra="outbox = { max_bytes = 4096 }",
        ),
        AsyncClient(options=broker.options, device=DEVICE) as client,
    ):
        for _ in range(2):
            handle = await client.submit("wide", bytes(8000))
            with pytest.raises(OutboxFullError) as refused:
                await handle.result(timeout=20)
            assert refused.value.quota_bytes == 4096


@pytest.mark.slow
async def test_a_killed_agent_loses_nothing_of_2000_events(digits_site: site.Site) -> None:
    def kill() -> None:
        digits_site.agent.kill()
        digits_site.agent.start()

    await site.whole(digits_site, kill)


@pytest.mark.slow
async def test_a_killed_broker_loses_nothing_of_2000_events(
    digits_site: site.Site, broker: LocalBroker
) -> None:
    def kill() -> None:
        broker.kill()
        broker.start()

    await site.whole(digits_site, kill)


async def test_finals_made_during_an_outage_reach_the_results_stream_after_it(
    tmp_path: Path, broker: LocalBroker
) -> None:
    """1,200 events over HTTP expire while the broker is dead: every record is stored after it."""
    async with site.site(
        tmp_path,
        broker,
        bundle_folder=digits(),
        pipeline="digits",
        gate="deadline_seconds = 0.05\ngate = { threshold = 1.0 }",
    ) as up:
        await asyncio.to_thread(broker.kill)
        body = site.images(1)[0]
        statuses = await asyncio.to_thread(lambda: [up.agent.event(body)[0] for _ in range(1200)])
        assert set(statuses) <= {200, 202}
        await asyncio.to_thread(broker.start)
        records = await cloud.results(up.jetstream, 1200)
    assert {record.status for record in records} == {Status.EXPIRED}
