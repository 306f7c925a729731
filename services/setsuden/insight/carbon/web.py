"""One GET of a public service, bounded in bytes and time, and its answer as a model."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from setsuden.link import web
from setsuden.schemas.errors import ConfigError

from .intensity import IntensityError

TIMEOUT_SECONDS = 10.0
"""Of the whole answer, so that one that drips ends too."""
MAX_BYTES = 1 << 20
_CHUNK = 1 << 16
ModelT = TypeVar("ModelT", bound=BaseModel)
_WHY = {
    401: "it refuses the token",
    403: "it refuses the token, or the token is not for this zone",
    429: "it was asked too often: try again in an hour",
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would hand our token to whatever host a redirect names."""

    def redirect_request(self, *_: object) -> None:
        """None makes the redirect an HTTPError."""


_OPENER = web.opener(_NoRedirect)


def get(url: str, headers: Mapping[str, str], timeout: float = TIMEOUT_SECONDS) -> bytes:
    """The body; the message of an IntensityError holds neither the query nor a header."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{url!r} is not an address", remedy="give one that begins with https://")
    deadline = time.monotonic() + timeout
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310  # checked above
    try:
        with _OPENER.open(request, timeout=timeout) as answer:
            return _body(answer, deadline)
    except urllib.error.HTTPError as error:
        error.close()
        why = _WHY.get(error.code, f"it answers with status {error.code}")
        raise IntensityError(f"no intensity from {parts.hostname}: {why}") from None
    except (OSError, http.client.HTTPException) as error:
        why = _reason(error, timeout)
        raise IntensityError(f"no intensity from {parts.hostname}: {why}") from error


def read(model: type[ModelT], body: bytes, service: str) -> ModelT:
    """The JSON body as ``model``; raises IntensityError naming the field that is not as agreed."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = f"{field}: {first['msg']}" if field else first["msg"]
        raise IntensityError(f"{service} answered something else: {reason}") from error


def _body(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    parts = bytearray()
    while part := answer.read1(_CHUNK):
        parts += part
        if len(parts) > MAX_BYTES:
            raise OSError(f"its answer is over {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(parts)


def _reason(error: Exception, timeout: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {timeout:g} s"
    return str(cause) or type(error).__name__
