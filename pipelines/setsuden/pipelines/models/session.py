"""A bundle's model, opened in this process and checked against its manifest."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from setsuden.pipelines.bundle import Bundle
from setsuden.schemas.bundle import ModelSpec
from setsuden.schemas.energy import Method
from setsuden.schemas.errors import MissingExtraError
from setsuden.schemas.result import ModelRef

from . import trial
from .failure import FailureKind, TrialError
from .native import NativeModel, first_line, ran_out_of_memory
from .preparation import Preparation

Array = NDArray[Any]


class Run(NamedTuple):
    """One run of a model."""

    output: Array
    """[items, classes]."""
    cpu_seconds: float
    wall_seconds: float
    method: Method


class Session:
    """One loaded model. One inference at a time: its CPU clock depends on it."""

    def __init__(self, native: NativeModel, spec: ModelSpec, ref: ModelRef, classes: int) -> None:
        self.native = native
        self.spec = spec
        self.ref = ref
        self.prepare = Preparation(spec)
        """Observations as the graph's input: [items, *shape] in the model's dtype."""
        self._classes = classes
        self.method = method_of(spec)

    def run(self, batch: Array) -> Run:
        """The model's output for [items, *shape]; whatever onnxruntime raises comes through."""
        return Run(*self.native.run(self.spec.output, {self.spec.input: batch}), self.method)

    def check(self, output: Array, items: int) -> bool:
        """True when the output has one row of numbers, its scores, for each item."""
        return is_row_per_item(output, items, self._classes)


def is_row_per_item(output: Array, items: int, classes: int) -> bool:
    """True for numbers of shape [items, classes]."""
    return output.shape == (items, classes) and output.dtype.kind in "fiu"


def method_of(spec: ModelSpec) -> Method:
    """How the CPU time of this model's runs is known."""
    return Method.THREAD if spec.threads == 1 else Method.EXCLUSIVE


def load(bundle: Bundle, model: str) -> Session:
    """The named model, tried in this process; for models that are trusted not to harm it.

    Raises BundleError; MissingExtraError without onnxruntime.
    """
    content, ref = bundle.read(model)
    session = opened(content, bundle.spec(model), ref, len(bundle.manifest.classes))
    trial.check(bundle, model, session.run)
    return session


def opened(
    content: bytes, spec: ModelSpec, ref: ModelRef, classes: int, *, spinning: bool = False
) -> Session:
    """A model that was read already, checked by names and one run on zeros.

    Raises BundleError; MissingExtraError without onnxruntime. ``spinning`` as NativeModel has it.
    """
    native = _open(content, spec, spinning=spinning)
    check_names(spec, native.inputs(), native.outputs())
    session = Session(native, spec, ref, classes)
    trial.shape_run(spec, classes, session.run)
    return session


def _open(content: bytes, spec: ModelSpec, *, spinning: bool) -> NativeModel:
    try:
        return NativeModel(content, threads=spec.threads, spinning=spinning)
    except ImportError as error:
        raise MissingExtraError(
            "onnxruntime is not installed", remedy="pip install 'setsuden[edge]'"
        ) from error
    except Exception as error:  # onnxruntime's own tree derives from Exception alone
        memory = ran_out_of_memory(error)
        raise unopened(
            spec,
            FailureKind.OUT_OF_MEMORY if memory else FailureKind.UNUSABLE,
            first_line(error),
        ) from error


def unopened(spec: ModelSpec, kind: FailureKind, message: str) -> TrialError:
    """The error of a file that onnxruntime does not open."""
    remedies = {
        FailureKind.OUT_OF_MEMORY: "raise limits.run_memory_bytes",
        FailureKind.SUSPENDED: "leave room for one more process: ulimit -u, systemd's TasksMax=",
    }
    remedy = remedies.get(kind, "export it again as ONNX, with an opset that onnxruntime knows: 17")
    return TrialError(kind, f"{spec.file} cannot be loaded: {message[:300]}", remedy=remedy)


def check_names(spec: ModelSpec, inputs: list[str], outputs: list[str]) -> None:
    """Raises TrialError unless the graph takes and gives what the manifest says."""
    words = ""
    if inputs != [spec.input]:
        words = f"{spec.file} takes {inputs}, the manifest says input = {spec.input!r}"
    elif spec.output not in outputs:
        words = f"{spec.file} gives {outputs}, the manifest says output = {spec.output!r}"
    if words:
        raise TrialError(
            FailureKind.UNUSABLE, words[:1000], remedy="use the names that the graph has"
        )
