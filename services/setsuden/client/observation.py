"""What an application hands over, as the bytes that travel. Needs no numpy."""

from __future__ import annotations

import json
from array import array
from typing import Any, NamedTuple, Protocol

from setsuden.schemas.errors import InvalidTensorError

OCTETS = "application/octet-stream"
_DATATYPES = {
    "b1": "BOOL", "u1": "UINT8", "i1": "INT8", "u2": "UINT16", "i2": "INT16", "u4": "UINT32",
    "i4": "INT32", "u8": "UINT64", "i8": "INT64", "f2": "FP16", "f4": "FP32", "f8": "FP64",
}  # fmt: skip
"""Array interface type strings without their byte order, by Open Inference names."""
_SWAPPERS = {"2": "H", "4": "I", "8": "Q"}


class ArrayLike(Protocol):
    """A numpy array, or whatever else has a type, a shape and bytes."""

    @property
    def dtype(self) -> Any:
        """The element type; ``dtype.str`` is read, as in ``<f4``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""

    def tobytes(self) -> bytes:
        """The elements in C order."""


Data = bytes | bytearray | memoryview | ArrayLike
"""Bytes travel as they are; an array tells its shape and type, so a wrong one is refused."""


class Body(NamedTuple):
    """An event's data, and how much of it is a tensor header."""

    data: bytes
    tensor_header_bytes: int | None


def body_of(data: Data, content_type: str) -> Body:
    """The body of one observation; raises InvalidTensorError for what cannot be one."""
    if isinstance(data, bytes | bytearray | memoryview):
        return Body(bytes(data), None)
    if not callable(getattr(data, "tobytes", None)) or not hasattr(data, "shape"):
        raise InvalidTensorError(
            f"{type(data).__name__} is neither bytes nor an array",
            field="data",
            remedy="send bytes or a numpy array (tensor.numpy() makes one)",
        )
    order, kind = _type_of(data)
    content = _little_endian(data.tobytes(), order, kind)
    if content_type != OCTETS:
        return Body(content, None)
    header = _tensor_header(_DATATYPES[kind], data.shape, len(content))
    return Body(header + content, len(header))


def _type_of(data: ArrayLike) -> tuple[str, str]:
    """(byte order, kind and size) as in ``("<", "f4")``."""
    interface = getattr(data, "__array_interface__", None)
    name = interface["typestr"] if interface else getattr(data.dtype, "str", str(data.dtype))
    if name[1:] not in _DATATYPES:
        raise InvalidTensorError(
            f"elements of type {str(name)[:40]!r} do not travel",
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
