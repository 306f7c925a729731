"""The trial of a model at load, and the preparation that every run shares with it."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from tests.support import bad_models as bad
from tests.support import ml
from tests.support.bad_models import constant, model, node

from setsuden.pipelines import bundle as bundles
from setsuden.pipelines.models import loading, session, trial
from setsuden.pipelines.models.failure import FailureKind, TrialError
from setsuden.pipelines.models.preparation import Preparation, UnfitInputError
from setsuden.schemas.bundle import ModelSpec
from setsuden.schemas.errors import BundleError, ConfigError
from setsuden.schemas.pipeline import Limits

LIMITS = Limits(run_seconds=1.0)


def spec(**fields: Any) -> ModelSpec:
    given = {"file": "m.onnx", "input": "x", "output": "y", "dtype": "float32", "shape": [4]}
    return ModelSpec.model_validate(given | fields)


def tried(folder: Path, limits: Limits = LIMITS) -> None:
    """The teacher, as ``validate`` and both tiers try it."""
    loading.check(bundles.load(folder), "teacher", limits)


def refused(folder: Path, limits: Limits = LIMITS) -> TrialError:
    with pytest.raises(TrialError) as caught:
        tried(folder, limits)
    assert caught.value.remedy
    return caught.value


# -- preparation --------------------------------------------------------------------------------


def test_a_factor_is_applied_in_floating_point_before_the_cast() -> None:
    batch = Preparation(spec(dtype="uint8", scale=0.5))([np.array([0, 3, 200, 255], np.uint8)])
    assert batch.dtype == np.uint8
    assert batch.tolist() == [[0, 2, 100, 128]]


def test_an_offset_moves_bytes_into_signed_ones() -> None:
    batch = Preparation(spec(dtype="int8", offset=-128.0))([np.array([0, 1, 128, 255], np.uint8)])
    assert batch.tolist() == [[-128, -127, 0, 127]]


@pytest.mark.parametrize(
    ("dtype", "scale", "value"),
    [("uint8", 1.0, 256), ("uint8", 1.0, -1), ("int8", 2.0, 64), ("float16", 1.0, 70_000)],
)
def test_what_does_not_fit_is_refused_and_never_wrapped(
    dtype: str, scale: float, value: int
) -> None:
    prepare = Preparation(spec(dtype=dtype, scale=scale))
    with pytest.raises(UnfitInputError, match=f"fit {dtype}"):
        prepare([np.array([0, 0, 0, value], np.int32)])


def test_the_largest_integers_are_compared_exactly() -> None:
    prepare = Preparation(spec(dtype="int64"))
    most = np.iinfo(np.int64).max
    assert prepare([np.array([most] * 4, np.uint64)])[0, 0] == most
    with pytest.raises(UnfitInputError):
        prepare([np.array([0, 0, 0, most + 1], np.uint64)])
    with pytest.raises(UnfitInputError):
        prepare([np.array([0, 0, 0, 2.0**63], np.float64)])


@given(
    source=st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "float32"]),
    target=st.sampled_from(["bool", "uint8", "int8", "int16", "uint32", "int64"]),
    scale=st.floats(-300, 300).filter(bool),
    offset=st.floats(-300, 300),
    data=st.data(),
)
def test_a_prepared_integer_is_the_nearest_one_or_refused(
    source: str, target: str, scale: float, offset: float, data: st.DataObject
) -> None:
    elements = arrays.from_dtype(np.dtype(source), allow_nan=False, allow_infinity=False)
    observation = data.draw(arrays.arrays(source, 4, elements=elements))
    wanted = np.rint(observation.astype(np.float64) * scale + offset)
    low, high = (0, 1) if target == "bool" else (np.iinfo(target).min, np.iinfo(target).max)
    prepare = Preparation(spec(dtype=target, scale=scale, offset=offset))
    if all(low <= value <= high for value in wanted.tolist()):
        np.testing.assert_array_equal(prepare([observation])[0], wanted.astype(target))
    else:
        with pytest.raises(UnfitInputError):
            prepare([observation])


def test_axes_are_reordered_as_declared() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    batch = Preparation(spec(shape=[3, 2, 4], transpose=[2, 0, 1]))([image, image])
    np.testing.assert_array_equal(batch[1], image.transpose(2, 0, 1))
    assert batch.flags.c_contiguous


# -- what cannot be meant -----------------------------------------------------------------------


def changed(folder: Path, old: str, new: str) -> Path:
    manifest = folder / bundles.MANIFEST
    text = manifest.read_text(encoding="utf-8")
    assert old in text
    manifest.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def pixels(folder: Path, dtype: str, number: int, **fields: str) -> Path:
    """A bundle of byte observations whose graph takes this dtype."""
    graph = model(
        [node("Cast", "x", "f", to=TensorProto.FLOAT), node("MatMul", "f w", "y")], dtype=number
    )
    bad.bundle(folder, teacher=graph, dtype='"uint8"')
    extra = "".join(f"\n{name} = {value}" for name, value in fields.items())
    return changed(folder, 'output = "y"\nkind = "logits"\ndtype = "uint8"',
                   f'output = "y"\nkind = "logits"\ndtype = "{dtype}"{extra}')  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "number", "fields", "words"),
    [
        ("uint8", TensorProto.UINT8, {"scale": "0.00392156862745098"}, "no more than two"),
        ("int8", TensorProto.INT8, {"scale": "0.00392156862745098"}, "no more than two"),
        ("uint8", TensorProto.UINT8, {"offset": "-128.0"}, "cannot hold"),
        ("int8", TensorProto.INT8, {}, "cannot hold"),
        ("uint8", TensorProto.UINT8, {"scale": "2.0"}, "cannot hold"),
        ("float32", TensorProto.FLOAT, {"scale": "0.0"}, "makes all observations equal"),
    ],
)
def test_a_preparation_that_erases_the_observation_is_refused(
    tmp_path: Path, dtype: str, number: int, fields: dict[str, str], words: str
) -> None:
    error = refused(pixels(tmp_path / "b", dtype, number, **fields))
    assert error.kind is FailureKind.UNUSABLE
    assert words in error.message


@pytest.mark.parametrize(
    ("dtype", "number", "fields"),
    [
        ("uint8", TensorProto.UINT8, {"scale": "0.5"}),
        ("int8", TensorProto.INT8, {"offset": "-128.0"}),
        ("float32", TensorProto.FLOAT, {"scale": "0.00392156862745098"}),
        ("int32", TensorProto.INT32, {"offset": "-128.0"}),
    ],
)
def test_a_preparation_that_keeps_it_is_not(
    tmp_path: Path, dtype: str, number: int, fields: dict[str, str]
) -> None:
    tried(pixels(tmp_path / "b", dtype, number, **fields))


def shaped(folder: Path, own: list[int], wanted: list[int], more: str = "") -> Path:
    """A bundle whose observation and graph have these shapes."""
    graph = model(
        [
            node("Flatten", "x", "flat"),
            node("Slice", "flat zero four one", "some"),
            node("MatMul", "some w", "y"),
        ],
        [
            constant("zero", np.array([0])), constant("four", np.array([4])),
            constant("one", np.array([1])),
        ],
        shape=["n", *wanted],
    )  # fmt: skip
    bad.bundle(folder, teacher=graph, shape=str(own))
    return changed(folder, f'dtype = "float32"\nshape = {own}\nmax_batch',
                   f'dtype = "float32"\nshape = {wanted}{more}\nmax_batch')  # fmt: skip


@pytest.mark.parametrize(
    ("own", "wanted", "hint"),
    [
        ([128, 3], [3, 128], "transpose = [1, 0]"),
        ([28, 28, 3], [3, 28, 28], "transpose = [2, 0, 1]"),
        ([28, 28, 3], [1, 3, 28, 28], "transpose = [2, 0, 1]"),
        ([28, 28, 3], [3, 784], "transpose"),
        ([4, 6], [8, 3], "transpose"),
    ],
)
def test_a_reshape_that_should_be_a_transposition_is_refused(
    tmp_path: Path, own: list[int], wanted: list[int], hint: str
) -> None:
    error = refused(shaped(tmp_path / "b", own, wanted))
    assert "mix values of different axes" in error.message
    assert hint in error.remedy


@pytest.mark.parametrize(
    ("own", "wanted", "more"),
    [
        ([128, 3], [384], ""),
        ([384], [128, 3], ""),
        ([28, 28], [1, 28, 28], ""),
        ([28, 28], [28, 28, 1], ""),
        ([2, 3, 4], [6, 4], ""),
        ([128, 3], [3, 128], "\ntranspose = [1, 0]"),
        ([128, 3], [3, 128], "\ntranspose = [0, 1]"),
    ],
)
def test_regrouping_axes_is_fine_and_so_is_what_is_declared(
    tmp_path: Path, own: list[int], wanted: list[int], more: str
) -> None:
    tried(shaped(tmp_path / "b", own, wanted, more))


@pytest.mark.parametrize("axes", ["[0, 0]", "[0]", "[1, 2]"])
def test_a_transposition_names_each_axis_once(tmp_path: Path, axes: str) -> None:
    folder = shaped(tmp_path / "b", [128, 3], [3, 128], f"\ntranspose = {axes}")
    with pytest.raises(ConfigError, match="must name each axis"):
        bundles.load(folder)


# -- what only a run shows ----------------------------------------------------------------------


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, broken: float) -> None:
    weights = np.full_like(ml.WEIGHTS, broken)
    error = refused(bad.bundle(tmp_path / "b", teacher=ml.linear(weights)))
    assert error.kind is FailureKind.NOT_FINITE


def test_nan_on_some_input_only_is_left_to_the_gate(tmp_path: Path) -> None:
    tried(bad.bundle(tmp_path / "b", teacher=bad.not_a_number()))


@pytest.mark.parametrize(
    ("content", "declared", "right"),
    [
        (bad.probabilities(), "logits", "probs"),
        (bad.linear(), "probs", "logits"),
        (bad.linear(), "log_probs", "logits"),
        (bad.probabilities(), "log_probs", "probs"),
    ],
)
def test_scores_that_are_not_what_is_declared_are_refused(
    tmp_path: Path, content: bytes, declared: str, right: str
) -> None:
    folder = bad.bundle(tmp_path / "b", teacher=content, kind=f'"{declared}"')
    assert refused(folder).remedy == f'set kind = "{right}"'


def test_scores_that_are_what_is_declared_are_not(tmp_path: Path) -> None:
    tried(bad.bundle(tmp_path / "b", teacher=bad.probabilities(), kind='"probs"'))
    logs = model([node("MatMul", "x w", "scores"), node("LogSoftmax", "scores", "y", axis=1)])
    tried(bad.bundle(tmp_path / "c", teacher=logs, kind='"log_probs"'))
    tried(bad.bundle(tmp_path / "d", teacher=logs))  # a softmax of them gives them back


def test_a_batch_that_gives_one_row_is_refused(tmp_path: Path) -> None:
    error = refused(bad.bundle(tmp_path / "b", teacher=bad.one_row()))
    assert error.kind is FailureKind.WRONG_SHAPE
    assert "[1, 3], not numbers of [32, 3]" in error.message
    assert "max_batch = 1" in error.remedy
    tried(bad.bundle(tmp_path / "c", teacher=bad.one_row(), max_batch="1"))


@pytest.mark.parametrize("scale", [1.0, 0.01], ids=["sure", "unsure"])
def test_answers_that_depend_on_their_neighbours_are_refused(tmp_path: Path, scale: float) -> None:
    error = refused(bad.bundle(tmp_path / "b", teacher=bad.across_the_batch(scale)))
    assert "otherwise in a batch" in error.message


def test_a_model_that_answers_otherwise_each_time_is_not_its_neighbours_doing(
    tmp_path: Path,
) -> None:
    noise = helper.make_node("RandomNormalLike", ["scores"], ["noise"], scale=50.0)
    nodes = [node("MatMul", "x w", "scores"), noise, node("Add", "scores noise", "y")]
    tried(bad.bundle(tmp_path / "noisy", teacher=model(nodes)))
    nodes = [node("Dropout", "x half yes", "left"), node("MatMul", "left w", "y")]
    constants = [constant("half", np.float32(0.5)), constant("yes", np.bool_(True))]
    tried(bad.bundle(tmp_path / "dropout", teacher=model(nodes, constants)))


@pytest.mark.parametrize("int8", ["teacher", "teacher-int8"])
def test_a_quantised_models_rounding_is_no_dependence(tmp_path: Path, int8: str) -> None:
    source = Path(str(files("setsuden.pipelines.workloads") / "digits"))
    folder = Path(shutil.copytree(source, tmp_path / "digits"))
    shutil.copy(source / f"{int8}.onnx", folder / "teacher.onnx")
    manifest = folder / bundles.MANIFEST
    lines = manifest.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("sha256")]
    manifest.write_text("\n".join(kept), encoding="utf-8")
    tried(folder)


def in_steps() -> bytes:
    """Probabilities in steps of 1/256, as a model quantised to bytes gives them."""
    nodes = [
        node("MatMul", "x w", "large"),
        node("Mul", "large small", "scores"),
        node("Softmax", "scores", "exact", axis=1),
        node("QuantizeLinear", "exact step none", "bytes"),
        node("DequantizeLinear", "bytes step none", "y"),
    ]
    numbers = {"small": np.float32(0.03), "step": np.float32(1 / 256), "none": np.uint8(0)}
    return model(nodes, [constant(name, value) for name, value in numbers.items()])


def test_probabilities_in_steps_need_not_sum_to_one_exactly(tmp_path: Path) -> None:
    tried(bad.bundle(tmp_path / "b", teacher=in_steps(), kind='"probs"'))
    assert refused(bad.bundle(tmp_path / "c", teacher=in_steps())).remedy == 'set kind = "probs"'


def as_text() -> bytes:
    made = onnx.load_model_from_string(
        model([node("MatMul", "x w", "scores"), node("Cast", "scores", "y", to=TensorProto.STRING)])
    )
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    return bytes(made.SerializeToString())


def as_maps() -> bytes:
    """As scikit-learn's converter does it by default."""
    zipped = helper.make_node(
        "ZipMap", ["scores"], ["y"], domain="ai.onnx.ml", classlabels_strings=list(ml.CLASSES)
    )
    made = onnx.load_model_from_string(
        model([node("MatMul", "x w", "scores"), zipped], domains=["ai.onnx.ml"])
    )
    made.graph.output[0].ClearField("type")
    each = made.graph.output[0].type.sequence_type.elem_type.map_type
    each.key_type = TensorProto.STRING
    each.value_type.tensor_type.elem_type = TensorProto.FLOAT
    return bytes(made.SerializeToString())


