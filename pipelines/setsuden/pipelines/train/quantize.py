"""Static 8-bit quantization of a convolutional network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setsuden.process import quiet  # noqa: F401  # before onnxruntime is imported

from .export import tidy
from .extras import extra

Batch = NDArray[np.float32]
OPERATORS = ["Conv", "Gemm", "MaxPool", "Relu"]


def quantize(source: Path, target: Path, rows: Batch) -> None:
    """Write ``source`` with 8-bit arithmetic to ``target``; input and output stay float32.

    QDQ form, unsigned activations, signed weights with a scale per channel. ``rows``
    ``[n, *shape]`` are fed through the network to find the range of every activation. Weights keep
    7 bits: an x86 CPU without VNNI adds pairs of byte products in 16 bits, and 8 would saturate.
    Raises MissingExtraError without the ``[train]`` extra.
    """
    tool = _quantizer()
    tool.quantize_static(
        str(source),
        str(target),
        Feed(rows),
        quant_format=tool.QuantFormat.QDQ,
        activation_type=tool.QuantType.QUInt8,
        weight_type=tool.QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=OPERATORS,
    )
    tidy(target)


class Feed:
    """The calibration rows, one at a time, as the quantizer asks for them."""

    def __init__(self, rows: Batch) -> None:
        self._rows: Iterator[Batch] = iter(rows)

    def get_next(self) -> dict[str, Batch] | None:
        """The next input, a batch of one; ``None`` after the last."""
        row = next(self._rows, None)
        return None if row is None else {"image": row[None]}


def _quantizer() -> Any:
    extra("onnx")
    from onnxruntime import quantization  # noqa: PLC0415  # it imports onnx, a part of the extra

    return quantization
