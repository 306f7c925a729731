"""Tiny ONNX models and bundle folders, made by hand as a user would make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FEATURES = 4
CLASSES = ("low", "middle", "high")
WEIGHTS = np.array(
    [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0], [0.1, 0.2, 0.3]], dtype=np.float32
)
POISON = 999.0
"""The first feature of an observation that the poisoned model raises on."""

MANIFEST = """\
name = "{name}"
version = "1"
classes = {classes}

[observation]
dtype = "float32"
shape = [{features}]

[models.teacher]
file = "teacher.onnx"
input = "x"
output = "y"
kind = "logits"
dtype = "float32"
shape = [{features}]
max_batch = {max_batch}
"""
STUDENT = """
[models.student]
file = "student.onnx"
input = "x"
output = "y"
kind = "logits"
dtype = "float32"
shape = [{features}]

[gate]
threshold = 0.9
"""


def linear(
    weights: NDArray[np.float32],
    *,
    poisoned: bool = False,
    hanging: bool = False,
    repeats: int = 0,
) -> bytes:
    """``y = x @ weights``; on POISON ``poisoned`` raises and ``hanging`` never ends."""
    features, classes = weights.shape
    nodes = [helper.make_node("MatMul", ["h", "w"], ["logits"])]
    constants: list[Any] = [numpy_helper.from_array(weights, "w")]
    head: list[Any] = [helper.make_node("Identity", ["x"], ["h"])]
    if repeats:
        head, extra = _slow(features, repeats)
        constants += extra
    if hanging:
        head, constants = _endless(constants)
    tail, more = _poison() if poisoned else ([helper.make_node("Identity", ["logits"], ["y"])], [])
    graph = helper.make_graph(
        [*head, *nodes, *tail],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        [*constants, *more],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _endless(constants: list[Any]) -> tuple[list[Any], list[Any]]:
    """A loop of 2^40 turns for POISON, of none for all else."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Tanh", ["h_in"], ["h_out"]),
        ],
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
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Equal", ["largest", "bad"], ["is_bad"]),
        helper.make_node("Loop", ["turns", "is_bad", "x"], ["h"], body=body),
    ]
    return nodes, [
        *constants,
        numpy_helper.from_array(np.array(2**40, np.int64), "turns"),
        numpy_helper.from_array(np.array(POISON, np.float32), "bad"),
    ]


def _poison() -> tuple[list[Any], list[Any]]:
    """Integer division by (first feature - POISON): onnxruntime refuses zero."""
    nodes = [
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["first"]),
        helper.make_node("Sub", ["first", "bad"], ["rest"]),
        helper.make_node("Cast", ["rest"], ["divisor"], to=TensorProto.INT32),
        helper.make_node("Div", ["nothing", "divisor"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["added"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["logits", "added"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array(POISON, np.float32), "bad"),
        numpy_helper.from_array(np.array([[0]], np.int32), "nothing"),
    ]
    return nodes, constants


def _slow(features: int, repeats: int, width: int = 64) -> tuple[list[Any], list[Any]]:
    """A detour through square matrices that ends where it began; no cheaper in a batch."""
    rng = np.random.default_rng(7)
    square = width * width

    def constant(name: str, scale: float, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), name)

    constants = [
        constant("in", 1, features, square),
        constant("wide", 1e-2, width, width),
        constant("out", 1e-9, square, features),
        numpy_helper.from_array(np.array([-1, width, width], np.int64), "as_squares"),
        numpy_helper.from_array(np.array([-1, square], np.int64), "as_rows"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "in"], ["rows"]),
        helper.make_node("Reshape", ["rows", "as_squares"], ["s0"]),
    ]
    for step in range(repeats):
        nodes.append(helper.make_node("MatMul", [f"s{step}", "wide"], [f"m{step}"]))
        nodes.append(helper.make_node("Tanh", [f"m{step}"], [f"s{step + 1}"]))
    nodes.append(helper.make_node("Reshape", [f"s{repeats}", "as_rows"], ["back_rows"]))
    nodes.append(helper.make_node("MatMul", ["back_rows", "out"], ["back"]))
    nodes.append(helper.make_node("Add", ["x", "back"], ["h"]))
    return nodes, constants


def write_bundle(
    folder: Path,
    *,
    name: str = "tiny",
    poisoned: bool = False,
    hanging: bool = False,
    student: bool = False,
    repeats: int = 0,
    max_batch: int = 32,
) -> Path:
    """A bundle folder whose teacher chooses the largest of the first three features."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"name": name, "features": FEATURES, "max_batch": max_batch}
    classes = "[" + ", ".join(f'"{label}"' for label in CLASSES) + "]"
    text = MANIFEST.format(classes=classes, **fields)
    (folder / "teacher.onnx").write_bytes(
        linear(WEIGHTS, poisoned=poisoned, hanging=hanging, repeats=repeats)
    )
    if student:
        text += STUDENT.format(**fields)
        (folder / "student.onnx").write_bytes(linear(WEIGHTS * np.float32(0.25)))
    (folder / "bundle.toml").write_text(text, encoding="utf-8")
    return folder


def observation(index: int, *, first: float | None = None) -> bytes:
    """One reading whose right class is ``index % 3``."""
    values = np.zeros(FEATURES, np.float32)
    values[index % 3] = 1.0
    values[3] = index / 1e6
    if first is not None:
        values[0] = first
    return values.tobytes()


def label(index: int) -> str:
    """The class the teacher must give to ``observation(index)``."""
    return CLASSES[index % 3]
