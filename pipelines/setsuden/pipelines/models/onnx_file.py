"""What an ONNX file says of its graph, read without the ``onnx`` package and without its weights.

A walk over the protobuf fields that :mod:`graph` needs. Everything else, weights first of all,
is skipped by its length, so a file of 2 GB costs what its node list costs. Nothing is recursive:
subgraphs and functions are noticed, and entered only where one may name another file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_FIELDS = 2_000_000
"""Of one file; a graph of more is not worth judging in Python."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto3.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_SPARSE = 1, 5, 11, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TENSOR = 1, 3, 5
_TENSOR_DTYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 2, 8, 13, 14
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 10: "tensor", 22: "sparse", 23: "sparse", 6: "graph", 11: "graph",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}  # fmt: skip
"""Where a message can hold a tensor, and how deep."""
_LOCATION_KEY = b"location"
"""Without these bytes no tensor can say where its values lie."""
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_TYPE_ELEMENT = 1, 2, 1, 1

Value = int | memoryview


class UnreadableError(ValueError):
    """The bytes are no ONNX model, or more of one than is worth reading."""


@dataclass(slots=True)
class Node:
    """One operator."""

    op: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    """Tensor names; an omitted optional input is the empty string."""
    outputs: list[str] = field(default_factory=list)
    attributes: list[memoryview] = field(default_factory=list)
    """Undecoded: few are asked for."""

    def attribute_dtype(self, name: str) -> int:
        """ONNX element type of a tensor attribute, or the value of an integer one; else 0."""
        for content in self.attributes:
            named, value = _attribute(content)
            if named == name:
                return value
        return 0

    def attribute_names(self) -> list[str]:
        """Names of its attributes."""
        return [_attribute(content)[0] for content in self.attributes]


@dataclass(slots=True)
class OnnxFile:
    """One model's graph without its weights."""

    nodes: list[Node] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    """Names and ONNX element types; 0 where it is not said."""
    constants: dict[str, int] = field(default_factory=dict)
    """Initializers by name, with their element types."""
    functions: int = 0
    """Function bodies, which stand for operators."""


def read(content: bytes) -> OnnxFile:
    """The graph of serialized ``ModelProto`` bytes; raises UnreadableError."""
    walk, model = _Walk(), OnnxFile()
    graphs = []
    for number, value in walk.fields(memoryview(content)):
        if number == _MODEL_GRAPH and isinstance(value, memoryview):
            graphs.append(value)
        model.functions += number == _MODEL_FUNCTIONS
    if not graphs:
        raise UnreadableError("it holds no graph")
    for graph in graphs:  # protobuf makes one of them, and so would who hides a node in the first
        for number, value in walk.fields(graph):
            if isinstance(value, memoryview):
                _take(walk, model, number, value)
    return model


def external_tensor(content: bytes) -> str | None:
    """Name of a tensor whose values lie in another file, wherever in the model it is.

    Raises UnreadableError where that cannot be told.
    """
    if _LOCATION_KEY not in content:
        return None
    walk, left = _Walk(), [("model", memoryview(content))]
    while left:
        message, part = left.pop()
        if message == "tensor":
            name, _, external = _tensor(walk, part)
            if external:
                return name
            continue
        kinds = _PARTS[message]
        for number, value in walk.fields(part):
            if number in kinds and isinstance(value, memoryview):
                left.append((kinds[number], value))
    return None


def _take(walk: _Walk, model: OnnxFile, number: int, value: memoryview) -> None:
    if number == _GRAPH_NODE:
        model.nodes.append(_node(walk, value))
    elif number == _GRAPH_INITIALIZER:
        _add_constant(walk, model, value)
    elif number == _GRAPH_INPUT:
        name, dtype = _value_info(walk, value)
        model.inputs[name] = dtype
    elif number == _GRAPH_SPARSE:
        for inner, tensor in walk.fields(value):
            if inner == 1 and isinstance(tensor, memoryview):  # SparseTensorProto.values
                _add_constant(walk, model, tensor)


def _node(walk: _Walk, content: memoryview) -> Node:
    node = Node()
    for number, value in walk.fields(content):
        if not isinstance(value, memoryview):
            continue
        if number == _NODE_INPUT:
            node.inputs.append(_text(value))
        elif number == _NODE_OUTPUT:
            node.outputs.append(_text(value))
        elif number == _NODE_OP:
            node.op = _text(value)
        elif number == _NODE_DOMAIN:
            node.domain = _text(value)
        elif number == _NODE_ATTRIBUTE:
            node.attributes.append(value)
    return node


def _add_constant(walk: _Walk, model: OnnxFile, content: memoryview) -> None:
    name, dtype, _ = _tensor(walk, content)
    model.constants[name] = dtype


def _tensor(walk: _Walk, content: memoryview) -> tuple[str, int, bool]:
    """Name, element type, and whether its values lie in another file."""
    name, dtype, external = "", 0, False
    for number, value in walk.fields(content):
        if number == _TENSOR_NAME and isinstance(value, memoryview):
            name = _text(value)
        elif number == _TENSOR_DTYPE and isinstance(value, int):
            dtype = value
        elif number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value == 1):
            external = True
    return name, dtype, external


def _value_info(walk: _Walk, content: memoryview) -> tuple[str, int]:
    name, dtype = "", 0
    for number, value in walk.fields(content):
        if number == _VALUE_NAME and isinstance(value, memoryview):
            name = _text(value)
        elif number == _VALUE_TYPE and isinstance(value, memoryview):
            for kind, tensor in walk.fields(value):
                if kind == _TYPE_TENSOR and isinstance(tensor, memoryview):
                    dtype = next(
                        (
                            found
                            for inner, found in walk.fields(tensor)
                            if inner == _TENSOR_TYPE_ELEMENT and isinstance(found, int)
                        ),
                        0,
                    )
    return name, dtype


def _attribute(content: memoryview) -> tuple[str, int]:
    """Name, and the value of an integer or the element type of a tensor."""
    walk, name, found = _Walk(), "", 0
    for number, value in walk.fields(content):
        if number == _ATTRIBUTE_NAME and isinstance(value, memoryview):
            name = _text(value)
        elif number == _ATTRIBUTE_INT and isinstance(value, int):
            found = value
        elif number == _ATTRIBUTE_TENSOR and isinstance(value, memoryview):
            for inner, dtype in walk.fields(value):
                if inner == _TENSOR_DTYPE and isinstance(dtype, int):
                    found = dtype
    return name, found


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")


class _Walk:
    """Fields of protobuf messages, no more than MAX_FIELDS of them in all."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def fields(self, content: memoryview) -> Iterator[tuple[int, Value]]:
        """(field number, integer or bytes) of one message; raises UnreadableError."""
        at, end = 0, len(content)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise UnreadableError(f"it has more than {MAX_FIELDS} fields")
            key, at = _varint(content, at)
            kind = key & 7
            value: Value
            if kind == _VARINT:
                value, at = _varint(content, at)
            elif kind == _BYTES:
                size, at = _varint(content, at)
                value, at = content[at : at + size], at + size
            elif kind in {_FIXED32, _FIXED64}:
                at += 4 if kind == _FIXED32 else 8
                value = 0  # no field we need is one
            else:
                raise UnreadableError(f"wire type {kind}")
            if at > end:
                raise UnreadableError("it ends in the middle of a field")
            yield key >> 3, value


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A base-128 number of at most 10 bytes, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise UnreadableError("it ends in the middle of a number")
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise UnreadableError("a number of more than 10 bytes")
