"""Whatever ends the demo or `cloud run`, none of their processes is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.support import install, processes, sealed
from tests.support.cloud import eventually
from tests.support.running import Running

from setsuden.schemas.errors import ConfigError
from setsuden.services.guard import SESSION, Guard, GuardedSession
from setsuden.services.serve import local
from setsuden.services.serve.processes import MARK, marked
from setsuden.testing.broker import LocalBroker

GONE_SECONDS = 60.0
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def child_mark(pid: int, name: str) -> str:
    """The mark of the first child that carries one."""
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error, KeyError):
            return str(child.environ()[name])
    raise AssertionError("no child carries a mark")


def until_gone(mark: str, name: str) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while left := marked(mark, name=name):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


# -- the guard --------------------------------------------------------------------------------


def test_everything_started_inside_is_gone_at_the_end() -> None:
    with GuardedSession():
        mark = os.environ[SESSION]
        children = [subprocess.Popen(SLEEP, start_new_session=True) for _ in range(3)]
        assert len(marked(mark, name=SESSION)) == 3
    assert [child.wait(10) for child in children] == [-signal.SIGKILL] * 3
    assert SESSION not in os.environ


def test_what_a_killed_parent_leaves_is_killed(tmp_path: Path) -> None:
    """Grandchildren in sessions of their own too, which no signal of the parent's death reaches."""
    code = f"""
import os, subprocess, sys, time
from setsuden.services.guard import GuardedSession
with GuardedSession():
    grand = "import subprocess, sys; subprocess.Popen({SLEEP!r}, start_new_session=True).wait()"
    subprocess.Popen([sys.executable, "-c", grand], start_new_session=True)
    print(os.environ["{SESSION}"], flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        mark = parent.stdout.readline().decode().strip()
        deadline = time.monotonic() + 10
        while len(marked(mark, name=SESSION)) < 2:
            assert time.monotonic() < deadline
        parent.kill()
    until_gone(mark, SESSION)


def test_a_guard_gives_grace_and_removes_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    guard = Guard(MARK, "a-mark", grace_seconds=5, folder=folder)
    code = "import time; time.sleep(1)"
    child = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {MARK: "a-mark"})
    guard.close()
    assert child.wait(1) == 0  # it ended by itself, and was waited for
    assert not folder.exists()


def test_a_guard_survives_the_signals_of_a_terminal(tmp_path: Path) -> None:
    guard = Guard(MARK, "b-mark")
    deadline = time.monotonic() + 10
    status = Path(f"/proc/{guard._child.pid}/status")
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = sum(1 << (number - 1) for number in numbers)
    while int(_field(status, "SigIgn"), 16) & heard != heard:
        assert time.monotonic() < deadline
    for number in numbers:
        os.kill(guard._child.pid, number)
    assert guard._child.poll() is None
    guard.close()
    assert guard._child.returncode == 0


def _field(status: Path, name: str) -> str:
    lines = status.read_text(encoding="ascii").splitlines()
    return next(line.split()[1] for line in lines if line.startswith(name))


# -- the commands -----------------------------------------------------------------------------


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Running]:
    arguments = ("demo", "--plain", "--events", "100000", "--out", "run")
    with Running(*arguments, folder=tmp_path) as running:
        running.wait(lambda: "agent   ready" in running.log.read_text(encoding="utf-8"))
        yield running


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGKILL, -9)],
)
def test_no_signal_to_the_demo_leaves_a_process(
    demo: Running, number: signal.Signals, code: int
) -> None:
    mark = child_mark(demo.process.pid, SESSION)
    assert len(marked(mark, name=SESSION)) >= 4  # nats-server, bridge, worker, agent
    demo.send(number)
    assert demo.process.wait(GONE_SECONDS) == code
    until_gone(mark, SESSION)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_no_signal_to_a_cloud_leaves_ray(
    tmp_path: Path, broker: LocalBroker, number: signal.Signals
) -> None:
    running = processes.cloud_process(processes.write_config(tmp_path, broker, replicas=1))
    await running.until("cloud_ready")
    mark = child_mark(running.popen.pid, MARK)
    (driver,) = processes.below(running.popen.pid, "serve.driver")
    folder = Path(driver.environ()["TMPDIR"])
    assert len(marked(mark, driver.pid)) >= 5
    running.popen.send_signal(signal.SIGHUP)
    await running.until("config_reloaded")  # a hangup is no end
    running.popen.send_signal(number)
    await running.ended()
    until_gone(mark, MARK)
    await eventually(lambda: asyncio.to_thread(lambda: not folder.exists()), GONE_SECONDS)


@pytest.mark.slow
def test_ray_comes_up_under_a_long_temporary_folder(tmp_path: Path) -> None:
    place = tmp_path / ("a-temporary-folder-" * 5)
    place.mkdir()
    command = [sys.executable, "-m", "setsuden.cli.main", "demo", "--events", "20", "--out", "run"]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_without_a_short_temporary_folder_ray_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_FOLDER", 1)
    with pytest.raises(ConfigError, match="a path of at most 1 bytes") as caught:
        local.session_folder()
    assert "TMPDIR" in caught.value.remedy


def test_the_longest_folder_still_fits_rays_sockets() -> None:
    longest = "/" + "x" * (local.MAX_FOLDER - 1)
    session = f"{longest}/setsuden-12345678"
    socket = f"{session}/session_2026-11-28_14-50-00_123456_1234567/sockets/plasma_store"
    assert len(socket) == 107


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder of everybody's; pytest closes its own to other users."""
    sealed.need_namespaces()
    folder = Path(tempfile.mkdtemp(prefix="setsuden-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_a_user_without_name_and_home_runs_every_part(open_folder: Path, home: str | None) -> None:
    """A container's or a service's user: an id that no file knows, Ray included."""
    user = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    environment = ["env", "-i", "PATH=/usr/bin:/bin", *([f"HOME={home}"] if home else [])]
    for words in (
        "init meter",
        "validate meter/agent.toml meter/cloud.toml",
        "doctor",
        "energy doctor",
        # Ray beside the agent needs a home most of all; a plain worker is a part of it.
        "demo --events 20 --out run" if home is None else "demo --plain --events 20 --out run",
    ):
        ended = subprocess.run(
            install.command(*user, *environment, str(install.COMMAND), *words.split()),
            cwd=open_folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
