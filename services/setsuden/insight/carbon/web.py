"""One GET of a public service, bounded in bytes and time, and its answer as a model."""

from __future__ import annotations

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
ModelT = TypeVar("ModelT", bound=BaseModel)
_WHY = {
    401: "it refuses the token",
    403: "it refuses the token, or the token is not for this zone",
    429: "it was asked too often: try again in an hour",
}


def get(url: str, headers: Mapping[str, str], timeout: float = TIMEOUT_SECONDS) -> bytes:
    """The body; the message of an IntensityError holds neither the query nor a header."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{url!r} is not an address", remedy="give one that begins with https://")
    try:
        return web.get(url, limit=MAX_BYTES, timeout=timeout, headers=headers)
    except web.WebError as error:
        why = _WHY.get(error.status, str(error))
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
