"""Watches runs of models in this process from a thread of its own.

A run that goes on for too long is told to end, which onnxruntime does before its next node. One
that does not end even then hangs in native code: nothing but the end of the process helps, and
whoever owns the process says how. onnxruntime lets the interpreter's lock go while it runs, so
this thread is awake when the event loop is not. Each run sets a timer of the kernel's and takes
it back (3 µs): the thread wakes for runs that are late, and for nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import threading
import time
from collections.abc import Callable

from setsuden.schemas.log import get_logger

from .run_record import RunRecord, key_of

log = get_logger(__name__)

GRACE_SECONDS = 5.0
"""From the order to end until the model is given up."""
_CLOCK_MONOTONIC = 1
_TIMER_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_TimeSpec = ctypes.c_long * 4
"""struct itimerspec: interval and first expiry, seconds and nanoseconds each."""


class _Timer:
    """A timer of the kernel's that makes a file descriptor readable."""

    def __init__(self) -> None:
        self._libc = ctypes.PyDLL(None)
        self._set = self._libc.timerfd_settime
        self._set.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self._never = ctypes.byref(_TimeSpec(0, 0, 0, 0))
        self._spans: dict[float, object] = {}
        self.fd = int(self._libc.timerfd_create(_CLOCK_MONOTONIC, _TIMER_FLAGS))
        if self.fd < 0:
            raise OSError("the kernel gives no timer")

    def set(self, seconds: float) -> None:
        """Expire once, after this long."""
        span = self._spans.get(seconds)
        if span is None:
            whole, rest = divmod(max(1, round(seconds * 1e9)), 1_000_000_000)
            span = self._spans[seconds] = ctypes.byref(_TimeSpec(0, 0, whole, rest))
        self._set(self.fd, 0, span, None)

    def stop(self) -> None:
        """Do not expire."""
        self._set(self.fd, 0, self._never, None)

    def clear(self) -> None:
        """Forget that it expired."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)


class RunWatch:
    """One model's runs, one at a time, seen by the watchdog."""

    def __init__(
        self, dog: Watchdog, pipeline: str, place: int | None, end: Callable[[], None]
    ) -> None:
        self.pipeline = pipeline
        self.place = place
        self.overran = False
        """The last run was told to end."""
        self.timer = _Timer()
        self._dog, self._end = dog, end
        self._running = self._told = False
        self._wall_deadline = 0.0
        self._look_seconds = 0.0
        self._cpu: tuple[int, float] | None = None

    def begin(self, wall_seconds: float, cpu_seconds: float | None = None) -> None:
        """A run begins in this thread, with a limit on wall time and perhaps on CPU time."""
        self._wall_deadline = time.monotonic() + wall_seconds
        self._look_seconds, self._cpu = wall_seconds, None
        if cpu_seconds is not None:
            clock = time.pthread_getcpuclockid(threading.get_ident())
            self._cpu = clock, time.thread_time() + cpu_seconds
            self._look_seconds = min(wall_seconds, cpu_seconds)
        if self.place is not None:
            self._dog.mark(self.place, running=True)
        self.overran = self._told = False
        self._running = True
        self.timer.set(self._look_seconds)

    def finish(self) -> None:
        """It has ended."""
        self._running = False
        self.timer.stop()
        if self.place is not None:
            self._dog.mark(self.place, running=False)

    def look(self) -> bool:
        """Called by the watchdog when the timer expired; True when the model is given up."""
        self.timer.clear()
        if not self._running:
            return False
        if self._told:
            return True
        if self._late():
            self.overran = self._told = True
            self._end()
            self.timer.set(GRACE_SECONDS)
        else:
            self.timer.set(self._look_seconds)
        return False

    def close(self) -> None:
        """Nothing more of it will run here."""
        self._dog.forget(self)
        os.close(self.timer.fd)

    def _late(self) -> bool:
        if time.monotonic() >= self._wall_deadline:
            return True
        # CPU time, not wall time: a busy or suspended machine makes nobody late.
        return self._cpu is not None and time.clock_gettime(self._cpu[0]) >= self._cpu[1]


class Watchdog:
    """One thread for all models of a process; started with the first of them."""

    def __init__(
        self, record: RunRecord | None = None, on_stuck: Callable[[str], None] = lambda _: None
    ) -> None:
        """``on_stuck`` gets the pipeline's name in the watchdog's thread and need not return."""
        self._record, self._on_stuck = record, on_stuck
        self._watches: dict[int, RunWatch] = {}
        self._timers = select.epoll()
        self._end = os.eventfd(0)
        self._timers.register(self._end, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def watch(self, pipeline: str, digest: str, end: Callable[[], None]) -> RunWatch:
        """A model whose runs are to be watched; ``end`` makes its run raise."""
        place = None if self._record is None else self._record.place(key_of(pipeline, digest))
        watch = RunWatch(self, pipeline, place, end)
        self._watches[watch.timer.fd] = watch
        self._timers.register(watch.timer.fd, select.EPOLLIN)
        return watch

    def forget(self, watch: RunWatch) -> None:
        """A model that is no longer run in this process."""
        self._timers.unregister(watch.timer.fd)
        del self._watches[watch.timer.fd]

    def start(self) -> None:
        """Begin to watch; not before what has to fork has forked."""
        if not self._thread.is_alive():
            self._thread.start()

    def suspects(self, pipeline: str, digest: str) -> bool:
        """True when an earlier life of this process died of this model."""
        return self._record is not None and key_of(pipeline, digest) in self._record.suspects

    def mark(self, place: int, *, running: bool) -> None:
        """Note for the next life that a run begins or has ended."""
        if self._record is not None:
            self._record.mark(place, running=running)

    def close(self) -> None:
        """Watch no more, and let the record go."""
        os.eventfd_write(self._end, 1)
        if self._thread.is_alive():
            self._thread.join(timeout=1)
        if self._record is not None:
            self._record.close()

    def _run(self) -> None:
        while True:
            for fd, _ in self._timers.poll():
                if fd == self._end:
                    return
                watch = self._watches.get(fd)
                if watch is not None and watch.look():
                    self._give_up(watch)

    def _give_up(self, watch: RunWatch) -> None:
        log.critical("model_hangs", pipeline=watch.pipeline)
        if self._record is not None and watch.place is not None:
            self._record.suspect(watch.place)
        self._on_stuck(watch.pipeline)
