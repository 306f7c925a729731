"""What the stream service is asked, and what it answers.

A device asks on ``cloud.<device>.<request>``: what JetStream's own API would let it do for every
device's subjects (read events, free their space) is done for its own alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from . import subjects
from .base import Token, WireModel
from .errors import UnavailableError

INFO, READ, RELEASE, PROOF, LAG = "info", "read", "release", "proof", "lag"
MAX_REQUEST_BYTES = 4096
OVERSIZED_HEADER = "setsuden-body-bytes"
"""Stands for the body of an event that is too large to be passed on."""
READ_BATCH = 256
"""Events in one answer at most."""
READ_MAX_BYTES = 4 << 20
MAX_PIPELINES = 1024
"""Of one device in one answer."""


class StreamInfo(WireModel):
    """Answer to ``info``: the events stream as one device may know it."""

    created: str = Field(min_length=1, max_length=64)
    """The stream's own creation time: another one is another stream."""
    last_seq: int = Field(ge=0)
    now: str = Field(max_length=64)
    """The broker's clock, RFC 3339."""
    pipelines: tuple[Token, ...] = Field(default=(), strict=False, max_length=MAX_PIPELINES)
    """Pipelines with stored events of this device, of more than fit the first by name."""
    results_max_age_seconds: float | None = None
    """How long a final result is kept, where that is known."""
    unserved: tuple[Token, ...] = Field(default=(), strict=False, max_length=1024)
    """Pipelines whose escalations no worker has asked for lately."""


class ReadRequest(WireModel):
    """``read``: this pipeline's events from this sequence on, one message each, then an end."""

    pipeline: Token
    seq: int = Field(ge=1, lt=1 << 63)


class ReleaseRequest(WireModel):
    """``release``: the events up to this sequence are in the device's outbox."""

    pipeline: Token
    seq: int = Field(ge=1, lt=1 << 63)


class LagRequest(WireModel):
    """``lag``: what waits for one teacher."""

    region: Token
    pipeline: Token


class Lag(WireModel):
    """Answer to ``lag``."""

    pending: int = Field(ge=0)
    """Stored and not yet delivered."""
    in_hand: int = Field(ge=0)
    """Delivered and not yet acknowledged."""
    oldest_seconds: float = Field(ge=0)
    """Age of the oldest that was never delivered; 0 without any."""


class Proof(WireModel):
    """Answer to ``proof``: what makes an acknowledgement durable."""

    version: str = Field(max_length=64)
    sync_always: bool


def read_request(request: ReadRequest, device: str) -> dict[str, object]:
    """The same question to JetStream itself."""
    return {
        "next_by_subj": subjects.event(request.pipeline, device),
        "seq": request.seq,
        "batch": READ_BATCH,
        "max_bytes": READ_MAX_BYTES,
    }


def purge_request(request: ReleaseRequest, device: str) -> dict[str, object]:
    """The same question to JetStream itself."""
    return {"filter": subjects.event(request.pipeline, device), "seq": request.seq + 1}


def stream_info(info: Mapping[str, Any]) -> StreamInfo:
    """What a device may know, out of JetStream's own answer; raises UnavailableError."""
    try:
        state = info["state"]
        held = state.get("subjects") or {}
        return StreamInfo(
            created=str(info["created"]),
            last_seq=int(state["last_seq"]),
            now=str(info["ts"]),
            pipelines=_pipelines(held),
        )
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UnavailableError("the broker's answer about its stream cannot be read") from error


def _pipelines(held: Iterable[str]) -> tuple[str, ...]:
    """Names in subjects of events; what no pipeline can be called must not hide those that are."""
    names = sorted(subject.split(".")[1] for subject in held)
    return tuple(name for name in names if subjects.is_token(name))[:MAX_PIPELINES]
