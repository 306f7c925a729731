"""The stream service: each device's own part of the events stream, and a watch over all streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import cloud
from tests.support.agent import DEVICE, AgentProcess, config
from tests.support.roles import RolesBroker

from setsuden.cli.checks.broker import Asker, check
from setsuden.link import Incoming, JetStream, Link
from setsuden.link.jetstream import SEQUENCE
from setsuden.link.tasks import end
from setsuden.schemas import streams, subjects
from setsuden.schemas.roles import Device, Site
from setsuden.schemas.stream_service import INFO, READ, RELEASE, StreamInfo
from setsuden.schemas.streams import Rates, StreamBounds
from setsuden.services.stream_service import StreamService, StreamWatch
from setsuden.testing.broker import LocalBroker


@pytest.fixture
async def service(
    broker: LocalBroker, jetstream: JetStream, link: Link, tmp_path: Path
) -> AsyncIterator[StreamService]:
    """A service that answers."""
    serving = StreamService(cloud.config_of(broker, tmp_path), link, jetstream)
    await serving.start()
    task = asyncio.create_task(serving.run())
    yield serving
    await end(task)


async def answers(link: Link, name: str, request: str, question: object) -> list[Incoming]:
    """Every message up to the empty one that ends an answer, or the only one."""
    heard: asyncio.Queue[Incoming] = asyncio.Queue()
    reply = f"{link.inbox}.test.{request}.{name}"
    await link.subscribe(reply, heard.put_nowait)
    body = json.dumps(question).encode()
    await link.send(subjects.service(name, request), body, reply=reply)
    found = []
    while (message := await asyncio.wait_for(heard.get(), 10)).data:
        found.append(message)
        if message.data.startswith(b"{"):
            break
    return found


async def test_a_device_reads_and_frees_its_own_events_alone(
    service: StreamService, link: Link, jetstream: JetStream
) -> None:
    for device in ("dev-1", "dev-2", "dev-1"):
        await link.store(f"evt.tiny.{device}", device.encode())
    mine = await answers(link, "dev-1", READ, {"pipeline": "tiny", "seq": 1})
    assert [(one.data, one.headers[SEQUENCE]) for one in mine] == [(b"dev-1", "1"), (b"dev-1", "3")]
    await answers(link, "dev-2", RELEASE, {"pipeline": "tiny", "seq": 3})
    assert [
        one.data for one in await jetstream.read("EVT", {"next_by_subj": "evt.>", "batch": 9})
    ] == [b"dev-1", b"dev-1"]
    (told,) = await answers(link, "dev-2", INFO, {})
    assert StreamInfo.model_validate_json(told.data).pipelines == ()


@pytest.mark.parametrize(
    ("request_", "question"),
    [
        (READ, {"pipeline": "*", "seq": 1}),
        (READ, {"pipeline": "tiny.dev-2.x", "seq": 1}),
        (READ, {"pipeline": "tiny", "seq": 0}),
        (READ, {"pipeline": "tiny", "seq": 1 << 63}),
        (RELEASE, {"pipeline": ">", "seq": 1}),
        (RELEASE, {"pipeline": "tiny"}),
        (RELEASE, [[]]),
        ("drop", {}),
        (READ, {"pipeline": "tiny", "seq": 1, "more": "x" * 5000}),
    ],
)
async def test_a_request_that_makes_no_sense_is_counted_and_changes_nothing(
    service: StreamService, link: Link, jetstream: JetStream, request_: str, question: object
) -> None:
    await link.store("evt.tiny.dev-1", b"1")
    body = json.dumps(question).encode()
    await link.send(f"cloud.dev-1.{request_}", body, reply=f"{link.inbox}.x")
    await cloud.until(lambda: service.counts["refused"] == 1)
    assert (await jetstream.api("STREAM.INFO.EVT"))["state"]["messages"] == 1
    assert await answers(link, "dev-1", READ, {"pipeline": "tiny", "seq": 1})


async def test_a_stream_that_fills_is_told_at_four_fifths_with_the_hours_that_are_left(
    broker: LocalBroker,
    jetstream: JetStream,
    link: Link,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bounds = StreamBounds(escalations_max_bytes=1 << 16)
    await jetstream.apply_stream(streams.escalations(bounds))
    watch = StreamWatch(cloud.config_of(broker, tmp_path), jetstream)
    await watch.look(0.0)
    for index in range(54):
        await link.store(f"esc.local.tiny.dev-1.dev-1-00000000-{index}", bytes(1000))
    await watch.look(3600.0)
    await watch.look(3660.0)
    (told,) = [vars(one) for one in caplog.records if one.message == "stream_filling"]
    assert (told["stream"], told["bound_bytes"]) == ("ESC", 1 << 16)
    assert 0 < told["hours_left"] < 1


async def test_a_pipeline_that_nobody_serves_is_told_until_a_worker_comes(
    service: StreamService,
    broker: LocalBroker,
    link: Link,
    jetstream: JetStream,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await cloud.escalate(link, [0])
    watch = service.watch
    await watch.look(0.0)
    await watch.look(15.0)
    (told,) = [vars(one) for one in caplog.records if one.message == "pipeline_unserved"]
    assert told["pipeline"] == cloud.PIPELINE
    async with cloud.bench(tmp_path, broker) as bench:
        await bench.start()
        await cloud.results(jetstream, 1)
        await watch.look(30.0)
        assert watch.unserved == set()


async def test_an_agent_whose_pipeline_nobody_serves_is_ready_and_says_so(
    service: StreamService, broker: LocalBroker, tmp_path: Path
) -> None:
    service.watch.unserved.add("digits")
    agent = AgentProcess(tmp_path / "agent", config(broker=broker))
    try:
        await asyncio.to_thread(agent.start)
        status = await asyncio.to_thread(agent.ready)
        assert status is not None
        assert status["status"] == "degraded"
        assert status["checks"]["cloud"] == {"ok": False, "unserved": ["digits"]}
        assert agent.metric("setsuden_pipelines_unserved") == 1
    finally:
        agent.kill()


async def test_doctor_tells_a_device_that_nobody_serves_its_pipeline(tmp_path: Path) -> None:
    site = Site(devices=(Device(name=DEVICE, pipelines=(cloud.PIPELINE,)),))
    with RolesBroker(tmp_path / "nats", site) as broker:
        link = Link(broker.login("operator"), "streams")
        jetstream = JetStream(link)
        await jetstream.start()
        serving = StreamService(cloud.config_of(broker, tmp_path), link, jetstream)
        await serving.start()
        link.start()
        await link.wait_up(10)
        await jetstream.apply_stream(streams.events(StreamBounds()))
        await serving.watch.look(0.0)
        await serving.watch.look(15.0)
        task = asyncio.create_task(serving.run())
        asker = Asker(DEVICE, DEVICE, device=True)
        login = broker.login(DEVICE, monitor_url=None)
        seen = await asyncio.to_thread(check, login, configured=True, asker=asker)
        await end(task)
        await link.close()
    assert any(cloud.PIPELINE in finding.cause for finding in seen), seen


# -- bounds from rates ----------------------------------------------------------------------------


@given(st.floats(0.01, 1e5), st.floats(0, 1), st.integers(1, 1 << 20))
def test_a_plan_is_a_valid_table_that_holds_what_it_says(
    events: float, escalated: float, event_bytes: int
) -> None:
    bounds = StreamBounds()
    rows = streams.plan(Rates(events, escalated, event_bytes), bounds)
    table = {row.option: row.max_bytes for row in rows}
    assert StreamBounds.model_validate(table).results_max_bytes == table["results_max_bytes"]
    kept = events * bounds.results_max_age_seconds * streams.RECORD_BYTES
    assert table["results_max_bytes"] * 0.8 >= kept * 0.99
    assert table["escalations_max_bytes"] >= 86_400 * events * escalated * event_bytes


async def test_a_stored_result_is_no_larger_than_the_plan_counts(
    broker: LocalBroker, jetstream: JetStream, link: Link, tmp_path: Path
) -> None:
    async with cloud.bench(tmp_path, broker) as bench:
        await cloud.escalate(link, range(20))
        await bench.start()
        await cloud.results(jetstream, 20)
    state = (await jetstream.api("STREAM.INFO.RES"))["state"]
    assert state["bytes"] / state["messages"] <= streams.RECORD_BYTES
