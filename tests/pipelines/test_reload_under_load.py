"""Pipelines replaced while events flow: every event keeps exactly one final result."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from tests.support import cloud, ml, processes
from tests.support.agent import DEVICE, config
from tests.support.command import Command
from tests.support.running import Running

from setsuden.client import AsyncClient
from setsuden.edge_agent.outbox.files import LOCK
from setsuden.link import JetStream, Link
from setsuden.pipelines import bundle as bundles
from setsuden.process.reload import OUTCOME_FILE, ReloadOutcome, request
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.schemas.result import Status
from setsuden.services.config import CloudConfig
from setsuden.services.topology import apply
from setsuden.testing.broker import LocalBroker

SWAPS = 20
BUNDLES = ("one", "two")


def write_bundles(folder: Path, model: str, scale: float = 8) -> dict[str, str]:
    """Two good bundles and a broken one; the digests of the good ones' models."""
    digests = {}
    for number, name in enumerate((*BUNDLES, "broken")):
        made = ml.write_bundle(folder / name, student=True)
        content = ml.linear(ml.WEIGHTS * np.float32(scale + number))
        (made / f"{model}.onnx").write_bytes(content if name in BUNDLES else b"no model")
        digests[name] = bundles.load(made).read(model)[1].digest
    return digests


def choose(path: Path, before: str, after: str) -> None:
    """Have the configuration name another bundle."""
    text = path.read_text(encoding="utf-8")
    old, new = f'bundle = "{before}"', f'bundle = "{after}"'
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def reload(folder: Path) -> ReloadOutcome:
    return request(folder / "state" / LOCK, folder / "state" / OUTCOME_FILE, 60)


def post(folder: Path, index: int) -> dict[str, Any]:
    """One event over HTTP; raises unless it was accepted."""
    port = (folder / "state" / "http.port").read_text(encoding="ascii")
    names = {"ce-specversion": "1.0", "ce-id": uuid4().hex, "ce-source": "test"}
    names["content-type"] = "application/octet-stream"
    url, body = f"http://127.0.0.1:{port}/events?wait=0", ml.observation(index)
    with urllib.request.urlopen(urllib.request.Request(url, body, names), timeout=20) as answer:
        return dict(json.loads(answer.read()))


class Load:
    """Events over HTTP and NATS, without a pause, until it is told to stop."""

    def __init__(self, folder: Path, client: AsyncClient) -> None:
        self._folder, self._client = folder, client
        self._stopped = asyncio.Event()
        self.answers: list[tuple[str, str, str, str]] = []
        """(way, event id, status, digest of the model that answered)."""

    async def over_http(self) -> None:
        while not self._stopped.is_set():
            got = await asyncio.to_thread(post, self._folder, len(self.answers))
            self.answers.append(("http", got["event_id"], got["status"], got["model"]["digest"]))

    async def over_nats(self) -> None:
        while not self._stopped.is_set():
            data = ml.observation(len(self.answers))
            result = await (await self._client.submit("tiny", data)).result()
            assert result.model is not None
            digest = result.model.digest
            self.answers.append(("nats", result.event_id, result.status.value, digest))

    async def more(self, count: int) -> None:
        """Return when so many more events are answered."""
        wanted = len(self.answers) + count
        await cloud.until(lambda: len(self.answers) >= wanted, pause_seconds=0.02)

    def stop(self) -> None:
        self._stopped.set()


@pytest.mark.slow
async def test_an_agents_bundle_is_replaced_twenty_times_under_load_and_no_event_is_lost(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream
) -> None:
    digests = write_bundles(tmp_path, "student")
    path = tmp_path / "agent.toml"
    path.write_text(config(broker=broker, bundle=Path("one"), pipeline="tiny"), encoding="utf-8")
    await asyncio.to_thread(apply, CloudConfig(nats=broker.options, pipelines=(_spec(),)))
    with Running("agent", "run", "--config", "agent.toml", folder=tmp_path) as agent:
        await asyncio.to_thread(agent.until, "agent_ready")
        async with AsyncClient(broker.url, device=DEVICE) as client:
            load = Load(tmp_path, client)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(2):
                    tasks.create_task(load.over_http())
                    tasks.create_task(load.over_nats())
                await tasks.create_task(_swap(tmp_path, path, load))
        assert agent.stop() == 0
    assert {way for way, *_ in load.answers} == {"http", "nats"}
    assert {status for *_, status, _ in load.answers} == {"final"}
    assert {digest for *_, digest in load.answers} == {digests["one"], digests["two"]}
    events = [event for _, event, *_ in load.answers]
    assert len(set(events)) == len(events)
    stored = [result.event_id for result in await cloud.records(jetstream)]
    assert sorted(stored) == sorted(event for way, event, *_ in load.answers if way == "nats")


