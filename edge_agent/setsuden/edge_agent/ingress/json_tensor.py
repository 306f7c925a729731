"""Numbers in JSON as the octets of an observation: exactly, or not at all.

numpy alone would take ``true`` for 1.0, ``"1"`` for 1 and round integers above 2**53.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from setsuden.pipelines import codec
from setsuden.schemas.bundle import DType, Observation
from setsuden.schemas.errors import InvalidTensorError

MAX_EXACT_FLOAT = 2**53
"""Every integer below it is a float64; from it on a JSON ``….0`` may have been another number."""


def read(body: bytes, declared: Observation, max_body_bytes: int) -> bytes:
    """The octets of a JSON array in the declared shape, or flat in C order.

    Raises PayloadTooLargeError or InvalidTensorError.
    """
    codec.check_size(len(body), max_body_bytes)
    try:
        values = json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidTensorError(
            "the data is no array of JSON numbers", field="data", remedy="[0, 1.5, …]"
        ) from error
    return octets(values, declared, "data")


def octets(values: object, declared: Observation, field: str) -> bytes:
    """The octets of nested lists in the declared shape, or of a flat list in C order.

    Raises InvalidTensorError naming ``field``.
    """
    shape, flat = _flattened(values, field)
    if shape not in {declared.shape, (1, *declared.shape)} and len(shape) != 1:
        raise InvalidTensorError(
            f"the lists have the shape {list(shape)}, not {list(declared.shape)}", field=field
        )
    size = declared.nbytes // np.dtype(declared.dtype.value).itemsize
    if len(flat) != size:
        raise InvalidTensorError(
            f"{len(flat)} numbers, but {list(declared.shape)} takes {size}", field=field
        )
    _check_kinds(flat, declared.dtype, field)
    return _typed(flat, declared.dtype, field)


def _flattened(values: object, field: str) -> tuple[tuple[int, ...], list[Any]]:
    """(shape, leaves) of regular nested lists."""
    shape: list[int] = []
    level = values
    flat: list[Any] = [values]
    while isinstance(level, list):
        width = len(level)
        if len(shape) == 9 or any(not isinstance(x, list) or len(x) != width for x in flat):
            raise InvalidTensorError("the lists are ragged or too deep", field=field)
        shape.append(width)
        flat = [item for part in flat for item in part]
        level = flat[0] if flat else None
    if not shape:
        raise InvalidTensorError("the data is no list of numbers", field=field)
    return tuple(shape), flat


def _check_kinds(flat: list[Any], dtype: DType, field: str) -> None:
    """Python's own types tell what JSON said."""
    kinds = set(map(type, flat))
    if kinds <= ({bool} if dtype is DType.BOOL else {int, float}):
        if float not in kinds or np.dtype(dtype.value).kind == "f":
            return
        if all(x.is_integer() and abs(x) < MAX_EXACT_FLOAT for x in flat if type(x) is float):
            return
    raise InvalidTensorError(
        f"the data holds what is no {dtype}",
        field=field,
        remedy="send true and false" if dtype is DType.BOOL else "send plain numbers",
    )


def _typed(flat: list[Any], dtype: DType, field: str) -> bytes:
    kind = np.dtype(dtype.value)
    try:
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            whole = [int(value) for value in flat]
            if min(whole) < limits.min or max(whole) > limits.max:
                raise OverflowError  # noqa: TRY301  # numpy raises the same for some of them
            return np.array(whole, dtype=kind.newbyteorder("<")).tobytes()
        with np.errstate(over="ignore"):  # infinity is refused with NaN, by the codec
            return np.array(flat, dtype=kind.newbyteorder("<")).tobytes()
    except OverflowError as error:
        raise InvalidTensorError(f"a number does not fit into {dtype}", field=field) from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
