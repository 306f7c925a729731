"""One thread beside the event loop, for the runs of one model.

Not a ``ThreadPoolExecutor``: the interpreter joins its threads at exit, so a model that never
returns would keep a stopped process alive. Nor a pool: one run at a time is what the model, its
CPU clock and its child process ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from .failure import FailureKind, RunFailedError

T = TypeVar("T")

IDLE_SECONDS = 10.0


class RunThread:
    """Does work in the order it comes; started with the first of it."""

    def __init__(
        self, name: str, *, waits: Callable[[], bool], on_idle: Callable[[], None]
    ) -> None:
        """``on_idle`` is called in the thread after 10 s without work, while ``waits`` is true."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waits, self._on_idle = waits, on_idle
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def post(self, work: Callable[[], None]) -> None:
        """Do this some time; it must not raise. Raises RunFailedError where there is no thread."""
        if not self._thread.is_alive():
            try:
                self._thread.start()
            except RuntimeError as error:  # the machine's or the service's number of tasks
                raise RunFailedError(FailureKind.SUSPENDED, str(error)) from error
        self._jobs.put(work)

    async def call(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises, from the thread; raises as :meth:`post`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            try:
                done: tuple[Any, ...] = (_set_result, future, work())
            except BaseException as error:
                done = (_set_exception, future, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(*done)

        self.post(job)
        return await future

    def stop(self) -> None:
        """End after what is being done; does not wait for a model that hangs."""
        self._jobs.put(None)

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS if self._waits() else None)
            except queue.Empty:
                self._on_idle()
                continue
            if job is None:
                self._on_idle()
                return
            job()


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
