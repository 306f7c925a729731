"""A trial in a fork of this process: milliseconds instead of the 0.2 s of a fresh Python.

Only while this process has one thread of Python's: a lock that another thread held would be held
for ever in the fork.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from typing import Any

from setsuden.pipelines.bundle import Bundle
from setsuden.schemas.errors import BundleError, MissingExtraError, SetsudenError
from setsuden.schemas.pipeline import Limits

from . import confine, session, trial
from .failure import FailureKind, TrialError
from .native import first_line, ran_out_of_memory
from .trial import TrialReport

_MOST_BYTES = 1 << 16


def possible() -> bool:
    """True while a fork of this process can do all that it could."""
    alone = threading.active_count() == 1
    main = threading.current_thread() is threading.main_thread()
    return alone and main and sys.platform == "linux" and "ray" not in sys.modules


class ForkedTrial:
    """One model being opened and tried in a fork."""

    def __init__(self, bundle: Bundle, model: str, content: bytes, limits: Limits) -> None:
        self._file = bundle.spec(model).file
        self._pipe, end = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _in_fork(parent, end, bundle, model, content, limits)
            finally:
                os._exit(1)
        os.close(end)

    def result(self, deadline: float) -> TrialReport | None:
        """What it measured, or None when it was not done by then (monotonic) and was killed.

        Raises what the trial raised: TrialError, BundleError, MissingExtraError.
        """
        text = self._read(deadline)
        if text is None:
            os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        os.close(self._pipe)
        if text is None:
            return None
        if not text:
            code = os.waitstatus_to_exitcode(status)
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise TrialError(
                FailureKind.CRASHED,
                f"{self._file} ended the process it was tried in ({how})",
                remedy="export it again, with another opset or without the operator at fault",
            )
        return _report(json.loads(text))

    def _read(self, deadline: float) -> bytes | None:
        poll, text = select.poll(), b""
        poll.register(self._pipe, select.POLLIN)
        while len(text) <= _MOST_BYTES:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            part = os.read(self._pipe, _MOST_BYTES)
            if not part:
                break
            text += part
        return text


def _in_fork(  # noqa: PLR0917  # a process's whole life
    parent: int, pipe: int, bundle: Bundle, model: str, content: bytes, limits: Limits
) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    confine.die_with_parent(parent)
    pipe = os.dup2(pipe, 3, inheritable=False)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.closerange(4, 1 << 20)
    confine.forbid_files()
    answer = json.dumps(_tried(bundle, model, content, limits)).encode()
    os.write(pipe, answer[:_MOST_BYTES])
    os._exit(0)


def _tried(bundle: Bundle, model: str, content: bytes, limits: Limits) -> dict[str, Any]:
    spec, ref = bundle.spec(model), bundle.ref(model, content)
    try:
        confine.limit_loading(len(content), limits.run_memory_bytes)
        opened = session.opened(content, spec, ref, len(bundle.manifest.classes))
        confine.limit_memory(limits.run_memory_bytes)
        report = trial.check(bundle, model, opened.run, run_seconds=limits.run_seconds)
    except SetsudenError as error:
        kind = error.kind.value if isinstance(error, TrialError) else None
        extra = isinstance(error, MissingExtraError)
        words = {"message": error.message[:4000], "remedy": error.remedy[:4000]}
        return {"kind": kind, "extra": extra, **words}
    except Exception as error:  # nothing may leave the fork but by its pipe
        memory = ran_out_of_memory(error)
        kind = FailureKind.OUT_OF_MEMORY if memory else FailureKind.RAISED
        return {"kind": kind.value, "extra": False, "message": first_line(error), "remedy": ""}
    return {"report": report}


def _report(answer: dict[str, Any]) -> TrialReport:
    if "report" in answer:
        return TrialReport(*answer["report"])
    message, remedy = answer["message"], answer["remedy"]
    if answer["extra"]:
        raise MissingExtraError(message, remedy=remedy)
    if answer["kind"] is None:
        raise BundleError(message, remedy=remedy)
    raise TrialError(FailureKind(answer["kind"]), message, remedy=remedy)
