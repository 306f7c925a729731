"""CloudEvents 1.0 over HTTP: binary, structured and batched mode in, binary mode out."""

from __future__ import annotations

from setsuden.schemas import cloudevents, subjects
from setsuden.schemas.errors import InvalidEventError, UnsupportedContentTypeError
from setsuden.schemas.event import Event, from_json, trace_id_of
from setsuden.schemas.result import Result

from .request import HttpRequest

MAX_BATCH_EVENTS = 256
"""Events in one request; their bytes are bounded as any body's."""


def is_batch(request: HttpRequest) -> bool:
    """True when the body is an array of events."""
    return cloudevents.media_type(request.content_type) == cloudevents.BATCH


def read(request: HttpRequest, body: bytes, device: str, pipelines: list[str]) -> Event:
    """The event in an HTTP request; raises InvalidEventError or UnsupportedContentTypeError.

    ``ce-pipeline`` may be left out where the device has one pipeline.
    """
    kind = cloudevents.media_type(request.content_type)
    if kind == cloudevents.STRUCTURED:
        return of_document(request, cloudevents.parse_json(body), device, pipelines)
    if kind.startswith(cloudevents.ANY_FORMAT):
        raise UnsupportedContentTypeError(
            f"{kind[:64]} is not spoken here",
            field="content_type",
            remedy=f"send {cloudevents.STRUCTURED}",
        )
    return _event(dict(request.headers), body, device, pipelines)


def documents(body: bytes) -> list[object]:
    """The events of a batch, unread; raises InvalidEventError."""
    batch = cloudevents.parse_json(body)
    if not isinstance(batch, list):
        raise InvalidEventError("a batch is an array of events", field="body")
    if len(batch) > MAX_BATCH_EVENTS:
        raise InvalidEventError(
            f"{len(batch)} events in one batch", field="body", remedy=f"send {MAX_BATCH_EVENTS}"
        )
    return batch


def of_document(request: HttpRequest, document: object, device: str, pipelines: list[str]) -> Event:
    """The event of a JSON object; the request's own trace context counts where it has none."""
    names, data = from_json(document)
    for header in ("traceparent", "tracestate", "baggage"):
        if header in request.headers:
            names.setdefault(header, request.headers[header])
    return _event(names, data, device, pipelines)


def _event(names: dict[str, str], data: bytes, device: str, pipelines: list[str]) -> Event:
    names.pop("ce-reply", None)  # a reply subject belongs to events that came over NATS
    try:
        pipeline = _pipeline(names, pipelines)
        return Event.from_headers(names, data, pipeline=pipeline, device=device)
    except InvalidEventError as error:
        error.trace_id = trace_id_of(names)
        raise


def _pipeline(names: dict[str, str], pipelines: list[str]) -> str:
    given = names.get("ce-pipeline")
    if given is None and len(pipelines) > 1:
        raise InvalidEventError(
            "no pipeline is named",
            field="pipeline",
            remedy=f"ce-pipeline: one of {', '.join(sorted(pipelines))}",
        )
    name = pipelines[0] if given is None else cloudevents.decoded("pipeline", given)
    return subjects.token(name, "pipeline")


def headers_of(result: Result) -> tuple[tuple[str, str], ...]:
    """A result as an event of its own, in binary mode: its JSON is the data."""
    return (
        ("ce-specversion", "1.0"),
        ("ce-type", "setsuden.result"),
        ("ce-source", f"/devices/{result.device}/pipelines/{result.pipeline}"),
        ("ce-id", f"{result.event_id}/{result.status}"),
        ("ce-time", result.at.isoformat().replace("+00:00", "Z")),
    )
