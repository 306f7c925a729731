"""Runs the teacher in a child process for events that may have killed a worker before.

Every event in a dying worker's hands counts one more attempt. Without this an ``os.abort()`` in
the model would carry its innocent neighbours into the dead letters with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setsuden.pipelines.session import Run
from setsuden.schemas.energy import Method

from . import settle
from .records import problem
from .teacher import Answers, Choice, Teacher, TeacherRaisedError

_START_SECONDS = 60.0
_MAX_LINE = 16 << 20


class Isolation:
    """One child process with the teacher in it, started when first needed."""

    def __init__(self, folder: Path, model: str, timeout_seconds: float) -> None:
        self._command = [sys.executable, "-m", __name__, str(folder), model]
        self._timeout = timeout_seconds
        self.longest_seconds = timeout_seconds + _START_SECONDS
        """No run takes longer, whatever the model does."""
        self._child: asyncio.subprocess.Process | None = None

    async def run(self, observation: NDArray[Any]) -> Answers:
        """One inference; raises TeacherRaisedError, also for a child that died of it."""
        try:
            child = await self._started()
            async with asyncio.timeout(self._timeout):
                reply = await _ask(child, observation.tobytes())
        except TimeoutError as error:
            await self.close()
            words = f"no answer within {self._timeout:g} s"
            raise TeacherRaisedError(problem(settle.TEACHER_TIMED_OUT, words)) from error
        except (EOFError, OSError) as error:
            code = await self._ended()
            words = f"the model ended its process ({code})"
            raise TeacherRaisedError(problem(settle.TEACHER_CRASHED, words)) from error
        return _answers(reply)

    async def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
        await self._ended()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._child is None:
            pipe = asyncio.subprocess.PIPE
            self._child = await asyncio.create_subprocess_exec(
                *self._command, stdin=pipe, stdout=pipe, limit=_MAX_LINE
            )
            async with asyncio.timeout(_START_SECONDS):
                await _line(self._child)
        return self._child

    async def _ended(self) -> str:
        child, self._child = self._child, None
        if child is None:
            return "never started"
        code = await child.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


async def _ask(child: asyncio.subprocess.Process, body: bytes) -> dict[str, Any]:
    assert child.stdin is not None  # noqa: S101  # opened as a pipe above
    child.stdin.write(body)
    await child.stdin.drain()
    reply: dict[str, Any] = json.loads(await _line(child))
    return reply


async def _line(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None  # noqa: S101  # opened as a pipe above
    line = await child.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return line


def _answers(reply: dict[str, Any]) -> Answers:
    if "code" in reply:
        raise TeacherRaisedError(problem(reply["code"], reply["message"]))
    run = Run(np.empty(0), reply["cpu_seconds"], reply["wall_seconds"], Method(reply["method"]))
    return Answers([Choice(*reply["choice"])], run)


def _serve(folder: Path, model: str) -> None:
    """The child: one observation in, one line out, until the parent closes the pipe."""
    from setsuden.pipelines import bundle  # noqa: PLC0415  # the parent has no use for it

    teacher = Teacher(bundle.load(folder), model, inline_below_ms=float("inf"))
    size = teacher.observation.nbytes
    dtype = np.dtype(teacher.observation.dtype.value)
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    while len(body := sys.stdin.buffer.read(size)) == size:
        array = np.frombuffer(body, dtype).reshape(teacher.observation.shape)
        sys.stdout.write(json.dumps(_reply(teacher, array)) + "\n")
        sys.stdout.flush()


def _reply(teacher: Teacher, array: NDArray[Any]) -> dict[str, Any]:
    try:
        answers = asyncio.run(teacher.run([array]))
    except TeacherRaisedError as error:
        return error.problem.model_dump()
    row = answers.rows[0]
    if not isinstance(row, Choice):
        return row.model_dump()
    return {
        "choice": row,
        "cpu_seconds": answers.run.cpu_seconds,
        "wall_seconds": answers.run.wall_seconds,
        "method": answers.run.method.value,
    }


def _die_with_parent() -> None:
    """A child in a model that never returns would outlive a killed worker, at a full core."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    _serve(Path(sys.argv[1]), sys.argv[2])
