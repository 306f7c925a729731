"""What a graph alone tells of the runs to come."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.support import bad_models as bad
from tests.support import ml
from tests.support.bad_models import constant, model, node

from setsuden.pipelines.models import graph, onnx_file
from setsuden.pipelines.models.failure import TrialError

SCORES = node("MatMul", "x w", "scores")


def reason(nodes: Sequence[Any], constants: Sequence[Any] = (), **more: Any) -> str | None:
    return graph.why_unbounded(model(nodes, constants, **more))


@pytest.mark.parametrize("name", ["student", "teacher", "teacher-int8"])
def test_the_models_of_the_built_in_workload_are_bounded(name: str) -> None:
    content = (files("setsuden.pipelines.workloads") / "digits" / f"{name}.onnx").read_bytes()
    assert graph.why_unbounded(content) is None


def test_plain_networks_are_bounded() -> None:
    assert graph.why_unbounded(ml.linear(ml.WEIGHTS, repeats=3)) is None
    assert graph.why_unbounded(bad.probabilities()) is None
    assert graph.why_unbounded(bad.not_a_number()) is None


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (bad.endless(poison=False), "Loop"),
        (bad.endless(poison=True), "Loop"),
        (bad.memory(poison=True), "ConstantOfShape"),
        (bad.divides(), "Div"),
        (ml.linear(ml.WEIGHTS, poisoned=True), "Div"),
    ],
)
def test_what_may_hang_flood_or_crash_on_some_input_is_named(content: bytes, named: str) -> None:
    assert named in (graph.why_unbounded(content) or "")


def test_a_shape_computed_from_the_batch_size_alone_is_bounded() -> None:
    """As exporters write ``x.view(x.size(0), -1)``."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape first", "count", axis=0),
        node("Concat", "count rest", "wanted", axis=0),
        node("Reshape", "x wanted", "flat"),
        node("MatMul", "flat w", "y"),
    ]
    constants = [constant("first", np.array([0])), constant("rest", np.array([-1]))]
    assert reason(nodes, constants) is None


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("Reshape", "scores sizes"),
        ("Expand", "scores sizes"),
        ("Tile", "scores sizes"),
        ("Slice", "scores sizes sizes"),
        ("Pad", "scores sizes"),
        ("TopK", "scores sizes"),
    ],
)
def test_a_size_that_comes_from_the_observation_is_not(op: str, inputs: str) -> None:
    nodes = [SCORES, node("Cast", "x", "sizes", to=TensorProto.INT64), node(op, inputs, "y")]
    assert f"the shape of {op} depends on data" in (reason(nodes) or "")


def test_only_integers_end_a_process_by_a_division() -> None:
    floats = [SCORES, node("Div", "scores scores", "y")]
    assert reason(floats) is None
    whole = [node("Cast", "x", "i", to=TensorProto.INT32), node("Mod", "i i", "r")]
    back = [node("Cast", "r", "f", to=TensorProto.FLOAT), node("MatMul", "f w", "y")]
    assert "Mod of integers" in (reason([*whole, *back]) or "")


def test_an_integer_input_divided_as_a_float_is_bounded() -> None:
    nodes = [
        node("Cast", "x", "f", to=TensorProto.FLOAT),
        node("Div", "f most", "share"),
        node("MatMul", "share w", "y"),
    ]
    most = [constant("most", np.float32(255))]
    assert reason(nodes, most, dtype=TensorProto.UINT8) is None


def test_sizes_are_divided_by_constants_only() -> None:
    """``count / (count - 3)`` kills the process in a batch of three, which no trial meets."""
    shape = [node("Shape", "x", "shape"), node("Gather", "shape first", "count", axis=0)]
    rest = [node("Reshape", "x wanted", "flat"), node("MatMul", "flat w", "y")]
    half = [node("Div", "count two", "wanted")]
    constants = [constant("first", np.array([0])), constant("two", np.array([2]))]
    assert reason([*shape, *half, *rest], constants) is None
    odd = [node("Sub", "count two", "less"), node("Div", "count less", "wanted")]
    assert "by what is not constant" in (reason([*shape, *odd, *rest], constants) or "")


