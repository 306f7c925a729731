"""Ending a task for certain, waiting with a limit, and pauses between attempts."""

from __future__ import annotations

import asyncio
import random

_AGAIN_SECONDS = 0.1


async def end(task: asyncio.Task[None]) -> None:
    """Cancel until it is over; what it raised is of no use any more.

    Once is not enough: nats-py, and ``asyncio.wait_for`` before Python 3.12, swallow a
    cancellation that meets them at the moment what they wait for is there.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=_AGAIN_SECONDS)
    if not task.cancelled():
        task.exception()


async def wait(event: asyncio.Event, seconds: float | None) -> bool:
    """True once the event is set; False when that took longer (``None``: no limit)."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def jittered(seconds: float) -> float:
    """Half to all of it, at random: many processes must not come back in step."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311  # no secret


class Backoff:
    """Pauses that double from the first to the longest."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first, self._longest = first_seconds, longest_seconds
        self._pause = first_seconds

    def next(self) -> float:
        """Seconds to wait now."""
        pause = self._pause
        self._pause = min(2 * pause, self._longest)
        return jittered(pause)

    def reset(self) -> None:
        """It worked: the next pause is the first again."""
        self._pause = self._first
