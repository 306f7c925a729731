"""How a long-running process of the cloud side is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal


def stop_signal() -> asyncio.Future[None]:
    """Resolved by the first SIGTERM or SIGINT; the second ends the process at once."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def on_signal(number: int) -> None:
        if stop.done():
            os._exit(128 + number)
        stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
