"""CloudEvents 1.0 over HTTP, binary and structured mode."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from setsuden.schemas import subjects
from setsuden.schemas.errors import InvalidEventError, UnsupportedContentTypeError
from setsuden.schemas.event import Event

STRUCTURED = "application/cloudevents+json"


def read(headers: Mapping[str, str], body: bytes, device: str, pipelines: list[str]) -> Event:
    """The event in an HTTP request; raises InvalidEventError or UnsupportedContentTypeError.

    ``ce-pipeline`` may be left out where the device has one pipeline.
    """
    content_type = headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type == STRUCTURED:
        names, data = _structured(body)
    elif content_type.startswith("application/cloudevents"):
        raise UnsupportedContentTypeError(
            f"{content_type} is not spoken here", field="content-type", remedy=f"send {STRUCTURED}"
        )
    else:
        names, data = dict(headers), body
    names.pop("ce-reply", None)  # a reply subject belongs to events that came over NATS
    default = pipelines[0] if len(pipelines) == 1 else ""
    pipeline = subjects.token(names.get("ce-pipeline", default), "pipeline")
    return Event.from_headers(names, data, pipeline=pipeline, device=device)


def _structured(body: bytes) -> tuple[dict[str, str], bytes]:
    document = _document(body)
    if "data_base64" not in document:
        raise InvalidEventError(
            "structured events carry their observation in data_base64", field="data_base64"
        )
    data = _base64(document.pop("data_base64"))
    names = {}
    for name, value in document.items():
        if isinstance(value, str | int) and not isinstance(value, bool):
            names["content-type" if name == "datacontenttype" else f"ce-{name}"] = str(value)
    names.setdefault("content-type", "application/octet-stream")
    for header in ("traceparent", "tracestate"):  # the distributed tracing extension
        if f"ce-{header}" in names:
            names[header] = names.pop(f"ce-{header}")
    return names, data


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidEventError("the body is no JSON", field="body") from error
    if not isinstance(document, dict):
        raise InvalidEventError("the body is no JSON object", field="body")
    return document


def _base64(value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidEventError("data_base64 is no base64", field="data_base64") from error
