"""A sign of life from an event loop, for those who stand outside it.

A watchdog that shares the loop it watches hangs with it. This one is a thread, and beside it the
parent process, if there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

PIPE_VARIABLE = "SETSUDEN_HEARTBEAT_FD"
"""Set by a parent that wants to hear each beat as a byte."""
BEAT_SECONDS = 1.0
_LOOKS = 4
"""In a row without a beat: a machine that was suspended has missed one look, not four."""


@asynccontextmanager
async def heartbeat(silence_seconds: float, on_silence: Callable[[], None]) -> AsyncIterator[None]:
    """Beat while the body runs; ``on_silence`` is called in a thread when the loop is stuck."""
    heart = _Heart(silence_seconds, on_silence)
    beating = asyncio.create_task(heart.beat())
    heart.watcher.start()
    try:
        yield
    finally:
        heart.stop()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


class _Heart:
    def __init__(self, silence_seconds: float, on_silence: Callable[[], None]) -> None:
        self.watcher = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._look_seconds = max(silence_seconds / _LOOKS, BEAT_SECONDS)
        self._on_silence = on_silence
        self._beats = 0
        self._stopped = threading.Event()
        name = os.environ.get(PIPE_VARIABLE, "")
        self._pipe = int(name) if name.isdigit() else None
        if self._pipe is not None:
            os.set_blocking(self._pipe, False)
            os.set_inheritable(self._pipe, False)

    async def beat(self) -> None:
        while True:
            self._beats += 1
            if self._pipe is not None:
                self._tell_parent(self._pipe)
            await asyncio.sleep(BEAT_SECONDS)

    def _tell_parent(self, pipe: int) -> None:
        try:
            with contextlib.suppress(BlockingIOError):  # it is busy, and has enough to read
                os.write(pipe, b".")
        except OSError:  # it is gone: nobody would end us after this
            self._pipe = None
            signal.raise_signal(signal.SIGTERM)

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        seen, misses = -1, 0
        while not self._stopped.wait(self._look_seconds):
            misses = misses + 1 if seen == self._beats else 0
            seen = self._beats
            if misses >= _LOOKS:
                self._on_silence()
                return
