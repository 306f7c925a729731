"""A real agent process, with a real broker or with none at all."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent import DEVICE, AgentProcess, config, digits

from setsuden.edge_agent.outbox.rows import UNPUBLISHED
from setsuden.link import JetStream, Link
from setsuden.testing.broker import LocalBroker

EASY = bytes(784)  # an empty page; the threshold below makes it easy
Start = Callable[..., AgentProcess]
ANSWER_ALL = "gate = { threshold = 0.0 }"
ESCALATE_ALL = "gate = { threshold = 1.0 }"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts agents, and kills what is left of them."""
    started: list[AgentProcess] = []

    def begin(text: str | None = None, *, link: bool = False, **options: Any) -> AgentProcess:
        text = text or config(**options)
        agent = AgentProcess(tmp_path / "agent", text)
        started.append(agent)
        agent.start(link=link)
        return agent

    yield begin
    for agent in started:
        agent.kill()


def test_it_starts_and_answers_without_any_network(start: Start) -> None:
    agent = start(pipeline_extra=ANSWER_ALL)
    status, result = agent.event(EASY)
    assert status == 200
    assert (result["status"], result["tier"]) == ("final", "edge")
    assert result["energy"]["edge"]["source"] == "table_model"
    assert result["energy"]["edge"]["joules_low"] < result["energy"]["edge"]["joules_high"]
    ready = agent.ready()
    assert ready is not None
    assert (ready["ready"], ready["status"]) == (True, "degraded")
    assert agent.get("/livez")[0] == 200


def test_a_hard_case_is_provisional_and_waits_for_the_cloud(start: Start) -> None:
    agent = start(pipeline_extra=ESCALATE_ALL)
    status, result = agent.event(EASY)
    assert (status, result["status"]) == (202, "provisional")
    assert result["answer"]["label"]
    known, body = agent.get(f"/events/{result['event_id']}")
    assert (known, json.loads(body)["event_id"]) == (202, result["event_id"])


def test_the_deadline_turns_the_provisional_answer_into_the_final_one(start: Start) -> None:
    agent = start(pipeline_extra="deadline_seconds = 0.3\n" + ESCALATE_ALL)
    status, result = agent.event(EASY, wait=10)
    assert (status, result["status"]) == (200, "expired")
    assert result["answer"]["label"]


def test_accepted_events_survive_a_kill(start: Start, tmp_path: Path) -> None:
    agent = start(pipeline_extra=ESCALATE_ALL)
    _, result = agent.event(EASY)
    agent.kill()
    agent.start(link=False)
    assert agent.ready()["checks"]["outbox"]["pending_events"] == 1  # type: ignore[index]
    assert agent.get(f"/events/{result['event_id']}")[0] == 202


def test_a_repeated_idempotency_key_gives_the_same_result_and_no_second_event(
    start: Start,
) -> None:
    agent = start(pipeline_extra=ANSWER_ALL)
    first = agent.event(EASY, idempotencykey="k1")[1]
    again = agent.event(EASY, idempotencykey="k1", id="e2")[1]
    assert again == first
    assert agent.metric("setsuden_accepted_events_total") == 1
    assert agent.metric("setsuden_repeated_events_total") == 1


def test_structured_cloudevents_are_spoken(start: Start) -> None:
    agent = start(pipeline_extra=ANSWER_ALL)
    document = {
        "specversion": "1.0",
        "id": "e1",
        "source": "test",
        "type": "reading",
        "datacontenttype": "application/octet-stream",
        "pipeline": "digits",
        "data_base64": base64.b64encode(EASY).decode(),
    }
    headers = {"content-type": "application/cloudevents+json"}
    status, result = agent.post("/events", json.dumps(document).encode(), headers)
    assert (status, result["status"], result["source_id"]) == (200, "final", "e1")


def test_open_inference_clients_are_served(start: Start) -> None:
    agent = start(pipeline_extra=ANSWER_ALL)
    metadata = json.loads(agent.get("/v2/models/digits")[1])
    assert metadata["inputs"][0]["shape"] == [1, 28, 28]
    tensor = {"name": "observation", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}
    body = json.dumps({"inputs": [tensor]}).encode()
    json_type = {"content-type": "application/json"}
    status, answer = agent.post("/v2/models/digits/infer", body, json_type)
    assert status == 200
    assert len(answer["outputs"][1]["data"]) == 10
    assert answer["parameters"]["tier"] == "edge"


def test_open_inference_binary_tensors_are_served(start: Start) -> None:
    agent = start(pipeline_extra=ANSWER_ALL)
    size = {"binary_data_size": 784}
    tensor = {"name": "observation", "datatype": "UINT8", "shape": [28, 28], "parameters": size}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {
        "Inference-Header-Content-Length": str(len(header)),
        "content-type": "application/octet-stream",
    }
    status, answer = agent.post("/v2/models/digits/infer", header + EASY, headers)
    assert (status, answer["model_name"]) == (200, "digits")


