"""Which records of the results stream an agent believes."""

from __future__ import annotations

import json

import pytest

from setsuden.edge_agent import record_checks
from setsuden.link import Incoming
from setsuden.link.jetstream import SUBJECT

NAME = "res.local.p1.d1.d1-00000000-1"
RECORD: dict[str, object] = {
    "event_id": "d1-00000000-1",
    "pipeline": "p1",
    "device": "d1",
    "status": "final",
    "tier": "cloud",
    "answer": {"label": "a", "index": 0, "confidence": 0.5},
    "model": {"bundle": "b", "version": "1", "model": "m", "digest": "0" * 64},
    "timing": {"queue_ms": 1.5, "cloud_infer_ms": 0.0},
    "trace_id": "0" * 32,
    "at": "2026-01-01T00:00:00Z",
}


def doubt(body: bytes) -> str | None:
    """None for what is believed."""
    result = record_checks.readable(Incoming(NAME, "", {SUBJECT: NAME}, body))
    return "it cannot be read" if result is None else record_checks.doubt(result, NAME)


def test_a_workers_record_is_believed() -> None:
    assert doubt(json.dumps(RECORD).encode()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"at": "2026-01-01T00:00:00"},
        {"at": 1e300},
        {"at": 10**30},
        {"timing": {"queue_ms": -0.001}},
        {"timing": {"cloud_infer_ms": 1e308}},
        {"timing": {"total_ms": 10**400}},
        {"timing": {"queue_ms": float("nan")}},
        {"timing": {"queue_ms": float("inf")}},
        {"model": {"bundle": "b", "version": "1", "model": "m", "digest": "0" * 200_000}},
        {"status": "dead", "answer": None, "error": None},
        {"status": "provisional"},
        {"device": "d2"},
        {"event_id": "d1-00000000-2"},
        {"region": "elsewhere"},
    ],
)
def test_a_record_of_what_cannot_be_is_not(change: dict[str, object]) -> None:
    assert doubt(json.dumps(RECORD | change).encode()) is not None


@pytest.mark.parametrize(
    "body", [b"", b"\xff{}", b"[" * 100_000, b"{}", b"null", bytes(1 << 21)], ids=len
)
def test_what_is_no_record_is_not(body: bytes) -> None:
    assert doubt(body) is not None


def test_of_a_name_given_twice_the_last_counts_for_every_check() -> None:
    text = json.dumps(RECORD)[:-1] + ',"status":"provisional"}'
    assert doubt(text.encode()) is not None
