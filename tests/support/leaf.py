"""A site's leaf server and the hub behind it: two real nats-servers, both telling of their hops."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Self

from setsuden.link import LinkOptions
from setsuden.testing.broker import find_server
from setsuden.testing.server import READY_SECONDS, free_ports

_ACCOUNT = """\
accounts {{
  APP: {{
    {jetstream}
    users: [ {{ user: app, password: app }} ]
    msg_trace: {{ dest: "otel.hops", sampling: "100%" }}
  }}
}}
no_auth_user: app
"""
_TO_HUB = 'mappings: { "$JS.API.>": "$JS.hub.API.>" }'
"""A leaf without JetStream answers for none: its clients' questions go to the hub's domain."""
_HUB = """\
server_name: hub
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor_port}"
max_payload: 1MB
jetstream {{ store_dir: "{store}", sync_interval: always, domain: hub }}
leafnodes {{ listen: "127.0.0.1:{leaf_port}" }}
"""
_LEAF = """\
server_name: leaf
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor_port}"
max_payload: 1MB
leafnodes {{
  reconnect: "100ms"
  remotes: [ {{ url: "nats://app:app@127.0.0.1:{leaf_port}", account: APP }} ]
}}
"""


class LeafSite:
    """A hub with JetStream, and a leaf without that passes everything on to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(5)
        self._hub, self._leaf, leaf_port = ports[:2], ports[2:4], ports[4]
        hub = _HUB.format(
            port=self._hub[0],
            monitor_port=self._hub[1],
            store=folder / "store",
            leaf_port=leaf_port,
        )
        leaf = _LEAF.format(port=self._leaf[0], monitor_port=self._leaf[1], leaf_port=leaf_port)
        self._write("hub", hub + _ACCOUNT.format(jetstream="jetstream: enabled"))
        self._write("leaf", leaf + _ACCOUNT.format(jetstream=_TO_HUB))
        self._processes: list[subprocess.Popen[bytes]] = []

    def _write(self, name: str, text: str) -> None:
        (self.folder / f"{name}.conf").write_text(text, encoding="utf-8")

    @property
    def hub_url(self) -> str:
        """Where the cloud's clients connect."""
        return f"nats://127.0.0.1:{self._hub[0]}"

    @property
    def leaf_url(self) -> str:
        """Where the site's devices connect."""
        return f"nats://127.0.0.1:{self._leaf[0]}"

    @property
    def monitor_url(self) -> str:
        """Where the hub tells of itself."""
        return f"http://127.0.0.1:{self._hub[1]}"

    @property
    def options(self) -> LinkOptions:
        """What everything but devices uses."""
        return self.hub_options

    @property
    def hub_options(self) -> LinkOptions:
        """Link options for the cloud's side."""
        return LinkOptions(urls=(self.hub_url,), monitor_url=self.monitor_url)

    @property
    def leaf_options(self) -> LinkOptions:
        """Link options for a device: the hub stores, so the hub proves its durability."""
        return LinkOptions(urls=(self.leaf_url,), monitor_url=self.monitor_url)

    def __enter__(self) -> Self:
        """Start both and return when the hub serves and the leaf is connected to it."""
        try:
            for name in ("hub", "leaf"):
                self._start(name)
            self._wait(f"{self.monitor_url}/healthz", '"ok"')
            self._wait(f"http://127.0.0.1:{self._leaf[1]}/leafz", '"leafnodes": 1')
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop both."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [find_server(), "-c", str(self.folder / f"{name}.conf")],
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _wait(self, url: str, word: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while word not in _answer(url):
            if time.monotonic() > deadline or any(p.poll() is not None for p in self._processes):
                logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
                raise AssertionError(f"no {word} at {url}\n{logs}")
            time.sleep(0.02)


def _answer(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bytes(answer.read()).decode()
    except OSError:
        return ""