async def _swap(folder: Path, path: Path, load: Load) -> None:
    """Back and forth, with a broken bundle in between that changes nothing."""
    for number in range(SWAPS):
        before, after = BUNDLES[number % 2], BUNDLES[(number + 1) % 2]
        if number == SWAPS // 2:
            choose(path, before, "broken")
            refused = await asyncio.to_thread(reload, folder)
            assert "student.onnx" in refused.message
            choose(path, "broken", before)
        choose(path, before, after)
        outcome = await asyncio.to_thread(reload, folder)
        assert (outcome.applied, outcome.message) == (["pipelines.tiny"], "")
        await load.more(5)
    load.stop()


def _spec() -> PipelineSpec:
    return PipelineSpec(name="tiny", bundle="one")


async def test_agent_reload_says_what_was_reloaded_and_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(capsys)
    write_bundles(tmp_path, "student")
    path = tmp_path / "agent.toml"
    path.write_text(config(bundle=Path("one"), pipeline="tiny"), encoding="utf-8")
    ended = command("agent", "reload", "--config", path)
    assert (ended.code, "no process uses" in ended.err) == (69, True)
    with Running("agent", "run", "--config", "agent.toml", folder=tmp_path) as agent:
        agent.until("agent_ready")
        assert command("agent", "reload", "--config", path).out == (
            "reloaded: nothing has changed\n"
        )
        assert post(tmp_path, 0)["status"] == "final"
        text = path.read_text(encoding="utf-8")
        path.write_text(
            text.replace("lookup_seconds = 1.0", "lookup_seconds = 2.0")
            + "gate = { threshold = 1.0 }\n"
            + '[[pipelines]]\nname = "more"\nbundle = "two"\n',
            encoding="utf-8",
        )
        ended = command("agent", "reload", "--config", path, "--json")
        assert ended.json == {
            "applied": ["pipelines.tiny"],
            "restart_needed": ["escalation.lookup_seconds", "pipelines.more"],
        }
        assert agent.until("pipeline_replaced")["threshold"] == 1.0
        assert post(tmp_path, 0)["status"] == "provisional"
        choose(path, "one", "broken")
        ended = command("agent", "reload", "--config", path)
        assert (ended.code, "student.onnx" in ended.err) == (78, True)
        assert "student.onnx" in agent.until("reload_refused")["detail"]
        changed = (tmp_path / "one" / "bundle.toml").read_text(encoding="utf-8")
        (tmp_path / "broken" / "bundle.toml").write_text(
            changed.replace('"high"', '"higher"'), encoding="utf-8"
        )
        ended = command("agent", "reload", "--config", path)
        assert (ended.code, "other classes" in ended.err) == (78, True)
        assert post(tmp_path, 0)["status"] == "provisional"
        assert agent.stop() == 0


@pytest.mark.slow
async def test_a_workers_teacher_is_replaced_between_batches_and_every_event_answered_once(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    digests = write_bundles(tmp_path, "teacher")
    path = processes.write_config(tmp_path, broker)
    choose(path, "bundle", "one")
    with Running("worker", "run", "--config", path.name, folder=tmp_path) as worker:
        await asyncio.to_thread(worker.until, "worker_ready")
        sent = 0
        for number in range(6):
            await cloud.escalate(link, range(sent, sent + 50))
            sent += 50
            choose(path, BUNDLES[number % 2], BUNDLES[(number + 1) % 2])
            worker.send(signal.SIGHUP)
            await cloud.escalate(link, range(sent, sent + 50))
            sent += 50
            await asyncio.to_thread(worker.until, "pipeline_replaced", number + 1)
        choose(path, "one", "broken")
        worker.send(signal.SIGHUP)
        refused = await asyncio.to_thread(worker.until, "reload_refused")
        assert "teacher.onnx" in refused["detail"]
        await cloud.escalate(link, range(sent, sent + 50))
        sent += 50
        found = await cloud.results(jetstream, sent)
        await cloud.until_settled(jetstream)
        assert worker.stop() == 0
    assert len(found) == sent
    assert {result.status for result in found} == {Status.FINAL}
    newest = {result.event_id for result in found[-50:]}
    assert newest == {cloud.event_id(index) for index in range(sent - 50, sent)}
    models = [result.model.digest for result in found if result.model is not None]
    assert set(models) == {digests["one"], digests["two"]}
    assert set(models[-50:]) == {digests["one"]}


@pytest.mark.slow
async def test_a_workers_limits_are_taken_up_at_a_hangup(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    path = processes.write_config(tmp_path, broker)
    with Running("worker", "run", "--config", path.name, folder=tmp_path) as worker:
        await asyncio.to_thread(worker.until, "worker_ready")
        await cloud.escalate(link, [0])
        assert (await cloud.results(jetstream, 1))[0].status is Status.FINAL
        text = path.read_text(encoding="utf-8") + "limits = { max_body_bytes = 4 }\n"
        path.write_text(text, encoding="utf-8")
        worker.send(signal.SIGHUP)
        line = await asyncio.to_thread(worker.until, "config_reloaded")
        assert (line["applied"], line["restart_needed"]) == (["pipelines.tiny"], [])
        await cloud.escalate(link, [1])
        (dead,) = (r for r in await cloud.results(jetstream, 2) if r.event_id == cloud.event_id(1))
        assert dead.error is not None
        assert dead.error.code == "payload_too_large"
        assert worker.stop() == 0
