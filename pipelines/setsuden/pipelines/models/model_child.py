"""A model's own process: one prepared batch in, scores out, until the pipe is closed.

The other end is :class:`model_process.ModelProcess`. The process opens the model and forks a
runner, which a run may cost its life: the next runner takes 5 ms, not the 0.2 s of a fresh Python
with onnxruntime. A model with threads of its own cannot be forked; its process is its runner.

A request is a header (magic, number, length) and bytes; a reply is a line of JSON that repeats the
number and says how many bytes follow. It holds no socket, no outbox and no credentials.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import signal
import struct
import sys
from typing import Any, BinaryIO

import numpy as np

from . import confine
from .native import NativeModel, first_line, ran_out_of_memory

HEADER = struct.Struct("<8sQQ")
MAGIC = b"setsuden"
_NUMBER = struct.Struct("<Q")
MAX_ORDER_BYTES = 1 << 16
END_RUN = signal.SIGUSR1
"""Ends the runner and not the process that forks it; where they are one, its default ends it."""
_LOST = 3
"""Exit code of a runner that no longer knows where a request begins."""


def main() -> None:
    """Open the ordered model, say so, then run what comes."""
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # what native code prints is no reply
    number, text = _request(requests, MAX_ORDER_BYTES)
    order = json.loads(text)
    # A service manager signals all processes of a unit; this one ends when its parent has drained.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    confine.die_with_parent(order["parent"])
    confine.give_way()
    confine.forbid_files()
    try:
        model, limited = _opened(order)
    except Exception as error:  # onnxruntime's own tree derives from Exception alone
        _reply(replies, number, _problem(error))
        return
    _Process(model, order, requests, replies).run(number, limited=limited)


def _opened(order: dict[str, Any]) -> tuple[NativeModel, bool]:
    """The model, and whether its memory is limited."""
    with open(order["file"], "rb") as file:  # noqa: PTH123  # pathlib costs 10 ms
        content = file.read()
    if hashlib.sha256(content).hexdigest() != order["digest"]:
        raise ValueError("the model's file has changed since it was read")
    limited = confine.limit_loading(len(content), order["memory_bytes"])
    return NativeModel(content, threads=order["threads"]), limited


class _Process:
    """The model is open: run it, or fork runners that do."""

    def __init__(
        self, model: NativeModel, order: dict[str, Any], requests: BinaryIO, replies: BinaryIO
    ) -> None:
        self._model, self._order = model, order
        self._requests, self._replies = requests, replies
        self._runner = 0
        self._running = mmap.mmap(-1, _NUMBER.size)
        """The number of the request that was begun last; the runners' and ours."""

    def run(self, number: int, *, limited: bool) -> None:
        """Answer the order, then requests."""
        head: dict[str, Any] = {"limited": limited}
        head |= {"inputs": self._model.inputs(), "outputs": self._model.outputs()}
        if self._order["threads"] > 1:
            _reply(self._replies, number, head | {"runner": os.getpid()})
            self._serve()
            return
        signal.signal(END_RUN, self._end_run)
        try:
            self._fork()
        except OSError as error:  # the machine's or the service's number of processes
            problem = {"kind": "suspended", "message": f"fork: {error.strerror}"}
            _reply(self._replies, number, problem)
            return
        _reply(self._replies, number, head | {"runner": self._runner})
        while True:
            _, status, used = os.wait4(self._runner, 0)
            code = os.waitstatus_to_exitcode(status)
            if code in {0, _LOST}:
                return
            (running,) = _NUMBER.unpack(self._running)
            cpu = used.ru_utime + used.ru_stime
            self._fork({"died": code, "running": running, "cpu_seconds": cpu})

    def _end_run(self, *_: object) -> None:
        os.kill(self._runner, signal.SIGKILL)

    def _fork(self, died: dict[str, Any] | None = None) -> None:
        """The next runner; it says what became of the last, so that no two write at a time."""
        parent = os.getpid()
        self._runner = os.fork()
        if self._runner == 0:
            try:
                signal.signal(END_RUN, signal.SIG_DFL)
                confine.die_with_parent(parent)
                if died is not None:
                    _reply(self._replies, 0, died | {"runner": os.getpid()})
                self._serve()
                os._exit(0)
            finally:
                os._exit(1)

    def _serve(self) -> None:
        """Run batches until the pipe is closed."""
        order = self._order
        confine.limit_memory(order["memory_bytes"])
        dtype, shape = np.dtype(order["dtype"]), tuple(order["shape"])
        while True:
            number, frame = _request(self._requests)
            self._running[:] = _NUMBER.pack(number)
            # A second leash, for a parent that cannot pull the first.
            confine.limit_cpu(2 * order["run_seconds"] * order["threads"] + 10)
            body = b""
            try:
                batch = np.frombuffer(frame, dtype).reshape(-1, *shape)
                ran = self._model.run(order["output"], {order["input"]: batch})
                head, body = _scores(ran.output, (len(batch), order["classes"]))
                head |= {"cpu_seconds": ran.cpu_seconds, "wall_seconds": ran.wall_seconds}
            except Exception as error:  # a user's model may raise anything
                head = _problem(error)
            _reply(self._replies, number, head, body)


def _scores(output: np.ndarray[Any, Any], wanted: tuple[int, int]) -> tuple[dict[str, Any], bytes]:
    if output.shape != wanted or output.dtype.kind not in "fiu":
        shape = ", ".join(map(str, output.shape[:8]))
        words = f"the output is {output.dtype} [{shape}], not numbers of {list(wanted)}"
        return {"kind": "wrong_shape", "message": words}, b""
    body = np.ascontiguousarray(output).tobytes()
    return {"dtype": output.dtype.name, "bytes": len(body)}, body


def _problem(error: BaseException) -> dict[str, Any]:
    kind = "out_of_memory" if ran_out_of_memory(error) else "raised"
    return {"kind": kind, "message": first_line(error)}


def _request(requests: BinaryIO, most: int | None = None) -> tuple[int, bytearray]:
    """The next request's number and bytes; ends the process where there is none.

    Unbuffered, so that a runner holds nothing that the next one would miss.
    """
    head = _exactly(requests, HEADER.size)
    if len(head) < HEADER.size:
        os._exit(0)  # the pipe is closed
    magic, number, size = HEADER.unpack(head)
    if magic != MAGIC or (most is not None and size > most):
        os._exit(_LOST)
    try:
        body = _exactly(requests, size)
    except MemoryError:
        os._exit(_LOST)
    if len(body) < size:
        os._exit(0)
    return number, body


def _exactly(requests: BinaryIO, size: int) -> bytearray:
    """So many bytes, or fewer at the end of the pipe."""
    body = bytearray(size)
    view, at = memoryview(body), 0
    while at < size:
        count = requests.readinto(view[at:])  # type: ignore[attr-defined]  # a raw file
        if not count:
            return body[:at]
        at += count
    return body


def _reply(replies: BinaryIO, number: int, head: dict[str, Any], body: bytes = b"") -> None:
    replies.write(json.dumps({"number": number, **head}).encode() + b"\n" + body)
    replies.flush()


if __name__ == "__main__":
    main()
    sys.exit(0)
