"""What version 0.1.0 left on disk and sent over the wire is still understood.

``tests/golden/0.1.0`` was recorded from a running 0.1.0: ``state.tar.gz`` is the state folder of an
agent without a broker, killed with SIGKILL after eight events over HTTP; ``messages.jsonl`` holds
up to three messages of each kind, of twelve events that went through agent and worker.
"""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support import cloud
from tests.support import site as sites
from tests.support.agent import digits

from setsuden.schemas.event import Event
from setsuden.schemas.result import Result, Status, Tier
from setsuden.schemas.windows import MeterRow, WindowRow
from setsuden.services.bridge import hops
from setsuden.telemetry import protobuf
from setsuden.testing.broker import LocalBroker

RECORDED = Path(__file__).parents[1] / "golden" / "0.1.0"
KEYED_FINAL, KEYED_OPEN, FINAL = "k-1", "k-5", 4
"""Idempotency keys of an event that was final and of one that was not; finals among the eight."""
EVENTS = 8


class Recorded(NamedTuple):
    """One message as it went over the wire."""

    subject: str
    headers: dict[str, str]
    data: bytes


def recorded(prefix: str) -> Iterator[Recorded]:
    """The recorded messages whose subject begins like this; there is at least one."""
    for line in (RECORDED / "messages.jsonl").read_text(encoding="utf-8").splitlines():
        message = json.loads(line)
        if message["subject"].startswith(prefix):
            body = base64.b64decode(message["data"])
            yield Recorded(message["subject"], message["headers"], body)


def unpack(folder: Path) -> None:
    """The recorded state folder, below this one."""
    with tarfile.open(RECORDED / "state.tar.gz") as archive:
        archive.extractall(folder, filter="data")


@pytest.mark.slow
async def test_a_state_folder_is_taken_over(tmp_path: Path, broker: LocalBroker) -> None:
    """Open events are answered by the cloud, final ones are known again, spans are sent."""
    unpack(tmp_path / "agent")
    async with sites.site(tmp_path, broker, bundle_folder=digits(), pipeline="digits") as up:
        finals = await cloud.results(up.jetstream, EVENTS - FINAL)
        assert {record.status for record in finals} == {Status.FINAL}
        assert {record.tier for record in finals} == {Tier.CLOUD}
        assert sites.doubled(finals) == 0
        body = sites.images(EVENTS)
        for key, image in ((KEYED_FINAL, body[1]), (KEYED_OPEN, body[5])):
            _, again = up.agent.event(image, wait=20, idempotencykey=key)
            assert again["status"] == "final"
            assert again["idempotency_key"] == key
        assert up.agent.metric("setsuden_events_accepted_total") == 0
        assert len(await up.records()) == EVENTS - FINAL
        traced = {span.span.trace_id for span in await up.spans()}
        assert {record.trace_id for record in finals} <= traced


def test_rows_of_energy_are_still_read(tmp_path: Path) -> None:
    unpack(tmp_path)
    (path,) = (tmp_path / "state" / "energy").iterdir()
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    assert MeterRow.model_validate_json(first).component == "edge"
    assert rest
    assert all(WindowRow.model_validate_json(row).seconds > 0 for row in rest)


@pytest.mark.parametrize("prefix", ["evt.", "notify."])
def test_events_are_still_read(prefix: str) -> None:
    for message in recorded(prefix):
        event = Event.from_headers(message.headers, message.data, pipeline="digits", device="dev-1")
        assert event.data in sites.images(12)


@pytest.mark.parametrize("prefix", ["reply.", "res.", "push.res."])
def test_results_are_still_read(prefix: str) -> None:
    results = [Result.model_validate_json(message.data) for message in recorded(prefix)]
    assert all(result.answer is not None for result in results)
    assert {result.pipeline for result in results} == {"digits"}


def test_spans_and_hops_are_still_read() -> None:
    for message in recorded("otel.spans."):
        assert protobuf.decode(protobuf.decompress(message.data))
    for message in recorded("otel.hops"):
        assert hops.spans_of(message.data, message.subject) is not None


@pytest.mark.slow
async def test_escalations_of_an_older_agent_are_answered(
    tmp_path: Path, broker: LocalBroker
) -> None:
    """By a worker of today, beside an agent of the same device that does not know them."""
    messages = list(recorded("esc."))
    async with sites.site(tmp_path, broker, bundle_folder=digits(), pipeline="digits") as up:
        for message in messages:
            await up.link.store(message.subject, message.data, message.headers)
        results = await cloud.results(up.jetstream, len(messages))
    answered = {result.event_id: result.trace_id for result in results}
    assert answered == {
        message.subject.rsplit(".", 1)[-1]: message.headers["traceparent"].split("-")[1]
        for message in messages
    }
