"""Observations as they travel: every bound is checked before anything is decoded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from setsuden.pipelines import codec
from setsuden.schemas.bundle import ITEM_BYTES, DType, Observation
from setsuden.schemas.errors import (
    InvalidTensorError,
    PayloadTooLargeError,
    RejectedError,
    UnsupportedContentTypeError,
)
from setsuden.schemas.event import Event

FLOATS = Observation(dtype=DType.FLOAT32, shape=(2, 3))
MAX = 10_000


def event(data: bytes, header_bytes: int | None = None, content_type: str = codec.OCTETS) -> Event:
    return Event(
        id="1",
        source="s",
        pipeline="p",
        device="d",
        content_type=content_type,
        tensor_header_bytes=header_bytes,
        data=data,
    )


def with_header(header: object, tail: bytes) -> Event:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return event(head + tail, len(head))


def tensor(shape: object = (2, 3), datatype: object = "FP32") -> dict[str, object]:
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype}]}


@given(st.data(), st.sampled_from(DType), arrays.array_shapes(max_dims=4, max_side=5))
def test_every_dtype_travels_raw_and_with_a_tensor_header(
    data: st.DataObject, dtype: DType, shape: tuple[int, ...]
) -> None:
    native = np.dtype(dtype.value)
    elements = arrays.from_dtype(native, allow_nan=False, allow_infinity=False)
    array = data.draw(arrays.arrays(native, shape, elements=elements))
    declared = Observation(dtype=dtype, shape=shape)
    assert declared.nbytes == array.nbytes
    body, header_bytes = codec.encode_tensor(array)
    raw = codec.decode(event(array.tobytes()), declared, MAX)
    told = codec.decode(event(body, header_bytes), declared, len(body))
    np.testing.assert_array_equal(raw, array)
    np.testing.assert_array_equal(told, array)


def test_oversize_is_refused_before_anything_is_parsed() -> None:
    """Everything else about it is wrong, too, and none of that is what is told."""
    body = b"[" * 30_000
    with pytest.raises(PayloadTooLargeError) as caught:
        codec.decode(event(body, len(body), "no/type"), FLOATS, len(body) - 1)
    assert caught.value.http_status == 413


@pytest.mark.parametrize("size", [0, 1, 23, 25, 48])
def test_a_tail_that_is_not_exactly_one_observation_is_refused(size: int) -> None:
    for sent in (event(bytes(size)), with_header(tensor(), bytes(size))):
        with pytest.raises(InvalidTensorError, match="24"):
            codec.decode(sent, FLOATS, MAX)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.FLOAT32, DType.FLOAT64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(dtype: DType, value: float) -> None:
    array = np.zeros(5, dtype.value)
    array[3] = value
    declared = Observation(dtype=dtype, shape=(5,))
    with pytest.raises(InvalidTensorError, match="NaN or infinity"):
        codec.decode(event(array.tobytes()), declared, MAX)


@pytest.mark.parametrize(
    "header",
    [
        tensor(shape=(3, 2)),
        tensor(shape=(6,)),
        tensor(shape=(2, 2, 3)),
        tensor(shape=()),
        tensor(shape="23"),
        tensor(shape={"2": 1, "3": 1}),
        tensor(shape=(2.0, 3.0)),
        tensor(shape=(True, 3)),
        tensor(shape=([2], [3])),
        tensor(shape=(-2, -3)),
        tensor(shape=(10**400, 3)),
        tensor(shape=None),
        tensor(datatype="INT32"),
        tensor(datatype="float32"),
        tensor(datatype=None),
        tensor(datatype=["FP32"]),
        {},
        {"inputs": []},
        {"inputs": {"0": 1}},
        {"inputs": [7]},
        [],
        77,
        None,
        b"{ ",
        b"\xff\xfe",
        b"[" * 30_000,
        b'{"inputs":[{"shape":[' + b"9" * 5000 + b'],"datatype":"FP32"}]}',
    ],
)
def test_a_tensor_header_that_is_wrong_or_a_bomb_is_refused(header: object) -> None:
    with pytest.raises(InvalidTensorError):
        codec.decode(with_header(header, bytes(24)), FLOATS, 1 << 20)


@pytest.mark.parametrize(
    ("size", "length"), [(24, 25), (24, 10**9), (70_000, codec.MAX_TENSOR_HEADER_BYTES + 1)]
)
def test_a_header_longer_than_the_body_or_the_bound_is_not_read(size: int, length: int) -> None:
    with pytest.raises(InvalidTensorError, match="longer than the body"):
        codec.decode(event(bytes(size), length), FLOATS, 1 << 20)


def test_a_batch_axis_of_one_is_fine() -> None:
    sent = with_header(tensor(shape=(1, 2, 3)), bytes(24))
    assert codec.decode(sent, FLOATS, MAX).shape == (2, 3)


@pytest.mark.parametrize(
    "content_type", ["application/octet-stream", "Application/Octet-Stream; charset=x"]
)
def test_octets_are_served_however_they_are_spelt(content_type: str) -> None:
    codec.decode(event(bytes(24), content_type=content_type), FLOATS, MAX)


@pytest.mark.parametrize("content_type", ["image/png", "", "application/json", "octet-stream"])
def test_another_content_type_is_refused_with_the_right_one(content_type: str) -> None:
    with pytest.raises(UnsupportedContentTypeError, match=codec.OCTETS):
        codec.decode(event(bytes(24), content_type=content_type), FLOATS, MAX)


def test_the_observation_is_a_view_and_cannot_be_changed() -> None:
    found = codec.decode(event(bytes(24)), FLOATS, MAX)
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1.0


@given(st.binary(max_size=200), st.none() | st.integers(2, 300), st.sampled_from(DType))
def test_no_body_raises_anything_but_a_refusal(
    body: bytes, header_bytes: int | None, dtype: DType
) -> None:
    declared = Observation(dtype=dtype, shape=(3,))
    try:
        found = codec.decode(event(body, header_bytes), declared, 150)
    except RejectedError:
        return
    assert found.shape == (3,)
    assert found.nbytes == 3 * ITEM_BYTES[dtype]
