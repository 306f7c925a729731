"""How a person or a service manager stops a long-running process."""

from __future__ import annotations

import asyncio
import signal


def stop_signal() -> asyncio.Future[None]:
    """Resolved by the first SIGTERM or SIGINT; the process dies of the second at once."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def on_signal(number: int) -> None:
        if stop.done():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