def as_bfloat16() -> bytes:
    cast = node("Cast", "scores", "y", to=TensorProto.BFLOAT16)
    made = onnx.load_model_from_string(model([node("MatMul", "x w", "scores"), cast]))
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("content", [as_text(), as_maps(), as_bfloat16()])
def test_an_output_that_is_no_numbers_is_refused_with_what_to_do(
    tmp_path: Path, content: bytes
) -> None:
    assert "plain numbers" in refused(bad.bundle(tmp_path / "b", teacher=content)).remedy


def test_an_opset_that_is_too_new_is_named(tmp_path: Path) -> None:
    made = onnx.load_model_from_string(bad.linear())
    made.opset_import[0].version = 99
    error = refused(bad.bundle(tmp_path / "b", teacher=made.SerializeToString()))
    assert "official support for domain ai.onnx is till" in error.message
    assert "opset" in error.remedy


@pytest.mark.parametrize(
    ("content", "kind", "remedy"),
    [
        (bad.endless(poison=False), FailureKind.TIMED_OUT, "run_seconds"),
        (bad.memory(poison=False), FailureKind.OUT_OF_MEMORY, "run_memory_bytes"),
    ],
)
def test_a_model_without_end_or_measure_is_refused_within_its_limits(
    tmp_path: Path, content: bytes, kind: FailureKind, remedy: str
) -> None:
    error = refused(bad.bundle(tmp_path / "b", teacher=content))
    assert error.kind is kind
    assert remedy in error.remedy


