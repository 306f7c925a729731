"""A site for the other examples: broker, agent and worker on this machine, until Ctrl-C.

It prints, once events can be submitted:

    broker  nats://127.0.0.1:4222
    agent   http://127.0.0.1:8787
    ready: run another example, or end it with Ctrl-C
"""

from __future__ import annotations

import argparse
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from setsuden.testing import LocalSite

DEVICE = "example-device"


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a site for the other examples.")
    parser.add_argument("--nats-port", type=int, default=4222)
    parser.add_argument("--http-port", type=int, default=8787)
    ports = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalSite(
            Path(folder), device=DEVICE, broker_port=ports.nats_port, http_port=ports.http_port
        ) as site,
    ):
        print(f"broker  {site.url}")
        print(f"agent   {site.http_url}")
        print("ready: run another example, or end it with Ctrl-C", flush=True)
        signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as with Ctrl-C
    with suppress(KeyboardInterrupt):
        main()
