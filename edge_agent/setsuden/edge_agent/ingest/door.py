"""What every door does with an event before anybody judges it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from setsuden.edge_agent.student import Student
from setsuden.pipelines import codec
from setsuden.schemas.errors import UnknownPipelineError
from setsuden.schemas.event import Event
from setsuden.schemas.refusal import Refusal


def check(event: Event, students: dict[str, Student]) -> NDArray[Any]:
    """The event's observation; raises RejectedError, and nothing has changed then."""
    student = pipeline(event.pipeline, students)
    limits, observation = student.spec.limits, student.manifest.observation
    return codec.decode(event, observation, limits.max_body_bytes)


def pipeline(name: str, students: dict[str, Student]) -> Student:
    """The named pipeline; raises UnknownPipelineError."""
    found = students.get(name)
    if found is None:
        raise UnknownPipelineError(
            f"no pipeline {name[:64]!r} on this device",
            field="pipeline",
            remedy=f"use one of {', '.join(sorted(students))}",
        )
    return found


def refusal(error: Exception, source_id: str | None = None, trace_id: str | None = None) -> bytes:
    """The refusal as the application reads it."""
    return Refusal.of(error, source_id=source_id, trace_id=trace_id).model_dump_json().encode()