def test_a_model_that_ends_its_process_at_load_is_refused(tmp_path: Path) -> None:
    """Constant folding runs it while it is opened."""
    nodes = [
        node("Div", "least minus_one", "q"),
        node("Cast", "q", "f", to=TensorProto.FLOAT),
        node("MatMul", "x w", "scores"),
        node("Add", "scores f", "y"),
    ]
    least = constant("least", np.int64(np.iinfo(np.int64).min))
    content = model(nodes, [least, constant("minus_one", np.int64(-1))])
    error = refused(bad.bundle(tmp_path / "b", teacher=content))
    assert error.kind is FailureKind.CRASHED
    assert "signal 8" in error.message


def test_a_batch_is_as_large_as_half_the_limit_allows(tmp_path: Path) -> None:
    """A teacher of 0.2 s an item is no bad one because 32 of them would take 6 s."""
    runs: list[int] = []
    folder = bad.bundle(tmp_path / "b", teacher=bad.linear())
    opened = session.load(bundles.load(folder), "teacher")

    def slow(batch: np.ndarray[Any, Any]) -> session.Run:
        runs.append(len(batch))
        return opened.run(batch)._replace(wall_seconds=0.2 * len(batch))

    report = trial.check(bundles.load(folder), "teacher", slow, run_seconds=2.0)
    assert report.max_batch == 5
    assert max(runs) == 5


