"""Ending a task for certain."""

from __future__ import annotations

import asyncio

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
