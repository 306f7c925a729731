"""One worker on a real broker: answers, batches, poison, lateness, duplicates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from math import fsum
from pathlib import Path

import psutil
import pytest
from tests.support import cloud, ml
from tests.support.meters import request_joules

from setsuden.insight.traces import tree
from setsuden.insight.traces.lint import lint
from setsuden.link import JetStream, Link
from setsuden.schemas.energy import Quality
from setsuden.schemas.result import Status, Tier
from setsuden.services.worker import StalledError, Worker
from setsuden.telemetry import SpanLink
from setsuden.testing.broker import LocalBroker


@pytest.fixture
async def bench(tmp_path: Path, broker: LocalBroker) -> AsyncIterator[cloud.Bench]:
    async with cloud.bench(tmp_path, broker) as ready:
        yield ready


async def test_an_escalation_is_answered_by_the_teacher_and_then_acknowledged(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await bench.start()
    await cloud.escalate(link, [1])
    (result,) = await cloud.results(jetstream, 1)
    assert result.status is Status.FINAL
    assert result.tier is Tier.CLOUD
    assert result.answer is not None
    assert result.answer.label == ml.label(1)
    await cloud.until_settled(jetstream)


async def test_every_event_gets_its_own_answer_and_one_record(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await cloud.escalate(link, range(60))
    worker = await bench.start(max_batch=8)
    found = await cloud.results(jetstream, 60)
    await cloud.until_settled(jetstream)
    labels = {result.event_id: result.answer.label for result in found if result.answer}
    assert labels == {cloud.event_id(index): ml.label(index) for index in range(60)}
    assert worker.counters.batches < 60
    assert worker.counters.stored == 60


async def test_a_result_tells_model_energy_times_and_trace(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    worker = await bench.start()
    await cloud.escalate(link, [5])
    (result,) = await cloud.results(jetstream, 1)
    assert result.trace_id == cloud.trace_id(5)
    assert result.model is not None
    assert result.model.bundle == "tiny"
    assert result.energy.cloud is not None
    assert result.energy.cloud.cpu_seconds == pytest.approx(worker.counters.cpu_seconds)
    assert result.energy.cloud.joules is not None
    assert result.timing.queue_ms is not None
    assert result.timing.queue_ms < 10_000
    assert result.timing.cloud_infer_ms is not None


async def test_one_bad_event_does_not_spoil_its_batch_and_ends_as_a_dead_letter(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await cloud.escalate(link, [0])
    await cloud.escalate(link, [1], first=ml.POISON)
    await cloud.escalate(link, [2, 3])
    await bench.start(poisoned=True)
    found = {result.event_id: result for result in await cloud.results(jetstream, 4)}
    dead = found.pop(cloud.event_id(1))
    assert {result.status for result in found.values()} == {Status.FINAL}
    assert dead.status is Status.DEAD
    assert dead.error is not None
    assert dead.error.code == "teacher_raised"
    await cloud.until_settled(jetstream)
    (letter,) = await cloud.stored(jetstream, "DEAD", "dead.*.*")
    told = json.loads(letter.data)
    assert told["event_id"] == cloud.event_id(1)
    assert told["failed_runs"] == 3
    assert told["deliveries"] == 1
    assert told["trace_id"] == cloud.trace_id(1)
    assert told["model"]["digest"] == dead.model.digest if dead.model else False
    assert ml.observation(1, first=ml.POISON) not in letter.data


async def test_what_cannot_be_decoded_is_dead_at_once(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    worker = await bench.start()
    await cloud.escalate(link, [7], body=b"short")
    (result,) = await cloud.results(jetstream, 1)
    assert result.status is Status.DEAD
    assert result.error is not None
    assert result.error.code == "tensor_invalid"
    await cloud.until_settled(jetstream)
    assert worker.counters.nak == 0


async def test_an_event_of_another_device_is_buried_without_a_result(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await bench.start()
    headers = {"ce-id": "1", "ce-source": "x"}
    subject = "esc.local.tiny.dev-1.other-0000abcd-1"
    await link.store(subject, ml.observation(1), headers)
    await cloud.until_settled(jetstream)
    (letter,) = await cloud.stored(jetstream, "DEAD", "dead.*.*")
    assert json.loads(letter.data)["event_id"] is None
    assert await cloud.records(jetstream) == []


async def test_an_answer_after_the_deadline_is_stored_as_the_late_one(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await cloud.escalate(link, [4], ttl_ms=0)
    await bench.start()
    (late,) = await cloud.results(jetstream, 1, "late")
    assert late.status is Status.SUPERSEDED
    assert late.answer is not None
    assert late.answer.label == ml.label(4)
    await cloud.until_settled(jetstream)
    assert await cloud.records(jetstream) == []


async def test_a_device_that_expired_first_keeps_its_record_and_ours_is_late(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await cloud.escalate(link, [4])
    await cloud.claim(link, 4, Status.EXPIRED)
    worker = await bench.start()
    (late,) = await cloud.results(jetstream, 1, "late")
    await cloud.until_settled(jetstream)
    assert late.status is Status.SUPERSEDED
    (kept,) = await cloud.records(jetstream)
    assert kept.status is Status.EXPIRED
    assert worker.counters.already == 1


async def test_a_final_record_that_is_there_is_acknowledged_and_left_alone(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await cloud.escalate(link, [4])
    await cloud.claim(link, 4, Status.FINAL)
    worker = await bench.start()
    await cloud.until_settled(jetstream)
    (kept,) = await cloud.records(jetstream)
    assert kept.answer is None
    assert await cloud.records(jetstream, "late") == []
    assert worker.counters.stored == 0


async def test_results_wait_in_the_worker_while_their_stream_is_full(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    """The teacher has answered: it does not run again, and the event is not to blame."""
    worker = await bench.start()
    await cloud.until(lambda: worker.ready)
    info = await jetstream.api("STREAM.INFO.RES")
    await jetstream.api("STREAM.UPDATE.RES", info["config"] | {"max_bytes": 1})
    await cloud.escalate(link, [0])
    await cloud.until(lambda: worker.counters.refused >= 2)
    assert worker.counters.batches == 1
    assert (await jetstream.api("STREAM.INFO.ESC"))["state"]["messages"] == 1
    await jetstream.api("STREAM.UPDATE.RES", info["config"])
    (result,) = await cloud.results(jetstream, 1)
    assert result.status is Status.FINAL
    await cloud.until_settled(jetstream)
    assert (worker.counters.nak, worker.counters.batches) == (0, 1)


async def test_a_deleted_consumer_is_made_again(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await bench.start()
    await cloud.escalate(link, [0])
    await cloud.results(jetstream, 1)
    await jetstream.api(f"CONSUMER.DELETE.ESC.{cloud.CONSUMER}")
    await cloud.escalate(link, [1])
    assert len(await cloud.results(jetstream, 2)) == 2
    await cloud.until_settled(jetstream)


async def test_a_broker_killed_in_the_middle_loses_and_doubles_nothing(
    bench: cloud.Bench, jetstream: JetStream, link: Link, broker: LocalBroker
) -> None:
    await cloud.escalate(link, range(300))
    worker = await bench.start(max_batch=4)
    await cloud.until(lambda: worker.counters.stored >= 50)
    broker.kill()
    broker.start()
    await link.wait_up(20)
    assert await cloud.once_each(jetstream, 300)
    await cloud.until_settled(jetstream)


async def test_two_workers_share_a_pipeline(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    first, second = await bench.start(max_batch=2), await bench.start(max_batch=2)
    await cloud.escalate(link, range(100))
    assert await cloud.once_each(jetstream, 100)
    await cloud.until_settled(jetstream)
    assert first.counters.stored + second.counters.stored == 100
    assert min(first.counters.stored, second.counters.stored) > 10


async def test_a_stopped_worker_gives_everything_back_at_once(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await cloud.escalate(link, range(100))
    worker = await bench.start(max_batch=2, ack_wait_seconds=300.0)
    await cloud.until(lambda: worker.counters.stored > 0)
    await worker.stop()
    bench.workers.clear()
    await bench.start(max_batch=8, ack_wait_seconds=300.0)
    assert await cloud.once_each(jetstream, 100, timeout_seconds=20)


async def test_the_spans_hang_under_the_escalation_and_carry_the_joules(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    worker = await bench.start()
    await cloud.escalate(link, [3])
    (result,) = await cloud.results(jetstream, 1)
    await cloud.until_settled(jetstream)
    await worker.stop()
    bench.workers.clear()
    traces = tree.traces_of(bench.spans())
    spans = {found.span.name: found.span for found in traces.pop(cloud.trace_id(3)).spans}
    assert set(spans) == {"process ESC", "infer"}
    process = spans["process ESC"]
    assert process.parent_id == cloud.PARENT_SPAN
    assert float(process.attributes["setsuden.result.store_ms"]) > 0
    assert result.energy.cloud is not None
    infer = spans["infer"]
    assert result.energy.cloud.quality is Quality.PROVISIONAL
    assert infer.attributes["setsuden.energy.quality"] == Quality.OK
    assert infer.attributes["setsuden.energy.joules"] == pytest.approx(request_joules(bench.folder))
    assert infer.parent_id == process.span_id
    assert process.start_ns < infer.start_ns < infer.end_ns < process.end_ns
    (batch,) = traces.values()
    root = batch.roots[0].span
    assert (root.name, batch.trace_id) == (
        "infer batch",
        infer.attributes["setsuden.batch.trace_id"],
    )
    assert root.links == (SpanLink(infer.trace_id, infer.span_id),)
    assert infer.links == (SpanLink(root.trace_id, root.span_id),)


async def test_a_batch_is_one_trace_whose_members_share_its_joules(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    values = [value for value in range(44) if value != ml.POISON][:40]
    await cloud.escalate(link, values)
    worker = await bench.start(max_batch=4)
    await cloud.results(jetstream, 40)
    await cloud.until_settled(jetstream)
    await worker.stop()
    bench.workers.clear()
    traces = tree.traces_of(bench.spans())
    batches = [trace for trace in traces.values() if trace.named("infer batch")]
    sizes = []
    for batch in batches:
        (root,) = batch.named("infer batch")
        members = [traces[link.trace_id].by_id[link.span_id] for link in root.span.links]
        sizes.append(len(members))
        assert {member.span.links for member in members} == {
            (SpanLink(batch.trace_id, root.span.span_id),)
        }
        shares = sum(member.number("setsuden.batch.share") or 0.0 for member in members)
        assert shares == pytest.approx(1.0, abs=1e-9)
        joules = sum(member.number("setsuden.energy.joules") or 0.0 for member in members)
        assert joules == pytest.approx(root.number("setsuden.energy.joules"), rel=1e-9)
        assert root.text("setsuden.energy.allocation") == "batch_total"
    assert sum(sizes) == 40
    assert max(sizes) > 1
    infers = [found for trace in traces.values() for found in trace.named("infer")]
    spent = fsum(found.number("setsuden.energy.joules") or 0.0 for found in infers)
    assert spent == pytest.approx(request_joules(bench.folder), rel=1e-9)
    assert [finding for finding in lint(traces) if finding.rule != "orphan"] == []


async def test_late_work_starts_a_trace_of_its_own_with_a_link(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    await cloud.escalate(link, [3], ttl_ms=0)
    worker = await bench.start()
    await cloud.results(jetstream, 1, "late")
    await cloud.until_settled(jetstream)
    await worker.stop()
    bench.workers.clear()
    process = next(f.span for f in bench.spans() if f.span.name == "process ESC")
    assert process.trace_id != cloud.trace_id(3)
    assert process.parent_id is None
    assert process.links == (SpanLink(cloud.trace_id(3), cloud.PARENT_SPAN),)
    assert process.attributes["setsuden.escalation.late"] is True


async def test_a_teacher_whose_file_is_another_one_now_buries_nobody(
    bench: cloud.Bench, jetstream: JetStream, link: Link
) -> None:
    """The events wait for the next life, which reads the new file."""
    worker = await bench.start(hanging=True)
    before = (bench.folder / "bundle" / "teacher.onnx").read_bytes()
    (bench.folder / "bundle" / "teacher.onnx").write_bytes(before + b"\0")
    teachers_process().kill()
    await cloud.escalate(link, [1, 2, 3])
    await cloud.eventually(lambda: says_stalled(worker, "has changed since"))
    assert worker.counters.failed_runs == 0
    assert worker.counters.dead == 0
    (bench.folder / "bundle" / "teacher.onnx").write_bytes(before)
    found = await cloud.results(jetstream, 3)
    assert {result.status for result in found} == {Status.FINAL}


async def test_a_machine_without_room_for_the_teachers_process_buries_nobody(
    bench: cloud.Bench, jetstream: JetStream, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await bench.start(hanging=True)
    with monkeypatch.context() as patch:
        patch.setattr("setsuden.pipelines.models.model_process._COMMAND", ["/nowhere/python"])
        teachers_process().kill()
        await cloud.escalate(link, range(5))
        await cloud.eventually(lambda: isolated(worker, 10))
    found = await cloud.results(jetstream, 5)
    assert {result.status for result in found} == {Status.FINAL}
    assert worker.counters.failed_runs == 0
    worker.health()


def teachers_process() -> psutil.Process:
    (child,) = [
        each
        for each in psutil.Process().children()
        if "setsuden.pipelines.models.model_child" in each.cmdline()
    ]
    return child


async def says_stalled(worker: Worker, why: str) -> bool:
    try:
        worker.health()
    except StalledError as error:
        return why in str(error)
    return False


async def isolated(worker: Worker, times: int) -> bool:
    return worker.counters.isolated >= times


async def test_a_worker_whose_loop_died_says_so(bench: cloud.Bench) -> None:
    worker = await bench.start()
    worker.health()
    worker._tasks[0].cancel()
    await asyncio.wait([worker._tasks[0]])
    with pytest.raises(StalledError, match="work loop"):
        worker.health()