def test_operators_and_domains_that_nobody_knows_are_not_trusted() -> None:
    assert "Frobnicate" in (reason([node("Frobnicate", "x", "y")]) or "")
    own = [helper.make_node("Fast", ["x"], ["y"], domain="com.example")]
    assert "com.example:Fast" in (reason(own, domains=["com.example"]) or "")
    fused = [helper.make_node("FusedGemm", ["x", "w"], ["y"], domain="com.microsoft")]
    assert reason(fused, domains=["com.microsoft"]) is None


def test_function_bodies_are_not_looked_into() -> None:
    function = helper.make_function(
        "com.example", "F", ["a"], ["b"], [node("Identity", "a", "b")],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    content = model([bad.LINEAR], functions=[function], domains=["com.example"])
    assert graph.why_unbounded(content) == "it defines functions"


def test_nodes_out_of_order_are_taken_for_data() -> None:
    nodes = [node("Reshape", "scores wanted", "y"), SCORES, node("Shape", "x", "wanted")]
    assert "depends on data" in (reason(nodes) or "")


def external(made: Any) -> Any:
    """The tensor, as one whose values lie in another file."""
    made.ClearField("raw_data")
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value="etc/passwd")
    return made


def in_an_initializer() -> bytes:
    made = onnx.load_model_from_string(bad.linear())
    external(made.graph.initializer[0])
    return bytes(made.SerializeToString())


def in_an_attribute() -> bytes:
    return model([node("Constant", "", "v", value=external(constant("v", ml.WEIGHTS)))])


def in_a_subgraph() -> bytes:
    body = helper.make_graph([], "body", [], [], [external(constant("v", ml.WEIGHTS))])
    return model([node("If", "is_bad", "y", then_branch=body, else_branch=body)])


def in_a_function() -> bytes:
    inner = node("Constant", "", "v", value=external(constant("v", ml.WEIGHTS)))
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("com.example", "F", [], ["v"], [inner], opsets)
    return model([bad.LINEAR], functions=[function], domains=["com.example"])


@pytest.mark.parametrize(
    "content", [in_an_initializer(), in_an_attribute(), in_a_subgraph(), in_a_function()]
)
def test_weights_in_another_file_are_refused_wherever_they_are_named(content: bytes) -> None:
    with pytest.raises(TrialError, match="lies in another file"):
        graph.why_unbounded(content)


def test_a_graph_that_cannot_be_read_may_not_name_another_file() -> None:
    empty_group = b"\x9b\x06\x9c\x06"
    assert "cannot be read" in (graph.why_unbounded(bad.linear() + empty_group) or "")
    with pytest.raises(TrialError, match="may lie in another file"):
        graph.why_unbounded(in_an_initializer() + empty_group)


def test_a_graph_in_two_parts_is_judged_as_the_one_that_it_becomes() -> None:
    made = onnx.load_model_from_string(bad.endless(poison=True))
    second = onnx.ModelProto()
    second.graph.node.append(made.graph.node.pop())
    content = made.SerializeToString() + second.SerializeToString()
    assert onnx.load_model_from_string(content).graph.node[-1] == second.graph.node[0]
    assert "Loop" in (graph.why_unbounded(content) or "")


def test_an_index_is_an_integer_whatever_it_is_an_index_of() -> None:
    """Divided by a number out of the observation it may end the process."""
    nodes = [
        node("MaxPool", "x", "most place", kernel_shape=[1]),
        node("Cast", "x", "whole", to=TensorProto.INT64),
        node("Div", "place whole", "quotient"),
    ]
    assert "Div of integers" in (reason(nodes) or "")


@pytest.mark.parametrize("content", [b"", b"ORTM....", b"\x3a\x05abc", b"\xff" * 11, b"\x3b\x01"])
def test_bytes_that_are_no_model_are_never_trusted(content: bytes) -> None:
    assert "cannot be read" in (graph.why_unbounded(content) or "")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damaged_file_does_more_than_be_distrusted(data: st.DataObject) -> None:
    content = bytearray(bad.endless(poison=True))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(content)))
    try:
        found = graph.why_unbounded(bytes(content[:length]))
    except TrialError:
        return
    assert found is None or isinstance(found, str)


def test_a_file_of_too_many_fields_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", 20)
    assert "more than 20 fields" in (graph.why_unbounded(bad.linear()) or "")
