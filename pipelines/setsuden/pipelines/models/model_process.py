"""A model in a process of its own, seen from outside: start, ask, kill.

All calls block and belong to one thread, which must outlive the process: the kernel kills the
child when that thread ends. The time limit is kept by the waiting side, so nothing the model does
can talk it out of it; the memory limit is the kernel's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from setsuden.pipelines.bundle import Bundle
from setsuden.process import quiet
from setsuden.process.config import ENVIRONMENT_PREFIX
from setsuden.schemas.bundle import ModelSpec
from setsuden.schemas.log import get_logger
from setsuden.schemas.pipeline import Limits
from setsuden.schemas.result import ModelRef

from .failure import FailureKind, RunFailedError
from .model_child import END_RUN, HEADER, MAGIC
from .session import Run, check_names, method_of, unopened

Array = NDArray[Any]

log = get_logger(__name__)

LOAD_SECONDS = 60.0
"""Python, onnxruntime and the model's file, on a slow and busy device."""
_DYING_SECONDS = 5.0
_MAX_HEAD = 1 << 14
_NO_REPLY = (ValueError, KeyError, TypeError, RecursionError, OverflowError)
"""What comes of reading what a model's native code may have written over."""
_CHUNK = 1 << 16
_COMMAND = [sys.executable, "-P", "-m", "setsuden.pipelines.models.model_child"]
_SCORE_DTYPES = frozenset(
    [
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    ]
)


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is told of its model."""

    file: Path
    spec: ModelSpec
    ref: ModelRef
    classes: int
    limits: Limits

    def text(self) -> bytes:
        """The order as the child reads it."""
        spec = self.spec
        return json.dumps(
            {
                "parent": os.getpid(),
                "file": str(self.file),
                "digest": self.ref.digest,
                "input": spec.input,
                "output": spec.output,
                "dtype": spec.dtype.value,
                "shape": spec.shape,
                "threads": spec.threads,
                "classes": self.classes,
                "run_seconds": self.limits.run_seconds,
                "memory_bytes": self.limits.run_memory_bytes,
            }
        ).encode()


def order(bundle: Bundle, model: str, ref: ModelRef, limits: Limits) -> Order:
    """The order for a bundle's model."""
    spec = bundle.spec(model)
    file = (bundle.folder / spec.file).resolve()
    return Order(file, spec, ref, len(bundle.manifest.classes), limits)


class CpuAccount(Protocol):
    """Who counts the CPU time of processes that work for this one."""

    def follow(self, pid: int) -> None: ...  # noqa: D102  # it was started
    def ended(self, pid: int, cpu_seconds: float) -> None: ...  # noqa: D102  # so much in all


