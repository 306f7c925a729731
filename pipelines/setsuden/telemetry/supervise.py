"""One policy for telemetry in every process: it can neither end the process nor vanish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from setsuden.link.tasks import Backoff, end
from setsuden.schemas.log import get_logger

log = get_logger(__name__)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0


class Supervisor:
    """Runs telemetry's parts beside everything else; one that fails begins again after a pause.

    Each kind of failure of a part is logged once, with its traceback; all of them are counted.
    """

    def __init__(
        self,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self.failures = 0
        """Times that a part failed and began again."""
        self._pauses = first_pause_seconds, longest_pause_seconds
        self._logged: set[tuple[str, str]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part until :meth:`stop`."""
        self._tasks.append(asyncio.create_task(self._supervise(name, run), name=name))

    async def stop(self) -> None:
        """End every part."""
        while self._tasks:
            await end(self._tasks.pop())

    async def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(*self._pauses)
        while True:
            began = time.monotonic()
            try:
                await run()
            except Exception as error:  # whatever it is: events come before telemetry
                self.failures += 1
                kind = name, type(error).__name__
                if kind not in self._logged:
                    self._logged.add(kind)
                    log.exception("telemetry_failed", part=name, detail=repr(error))
            if time.monotonic() - began > self._pauses[1]:  # it had run well since the last failure
                backoff.reset()
            await asyncio.sleep(backoff.next())
