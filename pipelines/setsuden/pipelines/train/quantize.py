"""Static 8-bit quantization of a convolutional network, and the running of ONNX files for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from .export import tidy
from .extras import Network, extra

Images = NDArray[np.float32]
OPERATORS = ["Conv", "Gemm", "MaxPool", "Relu"]


def quantize(source: Path, target: Path, rows: Images) -> None:
    """Write ``source`` with 8-bit arithmetic to ``target``; input and output stay float32.

    QDQ form, unsigned activations and signed weights with a scale per channel. ``rows``
    ``[n, *shape]`` are fed through the network to find the range of every activation.
    """
    tool = extra("onnxruntime.quantization")
    tool.quantize_static(
        str(source),
        str(target),
        Feed(rows),
        quant_format=tool.QuantFormat.QDQ,
        activation_type=tool.QuantType.QUInt8,
        weight_type=tool.QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=OPERATORS,
    )
    tidy(target)


class Feed:
    """The calibration rows, one at a time, as the quantizer asks for them."""

    def __init__(self, rows: Images) -> None:
        self._rows: Iterator[Images] = iter(rows)

    def get_next(self) -> dict[str, Images] | None:
        """The next input of batch 1; ``None`` after the last."""
        row = next(self._rows, None)
        return None if row is None else {"image": row[None]}


def open_graph(path: Path) -> Network:
    """An ``onnxruntime.InferenceSession`` of one thread that does not spin."""
    runtime = extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_graph(path: Path, images: Images) -> NDArray[np.float32]:
    """The logits ``float32 [n, classes]`` of ``images`` ``float32 [n, *shape]``."""
    session = open_graph(path)
    return np.concatenate([session.run(["logits"], {"image": part})[0]
                           for part in np.array_split(images, max(1, len(images) // 100))])


def milliseconds(path: Path, image: Images, repeats: int = 300) -> float:
    """The median time of one item at batch 1 on one thread."""
    session = open_graph(path)
    times = []
    for _ in range(repeats):
        start = perf_counter()
        session.run(["logits"], {"image": image[None]})
        times.append(perf_counter() - start)
    return float(np.median(times)) * 1e3