class ModelProcess:
    """One child, and in it the runner that a run may cost its life."""

    def __init__(self, order: Order, account: CpuAccount) -> None:
        self._order, self._account = order, account
        self._method = method_of(order.spec)
        self._child: subprocess.Popen[bytes] | None = None
        self._runner = 0
        self._stderr: IO[bytes] | None = None
        self._number = 0
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """True while there is a child that lives."""
        return self._child is not None and _lives(self._child)

    def run(self, batch: Array) -> Run:
        """One run; raises RunFailedError for whatever came of it but scores.

        As suspended where there was no run, because no process could be had for it; as ``start``
        for a model that does not open any more.
        """
        if not self.running:
            self._restart()
        body = np.ascontiguousarray(batch).data.cast("B")
        limit = self._order.limits.run_seconds
        head, payload = self._exchange(body, limit, len(batch))
        try:
            return self._read(head, payload, len(batch))
        except _NO_REPLY as error:
            raise self._lied(error) from error

    def _read(self, head: dict[str, Any], payload: bytes, items: int) -> Run:
        if "kind" in head:
            self._raise(head)
        dtype = head["dtype"] if head["dtype"] in _SCORE_DTYPES else "float32"
        output = np.frombuffer(payload, dtype).reshape(items, self._order.classes)
        used = float(head["cpu_seconds"]), float(head["wall_seconds"])
        if not all(map(math.isfinite, used)):
            raise ValueError("no time")
        return Run(output, *used, self._method)

    def _restart(self) -> None:
        try:
            self.start()
        except RunFailedError as error:  # whoever asked for a run has no part in it
            words = f"its process cannot be started: {error.failure.message}"
            raise RunFailedError(FailureKind.SUSPENDED, words) from error

    def start(self) -> None:
        """A child whose model is open.

        Raises TrialError when it cannot be opened, RunFailedError when that cost its life.
        """
        self.close()
        try:
            self._child = self._spawn()
        except OSError as error:
            if self._stderr is not None:
                self._stderr.close()
            raise RunFailedError(FailureKind.SUSPENDED, error.strerror or "no reason") from error
        self._account.follow(self._child.pid)
        head, _ = self._exchange(memoryview(self._order.text()), LOAD_SECONDS, 0)
        try:
            limited = self._opened(head)
        except _NO_REPLY as error:
            raise self._lied(error) from error
        if not limited:
            remedy = "allow the system call prlimit64, in systemd SystemCallFilter=@resources"
            log.warning("model_memory_unlimited", remedy=remedy)

    def _opened(self, head: dict[str, Any]) -> bool:
        """Whether its memory is limited; raises as ``start`` for a model that is not open."""
        if "kind" not in head:
            check_names(self._order.spec, head["inputs"], head["outputs"])
            self._meet(int(head["runner"]))
            return bool(head["limited"])
        kind, message = FailureKind(head["kind"]), str(head["message"])
        self.close()
        if kind is FailureKind.SUSPENDED:
            raise RunFailedError(kind, message)
        kind = kind if kind is FailureKind.OUT_OF_MEMORY else FailureKind.UNUSABLE
        raise unopened(self._order.spec, kind, message)

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(ENVIRONMENT_PREFIX)  # it may hold a password
        }
        environment |= quiet.SWITCHES | {"OPENBLAS_NUM_THREADS": "1"}
        self._stderr = os.fdopen(os.memfd_create("model-stderr"), "wb+", buffering=0)
        child = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C is for us alone; and see confine.give_way
        )
        for pipe in (child.stdin, child.stdout):
            os.set_blocking(_fd(pipe), False)
        return child

    def _meet(self, runner: int) -> None:
        """A new runner is there."""
        self._runner = runner
        if self._child is not None and runner != self._child.pid:
            self._account.follow(runner)

    def kill(self) -> None:
        """End the child from any other thread; the one that uses it hears of it as a death."""
        with self._lock:
            if self._child is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the child, if there is one, and let its pipes go."""
        with self._lock:  # who is forgotten here is not waited for yet: no other has its number
            child, self._child = self._child, None
        if child is None:
            return
        used = 0.0
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # a stranger waited for it
            os.kill(child.pid, signal.SIGKILL)
            # Not Popen's own kill() and wait(): they reap it, and what it used is lost.
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            used = usage.ru_utime + usage.ru_stime
        self._account.ended(child.pid, used)
        if self._runner:
            self._account.ended(self._runner, 0.0)  # it dies with the child: what was last seen
            self._runner = 0
        for pipe in (child.stdin, child.stdout, self._stderr):
            if pipe is not None:
                pipe.close()

    # -- the pipe -----------------------------------------------------------------------------

    def _exchange(
        self, body: memoryview, seconds: float, items: int
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request and take its reply; a runner that is late or lies is ended."""
        child = self._child
        assert child is not None  # noqa: S101  # started above
        self._number += 1
        deadline = time.monotonic() + seconds
        try:
            for part in (HEADER.pack(MAGIC, self._number, len(body)), body):
                _write(_fd(child.stdin), memoryview(part), deadline)
            reply = _Reply(_fd(child.stdout), deadline)
            head, payload = reply.read(items * self._order.classes * 8)
            while "died" in head:
                self._bury_runner(head)
                if head["running"] == self._number:
                    raise self._death(int(head["died"]))
                # It died in its sleep, which is no run's failure: the next one takes the request.
                head, payload = reply.read(items * self._order.classes * 8)
            if head["number"] != self._number:
                raise ValueError("of another request")  # as all that is no reply
        except TimeoutError:
            self._end_run()
            words = f"it did not answer within {seconds:g} s"
            raise RunFailedError(FailureKind.TIMED_OUT, words) from None
        except (EOFError, OSError):
            raise self._child_died(child) from None
        except _NO_REPLY as error:
            raise self._lied(error) from error
        return head, payload

    def _lied(self, error: Exception) -> RunFailedError:
        self.close()
        words = f"its process sent no proper reply ({str(error)[:200]})"
        return RunFailedError(FailureKind.CRASHED, words)

    def _end_run(self) -> None:
        """End the runner; the child has another one ready, or ends with it."""
        child = self._child
        assert child is not None  # noqa: S101  # it was asked just now
        if _unread_bytes(_fd(child.stdin)):  # it never came to this request; the next one would
            self.close()
            return
        try:
            os.kill(child.pid, END_RUN)
            reply = _Reply(_fd(child.stdout), time.monotonic() + _DYING_SECONDS)
            head, _ = reply.read(0)
            if head["died"] != -signal.SIGKILL:  # it died by itself just then: whom did we end?
                raise ValueError("another death")  # as all that is no such reply
            self._bury_runner(head)
        except (EOFError, OSError, *_NO_REPLY):
            self.close()

    def _bury_runner(self, head: dict[str, Any]) -> None:
        self._account.ended(self._runner, float(head["cpu_seconds"]))
        self._meet(int(head["runner"]))

    def _child_died(self, child: subprocess.Popen[bytes]) -> RunFailedError:
        deadline = time.monotonic() + _DYING_SECONDS
        while _lives(child) and time.monotonic() < deadline:
            time.sleep(0.001)  # its pipe closes a moment before it is gone
        no_memory = self._said_no_memory()
        self.close()
        return self._death(child.returncode, no_memory=no_memory)

    def _death(self, code: int | None, *, no_memory: bool | None = None) -> RunFailedError:
        if self._said_no_memory() if no_memory is None else no_memory:
            words = "its process ended for want of memory"
            return RunFailedError(FailureKind.OUT_OF_MEMORY, words)
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return RunFailedError(FailureKind.CRASHED, f"it ended its process ({how})")

    def _said_no_memory(self) -> bool:
        """What the C++ library says when nobody catches its exception."""
        if self._stderr is None or self._stderr.closed:
            return False
        fd = self._stderr.fileno()
        text = os.pread(fd, _CHUNK, 0)
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)  # the child's place too: it would run into its file limit
        return b"bad_alloc" in text or b"MemoryError" in text

    def _raise(self, head: dict[str, Any]) -> None:
        kind = FailureKind(head["kind"])
        if kind is FailureKind.OUT_OF_MEMORY:
            self._end_run()  # its arena may be in pieces: the next run deserves a fresh one
        raise RunFailedError(kind, str(head["message"])[:1024])


