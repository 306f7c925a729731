"""Every program in examples/ runs and prints what its first lines say."""

from __future__ import annotations

import ast
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from setsuden.testing import free_ports

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXAMPLES.exists(), reason="no examples beside these tests"),
]
PROGRAMS = ("client.py", "sync_client.py", "http.sh", "offline_agent.py", "own_bundle", "site.py")


def documented(name: str) -> str:
    """The output that an example's docstring shows: its indented lines."""
    module = ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))
    docstring = ast.get_docstring(module)
    lines = (docstring or "").splitlines()
    return "".join(f"{line[4:]}\n" for line in lines if line.startswith("    "))


def without_numbers(text: str) -> str:
    """Traces and decimal numbers, which differ from run to run, replaced."""
    return re.sub(r"[0-9a-f]{32}|\d+\.\d+", "#", text)


def run(*command: str) -> str:
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def run_example(name: str, *arguments: str) -> str:
    return run(sys.executable, str(EXAMPLES / name), *arguments)


@contextmanager
def running_site(nats_port: int, http_port: int) -> Iterator[list[str]]:
    """The lines that site.py prints until events can be submitted."""
    command = [sys.executable, str(EXAMPLES / "site.py")]
    command += ["--nats-port", str(nats_port), "--http-port", str(http_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield [process.stdout.readline() for _ in range(3)]
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    """NATS and HTTP port of a running examples/site.py."""
    nats_port, http_port = free_ports(2)
    with running_site(nats_port, http_port) as lines:
        printed = "".join(lines).replace(str(nats_port), "4222").replace(str(http_port), "8787")
        assert printed == documented("site.py")
        yield nats_port, http_port


def test_client_prints_provisional_and_final_answers(ports: tuple[int, int]) -> None:
    assert run_example("client.py", f"nats://127.0.0.1:{ports[0]}") == documented("client.py")


def test_sync_client_prints_the_cost(ports: tuple[int, int]) -> None:
    printed = run_example("sync_client.py", f"nats://127.0.0.1:{ports[0]}")
    assert without_numbers(printed) == without_numbers(documented("sync_client.py"))


def test_http_script_prints_two_final_results(ports: tuple[int, int]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    printed = run(str(EXAMPLES / "http.sh"), f"http://127.0.0.1:{ports[1]}")
    ready, easy, hard = map(json.loads, printed.splitlines())
    assert ready["ready"]
    for result, tier, label in ((easy, "edge", "2"), (hard, "cloud", "5")):
        answer = (result["status"], result["tier"], result["answer"]["label"])
        assert answer == ("final", tier, label)


def test_own_bundle_is_valid_and_runs() -> None:
    assert "ok" in run(sys.executable, "-m", "setsuden.cli.main", "validate", "examples/own_bundle")
    assert run_example("own_bundle/run.py") == documented("own_bundle/run.py")


def test_own_bundles_models_are_those_that_its_script_makes(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    script = tmp_path / "make_models.py"
    shutil.copy(EXAMPLES / "own_bundle" / "make_models.py", script)
    assert run(sys.executable, str(script)) == documented("own_bundle/make_models.py")
    for name in ("student.onnx", "teacher.onnx"):
        assert (tmp_path / name).read_bytes() == (EXAMPLES / "own_bundle" / name).read_bytes()


def test_offline_agent_answers_keeps_and_sends_later() -> None:
    assert run_example("offline_agent.py") == documented("offline_agent.py")


@pytest.mark.parametrize("document", ["README.md", "examples/README.md"])
def test_every_example_is_named_in(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert [name for name in PROGRAMS if name not in text] == []


def test_there_is_no_other_example() -> None:
    present = {path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".sh"}}
    folders = {path.name for path in EXAMPLES.iterdir() if (path / "bundle.toml").exists()}
    assert present | folders == set(PROGRAMS)
