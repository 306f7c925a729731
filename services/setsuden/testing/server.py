"""One server process on this machine: started, waited for, ended."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from setsuden.link import web
from setsuden.schemas.errors import UnavailableError

READY_SECONDS = 15.0


class LocalServer:
    """One process in its own process group, its output in a file; it can be started again.

    ``start`` returns when ``ready_url`` answers 200; without one, when the process was started.
    """

    def __init__(
        self, folder: Path, name: str, command: list[str], ready_url: str | None = None
    ) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] | None = None
        """The process's environment variables; None: those of this process."""
        self._name, self._ready_url = name, ready_url
        self._command = command

    @property
    def log(self) -> Path:
        """The output file, appended to by each start."""
        return self.folder / f"{self._name}.log"

    def start(self) -> None:
        """Start it and return when it is ready; raises UnavailableError."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        try:
            ready = self._becomes_ready()
        except BaseException:  # Ctrl-C while it starts must leave no process behind
            self.stop()
            raise
        if not ready:
            self.stop()
            raise UnavailableError(f"{self._name} did not become ready", remedy=f"read {self.log}")

    def kill(self) -> None:
        """SIGKILL: the process has no chance to flush anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when it has not ended after 10 s."""
        self._end(signal.SIGTERM)

    def __enter__(self) -> Self:
        """The server itself, started."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stops it."""
        self.stop()

    def _end(self, with_signal: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(with_signal)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                return False
            if self._ready_url is None or _answers(self._ready_url):
                return True
            time.sleep(0.02)
        return False


def free_port() -> int:
    """A TCP port of the loopback interface that is free at the moment."""
    return free_ports(1)[0]


def free_ports(number: int) -> tuple[int, ...]:
    """``number`` different TCP ports of the loopback interface that are free at the moment."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)


def _answers(url: str) -> bool:
    try:
        web.get(url, limit=1 << 20, timeout=1, direct=True)
    except web.WebError:
        return False
    return True
