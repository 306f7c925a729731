"""A bundle folder: what is missing, altered or does not fit is named before anything runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from tests.support import ml

from setsuden.pipelines import bundle as bundles
from setsuden.pipelines.bundle import Bundle
from setsuden.pipelines.models import session as sessions
from setsuden.schemas.energy import Method
from setsuden.schemas.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of a tiny student and a tiny teacher."""
    return ml.write_bundle(tmp_path / "tiny", student=True)


def changed(folder: Path, old: str, new: str) -> Bundle:
    manifest = folder / bundles.MANIFEST
    text = manifest.read_text(encoding="utf-8")
    assert old in text
    manifest.write_text(text.replace(old, new), encoding="utf-8")
    return bundles.load(folder)


def test_a_bundle_is_read_and_its_models_are_known_to_the_byte(folder: Path) -> None:
    found = bundles.load(folder)
    content, ref = found.read("teacher")
    assert ref.digest == hashlib.sha256(content).hexdigest()
    assert (ref.bundle, ref.model, ref.version) == ("tiny", "teacher", "1")


def test_a_model_that_is_not_declared_is_named_with_those_that_are(folder: Path) -> None:
    with pytest.raises(BundleError, match="student, teacher"):
        bundles.load(folder).read("judge")


def test_a_missing_model_file_is_named(folder: Path) -> None:
    (folder / "teacher.onnx").unlink()
    with pytest.raises(BundleError, match=r"teacher\.onnx.*beside bundle\.toml"):
        bundles.load(folder).read("teacher")


def test_an_altered_model_file_is_refused(folder: Path) -> None:
    line = 'file = "teacher.onnx"'
    found = changed(folder, line, f'{line}\nsha256 = "{"0" * 64}"')
    with pytest.raises(BundleError, match="sha256"):
        found.read("teacher")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "tiny"', 'name = "ti ny"', "name"),
        ('file = "teacher.onnx"', 'file = "../teacher.onnx"', "file"),
        ('file = "teacher.onnx"', 'file = "/etc/passwd"', "file"),
        ("threshold = 0.9", "threshold = 1.9", "threshold"),
        ("threshold = 0.9", "treshold = 0.9", "threshold"),
        ('[observation]\ndtype = "float32"', '[observation]\ndtype = "float31"', "dtype"),
        ("shape = [4]\n\n[models", "shape = [5]\n\n[models", "elements"),
        ("[gate]", "[gates]", "gate"),
        ('version = "1"', "version = ", "bundle.toml:2"),
    ],
)
def test_a_wrong_manifest_is_refused_naming_the_place(
    folder: Path, old: str, new: str, says: str
) -> None:
    with pytest.raises(BundleError) as caught:
        changed(folder, old, new)
    assert says in str(caught.value)
    assert "bundle.toml" in str(caught.value)


def test_no_manifest_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.toml"):
        bundles.load(tmp_path)


# -- sessions -----------------------------------------------------------------------------------


def test_a_model_runs_as_the_manifest_says(folder: Path) -> None:
    session = sessions.load(bundles.load(folder), "teacher")
    observations = [np.frombuffer(ml.observation(n), np.float32) for n in range(6)]
    run = session.run(session.prepare(observations))
    assert session.check(run.output, 6)
    labels = [ml.CLASSES[index] for index in run.output.argmax(axis=1)]
    assert labels == [ml.label(n) for n in range(6)]
    assert run.method is Method.THREAD
    assert 0 <= run.cpu_seconds <= run.wall_seconds + 0.01


def test_scale_and_offset_are_applied(folder: Path) -> None:
    found = changed(
        folder, 'file = "teacher.onnx"', 'file = "teacher.onnx"\nscale = 2\noffset = -1'
    )
    session = sessions.load(found, "teacher")
    batch = session.prepare([np.full(4, 3, np.uint8)])
    np.testing.assert_array_equal(batch, np.full((1, 4), 5, np.float32))


def test_a_corrupt_model_file_is_named(folder: Path) -> None:
    (folder / "teacher.onnx").write_bytes(b"\x08no model")
    with pytest.raises(BundleError, match=r"teacher\.onnx cannot be loaded"):
        sessions.load(bundles.load(folder), "teacher")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('input = "x"', 'input = "pixels"', "pixels"),
        ('output = "y"', 'output = "scores"', "scores"),
        ("shape = [4]", "shape = [2, 2]", "does not run"),
        ('classes = ["low", "middle", "high"]', 'classes = ["low", "high"]', r"\[1, 3\].*\[1, 2\]"),
    ],
)
def test_a_model_that_does_not_fit_its_manifest_is_refused(
    folder: Path, old: str, new: str, says: str
) -> None:
    found = changed(folder, old, new)
    with pytest.raises(BundleError, match=says):
        sessions.load(found, "teacher")
