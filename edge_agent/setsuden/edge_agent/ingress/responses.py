"""What goes back over HTTP."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from setsuden.edge_agent.core import encode
from setsuden.schemas import cloudevents as forms
from setsuden.schemas.errors import RejectedError, SetsudenError
from setsuden.schemas.event import trace_id_of
from setsuden.schemas.refusal import Refusal
from setsuden.schemas.result import Result

from . import cloudevents, compression, validation

Send = Callable[[dict[str, Any]], Awaitable[None]]
RETRY_STATUSES = frozenset({503, 507})
RETRY_SECONDS = 5


class Response(NamedTuple):
    """What goes back."""

    status: int
    body: bytes
    content_type: str = forms.JSON
    headers: tuple[tuple[str, str], ...] = ()


def document(status: int, body: object) -> Response:
    """A JSON answer."""
    return Response(status, json.dumps(body).encode())


def status_of(result: Result) -> int:
    """200 when it is final, 202 while the cloud is asked."""
    return 200 if result.is_final else 202


def of_result(result: Result) -> Response:
    """A result: JSON, and an event of CloudEvents at the same time."""
    headers = (("location", f"/events/{result.event_id}"), *cloudevents.headers_of(result))
    return Response(status_of(result), encode(result).text.encode(), headers=headers)


def refusal_of(error: SetsudenError, headers: Mapping[str, str]) -> Refusal:
    """The refusal, under the id and the trace that the caller named."""
    trace_id = error.trace_id or trace_id_of(headers)
    return Refusal.of(error, source_id=validation.source_id(headers), trace_id=trace_id)


def refusal_status(error: SetsudenError) -> int:
    """503 for whatever is no fault of the request."""
    return error.http_status if isinstance(error, RejectedError) else 503


def of_refusal(error: SetsudenError, refusal: Refusal, *, inference: bool) -> Response:
    """A refusal; the Open Inference Protocol wants ``error`` to be a text."""
    status = refusal_status(error)
    body = refusal.model_dump(mode="json")
    if inference:
        text = f"{error} (trace {refusal.trace_id})" if refusal.trace_id else str(error)
        body = {"error": text, "code": refusal.error.code, "field": refusal.error.field}
    headers = getattr(error, "headers", ())
    if status in RETRY_STATUSES:
        headers = (*headers, ("retry-after", str(RETRY_SECONDS)))
    return document(status, body)._replace(headers=headers)


def compressed(response: Response, accept_encoding: str) -> Response:
    """The response in the encoding that the client asked for."""
    encoding = compression.accepted(accept_encoding)
    if encoding is None:
        return response
    return response._replace(
        body=compression.deflated(response.body, encoding),
        headers=(*response.headers, ("content-encoding", encoding), ("vary", "accept-encoding")),
    )


async def respond(send: Send, response: Response) -> None:
    """Send it."""
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        *((name.encode(), value.encode()) for name, value in response.headers),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
