"""The caller's sampled flag decides, on every tier: no span of ours hangs under one never made."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from math import fsum
from pathlib import Path
from typing import Any

import pytest
from tests.support import site
from tests.support.agent import DEVICE, digits
from tests.support.meters import request_joules, windows

from setsuden.client import AsyncClient
from setsuden.insight.traces import tree
from setsuden.insight.traces.lint import lint
from setsuden.schemas.result import Result, Status, Tier
from setsuden.telemetry import parse_traceparent, traceparent
from setsuden.testing.broker import LocalBroker

CALLER = "cd" * 8
ALL_HARD, ALL_EASY = "gate = { threshold = 1.0 }", "gate = { threshold = 0.0 }"


def opened(
    folder: Path, broker: LocalBroker, gate: str, **options: Any
) -> AbstractAsyncContextManager[site.Site]:
    return site.site(
        folder, broker, bundle_folder=digits(), pipeline="digits", gate=gate, **options
    )


async def submitted(up: site.Site, contexts: list[str | None]) -> list[Result]:
    """One event for each context, all at once; their finals."""
    images = site.images(len(contexts))
    async with AsyncClient(options=up.broker.options, device=DEVICE) as client:

        async def one(index: int) -> Result:
            handle = await client.submit("digits", images[index], traceparent=contexts[index])
            return await handle.result(timeout=60)

        return list(await asyncio.gather(*map(one, range(len(contexts)))))


def context(number: int, *, sampled: bool) -> str:
    return traceparent(f"{number + 1:032x}", CALLER, sampled=sampled)


@pytest.mark.parametrize("gate", [ALL_HARD, ALL_EASY])
async def test_an_event_of_an_unsampled_trace_gives_no_span_on_any_tier(
    tmp_path: Path, broker: LocalBroker, gate: str
) -> None:
    """And its joules are counted as any other's."""
    async with opened(tmp_path, broker, gate) as up:
        finals = await submitted(up, [context(number, sampled=False) for number in range(12)])
        assert {final.status for final in finals} == {Status.FINAL}
        assert {final.trace_id for final in finals} == {f"{n + 1:032x}" for n in range(12)}
        assert await up.spans() == []
    assert request_joules(up.agent.folder) > 0
    assert sum(row.counts.local + row.counts.cloud for row in windows(up.agent.folder)) == 12
    if gate == ALL_HARD:
        assert all(final.energy.cloud is not None for final in finals)
        assert request_joules(tmp_path / "cloud") > 0


async def test_an_easy_event_of_a_sampled_trace_is_in_it(
    tmp_path: Path, broker: LocalBroker
) -> None:
    async with opened(tmp_path, broker, ALL_EASY, easy_share=0.0) as up:
        (final,) = await submitted(up, [context(0, sampled=True)])
        assert final.tier is Tier.EDGE
        traces = tree.traces_of(await up.spans())
    spans = {found.span.name: found.span for found in traces[final.trace_id].spans}
    assert spans.keys() == {"store EVT", "event", "preprocess", "infer"}
    assert spans["event"].parent_id == spans["store EVT"].parent_id == CALLER
    assert spans["event"].attributes["setsuden.sampling.reason"] == "caller"
    assert spans["event"].attributes["setsuden.sampling.adjusted_count"] == 1.0
    assert [finding.words() for finding in lint(traces)] == []


async def test_without_a_caller_the_device_decides(tmp_path: Path, broker: LocalBroker) -> None:
    async with opened(tmp_path, broker, ALL_EASY, easy_share=0.0) as up:
        await submitted(up, [None] * 5)
        assert await up.spans() == []


async def test_sampled_and_unsampled_events_of_one_batch_are_told_apart(
    tmp_path: Path, broker: LocalBroker
) -> None:
    async with opened(tmp_path, broker, ALL_HARD) as up:
        contexts = [context(number, sampled=number % 3 == 0) for number in range(60)]
        finals = await submitted(up, [*contexts, *[None] * 20])
        traces = tree.traces_of(await up.spans())
    unseen = {found.trace_id for found in map(parse_traceparent, contexts)
              if found is not None and not found.sampled}  # fmt: skip
    assert len(unseen) == 40
    assert not unseen & traces.keys()
    assert {final.trace_id for final in finals} - unseen <= traces.keys()
    assert [finding.words() for finding in lint(traces)] == []
    linked = {
        link.trace_id
        for trace in traces.values()
        for found in trace.spans
        for link in found.span.links
    }
    assert not unseen & linked


async def test_a_device_without_tracing_starts_no_trace_that_others_would_hang_under(
    tmp_path: Path, broker: LocalBroker
) -> None:
    async with opened(tmp_path, broker, ALL_HARD, traces="enabled = false") as up:
        (final,) = await submitted(up, [None])
        assert final.tier is Tier.CLOUD
        assert await up.spans() == []


async def test_a_caller_that_samples_everything_fills_no_spool(
    tmp_path: Path, broker: LocalBroker
) -> None:
    async with opened(tmp_path, broker, ALL_EASY, easy_share=0.0) as up:
        count = 0
        while not (declined := up.agent.metric("setsuden_traces_declined_total")):
            assert count < 5000
            await submitted(up, [context(count + n, sampled=True) for n in range(250)])
            count += 250
        spans = await up.spans()
    traced = fsum(1 for found in spans if found.span.name == "event")
    assert traced + declined == count
