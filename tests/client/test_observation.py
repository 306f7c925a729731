"""What the client sends of an array is what the codec reads, and the client needs no numpy."""

from __future__ import annotations

import array as stdlib_array
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from setsuden.client._messages import OCTETS, body_of
from setsuden.pipelines import codec
from setsuden.schemas.bundle import DType, Observation
from setsuden.schemas.errors import InvalidTensorError
from setsuden.schemas.event import Event

DTYPES = [dtype for dtype in DType if dtype is not DType.BOOL]


@st.composite
def observations(draw: st.DrawFn) -> NDArray[np.generic]:
    dtype = np.dtype(draw(st.sampled_from([*DTYPES, DType.BOOL])).value)
    shape = draw(arrays.array_shapes(max_dims=4, max_side=6))
    elements = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    observation = draw(arrays.arrays(dtype, shape, elements=elements))
    big_endian = draw(st.booleans())
    return observation.astype(dtype.newbyteorder(">")) if big_endian else observation


@given(observations(), st.booleans())
def test_the_codec_reads_back_every_array(array: NDArray[np.generic], transposed: bool) -> None:
    sent = array.T if transposed else array
    body = body_of(sent, OCTETS)
    event = Event(
        id="1",
        source="s",
        pipeline="p",
        device="d",
        tensor_header_bytes=body.tensor_header_bytes,
        data=body.data,
    )
    dtype = DType(array.dtype.newbyteorder("=").name)
    decoded = codec.decode(event, Observation(dtype=dtype, shape=sent.shape), len(body.data))
    np.testing.assert_array_equal(decoded, sent)


@pytest.mark.parametrize(
    "data",
    [b"\x01\x02", bytearray(b"\x01\x02"), memoryview(b"\x01\x02"), memoryview(b"-\x01-\x02")[1::2]],
)
def test_bytes_are_sent_unchanged(data: bytes) -> None:
    assert body_of(data, OCTETS) == (b"\x01\x02", None)


def test_with_a_content_type_of_its_own_an_array_has_no_tensor_header() -> None:
    assert body_of(np.zeros(3, np.uint8), "audio/l8") == (bytes(3), None)


def test_a_type_with_a_dtype_but_no_array_interface_is_an_array_too() -> None:
    class Foreign:
        dtype = np.dtype("<i2")
        shape = (2,)

        def tobytes(self) -> bytes:
            return b"\x01\x00\x02\x00"

    body = body_of(Foreign(), OCTETS)
    assert body.tensor_header_bytes is not None
    assert b'"datatype":"INT16"' in body.data[: body.tensor_header_bytes]


@pytest.mark.parametrize(
    "data",
    [
        "text",
        [1, 2],
        None,
        stdlib_array.array("f", [1.0]),
        np.array(["a"]),
        np.array([object()]),
        np.array([1j]),
        np.array(["2026-01-01"], dtype="datetime64[s]"),
        np.zeros(2, dtype=np.longdouble),
        np.zeros(2, dtype="V3"),
    ],
)
def test_an_observation_that_cannot_be_sent_is_refused(data: object) -> None:
    with pytest.raises(InvalidTensorError) as caught:
        body_of(data, OCTETS)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.field == "data"


def test_importing_the_client_imports_nothing_heavy() -> None:
    code = (
        "import sys, setsuden.client; "
        "print([n for n in ('numpy', 'onnxruntime', 'ray', 'setsuden.pipelines', 'opentelemetry')"
        " if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