@pytest.mark.parametrize(
    ("data", "headers", "status", "code", "field"),
    [
        (b"short", {}, 422, "tensor_invalid", "data"),
        (bytes(785), {}, 422, "tensor_invalid", "data"),
        (bytes(1_400_000), {}, 413, "payload_too_large", "body"),
        (EASY, {"pipeline": "nope"}, 404, "pipeline_unknown", "pipeline"),
        (EASY, {"pipeline": "a.b"}, 400, "event_invalid", "pipeline"),
        (EASY, {"content_type": "image/png"}, 415, "content_type_unsupported", "content_type"),
        (EASY, {"deadline": "tomorrow"}, 400, "event_invalid", "deadline"),
        (EASY, {"specversion": "0.3"}, 400, "event_invalid", "specversion"),
        (EASY, {"priority": "-1"}, 400, "event_invalid", "priority"),
    ],
)
def test_bad_input_is_refused_by_name_and_changes_nothing(
    start: Start, data: bytes, headers: dict[str, str], status: int, code: str, field: str
) -> None:
    agent = start(pipeline_extra=ANSWER_ALL)
    answered, body = agent.event(data, wait=0.0, **headers)
    assert (answered, body["error"]["code"], body["error"]["field"]) == (status, code, field)
    with closing(sqlite3.connect(agent.folder / "state" / "outbox.db")) as probe:
        assert probe.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_a_full_outbox_is_a_typed_refusal_with_its_bytes(start: Start) -> None:
    agent = start(pipeline_extra=ESCALATE_ALL, extra="outbox = { max_bytes = 4096 }")
    statuses = [agent.event(EASY)[0] for _ in range(5)]
    status, body = agent.event(EASY)
    assert statuses == [202] * 5
    assert (status, body["error"]["code"]) == (507, "outbox_full")
    assert (body["error"]["used_bytes"], body["error"]["quota_bytes"]) == (3920, 4096)


def test_a_second_agent_on_the_same_outbox_is_refused(start: Start) -> None:
    agent = start()
    other = AgentProcess(agent.folder, config())
    log_before = len(agent.log())
    assert other.spawn().wait(timeout=20) != 0
    assert "outbox_locked" in agent.log()[min(log_before, 100) :]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda folder: (folder / "student.onnx").unlink(), "cannot read model file"),
        (lambda folder: (folder / "student.onnx").write_bytes(b"x"), "is not the file"),
        (lambda folder: (folder / "bundle.toml").write_text("name = 1"), "bundle.toml:"),
    ],
)
def test_a_bundle_that_cannot_be_used_is_refused_at_start(
    tmp_path: Path, broken: Callable[[Path], Any], words: str
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for source in digits().iterdir():
        if source.suffix in {".onnx", ".toml"}:
            (folder / source.name).write_bytes(source.read_bytes())
    broken(folder)
    agent = AgentProcess(tmp_path / "agent", config(bundle=folder))
    assert agent.spawn().wait(timeout=20) != 0
    assert "bundle_invalid" in agent.log()
    assert words in agent.log()


def test_a_broker_that_cannot_prove_its_durability_is_not_used(
    start: Start, tmp_path: Path
) -> None:
    with LocalBroker(tmp_path / "lax", sync="2m") as broker:
        agent = start(broker=broker, pipeline_extra=ANSWER_ALL)
        problem = None
        while problem is None or "cannot reach" in problem:
            status = agent.ready()
            assert status is not None
            problem = status["checks"]["link"]["problem"]
        assert "sync_interval: always" in problem
        assert agent.event(EASY)[0] == 200


async def test_sigterm_stops_it_cleanly(
    start: Start, broker: LocalBroker, jetstream: JetStream
) -> None:
    agent = start(broker=broker, link=True)
    assert agent.terminate() == 0
    assert "agent_stopped" in agent.log()


async def test_what_the_link_could_not_read_is_in_the_metrics(
    start: Start, broker: LocalBroker, jetstream: JetStream, link: Link
) -> None:
    agent = start(broker=broker, link=True)
    assert agent.metric("setsuden_link_unreadable_messages_total") == 0
    await link.send(f"notify.{DEVICE}.digits", b"", headers={"x": "y" * 100_000})
    assert await link.flush()
    agent.until(lambda: agent.metric("setsuden_link_unreadable_messages_total") == 1)
    assert agent.metric("setsuden_link_handler_errors_total") == 0


def test_metrics_tell_of_energy_link_and_outbox(start: Start) -> None:
    agent = start(pipeline_extra=ANSWER_ALL)
    agent.event(EASY)
    assert agent.metric("setsuden_accepted_events_total") == 1
    agent.until(lambda: agent.metric("setsuden_inference_energy_joules_total") > 0)  # its window
    assert agent.metric("setsuden_link_up") == 0
    assert agent.metric("setsuden_outbox_quota_bytes") == 256 << 20


async def test_a_final_that_its_stream_never_takes_is_given_up_and_counted(
    start: Start, broker: LocalBroker, jetstream: JetStream, tmp_path: Path
) -> None:
    """Offered for ever, 512 of them would keep every later final out of the stream."""
    found = (await jetstream.api("STREAM.INFO.RES"))["config"]
    await jetstream.api("STREAM.UPDATE.RES", found | {"max_msg_size": 300})
    agent = start(
        broker=broker, link=True, pipeline_extra=ANSWER_ALL, extra='publish_results = "all"'
    )
    assert agent.event(EASY)[1]["status"] == "final"
    agent.until(lambda: agent.metric("setsuden_results_too_large_total") == 1)
    assert "result_too_large" in agent.log()
    assert agent.terminate() == 0
    with closing(sqlite3.connect(tmp_path / "agent" / "state" / "outbox.db")) as outbox:
        query = "SELECT count(*) FROM events WHERE state = ?"
        assert outbox.execute(query, (UNPUBLISHED,)).fetchone() == (0,)
