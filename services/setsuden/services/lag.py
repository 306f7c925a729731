"""What waits for one teacher, as its consumer and its oldest escalation say."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from setsuden.link import JetStream
from setsuden.link.jetstream import STORED_AT
from setsuden.schemas import subjects
from setsuden.schemas.errors import UnavailableError
from setsuden.schemas.stream_service import LAG, Lag, LagRequest
from setsuden.schemas.streams import ESCALATIONS, consumer_name


async def ask_lag(jetstream: JetStream, name: str, request: LagRequest) -> Lag:
    """The lag as the stream service tells it to a worker of this name; raises LinkError."""
    body = request.model_dump_json().encode()
    answer = await jetstream.ask(subjects.service(name, LAG), body)
    try:
        return Lag.model_validate_json(answer.data)
    except ValidationError as error:
        raise UnavailableError("the stream service's answer cannot be read") from error


async def read_lag(jetstream: JetStream, request: LagRequest) -> Lag:
    """The lag as JetStream tells it to an operator; raises LinkError."""
    name = consumer_name(request.region, request.pipeline)
    info = await jetstream.find(f"CONSUMER.INFO.{ESCALATIONS}.{name}")
    if info is None:
        return Lag(pending=0, in_hand=0, oldest_seconds=0.0)
    pending = int(info["num_pending"])
    age = await _oldest(jetstream, info, request) if pending else 0.0
    return Lag(pending=pending, in_hand=int(info["num_ack_pending"]), oldest_seconds=age)


async def _oldest(jetstream: JetStream, info: dict[str, Any], request: LagRequest) -> float:
    wanted: dict[str, object] = {
        "next_by_subj": subjects.escalations_of(request.region, request.pipeline),
        "seq": info["delivered"]["stream_seq"] + 1,
        "batch": 1,
    }
    messages = await jetstream.read(ESCALATIONS, wanted)
    if not messages:
        return 0.0
    return max(0.0, time.time() - _stamp(messages[0].headers.get(STORED_AT, "")))


def _stamp(text: str) -> float:
    """Seconds since 1970; an unreadable stamp counts as now."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return time.time()
