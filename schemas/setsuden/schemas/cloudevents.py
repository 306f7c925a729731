"""The forms of CloudEvents 1.0 that HTTP and NATS share: header values, the JSON format, times.

Header values are percent-encoded UTF-8 on both: the HTTP binding 1.0.2 (section 3.1.3.2) asks for
it, and the NATS binding's draft of a binary mode (1.0.3-wip) repeats the same rule. The published
NATS binding 1.0.2 knows the JSON format only, which is read as well.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from .errors import InvalidEventError, UnsupportedContentTypeError

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
ANY_FORMAT = "application/cloudevents"
"""What the media types of all event formats begin with."""
OCTETS = "application/octet-stream"
JSON = "application/json"

_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_TO_ENCODE = re.compile(r"[^!#$&-~]")
_NAME = re.compile(r"[a-z0-9]+")
_TRACE_HEADERS = ("traceparent", "tracestate")
"""The distributed tracing extension: attributes that are headers of their own everywhere else."""
_USUAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)


def media_type(content_type: str) -> str:
    """The media type without its parameters, lower-case."""
    return content_type.split(";", 1)[0].strip().lower()


# -- header values ----------------------------------------------------------------------------


def needs_encoding(text: str) -> bool:
    """False where :func:`encoded` would change nothing of a text without control characters."""
    return not text.isascii() or " " in text or '"' in text or "%" in text


def encoded(value: str) -> str:
    """An attribute's value as a header's: percent-encoded UTF-8."""
    return quote(value, safe=_PLAIN) if _TO_ENCODE.search(value) else value


def decoded(name: str, raw: str) -> str:
    """An attribute's value from its header; raises InvalidEventError for bytes that are no UTF-8.

    One round of percent-decoding, after the double quotes that older senders put around a value.
    """
    if raw[:1] == raw[-1:] == '"' and len(raw) > 1:
        raw = re.sub(r"\\(.)", r"\1", raw[1:-1])
    if "%" not in raw:
        return raw
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeError as error:
        raise InvalidEventError(
            f"{name}: {raw[:40]!r} is not percent-encoded UTF-8", field=name
        ) from error


def check_name(name: str, known: Mapping[str, object]) -> None:
    """Raises InvalidEventError for an attribute whose name CloudEvents does not allow.

    It would be an unknown extension, which is ignored, and ``ce-idempotency-key`` with it.
    """
    if _NAME.fullmatch(name):
        return
    meant = re.sub(r"[^a-z0-9]", "", name.lower())
    raise InvalidEventError(
        f"{name[:64]!r} is no attribute name: lower-case letters and digits only",
        field=_shown(name),
        remedy=f"call it {meant}" if f"ce-{meant}" in known else "rename the attribute",
    )


def _shown(name: str) -> str:
    """A name from outside, fit for an answer: JSON may hold half of a surrogate pair."""
    return name[:64].encode("ascii", "backslashreplace").decode()


# -- times ------------------------------------------------------------------------------------


def timestamp(name: str, raw: str) -> datetime:
    """The moment that an RFC 3339 text names, in UTC, to the microsecond.

    A leap second is the first moment of the next minute, as on every POSIX clock. Raises
    InvalidEventError.
    """
    if _USUAL.fullmatch(raw):
        try:
            return datetime.fromisoformat(raw)
        except ValueError:  # a leap second, or no moment at all
            pass
    try:
        return _moment(raw)
    except (ValueError, OverflowError) as error:
        hint = "it has no time zone: end it with Z" if _RFC3339.fullmatch(raw + "Z") else ""
        raise InvalidEventError(
            f"{name}: {raw[:40]!r} is no RFC 3339 time",
            field=name,
            remedy=hint or "2026-01-31T12:00:00Z",
        ) from error


def _moment(raw: str) -> datetime:
    match = _RFC3339.fullmatch(raw)
    if match is None:
        raise ValueError
    date, minute, second, fraction, sign, hours, minutes = match.groups()
    leap = second == "60"
    value = datetime.fromisoformat(f"{date}T{minute}:{'59' if leap else second}+00:00")
    if sign is not None:
        if int(hours or 0) > 23 or int(minutes or 0) > 59:
            raise ValueError
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        value = value + offset if sign == "-" else value - offset
    if leap:
        value += timedelta(seconds=1)
        if (value.hour, value.minute) != (0, 0):
            raise ValueError  # leap seconds end a day of UTC
    return value.replace(microsecond=int((fraction or "0")[:6].ljust(6, "0")), tzinfo=UTC)


# -- the JSON format --------------------------------------------------------------------------


def parse_json(body: bytes) -> Any:
    """A JSON document: UTF-8, every name once, no NaN; raises InvalidEventError."""
    try:
        return json.loads(
            body.decode(), object_pairs_hook=_unique, parse_constant=_no_such_constant
        )
    except InvalidEventError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidEventError("the body is no JSON in UTF-8", field="body") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidEventError(f"{twice[:64]!r} is given twice", field=_shown(twice))
    return document


def _no_such_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def check_charset(content_type: str) -> None:
    """Raises UnsupportedContentTypeError for JSON in anything but UTF-8."""
    charset = re.search(r';\s*charset="?([^\s;"]+)', content_type.lower())
    if charset is not None and charset[1] not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedContentTypeError(
            f"charset {charset[1][:40]!r} is not served", field="content_type", remedy="send UTF-8"
        )


def from_json(document: object, known: Mapping[str, object]) -> tuple[dict[str, str], bytes]:
    """(binary-mode headers, data) of one event in the JSON format; raises InvalidEventError."""
    if not isinstance(document, dict):
        raise InvalidEventError("an event in JSON is an object", field="body")
    attributes = dict(document)
    content_type, data = _data(attributes)
    if content_type.lower().startswith(ANY_FORMAT):
        raise InvalidEventError("an event in an event is not served", field="datacontenttype")
    names = {"content-type": content_type}
    for name, value in attributes.items():
        check_name(name, known)
        text = _canonical(name, value)
        if text is not None:
            header = name if name in _TRACE_HEADERS else f"ce-{name}"
            names[header] = text if header == name else encoded(text)
    return names, data


def _canonical(name: str, value: object) -> str | None:
    """An attribute's canonical string; None for null, which says that it is not there."""
    if isinstance(value, str) and not value.isascii():
        _utf8(value, name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise InvalidEventError(
        f"{name}: an attribute is a string, an integer or a boolean", field=name
    )


def _data(attributes: dict[str, Any]) -> tuple[str, bytes]:
    """(content type, bytes) of ``data`` or ``data_base64``, which are taken out."""
    declared = attributes.pop("datacontenttype", None)
    plain, based = attributes.pop("data", None), attributes.pop("data_base64", None)
    if declared is not None and not isinstance(declared, str):
        raise InvalidEventError("datacontenttype is no string", field="datacontenttype")
    if plain is not None and based is not None:
        raise InvalidEventError("data and data_base64 exclude each other", field="data_base64")
    if based is not None:
        return declared or OCTETS, _base64(based)
    if plain is None:
        return declared or OCTETS, b""
    content_type = declared or JSON
    if isinstance(plain, str) and not is_json(content_type):
        return content_type, _utf8(plain, "data")
    return content_type, _json(plain)


def is_json(content_type: str) -> bool:
    """True for ``application/json``, ``text/json`` and the ``+json`` types."""
    kind = media_type(content_type)
    return kind.endswith(("/json", "+json"))


def _json(value: object) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidEventError("data holds a number out of range", field="data") from error


def _utf8(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeError as error:  # JSON may hold half of a surrogate pair
        raise InvalidEventError(f"{field} is no Unicode text", field=field) from error


def _base64(value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidEventError("data_base64 is no base64", field="data_base64") from error
