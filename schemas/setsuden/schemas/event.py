"""An event: CloudEvents 1.0 in binary mode, the body being the raw observation.

Attributes travel as ``ce-*`` headers on NATS and HTTP alike (CloudEvents NATS binding, draft
with binary mode); trace context in lower-case W3C headers beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError

from .base import ShortText, Token, WireModel
from .errors import InvalidEventError
from .trace_context import MAX_CHARACTERS, can_be_passed_on

TENSOR_LENGTH_HEADER = "inference-header-content-length"
"""Bytes of the Open Inference Protocol JSON header in front of the binary tail."""

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Moment = Annotated[
    AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))
]
"""Nanoseconds since 1970 fit into 64 bits: one "never" of the year 9999 must not stop a device."""
_HEADERS = {
    "ce-id": "id",
    "ce-source": "source",
    "ce-type": "type",
    "ce-time": "time",
    "ce-deadline": "deadline",
    "ce-ttlms": "ttl_ms",
    "ce-residency": "residency",
    "ce-priority": "priority",
    "ce-idempotencykey": "idempotency_key",
    "ce-reply": "reply",
    "ce-traceid": "trace_id",
    "content-type": "content_type",
    TENSOR_LENGTH_HEADER: "tensor_header_bytes",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
    "baggage": "baggage",
}
_TIMES = frozenset({"time", "deadline"})
_INTEGERS = frozenset({"tensor_header_bytes", "priority", "ttl_ms"})


class Event(WireModel):
    """One input to a pipeline."""

    id: ShortText = Field(min_length=1)
    source: ShortText = Field(min_length=1)
    type: ShortText = "setsuden.observation"
    pipeline: Token
    device: Token
    content_type: ShortText = "application/octet-stream"
    tensor_header_bytes: int | None = Field(default=None, ge=2)
    time: Moment | None = None
    deadline: Moment | None = None
    """A moment of the world's clock; the device needs to know how far its own is off."""
    ttl_ms: int | None = Field(default=None, ge=1, le=10**12 - 1)
    """Milliseconds from submission to the deadline: no two clocks need to agree."""
    residency: ShortText | None = None
    priority: int = Field(default=0, ge=0, le=9)
    idempotency_key: ShortText | None = Field(default=None, min_length=1)
    reply: ShortText | None = None
    trace_id: Hex32 | None = None
    """A trace id chosen by an application that has no span of its own."""
    traceparent: ShortText | None = None
    """As it came; one that is malformed starts a new trace, as W3C asks, and is no error."""
    tracestate: str | None = Field(default=None, max_length=MAX_CHARACTERS["tracestate"])
    """Passed on as it came with an escalation, unless the traceparent beside it is malformed."""
    baggage: str | None = Field(default=None, max_length=MAX_CHARACTERS["baggage"])
    """Passed on as it came with an escalation; read by nobody here, and in no span."""
    data: bytes = Field(repr=False)

    def headers(self) -> dict[str, str]:
        """The binary-mode headers; :meth:`from_headers` reads them back."""
        headers = {"ce-specversion": "1.0", "ce-pipeline": self.pipeline}
        for header, name in _HEADERS.items():
            value = getattr(self, name)
            if value is not None:
                headers[header] = _time(value) if name in _TIMES else str(value)
        return headers

    @classmethod
    def from_headers(
        cls, headers: Mapping[str, str], data: bytes, *, pipeline: str, device: str
    ) -> Event:
        """An event from binary-mode headers with lower-case names.

        Raises InvalidEventError naming the first attribute at fault.
        """
        if headers.get("ce-specversion", "1.0") != "1.0":
            raise InvalidEventError(
                "only CloudEvents 1.0 is spoken here", field="specversion", remedy="send 1.0"
            )
        fields: dict[str, object] = {}
        for header, name in _HEADERS.items():
            raw = headers.get(header)
            if raw and can_be_passed_on(header, raw):
                fields[name] = _parse(name, raw)
        return cls.of(**fields, pipeline=pipeline, device=device, data=data)

    @classmethod
    def of(cls, **fields: object) -> Event:
        """An event of these fields; raises InvalidEventError naming the first at fault."""
        try:
            return cls(**fields)  # type: ignore[arg-type]  # validated by pydantic right here
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise InvalidEventError(f"{field}: {first['msg']}", field=field) from error


def _parse(name: str, raw: str) -> object:
    if name in _TIMES:
        return _parse_time(name, raw)
    if name in _INTEGERS:
        if not raw.isascii() or not raw.isdigit() or len(raw) > 12:
            raise InvalidEventError(f"{name}: {raw[:40]!r} is no whole number", field=name)
        return int(raw)
    return raw


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parse_time(name: str, raw: str) -> datetime:
    try:
        value = datetime.fromisoformat(raw)
    except ValueError as error:
        raise InvalidEventError(
            f"{name}: {raw[:40]!r} is no RFC 3339 time", field=name, remedy="2026-01-31T12:00:00Z"
        ) from error
    if value.tzinfo is None:
        raise InvalidEventError(f"{name}: no time zone", field=name, remedy="end it with Z")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidEventError(f"{name}: {raw[:40]!r} is out of range", field=name) from error
