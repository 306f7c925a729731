"""A record of an answer is believed where it fits, and nowhere else; what it spoils stays open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import cloud, ml
from tests.support.agent import DEVICE, AgentProcess, config

from setsuden.link import JetStream, Link
from setsuden.schemas.result import Result, Status, Tier
from setsuden.testing.broker import LocalBroker

REFUSED = "setsuden_refused_events_total"
SCORES = (0.5, 0.25, 0.25)
ANSWER = {"label": "low", "index": 0, "confidence": 0.5, "scores": SCORES}


@pytest.fixture
async def agent(
    tmp_path: Path, broker: LocalBroker, jetstream: JetStream
) -> AsyncIterator[AgentProcess]:
    """It escalates everything, and nobody answers."""
    folder = ml.write_bundle(tmp_path / "bundle", student=True)
    gate = "gate = { threshold = 1.0 }"
    never = "lookup_seconds = 3600.0\nredrive_seconds = 3600.0"
    text = config(
        broker=broker, bundle=folder, pipeline=cloud.PIPELINE, pipeline_extra=gate, escalation=never
    )
    running = AgentProcess(tmp_path / "agent", text)
    await asyncio.to_thread(running.start)
    yield running
    running.kill()


async def hard(agent: AgentProcess) -> Result:
    """An event that waits for the cloud."""
    status, told = await asyncio.to_thread(agent.event, ml.observation(0))
    assert status == 202
    return Result.model_validate_json(Result.model_validate(told, strict=False).model_dump_json())


def right(open_: Result, **changes: Any) -> dict[str, Any]:
    """The answer that a worker would store, but for the changes."""
    record = open_.model_copy(update={"status": Status.FINAL, "tier": Tier.CLOUD})
    return record.model_dump(mode="json") | {"answer": ANSWER, "decision": None} | changes


async def push(link: Link, open_: Result, record: dict[str, Any], kind: str = "res") -> None:
    """As the broker pushes what the results stream stored."""
    place = open_.place.result if kind == "res" else open_.place.late
    headers = {"Nats-Stream": "RES", "Nats-Subject": place, "Nats-Sequence": "1"}
    await link.send(f"push.{place}", json.dumps(record).encode(), headers=headers)


WRONG: dict[str, dict[str, Any]] = {
    "another event": {"event_id": "dev-1-00000000-9"},
    "another device": {"device": "dev-2"},
    "another pipeline": {"pipeline": "other"},
    "another region": {"region": "elsewhere"},
    "another trace": {"trace_id": "ab" * 16},
    "a provisional record": {"status": "provisional"},
    "a superseded record as the result": {"status": "superseded"},
    "the cloud's word that it expired": {"status": "expired"},
    "a label of no class": {"answer": ANSWER | {"label": "owned"}},
    "a label of another index": {"answer": ANSWER | {"index": 1}},
    "an index beyond all classes": {"answer": ANSWER | {"index": 10**9}},
    "a negative index": {"answer": ANSWER | {"index": -1}},
    "too many scores": {"answer": ANSWER | {"scores": [0.5] * 9}},
    "scores that are none": {"answer": ANSWER | {"scores": [9, -3, 0]}},
    "a confidence that is none": {"answer": ANSWER | {"confidence": 7}},
    "a final without an answer": {"answer": None},
    "a dead letter with an answer": {"status": "dead"},
    "negative joules": {"energy": {"cloud": {"joules": -1e9}}},
    "a text for a number": {"timing": {"total_ms": "soon"}},
    "no trace": {"trace_id": None},
}


async def test_a_record_that_does_not_fit_is_counted_and_leaves_the_event_open(
    agent: AgentProcess, link: Link
) -> None:
    for count, (name, changes) in enumerate(WRONG.items(), start=1):
        open_ = await hard(agent)
        await push(link, open_, right(open_, **changes))
        await asyncio.to_thread(agent.until, lambda: agent.metric(REFUSED) == count)  # noqa: B023
        status, told = await asyncio.to_thread(agent.get, f"/events/{open_.event_id}")
        seen = Result.model_validate_json(told).status
        assert (status, seen) == (202, Status.PROVISIONAL), name


async def test_the_record_that_fits_is_the_answer(agent: AgentProcess, link: Link) -> None:
    open_ = await hard(agent)
    await push(link, open_, right(open_))
    path = f"/events/{open_.event_id}"
    await asyncio.to_thread(agent.until, lambda: agent.get(path)[0] == 200)
    final = Result.model_validate_json((await asyncio.to_thread(agent.get, path))[1])
    assert (final.status, final.device) == (Status.FINAL, DEVICE)
    assert final.answer is not None
    assert (final.answer.label, agent.metric(REFUSED)) == ("low", 0)


async def test_a_record_that_spoils_the_place_of_the_answer_ends_the_event_as_dead(
    agent: AgentProcess, link: Link, broker: LocalBroker
) -> None:
    """No worker's answer can be stored any more; what the student said is still there."""
    open_ = await hard(agent)
    forged = right(open_, answer=ANSWER | {"label": "owned"})
    await link.store(open_.place.result, json.dumps(forged).encode())
    agent.kill()
    await asyncio.to_thread(agent.start)  # a new life looks up what it may have missed
    path = f"/events/{open_.event_id}"
    await asyncio.to_thread(agent.until, lambda: agent.get(path)[0] == 200)
    final = Result.model_validate_json((await asyncio.to_thread(agent.get, path))[1])
    assert final.status is Status.DEAD
    assert final.error is not None
    assert final.error.code == "result_not_believed"
