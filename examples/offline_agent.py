"""An agent without a broker: it answers easy events, keeps hard ones and sends them later.

It needs nothing that runs already, and prints:

    no broker, no network:
    easy.raw  final        2  edge
    hard.raw  provisional  9  edge   kept in the outbox
    broker and worker started:
    hard.raw  final        5  cloud
"""

from __future__ import annotations

import json
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from setsuden.testing import LocalSite

IMAGES = Path(__file__).parent
HEADERS = {"ce-source": "/examples/offline", "content-type": "application/octet-stream"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = LocalSite(Path(folder))
        try:
            run(site)
        finally:
            site.stop()


def run(site: LocalSite) -> None:
    print("no broker, no network:")
    site.agent.start()
    for name in ("easy.raw", "hard.raw"):
        result = submit(site, name, wait=0)
        kept = "   kept in the outbox" if result["status"] == "provisional" else ""
        show(name, result, kept)
    site.broker.start()
    site.worker.start()
    print("broker and worker started:")
    # Submitted again it is the same event: nothing is answered twice.
    show("hard.raw", submit(site, "hard.raw", wait=60))


def submit(site: LocalSite, name: str, wait: float) -> dict[str, Any]:
    """The event's newest result; when it is not final, after ``wait`` seconds at most."""
    request = urllib.request.Request(
        f"{site.http_url}/events?wait={wait}",
        data=(IMAGES / name).read_bytes(),
        headers=HEADERS | {"ce-id": name},
    )
    with urllib.request.urlopen(request) as response:
        return dict(json.load(response))


def show(name: str, result: dict[str, Any], note: str = "") -> None:
    print(f"{name}  {result['status']:<11}  {result['answer']['label']}  {result['tier']}{note}")


if __name__ == "__main__":
    main()
