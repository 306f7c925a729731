"""A page opened by a headless Chromium: what it complained of and what it fetched."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRED = "SETSUDEN_REQUIRE_CHROMIUM"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
)
_BROWSER_ITSELF = "not an origin"
"""The initiator of what no page asked for: updates, the browser's own clock."""
_CONSOLE = re.compile(r"(?::CONSOLE[:(]|CONSOLE\(\d+\)).*")


class Opened(NamedTuple):
    """What came of opening a page."""

    dom: str
    console: list[str]
    fetched: list[str]
    """Every address the page asked for."""


def binary() -> str:
    """Where Chromium is; skips without one, fails where the environment demands one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1 and no Chromium on PATH: install chromium")
        pytest.skip("no Chromium on PATH: install chromium")
    return found


def open_page(page: Path, folder: Path) -> Opened:
    """Open one file in a profile of its own below ``folder``."""
    log = folder / "net.json"
    address = page.resolve().as_uri()
    ended = subprocess.run(
        [
            binary(),
            *_FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            "--dump-dom",
            address,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = _CONSOLE.findall(ended.stderr)
    return Opened(ended.stdout, console, _requested(log))


def overflow(page: str, width: int, folder: Path) -> str:
    """By how many pixels the page is wider than a window of this width, everything opened."""
    file = folder / "frame.html"
    opened = escape(page.replace("<details", "<details open"))
    file.write_text(
        '<p id="w"></p><script>function seen(f){let d=f.contentDocument,e=d.documentElement;'
        # An empty page may be loaded there first.
        'if(d.URL=="about:srcdoc")w.textContent="beyond "+(e.scrollWidth-e.clientWidth)}</script>'
        f'<iframe onload="seen(this)" style="height:900px;width:{width}px" srcdoc="{opened}">'
        "</iframe>",
        encoding="utf-8",
    )
    measured = re.search(r"beyond (\d+)<", open_page(file, folder).dom)
    return measured[1] if measured is not None else "not measured"


def _requested(log: Path) -> list[str]:
    document: dict[str, Any] = json.loads(log.read_text(encoding="utf-8"))
    kinds = document["constants"]["logEventTypes"]
    started = [
        event["params"]
        for event in document["events"]
        if event["type"] == kinds["URL_REQUEST_START_JOB"] and "url" in event.get("params", {})
    ]
    return sorted({one["url"] for one in started if one.get("initiator") != _BROWSER_ITSELF})
