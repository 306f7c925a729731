"""An event: CloudEvents 1.0, the data being the raw observation.

In binary mode attributes travel as ``ce-*`` headers on NATS and HTTP alike, trace context in
lower-case W3C headers beside them; :mod:`.cloudevents` has the forms. The JSON format is read,
never written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError

from . import cloudevents
from .base import ShortText, Token, WireModel
from .errors import InvalidEventError
from .trace_context import MAX_CHARACTERS, can_be_passed_on, parse_traceparent

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
_READ = _HEADERS.keys() | {"ce-specversion", "ce-pipeline"}
_TIMES = frozenset({"time", "deadline"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""No part of CloudEvents' String, and the end of a header."""


IDENTITY_MARK = "="
"""Begins the key of an event without an idempotency key."""
_IDENTITY, _KEY = "_identity", "_key"


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
        if cloudevents.needs_encoding("".join(headers.values())):
            for header, text in headers.items():
                if header[:3] == "ce-":
                    headers[header] = cloudevents.encoded(text)
        return headers

    @property
    def identity(self) -> str:
        """32 hexadecimal digits: the same for an event that is sent again, and for no other.

        CloudEvents' identity is ``source`` and ``id``; pipeline and data are in it too, so an
        application that gives every reading the same id does not get the first one's answer.
        """
        kept = self.__dict__  # cached_property takes a lock, which is half of the time
        found: str | None = kept.get(_IDENTITY)
        if found is None:
            pipeline, source, name = self.pipeline, self.source, self.id
            parts = f"{len(pipeline)}:{pipeline}{len(source)}:{source}{len(name)}:{name}"
            digest = hashlib.sha256(parts.encode())
            digest.update(self.data)
            found = kept[_IDENTITY] = digest.hexdigest()[:32]
        return found

    def __copy__(self) -> Self:
        """A copy may be given other fields, and is another event then."""
        copied = super().__copy__()
        for kept in (_IDENTITY, _KEY):
            copied.__dict__.pop(kept, None)
        return copied

    @property
    def key(self) -> str:
        """The name under which a repeated event is known: its idempotency key, else its identity.

        A pipeline's name holds no ``=``, so no key that an application chooses is an identity.
        """
        kept = self.__dict__
        found: str | None = kept.get(_KEY)
        if found is None:
            chosen = self.idempotency_key
            found = kept[_KEY] = (
                IDENTITY_MARK + self.identity if chosen is None else f"{self.pipeline}/{chosen}"
            )
        return found

    @classmethod
    def from_headers(
        cls, headers: Mapping[str, str], data: bytes, *, pipeline: str, device: str
    ) -> Event:
        """An event from a message: binary-mode headers, or ``content-type`` of the JSON format.

        Raises InvalidEventError naming the first attribute at fault, with the caller's trace id.
        """
        if "ce-id" not in headers:  # the JSON format, or names that are written otherwise
            headers = {name.lower(): value for name, value in headers.items()}
        try:
            if headers.get("content-type", "").lower().startswith(cloudevents.ANY_FORMAT):
                headers, data = _structured(headers, data)
            return cls._from_names(headers, data, pipeline, device)
        except InvalidEventError as error:
            error.trace_id = error.trace_id or trace_id_of(headers)
            raise

    @classmethod
    def _from_names(
        cls, headers: Mapping[str, str], data: bytes, pipeline: str, device: str
    ) -> Event:
        if headers.get("ce-specversion", "1.0") != "1.0":
            raise InvalidEventError(
                "only CloudEvents 1.0 is spoken here", field="specversion", remedy="send 1.0"
            )
        fields: dict[str, object] = {}
        for header, name in _HEADERS.items():
            raw = headers.get(header)
            if raw:
                parse = _PARSERS.get(name)
                if parse is not None:
                    fields[name] = parse(name, raw)
                else:
                    plain = "%" not in raw and raw[0] != '"'
                    fields[name] = raw if plain else cloudevents.decoded(name, raw)
        for header in headers:
            if header not in _READ and header[:3] == "ce-":
                cloudevents.check_name(header[3:], _HEADERS)
        for name in ("traceparent", "tracestate"):
            if name not in fields and (raw := headers.get(f"ce-{name}")):
                fields[name] = _context(name, cloudevents.decoded(name, raw))
        if "ce-datacontenttype" in headers:
            fields["content_type"] = _content_type(headers)
        return cls.of(**fields, pipeline=pipeline, device=device, data=data)

    @classmethod
    def of(cls, **fields: object) -> Event:
        """An event of these fields; raises InvalidEventError naming the first at fault."""
        _check_characters(fields)
        try:
            return cls(**fields)  # type: ignore[arg-type]  # validated by pydantic right here
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise InvalidEventError(f"{field}: {first['msg']}", field=field) from error


