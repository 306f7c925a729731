"""The one door to onnxruntime: open a model, run it, know its CPU time exactly, end it.

Threads are always explicit and spinning is off: onnxruntime's default burned 18.9 ms of CPU for
a 0.47 ms inference every 20 ms. Imports nothing but numpy and onnxruntime: a model's own process
starts with this module alone.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setsuden.process import quiet  # noqa: F401  # before onnxruntime is imported

Array = NDArray[Any]

_QUIET = 4
"""Fatal messages only: what fails is reported by us, once, without onnxruntime's colours."""

_MOST_TEXT = 240


class Measured(NamedTuple):
    """One ``InferenceSession.run``."""

    output: Array
    cpu_seconds: float
    """The calling thread's when the model has one thread (exact to 0.2 %), else the process's."""
    wall_seconds: float


def import_runtime() -> Any:
    """onnxruntime: 0.1 s and 40 MB that only a running tier needs; raises ImportError."""
    import onnxruntime  # noqa: PLC0415  # as said above

    return onnxruntime


class NativeModel:
    """One open model. One run at a time: its CPU clock depends on it."""

    def __init__(self, content: bytes, *, threads: int, spinning: bool = False) -> None:
        """Open serialized ONNX; raises ImportError without onnxruntime, else whatever it raises.

        ``spinning`` lets idle threads of its pool spin, as onnxruntime would by itself: for
        measuring what that costs, and for nothing else.
        """
        onnxruntime = import_runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.log_severity_level = _QUIET
        self.session: Any = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _QUIET
        self._ended = False
        # With one thread all work is the caller's own; a pool's work only the process clock sees.
        self._clock = time.thread_time_ns if threads == 1 else time.process_time_ns

    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return [each.name for each in self.session.get_inputs()]

    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return [each.name for each in self.session.get_outputs()]

    def run(self, output: str, feed: dict[str, Array]) -> Measured:
        """One run; whatever onnxruntime raises comes through, also when :meth:`end` ended it."""
        if self._ended:
            self._ended = self._run_options.terminate = False
        wall, cpu = time.perf_counter_ns(), self._clock()
        (result,) = self.session.run([output], feed, self._run_options)
        used, passed = self._clock() - cpu, time.perf_counter_ns() - wall
        return Measured(np.asarray(result), used / 1e9, passed / 1e9)

    def end(self) -> None:
        """Make the run of another thread raise before its next node."""
        self._ended = self._run_options.terminate = True


def ran_out_of_memory(error: BaseException) -> bool:
    """True for what numpy and onnxruntime raise when the system gave no memory."""
    text = str(error)
    return (
        isinstance(error, MemoryError) or "Failed to allocate memory" in text or "bad_alloc" in text
    )


def first_line(error: BaseException) -> str:
    """The error's type and the first line of its text, bounded.

    onnxruntime puts a place in its own source in front, and what is wrong at the end.
    """
    line = (str(error).splitlines() or [""])[0]
    if len(line) > _MOST_TEXT:
        line = f"{line[:60]} … {line[63 - _MOST_TEXT :]}"
    return f"{type(error).__name__}: {line}"
