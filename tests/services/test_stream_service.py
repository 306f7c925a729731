"""The stream service under strange requests, floods, and streams that vanish below it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support import cloud

from setsuden.link import JetStream, Link, LinkState
from setsuden.schemas import streams, subjects
from setsuden.schemas.errors import LinkError
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.stream_service import StreamInfo
from setsuden.services import stream_service, topology
from setsuden.services.config import CloudConfig
from setsuden.services.stream_service import StreamService
from setsuden.testing.broker import ONE_ACCOUNT, LocalBroker

DEVICE = "d1"


def config_of(broker: LocalBroker) -> CloudConfig:
    return CloudConfig(nats=broker.options, pipelines=(PipelineSpec(name="p1", bundle="x"),))


@asynccontextmanager
async def serving(
    broker: LocalBroker, *, runs: bool = True
) -> AsyncIterator[tuple[StreamService, asyncio.Task[None] | None]]:
    """A service over a link of its own; without ``runs`` it listens and answers nobody."""
    config = config_of(broker)
    link = Link(config.nats, "streams")
    jetstream = JetStream(link)
    await jetstream.start()
    service = StreamService(config, link, jetstream)
    await service.start()
    link.start()
    await link.wait_up(10)
    task = asyncio.create_task(service.run()) if runs else None
    try:
        yield service, task
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await link.close()


async def ask(jetstream: JetStream, request: str, body: bytes = b"") -> bytes:
    return (await jetstream.ask(subjects.service(DEVICE, request), body)).data


@pytest.mark.parametrize("pipeline", ["a!b", "ü", "x" * 80])
async def test_an_event_under_a_name_that_nobody_may_have_hides_no_other_pipeline(
    broker: LocalBroker, jetstream: JetStream, link: Link, pipeline: str
) -> None:
    await link.store(f"evt.p1.{DEVICE}", b"x")
    await link.store(f"evt.{pipeline}.{DEVICE}", b"x")
    async with serving(broker):
        info = StreamInfo.model_validate_json(await ask(jetstream, "info"))
    assert info.pipelines == ("p1",)


async def test_more_pipelines_than_a_device_can_have_hide_nothing_but_themselves(
    broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    for number in range(1100):
        await link.send(f"evt.p{number:04}.{DEVICE}", b"x")
    await link.store(f"evt.a.{DEVICE}", b"x")
    async with serving(broker):
        info = StreamInfo.model_validate_json(await ask(jetstream, "info"))
    assert len(info.pipelines) == 1024
    assert "a" in info.pipelines


async def test_large_and_many_requests_of_one_device_take_little_memory_and_nobodys_turn(
    broker: LocalBroker, link: Link
) -> None:
    async with serving(broker, runs=False) as (service, _):
        for _ in range(50):
            await link.send("cloud.d1.read", bytes(500_000), reply="_INBOX.x")
            await link.send("cloud.d1.made-up", b"", reply="_INBOX.x")
            await link.send("cloud.d1.read", b"{}")
        assert await link.flush()
        await cloud.until(lambda: service.counts["refused"] == 150)
        assert service.waiting == 0
        for _ in range(stream_service.MAX_WAITING):
            await link.send("cloud.d1.info", b"", reply="_INBOX.x", headers={"x": "y" * 100})
        await link.send("cloud.d2.info", b"", reply="_INBOX.x")
        assert await link.flush()
        most = stream_service.MAX_WAITING_EACH
        await cloud.until(lambda: service.waiting == most + 1)
        assert service.counts["dropped"] == stream_service.MAX_WAITING - most


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[" * 4000, b"\xff\xfe", b"null", b'{"pipeline":"p1","seq":0}',
        b'{"pipeline":"p1","seq":1e400}', b'{"pipeline":"p1","seq":9223372036854775807}',
        b'{"pipeline":"p1","seq":NaN}', b'{"pipeline":"*","seq":1}', b'{"pipeline":">","seq":1}',
        b'{"pipeline":"p1","seq":-1,"seq":1}', b'{"region":"*","pipeline":"p1"}',
    ],
)  # fmt: skip
async def test_a_malformed_request_ends_nothing(
    broker: LocalBroker, jetstream: JetStream, link: Link, body: bytes
) -> None:
    async with serving(broker) as (service, task):
        for request in ("info", "read", "release", "proof", "lag"):
            await link.send(f"cloud.{DEVICE}.{request}", body, reply="_INBOX.x")
        assert json.loads(await ask(jetstream, "proof"))["sync_always"]
        assert task is not None
        assert not task.done()
        assert service.counts["failed"] <= 1


async def test_streams_and_consumers_that_vanish_are_made_again(
    broker: LocalBroker, jetstream: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that logs in may not, and would pull from what is not there for ever."""
    monkeypatch.setattr(stream_service, "WATCH_SECONDS", 0.05)
    async with serving(broker):
        for name in ("EVT", "ESC", "LEASE"):
            await jetstream.find(f"STREAM.DELETE.{name}")

        async def whole() -> bool:
            consumer = streams.consumer_name("local", "p1")
            found = [await jetstream.find(f"CONSUMER.INFO.ESC.{consumer}")]
            found += [await jetstream.find(f"STREAM.INFO.{name}") for name in ("EVT", "LEASE")]
            return None not in found

        await cloud.eventually(whole, 10)