def from_json(document: object) -> tuple[dict[str, str], bytes]:
    """(binary-mode headers, data) of one event in the JSON format.

    Raises InvalidEventError, with the trace id that the event names.
    """
    try:
        return cloudevents.from_json(document, _HEADERS)
    except InvalidEventError as error:
        if isinstance(document, dict):
            named = {
                "traceparent": document.get("traceparent"),
                "ce-traceid": document.get("traceid"),
            }
            error.trace_id = trace_id_of({k: v for k, v in named.items() if isinstance(v, str)})
        raise


def trace_id_of(headers: Mapping[str, str]) -> str | None:
    """The trace that the sender named, by ``traceparent`` or ``ce-traceid``."""
    for header in ("traceparent", "ce-traceparent"):  # the attribute of the tracing extension
        context = parse_traceparent(headers.get(header))
        if context is not None:
            return context[0]
    chosen = headers.get("ce-traceid", "")
    return chosen if re.fullmatch(r"[0-9a-f]{32}", chosen) and int(chosen, 16) else None


def _check_characters(fields: Mapping[str, object]) -> None:
    texts = [value for value in fields.values() if type(value) is str]
    if "".join(texts).isprintable():
        return
    for name, value in fields.items():
        if isinstance(value, str) and _CONTROL.search(value):
            raise InvalidEventError(f"{name}: control characters are not allowed", field=name)


def _structured(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
    """An event in the JSON format; of the headers around it only what it lacks counts."""
    content_type = headers["content-type"]
    if cloudevents.media_type(content_type) != cloudevents.STRUCTURED:
        raise InvalidEventError(
            f"{content_type[:64]} is not spoken here",
            field="content_type",
            remedy=f"send {cloudevents.STRUCTURED}",
        )
    names, data = from_json(cloudevents.parse_json(body))
    for header in ("ce-reply", "traceparent", "tracestate", "baggage"):
        if header in headers:
            names.setdefault(header, headers[header])
    return names, data


def _content_type(headers: Mapping[str, str]) -> str:
    """NATS names it ``ce-datacontenttype``, HTTP ``content-type``: both may say one thing only."""
    named = cloudevents.decoded("datacontenttype", headers["ce-datacontenttype"])
    if headers.get("content-type", named) != named:
        raise InvalidEventError(
            "ce-datacontenttype and content-type differ", field="datacontenttype"
        )
    return named


def _context(name: str, raw: str) -> str | None:
    return raw if can_be_passed_on(name, raw) else None


def _whole(name: str, raw: str) -> int:
    if not raw.isascii() or not raw.isdigit() or len(raw) > 12:
        raise InvalidEventError(f"{name}: {raw[:40]!r} is no whole number", field=name)
    return int(raw)


def _moment(name: str, raw: str) -> datetime:
    return cloudevents.timestamp(name, cloudevents.decoded(name, raw))


def _as_it_is(_name: str, raw: str) -> str:
    return raw


_PARSERS: dict[str, Callable[[str, str], object]] = {
    "time": _moment,
    "deadline": _moment,
    "priority": _whole,
    "ttl_ms": _whole,
    "tensor_header_bytes": _whole,
    "content_type": _as_it_is,
    "traceparent": _context,
    "tracestate": _context,
    "baggage": _context,
}
"""Whatever is not here is CloudEvents' String."""


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
