"""Models that misbehave, each in one way: always, or on one poisonous observation only.

All of them take ``[n, 4]`` floats and give ``[n, 3]`` scores, and answer everything else as the
well-behaved model of ``tests.support.ml`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tests.support import ml

POISON = ml.POISON
LEAST_INT64 = -9.3e18
"""Cast to int64 it becomes the least one, whose quotient by -1 no register holds: SIGFPE."""


def model(
    nodes: Sequence[Any],
    constants: Sequence[Any] = (),
    *,
    dtype: int = TensorProto.FLOAT,
    shape: Sequence[Any] = ("n", ml.FEATURES),
    gives: Sequence[Any] = ("n", len(ml.CLASSES)),
    functions: Sequence[Any] = (),
    domains: Sequence[str] = (),
) -> bytes:
    """A serialized model from ``x`` to ``y`` with the linear weights at hand as ``w``."""
    graph = helper.make_graph(
        nodes,
        "bad",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, gives)],
        [constant("w", ml.WEIGHTS * np.float32(9)), *constants],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(name, 1) for name in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)
    return bytes(made.SerializeToString())


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """One operator; names are separated by spaces."""
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def constant(name: str, value: Any) -> Any:
    """One initializer."""
    return numpy_helper.from_array(np.asarray(value), name)


LINEAR = node("MatMul", "x w", "y")
_SCORES = node("MatMul", "x w", "scores")
_LARGEST = node("ReduceMax", "x", "largest", keepdims=0)
_IS_BAD = [_LARGEST, node("Equal", "largest bad", "is_bad")]
_BAD = constant("bad", np.float32(POISON))


def linear() -> bytes:
    """Nothing is wrong with it."""
    return model([LINEAR])


def loop(turns: int, *, poison: bool) -> bytes:
    """So many turns, always or for POISON; 2^40 of them never end."""
    body = helper.make_graph(
        [node("Identity", "go", "go_on"), node("Tanh", "h_in", "h_out")],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, None),
        ],
    )
    when = _IS_BAD if poison else [node("Identity", "yes", "is_bad")]
    nodes = [*when, helper.make_node("Loop", ["turns", "is_bad", "x"], ["h"], body=body)]
    constants = [constant("turns", np.int64(turns)), constant("yes", np.bool_(True)), _BAD]
    return model([*nodes, node("MatMul", "h w", "y")], constants)


def endless(*, poison: bool) -> bytes:
    """It never returns."""
    return loop(2**40, poison=poison)


def memory(*, poison: bool) -> bytes:
    """It fills 2 GB; the poisonous observation asks for them by its largest value."""
    size = constant("size", np.array([1 << 29], np.int64))
    if not poison:
        nodes = [node("ConstantOfShape", "size", "zeros")]
    else:
        nodes = [
            *_IS_BAD,
            node("Cast", "is_bad", "bad_int", to=TensorProto.INT64),
            node("Mul", "size bad_int", "wanted"),
            node("ConstantOfShape", "wanted", "zeros"),
        ]
    sum_up = [
        node("ReduceSum", "zeros", "sum", keepdims=0),
        _SCORES,
        node("Add", "scores sum", "y"),
    ]
    return model([*nodes, *sum_up], [size, _BAD])


def divides() -> bytes:
    """An integer division: LEAST_INT64 in the observation ends the process with SIGFPE."""
    nodes = [
        node("ReduceMin", "x", "least", keepdims=0),
        node("Cast", "least", "whole", to=TensorProto.INT64),
        node("Div", "whole minus_one", "quotient"),
        node("Cast", "quotient", "back", to=TensorProto.FLOAT),
        node("Mul", "back zero", "nothing"),
        _SCORES,
        node("Add", "scores nothing", "y"),
    ]
    constants = [constant("minus_one", np.int64(-1)), constant("zero", np.float32(0))]
    return model(nodes, constants)


def not_a_number() -> bytes:
    """NaN for POISON: the square root of a negative number."""
    nodes = [
        node("ReduceMax", "x", "most", keepdims=1, axes=[1]),
        node("Sub", "bound most", "room"),
        node("Sqrt", "room", "root"),
        node("Mul", "root zero", "nothing"),
        _SCORES,
        node("Add", "scores nothing", "y"),
    ]
    return model(nodes, [constant("bound", np.float32(500)), constant("zero", np.float32(0))])


def one_row() -> bytes:
    """One row of scores however many items there are."""
    return model([_SCORES, node("ReduceMean", "scores", "y", axes=[0], keepdims=1)])


def across_the_batch(scale: float = 1.0) -> bytes:
    """Normalised over the batch, as a BatchNorm left in training mode does."""
    nodes = [
        _SCORES,
        node("Mul", "scores scale", "scaled"),
        node("ReduceMean", "scaled", "mean", axes=[0], keepdims=1),
        node("Sub", "scaled mean", "y"),
    ]
    return model(nodes, [constant("scale", np.float32(scale))])


def probabilities() -> bytes:
    """A softmax at the end."""
    return model([_SCORES, node("Softmax", "scores", "y", axis=1)])


def bundle(
    folder: Path, student: bytes | None = None, teacher: bytes | None = None, **changes: str
) -> Path:
    """A bundle of these models; ``changes`` replace ``key = …`` lines of both."""
    ml.write_bundle(folder, name=folder.name, student=student is not None)
    for name, content in (("student", student), ("teacher", teacher)):
        if content is not None:
            (folder / f"{name}.onnx").write_bytes(content)
    manifest = folder / "bundle.toml"
    lines = manifest.read_text(encoding="utf-8").splitlines()
    for key, value in changes.items():
        lines = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in lines]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
