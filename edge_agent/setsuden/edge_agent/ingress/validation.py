"""What every ingress does with an event before anybody judges it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from setsuden.pipelines import codec
from setsuden.pipelines.pipeline import Pipeline
from setsuden.schemas import cloudevents
from setsuden.schemas.errors import InvalidEventError, RejectedError, UnknownPipelineError
from setsuden.schemas.event import Event
from setsuden.schemas.refusal import Refusal
from setsuden.schemas.trace_context import parse_traceparent

from . import json_tensor


def check(event: Event, students: Mapping[str, Pipeline]) -> tuple[Event, NDArray[Any]]:
    """The event as it is kept, and its observation.

    Numbers in JSON become the octets they stand for. Raises RejectedError, with the event's trace
    id, and nothing has changed then.
    """
    try:
        student = pipeline(event.pipeline, students)
        limits, observation = student.spec.limits, student.manifest.observation
        if cloudevents.media_type(event.content_type) == cloudevents.JSON:
            octets = json_tensor.read(event.data, observation, limits.max_body_bytes)
            event = event.model_copy(update={"data": octets, "content_type": codec.OCTETS})
        return event, codec.decode(event, observation, limits.max_body_bytes)
    except RejectedError as error:
        context = parse_traceparent(event.traceparent)
        error.trace_id = context[0] if context is not None else event.trace_id
        raise


def pipeline(name: str, students: Mapping[str, Pipeline]) -> Pipeline:
    """The named pipeline; raises UnknownPipelineError."""
    found = students.get(name)
    if found is None:
        raise UnknownPipelineError(
            f"no pipeline {name[:64]!r} on this device",
            field="pipeline",
            remedy=f"use one of {', '.join(sorted(students))}",
        )
    return found


def source_id(headers: Mapping[str, str]) -> str | None:
    """The id that the sender gave, as far as it is one."""
    try:
        given = cloudevents.decoded("id", headers.get("ce-id", ""))[:256]
        given.encode()
    except (InvalidEventError, UnicodeError):
        return None
    return given or None


def refusal(error: Exception, source_id: str | None = None, trace_id: str | None = None) -> bytes:
    """The refusal as the application reads it; the error's own trace id counts first."""
    trace_id = getattr(error, "trace_id", None) or trace_id
    return Refusal.of(error, source_id=source_id, trace_id=trace_id).model_dump_json().encode()
