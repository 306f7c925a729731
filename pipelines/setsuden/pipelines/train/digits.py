"""``python -m setsuden.pipelines.train.digits --out DIR`` makes the digits bundle from nothing.

Two small convolutional networks are trained and averaged into the teacher; a perceptron of 730
parameters learns from it; the teacher is quantized; temperature and thresholds are fitted on the
validation split and the curve is measured on the test split. About five minutes on one core.
Everything is seeded: one machine makes the same weights twice, another makes equally good ones.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setsuden.pipelines.bundle import MANIFEST, Bundle
from setsuden.pipelines.models import session
from setsuden.pipelines.workloads.digits.data import Split, Splits, load_splits
from setsuden.schemas.bundle import DType, GateSpec, Manifest, ModelSpec, Observation
from setsuden.schemas.errors import SetsudenError

from . import curve, digits_networks, manifest
from .export import export_onnx
from .extras import Network, Tensor, extra, progress, seeded_torch
from .fit import Distillation, Schedule, distillation_loss, fit, label_loss
from .quantize import quantize

SEED = 20261123
VERSION = "1.0.0"
SHAPE = (1, 28, 28)
SCALE = 1 / 255
MODELS = ("student", "teacher", "teacher-int8")

MEMBERS = 2
TEACHER = Schedule(epochs=35, batch=64, peak_rate=4e-3, weight_decay=1e-2)
SMOOTHING = 0.05

STUDENT = Schedule(epochs=60, batch=128, peak_rate=1e-2, weight_decay=1e-4)
DISTILLATION = Distillation(weight=0.6, temperature=2.0)
DISTORTED_COPIES = 7
GENTLE = 0.5
"""The student sees half the distortion the teacher was trained under: it has no room for more."""

CALIBRATION_ROWS = 512
PART = 100
"""Rows run at once: memory stays small, and the answers do not depend on it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="setsuden.pipelines.train.digits", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the four files")
    folder: Path = parser.parse_args(arguments).out
    try:
        folder.mkdir(parents=True, exist_ok=True)
        build(folder, load_splits())
    except (SetsudenError, OSError) as error:
        progress(f"error: {error}")
        return 1
    return 0


def build(folder: Path, splits: Splits) -> Manifest:
    """Train, export, quantize and measure; writes three ONNX files and ``bundle.toml``.

    Raises MissingExtraError without the ``[train]`` extra.
    """
    start = perf_counter()
    extra("onnx")
    teacher = train_teacher(splits.train)
    student = train_student(splits.train, teacher)
    write_models(folder, student, teacher, splits.train)
    made = measured(Bundle(folder, draft(folder)), splits)
    header = "# Written by `python -m setsuden.pipelines.train.digits`.\n"
    (folder / MANIFEST).write_text(header + manifest.render(made), encoding="utf-8")
    progress(f"done in {perf_counter() - start:.0f} s")
    return made


def train_teacher(train: Split) -> Network:
    """The mean of two networks that differ by their seed alone."""
    return digits_networks.ensemble([train_member(train, number) for number in range(MEMBERS)])


def train_member(train: Split, number: int) -> Network:
    """One convolutional network, fitted to freshly distorted images in every epoch."""
    torch = seeded_torch(SEED + number)
    images, labels = tensors(train)
    # Channels last: these narrow convolutions train almost twice as fast.
    member = digits_networks.teacher_member().to(memory_format=torch.channels_last)

    def loss_of(index: Tensor) -> Tensor:
        batch = digits_networks.distort(images[index]).contiguous(memory_format=torch.channels_last)
        return label_loss(member(batch), labels[index], SMOOTHING)

    fit(f"teacher {number + 1}/{MEMBERS}", member, len(train), loss_of, TEACHER)
    return member


def train_student(train: Split, teacher: Network) -> Network:
    """The perceptron, distilled on the training images and gently distorted copies of them."""
    torch = seeded_torch(SEED)
    images, labels = tensors(train)
    copies = [digits_networks.distort(images, GENTLE) for _ in range(DISTORTED_COPIES)]
    pool, truth = torch.cat([images, *copies]), labels.repeat(1 + DISTORTED_COPIES)
    with torch.no_grad():
        taught = torch.cat([teacher.eval()(part) for part in pool.split(PART)])
    student = digits_networks.student()

    def loss_of(index: Tensor) -> Tensor:
        return distillation_loss(student(pool[index]), taught[index], truth[index], DISTILLATION)

    fit("student", student, len(pool), loss_of, STUDENT)
    return student


def write_models(folder: Path, student: Network, teacher: Network, train: Split) -> None:
    """``student.onnx``, ``teacher.onnx`` and ``teacher-int8.onnx``.

    The student stays float32: 8 bits make 730 parameters larger and slower.
    """
    exact, small = folder / "teacher.onnx", folder / "teacher-int8.onnx"
    export_onnx(student, SHAPE, folder / "student.onnx")
    export_onnx(teacher, SHAPE, exact)
    quantize(exact, small, scaled(train)[:CALIBRATION_ROWS])
    for network, name in ((student, "student"), (teacher, "teacher")):
        progress(f"{name}: {sum(weight.numel() for weight in network.parameters())} parameters")


def measured(bundle: Bundle, splits: Splits) -> Manifest:
    """The bundle's manifest with a fitted gate and the expected curve."""
    seen = run(bundle, "student", splits.validation)
    gate = curve.fit_gate(seen, splits.validation.labels)
    labels = splits.test.labels
    student, teacher, small = (run(bundle, model, splits.test) for model in MODELS)
    points = curve.expected_curve(student, teacher, labels, gate.temperature)
    progress(f"temperature {gate.temperature}, threshold {gate.threshold}")
    progress(f"teacher-int8: accuracy {curve.answers_right(small, labels).mean():.4f}")
    for point in points:
        progress(f"{point.escalated:4.0%} escalated: accuracy {point.accuracy:.4f}")
    return bundle.manifest.model_copy(update={"gate": gate, "curve": points})


def run(bundle: Bundle, model: str, split: Split) -> NDArray[np.float32]:
    """The model's logits ``[n, 10]``, by the session that serves it; says its time per image."""
    loaded = session.load(bundle, model)
    alone = [loaded.run(loaded.prepare([image])).wall_seconds for image in split.images[:300]]
    progress(f"{model}: {np.median(alone) * 1e3:.4f} ms an image")
    parts = np.array_split(split.images, len(split) // PART)
    return np.concatenate([loaded.run(loaded.prepare(list(part))).output for part in parts])


def draft(folder: Path) -> Manifest:
    """Everything but the gate and the curve, which need the models to run first."""
    return Manifest(
        name="digits",
        version=VERSION,
        classes=tuple("0123456789"),
        observation=Observation(dtype=DType.UINT8, shape=(28, 28)),
        models={name: model_spec(folder / f"{name}.onnx") for name in MODELS},
        gate=GateSpec(threshold=1.0),
    )


def model_spec(path: Path) -> ModelSpec:
    """How an image becomes the model's input; all three take the same."""
    return ModelSpec(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        input="image",
        output="logits",
        dtype=DType.FLOAT32,
        shape=SHAPE,
        scale=SCALE,
    )


def scaled(split: Split) -> NDArray[np.float32]:
    """Images as the networks take them: ``float32 [n, 1, 28, 28]``, 0 to 1."""
    return split.images[:, None].astype(np.float32) * np.float32(SCALE)


def tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Images and labels for torch."""
    torch: Any = extra("torch")
    return torch.from_numpy(scaled(split)), torch.from_numpy(split.labels)


if __name__ == "__main__":
    raise SystemExit(main())