def test_token_numbers_need_not_be_random_bytes(tmp_path: Path) -> None:
    """An embedding of 100 rows raises on 255, rightly."""
    table = constant("table", np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32))
    nodes = [
        node("Gather", "table x", "rows", axis=0),
        node("ReduceMean", "rows", "y", axes=[1], keepdims=0),
    ]
    content = model(nodes, [table], dtype=TensorProto.INT32)
    tried(bad.bundle(tmp_path / "b", teacher=content, dtype='"int32"'))


# -- a recorded sample --------------------------------------------------------------------------


def with_sample(
    folder: Path, content: bytes, label: str | None = None, teacher: bytes | None = None
) -> Path:
    bad.bundle(folder, teacher=teacher)
    (folder / "sample.bin").write_bytes(content)
    wanted = f'\nsample_label = "{label}"' if label else ""
    return changed(folder, "[observation]\n", f'[observation]\nsample = "sample.bin"{wanted}\n')


def test_every_model_is_tried_on_the_recorded_sample(tmp_path: Path) -> None:
    tried(with_sample(tmp_path / "b", ml.observation(1), ml.label(1)))
    error = refused(with_sample(tmp_path / "c", ml.observation(1), ml.label(2)))
    assert f"answers '{ml.label(1)}' to the recorded sample" in error.message
    nan = with_sample(
        tmp_path / "d", ml.observation(1, first=ml.POISON), teacher=bad.not_a_number()
    )
    assert refused(nan).kind is FailureKind.NOT_FINITE


@pytest.mark.parametrize("content", [b"", b"short", bytes(17)])
def test_a_sample_of_another_length_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"sample\.bin has not the 16 bytes"):
        tried(with_sample(tmp_path / "b", content))


def test_a_label_without_a_sample_or_of_no_class_is_refused(tmp_path: Path) -> None:
    folder = bad.bundle(tmp_path / "b")
    changed(folder, "[observation]\n", '[observation]\nsample_label = "low"\n')
    with pytest.raises(ConfigError, match="needs a sample"):
        bundles.load(folder)
    with pytest.raises(ConfigError, match="none of the classes"):
        bundles.load(with_sample(tmp_path / "c", ml.observation(1), "huge"))
