"""Whatever becomes of a state folder, an event has one final result, and its own."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support import cloud, ml
from tests.support.agent import DEVICE, AgentProcess, config
from tests.support.site import Site, site

from setsuden.client import AsyncClient
from setsuden.link import JetStream
from setsuden.schemas.result import Result, Status
from setsuden.testing.broker import LocalBroker

pytestmark = pytest.mark.slow


@asynccontextmanager
async def running(
    tmp_path: Path, broker: LocalBroker, gate: str
) -> AsyncIterator[tuple[Site, Callable[[int], asyncio.Future[Result]]]]:
    bundle = ml.write_bundle(tmp_path / "mine", student=True)
    async with (
        site(tmp_path, broker, bundle_folder=bundle, pipeline="mine", gate=gate) as up,
        AsyncClient(options=broker.options, device=DEVICE) as client,
    ):

        async def answer(index: int) -> Result:
            handle = await client.submit("mine", ml.observation(index))
            return await handle.result(timeout=60)

        yield up, lambda index: asyncio.ensure_future(answer(index))


async def finals(jetstream: JetStream) -> Counter[str]:
    return Counter(record.event_id for record in await cloud.records(jetstream))


@pytest.mark.parametrize("threshold", [0.0, 1.0])
async def test_a_lost_state_folder_accepts_nothing_twice(
    tmp_path: Path, broker: LocalBroker, threshold: float
) -> None:
    """Easy and hard events alike: the stream still holds them all, and their results too."""
    gate = f"gate = {{ threshold = {threshold} }}"
    async with running(tmp_path, broker, gate) as (up, answer):
        before = await asyncio.gather(*map(answer, range(60)))
        await asyncio.to_thread(up.agent.kill)
        shutil.rmtree(up.agent.folder / "state")
        await asyncio.to_thread(up.agent.start)
        after = await answer(60)
        assert after.status is Status.FINAL
        records = await finals(up.jetstream)
        assert set(records.values()) == {1}
        assert set(records) == {r.event_id for r in [*before, after]}
        assert await asyncio.to_thread(up.agent.metric, "setsuden_accepted_events_total") == 1


async def test_a_restored_older_state_folder_accepts_nothing_twice(
    tmp_path: Path, broker: LocalBroker
) -> None:
    gate = "gate = { threshold = 1.0 }"
    async with running(tmp_path, broker, gate) as (up, answer):
        first = await asyncio.gather(*map(answer, range(20)))
        await asyncio.to_thread(up.agent.kill)
        shutil.copytree(up.agent.folder / "state", tmp_path / "backup")
        await asyncio.to_thread(up.agent.start)
        second = await asyncio.gather(*map(answer, range(20, 60)))
        await asyncio.to_thread(up.agent.kill)
        shutil.rmtree(up.agent.folder / "state")
        shutil.copytree(tmp_path / "backup", up.agent.folder / "state")
        await asyncio.to_thread(up.agent.start)
        last = await answer(60)
        records = await finals(up.jetstream)
        assert set(records.values()) == {1}
        assert set(records) == {r.event_id for r in [*first, *second, last]}
        for index, result in enumerate([*first, *second, last]):
            assert result.answer is not None
            assert result.answer.label == ml.label(index)


async def test_a_copied_folder_never_gives_one_event_anothers_answer(
    tmp_path: Path, broker: LocalBroker
) -> None:
    """A cloned card: both devices accept events over HTTP; the second gets no link."""
    gate = "gate = { threshold = 1.0 }"
    async with running(tmp_path, broker, gate) as (up, answer):
        await answer(0)
        await asyncio.to_thread(up.agent.terminate)
        await asyncio.to_thread(shutil.copytree, up.agent.folder, tmp_path / "clone")
        await asyncio.to_thread(up.agent.start)
        bundle = tmp_path / "mine"
        text = config(broker=broker, bundle=bundle, pipeline="mine", pipeline_extra=gate)
        clone = AgentProcess(tmp_path / "clone", text)
        try:
            await asyncio.to_thread(clone.start, link=False)
            theirs = await asyncio.to_thread(up.agent.event, ml.observation(1), wait=30, id="1")
            ours = await asyncio.to_thread(clone.event, ml.observation(2), id="2")
            assert theirs[1]["answer"]["label"] == ml.label(1)
            assert (ours[0], ours[1]["status"]) == (202, "provisional")
            assert ours[1]["event_id"] != theirs[1]["event_id"]
            status, body = await asyncio.to_thread(clone.get, "/readyz")
            assert status == 503
            assert b"in use by another agent" in body
            # The first one goes; the clone is the device from then on, and answers its own event.
            await asyncio.to_thread(up.agent.terminate)
            path = f"/events/{ours[1]['event_id']}?wait=15"
            final = Result.model_validate_json((await asyncio.to_thread(clone.get, path))[1])
            while final.status is Status.PROVISIONAL:
                final = Result.model_validate_json((await asyncio.to_thread(clone.get, path))[1])
            assert final.status is Status.FINAL
            assert final.answer is not None
            assert final.answer.label == ml.label(2)
        finally:
            clone.kill()


async def test_events_of_a_stream_made_anew_are_other_events(
    tmp_path: Path, broker: LocalBroker
) -> None:
    gate = "gate = { threshold = 0.0 }"
    async with running(tmp_path, broker, gate) as (up, answer):
        first = await answer(1)
        info = await up.jetstream.api("STREAM.INFO.EVT")
        await up.jetstream.api("STREAM.DELETE.EVT")
        wanted = {k: v for k, v in info["config"].items() if k != "metadata"}
        await up.jetstream.apply_stream(wanted)
        up.link.drop()
        second = await answer(2)
        assert second.event_id != first.event_id
        assert second.answer is not None
        assert second.answer.label == ml.label(2)
