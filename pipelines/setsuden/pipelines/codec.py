"""Observations as they travel, into arrays. Every bound is checked before anything is decoded.

Two content types: ``application/octet-stream`` alone is the raw array as the bundle declares it
(C order, little endian); with ``Inference-Header-Content-Length`` it is the binary extension of
the Open Inference Protocol, a JSON header and a binary tail.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from setsuden.schemas.bundle import DType, Observation
from setsuden.schemas.errors import (
    InvalidTensorError,
    PayloadTooLargeError,
    UnsupportedContentTypeError,
)

OCTETS = "application/octet-stream"
MAX_TENSOR_HEADER_BYTES = 65_536
Array = NDArray[Any]

OIP_NAMES: dict[DType, str] = {
    DType.BOOL: "BOOL", DType.UINT8: "UINT8", DType.INT8: "INT8", DType.UINT16: "UINT16",
    DType.INT16: "INT16", DType.UINT32: "UINT32", DType.INT32: "INT32", DType.UINT64: "UINT64",
    DType.INT64: "INT64", DType.FLOAT16: "FP16", DType.FLOAT32: "FP32", DType.FLOAT64: "FP64",
}  # fmt: skip


class Carrier(Protocol):
    """What :func:`decode` reads of an event or an escalation."""

    @property
    def pipeline(self) -> str: ...  # noqa: D102  # the field of that name
    @property
    def content_type(self) -> str: ...  # noqa: D102  # the field of that name
    @property
    def tensor_header_bytes(self) -> int | None: ...  # noqa: D102  # the field of that name
    @property
    def data(self) -> bytes: ...  # noqa: D102  # the field of that name


def decode(event: Carrier, declared: Observation, max_body_bytes: int) -> Array:
    """The observation of an event, in the declared shape and dtype (a read-only view).

    Raises PayloadTooLargeError, UnsupportedContentTypeError or InvalidTensorError.
    """
    check_size(len(event.data), max_body_bytes)
    if event.content_type.split(";")[0].strip().lower() != OCTETS:
        raise UnsupportedContentTypeError(
            f"content type {event.content_type!r} is not served by {event.pipeline}",
            field="content_type",
            remedy=f"send {OCTETS}",
        )
    tail = event.data
    if event.tensor_header_bytes is not None:
        tail = _tensor_tail(event.data, event.tensor_header_bytes, declared)
    return raw_array(tail, declared)


def check_size(size: int, max_body_bytes: int) -> None:
    """Raises PayloadTooLargeError over the limit."""
    if size > max_body_bytes:
        raise PayloadTooLargeError(
            f"body of {size} bytes is over the limit of {max_body_bytes}",
            field="body",
            remedy="send a smaller observation or raise limits.max_body_bytes",
        )


def encode_tensor(array: Array, name: str = "observation") -> tuple[bytes, int]:
    """(body, JSON header length) of one array in the binary extension, one item per event."""
    dtype = DType(array.dtype.name)
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": OIP_NAMES[dtype],
                    "parameters": {"binary_data_size": array.nbytes},
                }
            ]
        }
    ).encode()
    return header + np.ascontiguousarray(array).tobytes(), len(header)


def raw_array(tail: bytes, declared: Observation) -> Array:
    """The raw bytes of one observation (a read-only view); raises InvalidTensorError."""
    if len(tail) != declared.nbytes:
        raise InvalidTensorError(
            f"{len(tail)} bytes, but {declared.dtype} {list(declared.shape)} takes "
            f"{declared.nbytes}",
            field="data",
            remedy="send exactly one observation of the declared shape",
        )
    array = np.frombuffer(tail, dtype=np.dtype(declared.dtype.value).newbyteorder("<"))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidTensorError(
            "the observation holds NaN or infinity", field="data", remedy="repair the reading"
        )
    return array.reshape(declared.shape)


def _tensor_tail(data: bytes, header_bytes: int, declared: Observation) -> bytes:
    if header_bytes > min(len(data), MAX_TENSOR_HEADER_BYTES):
        raise InvalidTensorError(
            f"the tensor header of {header_bytes} bytes is longer than the body or "
            f"{MAX_TENSOR_HEADER_BYTES}",
            field="inference-header-content-length",
        )
    try:
        tensor = json.loads(data[:header_bytes])["inputs"][0]
        shape, dtype = tuple(tensor["shape"]), tensor["datatype"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise InvalidTensorError(
            "the tensor header is no Open Inference Protocol request",
            field="inputs",
            remedy='{"inputs": [{"name", "shape", "datatype"}]}',
        ) from error
    check_tensor(shape, dtype, declared)
    return data[header_bytes:]


def check_tensor(shape: tuple[Any, ...], dtype: object, declared: Observation) -> None:
    """Raises InvalidTensorError unless shape (a batch axis of 1 in front is fine) and type fit."""
    if dtype != OIP_NAMES[declared.dtype]:
        raise InvalidTensorError(
            f"datatype {str(dtype)[:40]!r} is not {OIP_NAMES[declared.dtype]}",
            field="inputs[0].datatype",
        )
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in shape)
    if not whole or shape not in {declared.shape, (1, *declared.shape)}:
        raise InvalidTensorError(
            f"shape {str(list(shape))[:80]} is neither {list(declared.shape)} nor "
            f"{[1, *declared.shape]}",
            field="inputs[0].shape",
            remedy=_shape_remedy(shape if whole else (), declared),
        )


def _shape_remedy(shape: tuple[int, ...], declared: Observation) -> str:
    if shape[1:] == declared.shape and shape[0] > 1:
        return f"one observation per event: send {shape[0]} of them"
    if 0 < len(shape) <= 8 and prod(shape) == prod(declared.shape):
        return f"reshape it to {list(declared.shape)}, row by row"
    return f"send the {prod(declared.shape)} elements of one observation"
