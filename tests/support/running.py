"""`setsuden` commands as processes of their own, watched through their log lines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

SECONDS = 40.0


class Running:
    """One long-running command."""

    def __init__(
        self, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = folder / f"{'-'.join(arguments[:2])}.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "setsuden.cli.main", *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | dict(environment or {}),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *error: object) -> None:
        """SIGKILL."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in told if line["event"] == event]

    def until(self, event: str, times: int = 1) -> dict[str, Any]:
        """The newest line of this event, once it was logged so often."""
        self.wait(lambda: len(self.lines(event)) >= times)
        return self.lines(event)[-1]

    def wait(self, holds: Callable[[], bool]) -> None:
        """Return when something holds; fails when the process ends first."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")[-3000:]
            assert time.monotonic() < deadline, self.log.read_text(encoding="utf-8")[-3000:]
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """One signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.send(signal.SIGTERM)
        return self.process.wait(SECONDS)


class Manager:
    """A service manager's end of the notify socket."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(SECONDS)
        self.told: list[str] = []

    def until(self, line: str, times: int = 1) -> None:
        """Return when a line that begins so came so often."""
        while sum(told.startswith(line) for told in self.told) < times:
            self.told += self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
