"""What befalls a worker through its broker: streams gone or made anew, messages too large."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support import cloud, ml

from setsuden.link import Incoming, JetStream, Link
from setsuden.schemas.result import Status
from setsuden.schemas.streams import StreamBounds, escalations
from setsuden.services import topology
from setsuden.testing.broker import LocalBroker


@pytest.fixture
async def bench(tmp_path: Path, broker: LocalBroker) -> AsyncIterator[cloud.Bench]:
    async with cloud.bench(tmp_path, broker) as ready:
        yield ready


async def test_an_answer_that_its_stream_never_takes_ends_as_a_dead_letter(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    """Waiting for it would fill the worker's hand with events that never leave."""
    info = await jetstream.api("STREAM.INFO.RES")
    await jetstream.api("STREAM.UPDATE.RES", info["config"] | {"max_msg_size": 900})
    worker = await bench.start()
    await cloud.escalate(link, range(3))
    found = await cloud.results(jetstream, 3, timeout_seconds=20)
    assert {result.status for result in found} == {Status.DEAD}
    assert {result.error.code for result in found if result.error} == {"result_too_large"}
    await cloud.until_settled(jetstream)
    assert worker.counters.dead == 3


async def test_what_its_link_could_not_read_or_stumbled_over_is_among_its_numbers(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    worker = await bench.start()
    await cloud.until(lambda: worker.ready)
    told = bench.links[0]
    await link.send(f"{told.inbox}.ack.x", b"", headers={"x": "y" * 100_000})
    await link.send(f"{told.inbox}.ack.x", b"")
    assert await link.flush()
    await cloud.until(lambda: worker.status()["link_unreadable_messages"] == 1)
    assert worker.status()["link_handler_errors"] == 0


async def test_a_missing_stream_of_dead_letters_holds_up_no_final_result(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    worker = await bench.start()
    await cloud.until(lambda: worker.ready)
    await jetstream.api("STREAM.DELETE.DEAD")
    await cloud.escalate(link, [1], body=b"short")
    (result,) = await cloud.results(jetstream, 1, timeout_seconds=30)
    assert result.status is Status.DEAD
    await cloud.until_settled(jetstream)


async def test_an_event_of_a_stream_made_anew_is_not_taken_for_the_one_with_its_number(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    """The escalation stream is wiped while results wait; then both events are number 1."""
    await cloud.claim(link, 9, Status.EXPIRED)
    info = await jetstream.api("STREAM.INFO.RES")
    await jetstream.api("STREAM.UPDATE.RES", info["config"] | {"max_msgs": 1})
    worker = await bench.start()
    await cloud.until(lambda: worker.ready)
    await cloud.escalate(link, [1])
    await cloud.until(lambda: worker.counters.refused > 0)
    await jetstream.api("STREAM.DELETE.ESC")
    await jetstream.apply_stream(escalations(StreamBounds()))
    await cloud.escalate(link, [2])
    await cloud.until(lambda: worker.counters.taken > 1)
    await jetstream.api("STREAM.UPDATE.RES", info["config"])
    found = await cloud.results(jetstream, 3, timeout_seconds=30)
    assert {result.event_id for result in found} >= {cloud.event_id(1), cloud.event_id(2)}


@pytest.mark.parametrize("device", ["a\u00a0b", "d\x01", 'q"', "ü" * 200, "x" * 3000])
async def test_a_name_that_nobody_may_have_ends_as_a_dead_letter(
    bench: cloud.Bench, jetstream: JetStream, link: Link, device: str
) -> None:
    await bench.start()
    headers = {"ce-id": "1", "ce-source": "x"}
    await link.store(f"esc.local.tiny.{device}.x", ml.observation(1), headers)
    await cloud.until_settled(jetstream)
    (letter,) = await cloud.stored(jetstream, "DEAD", "dead.>")
    assert json.loads(letter.data)["event_id"] is None


async def test_an_event_that_was_delivered_often_and_never_run_is_answered(
    bench: cloud.Bench, jetstream: JetStream, link: Link, broker: LocalBroker, tmp_path: Path
) -> None:
    """Nine workers took it and died: none of that is the event's fault, and none is an attempt."""
    config = cloud.config_of(broker, tmp_path)
    await topology.apply_consumer(jetstream, config, cloud.PIPELINE)
    await cloud.escalate(link, [0])
    delivered: asyncio.Queue[Incoming] = asyncio.Queue()
    inbox = f"{link.inbox}.deliveries"
    await link.subscribe(inbox, delivered.put_nowait)
    for _ in range(9):
        subject = f"$JS.API.CONSUMER.MSG.NEXT.ESC.{cloud.CONSUMER}"
        await link.send(subject, b"1", reply=inbox)
        message = await asyncio.wait_for(delivered.get(), 10)
        await link.send(message.reply, b"-NAK")
    worker = await bench.start()
    (result,) = await cloud.results(jetstream, 1)
    assert (result.status, worker.counters.dead) == (Status.FINAL, 0)
    await cloud.until_settled(jetstream)
