"""What an application and its agent exchange: observations, events, updates. Needs no numpy."""

from __future__ import annotations

import json
import secrets
from array import array
from typing import Any, NamedTuple, Protocol

from pydantic import ValidationError

from setsuden.schemas import subjects
from setsuden.schemas.errors import InvalidEventError, InvalidTensorError, SetsudenError
from setsuden.schemas.escalation import MSG_ID_HEADER
from setsuden.schemas.event import Event
from setsuden.schemas.log import Throttle, get_logger
from setsuden.schemas.refusal import Refusal
from setsuden.schemas.result import Result, Status, Tier
from setsuden.schemas.trace_context import parse_traceparent

log = get_logger(__name__)
OCTETS = "application/octet-stream"
MAX_DEADLINE_SECONDS = 10 * 365 * 86_400.0
MAX_UPDATE_BYTES = 1 << 20
_UNREADABLE = Throttle()
"""Anybody who may publish to a reply subject may publish many updates that cannot be read."""
_DATATYPES = {
    "b1": "BOOL", "u1": "UINT8", "i1": "INT8", "u2": "UINT16", "i2": "INT16", "u4": "UINT32",
    "i4": "INT32", "u8": "UINT64", "i8": "INT64", "f2": "FP16", "f4": "FP32", "f8": "FP64",
}  # fmt: skip
"""Open Inference Protocol names of array interface types (without their byte order)."""
_SWAPPERS = {"2": "H", "4": "I", "8": "Q"}


class ArrayLike(Protocol):
    """A numpy array, or any other object with an element type, a shape and ``tobytes``."""

    @property
    def dtype(self) -> Any:
        """The element type; ``dtype.str`` is read, as in ``<f4``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""

    def tobytes(self) -> bytes:
        """The elements in C order."""


Data = bytes | bytearray | memoryview | ArrayLike
"""Bytes are sent unchanged; an array with its shape and type, so the agent refuses a wrong one."""


class EventBody(NamedTuple):
    """An event's data, and how much of it is a tensor header."""

    data: bytes
    tensor_header_bytes: int | None


def body_of(data: Data, content_type: str) -> EventBody:
    """The body of one observation; raises InvalidTensorError for data that cannot be sent."""
    if isinstance(data, bytes | bytearray | memoryview):
        return EventBody(bytes(data), None)
    if not callable(getattr(data, "tobytes", None)) or not hasattr(data, "shape"):
        raise InvalidTensorError(
            f"{type(data).__name__} is neither bytes nor an array",
            field="data",
            remedy="send bytes or a numpy array (tensor.numpy() makes one)",
        )
    order, kind = _type_of(data)
    content = _little_endian(data.tobytes(), order, kind)
    if content_type != OCTETS:
        return EventBody(content, None)
    header = _tensor_header(_DATATYPES[kind], data.shape, len(content))
    return EventBody(header + content, len(header))


def _type_of(data: ArrayLike) -> tuple[str, str]:
    """(byte order, kind and size) as in ``("<", "f4")``."""
    interface = getattr(data, "__array_interface__", None)
    name = interface["typestr"] if interface else getattr(data.dtype, "str", str(data.dtype))
    if name[1:] not in _DATATYPES:
        raise InvalidTensorError(
            f"elements of type {str(name)[:40]!r} cannot be sent",
            field="data",
            remedy="send booleans, integers or floats of 1 to 8 bytes",
        )
    return name[0], name[1:]


def _little_endian(content: bytes, order: str, kind: str) -> bytes:
    if order != ">":
        return content
    elements = array(_SWAPPERS[kind[1:]], content)
    elements.byteswap()
    return elements.tobytes()


def _tensor_header(datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    """The JSON in front of the binary tail (Open Inference Protocol, binary extension)."""
    tensor = {
        "name": "observation",
        "shape": [int(axis) for axis in shape],
        "datatype": datatype,
        "parameters": {"binary_data_size": size},
    }
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def device_of(device: str | None, default: str | None) -> str:
    """The device an event belongs to; raises InvalidEventError."""
    name = device or default
    if name is None:
        raise InvalidEventError(
            "no device is named", field="device", remedy="name it at submit or for the client"
        )
    return subjects.token(name, "device")


def ttl_ms(deadline: float | None) -> int | None:
    """Whole milliseconds of a deadline in seconds; raises InvalidEventError.

    It travels as a duration, so that the application's clock need not agree with the device's.
    """
    if deadline is None:
        return None
    if not deadline > 0:
        raise InvalidEventError(
            f"a deadline in {deadline} s has passed", field="deadline", remedy="give seconds > 0"
        )
    if not deadline <= MAX_DEADLINE_SECONDS:
        raise InvalidEventError(
            f"a deadline in {deadline} s is out of range", field="deadline", remedy="leave it out"
        )
    return max(1, round(deadline * 1000))


def random_id() -> str:
    """32 hexadecimal digits that nobody can guess: fits a trace id and an idempotency key."""
    return secrets.token_hex(16)


def trace_ids(traceparent: str | None) -> tuple[str, str | None]:
    """(the event's trace id, the same for ``ce-traceid`` when there is no traceparent)."""
    context = parse_traceparent(traceparent)
    if context is not None:
        return context.trace_id, None
    chosen = random_id()
    return chosen, chosen


def message_headers(
    event: Event, application: str, nonce: str, token: str, copy: int
) -> dict[str, str]:
    """Headers of one copy of an event: the same key, but its own message id and reply subject."""
    name = f"{token}-{copy}" if copy else token
    headers = event.headers()
    prefix = subjects.reply_prefix(application, event.device, nonce)
    headers["ce-reply"] = f"{prefix}.{name}"
    headers[MSG_ID_HEADER] = f"{nonce}-{name}"
    return headers


def token_and_copy(reply_subject: str) -> tuple[str, int]:
    """The submission's token and the copy number at the end of a reply subject."""
    token, _, copy = reply_subject.rsplit(".", 1)[-1].partition("-")
    return token, int(copy) if copy.isdigit() else 0


def read_update(data: bytes) -> Result | SetsudenError | None:
    """A result, a refusal as its error, or None when it cannot be read."""
    if len(data) > MAX_UPDATE_BYTES:
        _warn("update_oversized", len(data))
        return None
    try:
        return Result.model_validate_json(data)
    except ValidationError:
        return _read_refusal(data)


def _read_refusal(data: bytes) -> SetsudenError | None:
    try:
        return Refusal.model_validate_json(data).exception()
    except ValidationError:
        _warn("update_unreadable", len(data))
        return None


def _warn(event: str, size: int) -> None:
    suppressed = _UNREADABLE.due()
    if suppressed is not None:
        log.warning(event, bytes=size, suppressed=suppressed)


def read_record(data: bytes | None) -> Result | None:
    """A record of the results stream; None when there is none, or it cannot be read."""
    update = None if data is None else read_update(data)
    return update if isinstance(update, Result) else None


def completed(record: Result, provisional: Result | None) -> Result:
    """A cloud record with what the device alone knew, as the agent would have told it."""
    if provisional is None or record.tier is Tier.EDGE:
        return record
    return provisional.merged_with(record)


def in_order(final: Result | None, late: Result | None) -> list[Result]:
    """The records of one event in the order in which the agent would have sent them.

    When the cloud stored its answer first and the deadline passed on the device before it arrived,
    the device's ``expired`` is the final result, although it was stored as the late record.
    """
    records = [record for record in (final, late) if record is not None]
    if final is not None and late is not None and late.status is Status.EXPIRED:
        return [late, final.model_copy(update={"status": Status.SUPERSEDED})]
    return records
