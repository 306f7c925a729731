"""Makes student.onnx and teacher.onnx; needs the onnx package (``pip install onnx``).

It prints:

    student.onnx, 705 bytes
    teacher.onnx, 714 bytes
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SAMPLES = 64
OPSET, IR_VERSION = 17, 8


def model(feature: onnx.NodeProto, threshold: float, steepness: float) -> onnx.ModelProto:
    """Logits (0, steepness * (mean of the feature - threshold)) for each item of a batch."""
    weights = np.zeros((SAMPLES, 2), np.float32)
    weights[:, 1] = steepness / SAMPLES
    bias = np.array([0.0, -steepness * threshold], np.float32)
    graph = helper.make_graph(
        [feature, helper.make_node("Gemm", ["feature", "weights", "bias"], ["logits"])],
        "vibration",
        [helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["batch", SAMPLES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(made)
    return made


def models() -> dict[str, onnx.ModelProto]:
    """Both models by file name."""
    absolute = helper.make_node("Abs", ["samples"], ["feature"])
    square = helper.make_node("Mul", ["samples", "samples"], ["feature"])
    return {
        "student.onnx": model(absolute, threshold=0.5, steepness=12.0),
        "teacher.onnx": model(square, threshold=0.25, steepness=40.0),
    }


def main() -> None:
    for name, made in models().items():
        path = Path(__file__).with_name(name)
        path.write_bytes(made.SerializeToString())
        print(f"{name}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
