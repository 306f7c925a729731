"""A model's own process: one prepared batch in, scores out, until the pipe is closed.

The other end is :class:`model_process.ModelProcess`. Frames are a length and bytes; replies are a
line of JSON that says how many bytes follow. It holds no socket, no outbox and no credentials,
and ends with its parent.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import struct
import sys
import time
from typing import Any, BinaryIO

import numpy as np

from . import confine
from .native import NativeModel, first_line, ran_out_of_memory

LENGTH = struct.Struct("<Q")
MAX_ORDER_BYTES = 1 << 16


def main() -> None:
    """Open the ordered model, say so, then run what comes."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # what native code prints is no reply
    order = json.loads(_frame(requests, MAX_ORDER_BYTES) or b"{}")
    # A service manager signals all processes of a unit; this one ends when its parent has drained.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    confine.die_with_parent(order["parent"])
    confine.give_way()
    confine.forbid_files()
    try:
        model = _opened(order)
    except Exception as error:  # onnxruntime's own tree derives from Exception alone
        _reply(replies, _problem(error))
        return
    confine.limit_memory(order["memory_bytes"])
    _reply(replies, {"inputs": model.inputs(), "outputs": model.outputs()})
    _serve(model, order, requests, replies)


def _opened(order: dict[str, Any]) -> NativeModel:
    with open(order["file"], "rb") as file:  # noqa: PTH123  # pathlib costs 10 ms
        content = file.read()
    if hashlib.sha256(content).hexdigest() != order["digest"]:
        raise ValueError("the model's file has changed since it was read")
    confine.limit_loading(len(content), order["memory_bytes"])
    return NativeModel(content, threads=order["threads"])


def _serve(
    model: NativeModel, order: dict[str, Any], requests: BinaryIO, replies: BinaryIO
) -> None:
    dtype, shape = np.dtype(order["dtype"]), tuple(order["shape"])
    while (frame := _frame(requests)) is not None:
        _limit_cpu(order["run_seconds"] * order["threads"])
        batch = np.frombuffer(frame, dtype).reshape(-1, *shape)
        try:
            output, cpu, wall = model.run(order["output"], {order["input"]: batch})
            head, body = _scores(output, (len(batch), order["classes"]))
            head |= {"cpu_seconds": cpu, "wall_seconds": wall}
        except Exception as error:  # a user's model may raise anything
            head, body = _problem(error), b""
        _reply(replies, head, body)


def _scores(output: np.ndarray[Any, Any], wanted: tuple[int, int]) -> tuple[dict[str, Any], bytes]:
    if output.shape != wanted or output.dtype.kind not in "fiu":
        shape = ", ".join(map(str, output.shape[:8]))
        words = f"the output is {output.dtype} [{shape}], not numbers of {list(wanted)}"
        return {"kind": "wrong_shape", "message": words}, b""
    # Of one width whatever it is: every element type of a score fits into a double or an int64.
    body = np.ascontiguousarray(output).tobytes()
    return {"dtype": output.dtype.name, "bytes": len(body)}, body


def _problem(error: BaseException) -> dict[str, Any]:
    kind = "out_of_memory" if ran_out_of_memory(error) else "raised"
    return {"kind": kind, "message": first_line(error)}


def _limit_cpu(seconds: float) -> None:
    """A second leash, for a parent that cannot pull the first: SIGXCPU well past the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(time.process_time() + 2 * seconds + 10)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _frame(requests: BinaryIO, most: int | None = None) -> bytes | None:
    """The next request, or None at the end of the pipe."""
    head = requests.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    if most is not None and size > most:
        sys.exit("the order is too long")
    body = requests.read(size)
    return body if len(body) == size else None


def _reply(replies: BinaryIO, head: dict[str, Any], body: bytes = b"") -> None:
    replies.write(json.dumps(head).encode() + b"\n" + body)
    replies.flush()


if __name__ == "__main__":
    main()
