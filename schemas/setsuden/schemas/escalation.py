"""A hard case on its way to the cloud: the event as it came, plus what the worker must know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .errors import InvalidEventError
from .event import TENSOR_LENGTH_HEADER, Event
from .subjects import Place
from .trace_context import parse_traceparent

TTL_HEADER = "setsuden-ttl-ms"
COPY_HEADER = "setsuden-copy"
"""Present unless this is certainly the first copy: a result may be stored already."""
MSG_ID_HEADER = "Nats-Msg-Id"
EXPECTED_SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
MAX_TTL_MS = 10**12 - 1
"""32 years; a deadline beyond it is sent as this."""
_PRIVATE = ("ce-reply", "ce-idempotencykey", "ce-traceid", "ce-ttlms")


class Escalation(NamedTuple):
    """What a worker reads from one message; the application's attributes stay unread."""

    place: Place
    ttl_ms: int | None
    """Milliseconds from storage in the stream to the deadline: needs no device clock."""
    copy: bool
    content_type: str
    tensor_header_bytes: int | None
    data: bytes

    @property
    def pipeline(self) -> str:
        """The pipeline, as decoding wants it."""
        return self.place.pipeline


def headers(
    event: Event, ttl_ms: int | None, traceparent: str, *, copy: bool = False
) -> dict[str, str]:
    """Headers of an escalation; the application's reply subject and key stay on the device."""
    names = event.headers()
    for private in _PRIVATE:
        names.pop(private, None)
    if parse_traceparent(event.traceparent) is None:
        names.pop("tracestate", None)  # it belongs to a trace that is not continued
    names["traceparent"] = traceparent
    if ttl_ms is not None:
        names[TTL_HEADER] = str(min(max(ttl_ms, 0), MAX_TTL_MS))
    if copy:
        names[COPY_HEADER] = "1"
    return names


def read(names: Mapping[str, str], data: bytes, place: Place) -> Escalation:
    """The part of an escalation that a worker needs; raises InvalidEventError.

    The device validated the whole event before it accepted it; that costs 7 µs, this 1.
    """
    return Escalation(
        place,
        _number(names, TTL_HEADER, MAX_TTL_MS),
        COPY_HEADER in names,
        names.get("content-type", "application/octet-stream"),
        _number(names, TENSOR_LENGTH_HEADER, 1 << 31),
        data,
    )


def _number(names: Mapping[str, str], header: str, most: int) -> int | None:
    text = names.get(header)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise InvalidEventError(f"{text[:40]!r} is not a whole number up to {most}", field=header)
    return int(text)