class _Reply:
    """A line of JSON and the bytes it announces, read against a deadline."""

    def __init__(self, fd: int, deadline: float) -> None:
        self._fd, self._deadline = fd, deadline
        self._buffer = bytearray()

    def read(self, most: int) -> tuple[dict[str, Any], bytes]:
        """Head and body; raises TimeoutError, EOFError, or ValueError for what is no reply."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise ValueError("a head without end")
            self._more()
        head = json.loads(self._buffer[:end])
        if not isinstance(head, dict):
            raise ValueError("no head")  # noqa: TRY004  # as all that is no reply
        size = int(head.get("bytes", 0))
        if not 0 <= size <= most:
            raise ValueError(f"{size} bytes of scores")
        while len(self._buffer) < end + 1 + size:
            self._more()
        body = bytes(self._buffer[end + 1 : end + 1 + size])
        del self._buffer[: end + 1 + size]
        return head, body

    def _more(self) -> None:
        _wait(self._fd, select.POLLIN, self._deadline)
        chunk = os.read(self._fd, _CHUNK)
        if not chunk:
            raise EOFError
        self._buffer += chunk


def _write(fd: int, body: memoryview, deadline: float) -> None:
    while len(body):
        try:
            body = body[os.write(fd, body) :]
        except BlockingIOError:
            _wait(fd, select.POLLOUT, deadline)


def _unread_bytes(pipe: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


def _wait(fd: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _lives(child: subprocess.Popen[bytes]) -> bool:
    """Without reaping it: what it used is asked for then."""
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, child.pid, how) is None
    except ChildProcessError:
        return False


def _fd(pipe: IO[bytes] | None) -> int:
    assert pipe is not None  # noqa: S101  # opened as a pipe
    return pipe.fileno()
