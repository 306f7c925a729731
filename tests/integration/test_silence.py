"""Nothing of ours talks to anybody who was not configured, and nothing is left in a home folder.

Each command runs in a network namespace where every packet that leaves is seen, and where the
resolver never answers.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support import install, sealed
from tests.support.agent import config
from tests.support.sealed import OUTSIDE, Sealed

from setsuden.cli.main import run
from setsuden.process import quiet
from setsuden.services.serve import local

SLOW_SECONDS = 9.0
"""More than any short command takes, and less than one look-up at a dead resolver (10 s)."""
SHORT = (
    ("validate", "meter/agent.toml", "meter/cloud.toml", "meter/bundles/digits"),
    ("validate", "--connect", "meter/agent.toml"),
    ("doctor",),
    ("doctor", "--config", "meter/agent.toml"),
    ("doctor", "--config", "meter/cloud.toml"),
    ("energy", "doctor"),
    ("energy", "watch", "--windows", "1", "--every", "0.2"),
    ("config", "show", "--config", "meter/cloud.toml"),
    ("event", "pub", "digits", "meter/agent.toml", "--device", "d", "--timeout", "0.5"),
    ("cloud", "streams", "--config", "meter/cloud.toml"),
)
READING = (
    ("trace", "show", "{trace}", "--from", "run/traces.jsonl"),
    ("report", "run"),
    ("report", "run", "--recompute"),
)


@pytest.fixture(autouse=True)
def namespaces() -> None:
    sealed.need_namespaces()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with configuration files, and an empty home."""
    assert run(["init", str(tmp_path / "meter")]) == 0
    (tmp_path / "home").mkdir()
    return tmp_path


def environment(folder: Path, **more: str) -> dict[str, str]:
    """As a login has it, without a word of ours about telemetry."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    timeout = {"SETSUDEN_NATS__CONNECT_TIMEOUT_SECONDS": "0.5"}
    return kept | timeout | {"HOME": str(folder / "home")} | more


def setsuden(folder: Path, *words: str, **more: str) -> Sealed:
    command = [sys.executable, "-m", "setsuden.cli.main", *words]
    return sealed.run(command, folder, environment(folder, **more))


def left_at_home(folder: Path) -> list[str]:
    return [str(path) for path in (folder / "home").rglob("*")]


def test_what_leaves_is_seen(folder: Path) -> None:
    """Without this, silence would prove nothing."""
    code = f"""
import socket
try:
    socket.getaddrinfo("somebody.example", 443)
except OSError:
    pass
for family, host in ((socket.AF_INET, "{OUTSIDE}"), (socket.AF_INET6, "2001:db8::1")):
    with socket.socket(family) as out:
        out.settimeout(0.2)
        out.connect_ex((host, 443))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    out.sendto(b"x", ("{OUTSIDE}", 9))
"""
    ended = sealed.run([sys.executable, "-c", code], folder, environment(folder))
    assert ended.code == 0, ended.output
    assert {
        f"udp {OUTSIDE}:53 somebody.example",
        f"tcp {OUTSIDE}:443",
        "tcp [2001:db8::1]:443",
        f"udp {OUTSIDE}:9",
    } == set(ended.packets)


@pytest.mark.parametrize("words", SHORT, ids=" ".join)
def test_a_command_asks_nobody_and_is_not_slowed_by_a_dead_resolver(
    folder: Path, words: Sequence[str]
) -> None:
    ended = setsuden(folder, *words)
    assert ended.packets == [], ended.output
    assert "Traceback" not in ended.output
    assert ended.seconds < SLOW_SECONDS, ended.output
    assert left_at_home(folder) == []


@pytest.mark.slow
def test_a_whole_site_with_a_plain_worker_asks_nobody(folder: Path) -> None:
    """Broker, bridge, worker, agent and client; then what reads their traces and rows."""
    ended = setsuden(folder, "demo", "--plain", "--events", "60", "--out", "run", "--json")
    assert (ended.code, ended.packets) == (0, []), ended.output
    report = json.loads(ended.output.splitlines()[-1])
    for words in READING:
        filled = [word.format(trace=report["sample"]["trace_id"]) for word in words]
        read = setsuden(folder, *filled)
        assert (read.code, read.packets) == (0, []), read.output
        assert read.seconds < SLOW_SECONDS
    assert left_at_home(folder) == []


@pytest.mark.slow
def test_a_whole_site_with_ray_asks_nobody(folder: Path) -> None:
    ended = setsuden(folder, "demo", "--events", "60", "--out", "run")
    assert (ended.code, ended.packets) == (0, []), ended.output
    assert left_at_home(folder) == []


@pytest.mark.slow
def test_a_proxy_of_the_environment_gets_nothing_of_what_stays_here(folder: Path) -> None:
    proxy = f"http://{OUTSIDE}:3128"
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    ended = setsuden(
        folder, "demo", "--plain", "--events", "30", "--out", "run", **dict.fromkeys(names, proxy)
    )
    assert (ended.code, ended.packets) == (0, []), ended.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "file"),
    [("agent run", "agent.toml"), ("worker run", "cloud.toml"), ("cloud bridge", "cloud.toml")],
)
def test_a_process_talks_to_the_configured_broker_and_to_nobody_else(
    folder: Path, command: str, file: str
) -> None:
    """It has time to: a model's runtime reports home some seconds after its start."""
    agent = config().replace("127.0.0.1:9", f"{OUTSIDE}:4222")
    (folder / "agent.toml").write_text(agent, encoding="utf-8")
    cloud = agent[agent.index("[nats]") :]
    (folder / "cloud.toml").write_text('[bridge]\nfile = "spans"\n' + cloud, encoding="utf-8")
    words = f"timeout 6 {sys.executable} -m setsuden.cli.main {command} --config {file}"
    ended = sealed.run(["sh", "-c", words], folder, environment(folder))
    assert set(ended.packets) == {f"tcp {OUTSIDE}:4222"}, ended.output
    assert left_at_home(folder) == []


def test_no_source_imports_onnxruntime_before_it_is_quiet() -> None:
    """Its report starts at the import itself."""
    loud = []
    for root in install.ROOTS:
        for path in (install.REPOSITORY / root).rglob("*.py"):
            names = _imported(ast.parse(path.read_text(encoding="utf-8")))
            if "onnxruntime" in names and "quiet" not in names:
                loud.append(str(path))
    assert loud == []
    assert {name: os.environ.get(name) for name in quiet.SWITCHES} == quiet.SWITCHES


def _imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.name for alias in node.names}
            found |= {(getattr(node, "module", None) or "").split(".")[0]}
    return found


def test_a_local_ray_has_a_home_that_says_how_it_was_launched(tmp_path: Path) -> None:
    """Else it asks two cloud metadata services, usage statistics or not."""
    found = local.environment(tmp_path, auth="token")
    home = Path(found["HOME"])
    assert home.is_relative_to(tmp_path)
    assert (home / "ray_bootstrap_config.yaml").read_text(encoding="ascii") == "{}\n"
    assert quiet.SWITCHES.items() <= found.items()
    assert len(found["RAY_AUTH_TOKEN"]) == 64