async def test_a_stream_that_somebody_changed_is_said_and_left_alone(
    broker: LocalBroker,
    jetstream: JetStream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(stream_service, "WATCH_SECONDS", 0.02)
    await topology.apply_all(jetstream, config_of(broker))
    found = (await jetstream.api("STREAM.INFO.RES"))["config"]
    changed = {"discard_new_per_subject": False, "max_msgs_per_subject": 5}
    await jetstream.api("STREAM.UPDATE.RES", found | changed)
    async with serving(broker):
        await cloud.until(lambda: "stream_differs" in caplog.messages, 10, 0.02)
    (said,) = [one for one in caplog.records if one.message == "stream_differs"]
    assert said.__dict__["options"] == sorted(changed)
    kept = (await jetstream.api("STREAM.INFO.RES"))["config"]
    assert kept["max_msgs_per_subject"] == 5


async def test_a_restarted_broker_is_served_on(tmp_path: Path) -> None:
    with LocalBroker(tmp_path / "nats") as broker:
        asker = Link(broker.options, "asker")
        jetstream = JetStream(asker)
        await jetstream.start()
        asker.start()
        await asker.wait_up(10)
        try:
            for stream in streams.all_streams(streams.StreamBounds()):
                await jetstream.apply_stream(stream)
            async with serving(broker):
                for _ in range(3):
                    assert await ask(jetstream, "info")
                    broker.kill()
                    await cloud.until(lambda: asker.state is not LinkState.UP)
                    broker.start()

                    async def answered() -> bool:
                        try:
                            return bool(await ask(jetstream, "info"))
                        except LinkError:
                            return False

                    await cloud.eventually(answered, 20)
        finally:
            await asker.close()


async def test_a_strange_word_of_the_broker_about_a_stream_ends_no_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an open broker anybody may answer in the server's place."""
    monkeypatch.setattr(stream_service, "WATCH_SECONDS", 0.02)
    deaf = ONE_ACCOUNT.replace("jetstream: enabled", "")
    with LocalBroker(tmp_path / "nats", accounts=deaf) as broker:
        liar = Link(broker.options, "liar")
        liar.start()
        await liar.wait_up(10)
        try:
            await _lied_to(broker, liar)
        finally:
            await liar.close()


async def _lied_to(broker: LocalBroker, link: Link) -> None:
    asked = asyncio.Event()

    def lie(message: object) -> None:
        reply = getattr(message, "reply", "")
        told = asyncio.ensure_future(link.send(reply, b'{"state":{},"config":[]}'))
        told.add_done_callback(lambda _: asked.set())

    await link.subscribe("$JS.API.STREAM.INFO.*", lie)
    await link.subscribe("$JS.API.CONSUMER.INFO.>", lie)
    assert await link.flush()
    async with serving(broker) as (_, task):
        async with asyncio.timeout(10):
            for _ in range(10):
                asked.clear()
                await asked.wait()
        assert task is not None
        assert not task.done()
