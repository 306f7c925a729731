"""A long-running process and its service manager: how it reports, and how it is stopped.

Reports follow systemd's sd_notify(3): lines in one datagram to the socket that ``NOTIFY_SOCKET``
names. Without it nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager

from setsuden.link import Link
from setsuden.link.tasks import end, wait

_STATUS_SECONDS = 60.0
"""How often the status line is renewed where no watchdog asks for more."""


class ServiceManager:
    """The service manager that started us, if it asked for reports."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        # Taken out of the environment: a child of ours must not speak for the service.
        self._address = environment.pop("NOTIFY_SOCKET", "")
        pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        microseconds = environment.pop("WATCHDOG_USEC", "")
        watched = microseconds.isdecimal() and pid == str(os.getpid())
        self.pause_seconds = min(int(microseconds) / 2e6 if watched else 60.0, _STATUS_SECONDS)
        """Half of the watchdog's patience."""
        self.changed = asyncio.Event()
        """Set when the status line is another one."""

    @property
    def listens(self) -> bool:
        """True when there is somebody to tell."""
        return self._address != ""

    def ready(self) -> None:
        """The service has started, or has reloaded."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """A reload begins; :meth:`ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is on its way out."""
        self._tell("STOPPING=1")

    async def run(self, status: Callable[[], str]) -> None:
        """Tell until cancelled that the event loop turns; a loop that hangs tells nothing."""
        while True:
            self._tell("WATCHDOG=1", f"STATUS={status()}")
            await wait(self.changed, self.pause_seconds)
            self.changed.clear()

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        # A manager that is gone or slow must not hold up the service.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto("\n".join(lines).encode(), address)


@asynccontextmanager
async def notifying(
    status: Callable[[], str], link: Link | None = None
) -> AsyncIterator[ServiceManager]:
    """A service manager that is kept informed as long as the block lasts, of the link at once."""
    manager = ServiceManager()
    if link is not None:
        link.listen(lambda _: manager.changed.set())
    task = asyncio.create_task(manager.run(status)) if manager.listens else None
    try:
        yield manager
    finally:
        manager.stopping()
        if task is not None:
            await end(task)


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
