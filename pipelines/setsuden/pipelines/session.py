"""The one door to onnxruntime: load a bundle's model, run it, know its CPU time exactly.

Threads are always explicit and spinning is off: onnxruntime's default burned 18.9 ms of CPU for
a 0.47 ms inference every 20 ms.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setsuden.schemas.bundle import ModelSpec
from setsuden.schemas.energy import Method
from setsuden.schemas.errors import BundleError, MissingExtraError
from setsuden.schemas.result import ModelRef

from . import quiet  # noqa: F401  # before onnxruntime is imported
from .bundle import Bundle

Array = NDArray[Any]


class Run(NamedTuple):
    """One ``session.run``."""

    output: Array
    """[items, classes], float."""
    cpu_seconds: float
    wall_seconds: float
    method: Method


class Session:
    """One loaded model. One inference at a time: its CPU clock depends on it."""

    def __init__(self, native: Any, spec: ModelSpec, ref: ModelRef, classes: int) -> None:
        self._native = native
        self.spec = spec
        self.ref = ref
        self._classes = classes
        self._dtype = np.dtype(spec.dtype.value)
        # With one thread all work is the caller's own; a pool's work only the process clock sees.
        self._exact = spec.threads == 1
        self._clock = time.thread_time_ns if self._exact else time.process_time_ns
        self.method = Method.THREAD if self._exact else Method.EXCLUSIVE

    def prepare(self, observations: Sequence[Array]) -> Array:
        """Observations as the graph's input: [items, *shape] in the model's dtype."""
        batch = np.stack(observations).astype(self._dtype)
        if self.spec.scale != 1.0:
            batch *= self._dtype.type(self.spec.scale)
        if self.spec.offset != 0.0:
            batch += self._dtype.type(self.spec.offset)
        return batch.reshape(len(observations), *self.spec.shape)

    def run(self, batch: Array) -> Run:
        """The model's output for [items, *shape]; whatever onnxruntime raises comes through.

        ``cpu_seconds`` is the CPU time of the run itself: the calling thread's when the model has
        one thread (exact to 0.2 %), else the process's.
        """
        feed = {self.spec.input: batch}
        wall, cpu = time.perf_counter_ns(), self._clock()
        (output,) = self._native.run([self.spec.output], feed)
        used, passed = self._clock() - cpu, time.perf_counter_ns() - wall
        return Run(np.asarray(output), used / 1e9, passed / 1e9, self.method)

    def check(self, output: Array, items: int) -> bool:
        """True when the output has one row of scores for each item."""
        return output.shape == (items, self._classes)


def load(bundle: Bundle, model: str) -> Session:
    """The named model, checked against the manifest by names, shapes and one trial run.

    Raises BundleError; MissingExtraError without onnxruntime.
    """
    content, ref = bundle.read(model)
    return opened(content, bundle.spec(model), ref, len(bundle.manifest.classes))


def opened(
    content: bytes, spec: ModelSpec, ref: ModelRef, classes: int, *, spinning: bool = False
) -> Session:
    """A model that was read already, checked as :func:`load` does; raises what it raises.

    ``spinning`` lets idle threads of its pool spin, as onnxruntime would by itself: for measuring
    what that costs, and for nothing else.
    """
    native = _open(content, spec, spinning=spinning)
    _check_names(native, spec)
    session = Session(native, spec, ref, classes)
    _trial(session, classes)
    return session


def _open(content: bytes, spec: ModelSpec, *, spinning: bool = False) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415  # 0.1 s and 40 MB that only a running tier needs
    except ImportError as error:
        raise MissingExtraError(
            "onnxruntime is not installed", remedy="pip install 'setsuden[edge]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own tree derives from Exception alone
        raise BundleError(
            f"{spec.file} cannot be loaded: {str(error).splitlines()[0][:200]}",
            remedy="export it again as ONNX (opset 17 or newer)",
        ) from error


def _check_names(native: Any, spec: ModelSpec) -> None:
    inputs = [found.name for found in native.get_inputs()]
    outputs = [found.name for found in native.get_outputs()]
    if inputs != [spec.input]:
        raise BundleError(f"{spec.file} takes {inputs}, the manifest says input = {spec.input!r}")
    if spec.output not in outputs:
        raise BundleError(f"{spec.file} gives {outputs}, the manifest says {spec.output!r}")


def _trial(session: Session, classes: int) -> None:
    spec = session.spec
    try:
        output = session.run(np.zeros((1, *spec.shape), dtype=spec.dtype.value)).output
    except Exception as error:  # onnxruntime's own tree derives from Exception alone
        raise BundleError(
            f"{spec.file} does not run on {spec.dtype} [1, {', '.join(map(str, spec.shape))}]: "
            f"{str(error).splitlines()[0][:200]}",
            remedy="correct dtype and shape in the manifest",
        ) from error
    if not session.check(output, 1):
        raise BundleError(
            f"{spec.file} gives {list(output.shape)} for one item, not [1, {classes}]",
            remedy="the bundle's classes must be as many as the model's scores",
        )
