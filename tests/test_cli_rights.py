"""What commands show, and whether they ask for no more than the process itself may do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command import Command

from setsuden.cli.loading import load_cloud
from setsuden.services.demo.broker import LocalBroker
from setsuden.services.topology import apply

DEVICE = "device-1"
ACCOUNTS = """\
accounts {
  APP: {
    jetstream: enabled
    users: [
      { user: cloud, password: cloud }
      { user: device-1, password: device, permissions: {
          publish: { allow: [ "$JS.API.STREAM.INFO.EVT" ] }
          subscribe: { allow: [ "_INBOX.device-1.>" ] } } }
    ]
  }
}
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def files(setsuden: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as ``setsuden init`` leaves it, and the one we stand in."""
    assert setsuden("init", tmp_path / "meter").code == 0
    monkeypatch.chdir(tmp_path / "meter")
    return tmp_path / "meter"


@pytest.fixture
def guarded(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalBroker]:
    """A broker that allows a device what it must and no more; the files lead there."""
    with LocalBroker(tmp_path / "nats", accounts=ACCOUNTS) as running:
        monkeypatch.setenv("SETSUDEN_NATS__URLS", running.url)
        monkeypatch.setenv("SETSUDEN_NATS__MONITOR_URL", running.monitor_url)
        for name in ("cloud", "device"):
            (files / f"{name}.password").write_text(name, encoding="utf-8")
        apply(load_cloud(files / "cloud.toml", login("cloud", files / "cloud.password")))
        yield running


def login(user: str, file: Path) -> list[str]:
    return [f"nats.user={user}", f"nats.password_file={file.name}"]


def with_login(monkeypatch: pytest.MonkeyPatch, user: str, file: str) -> None:
    monkeypatch.setenv("SETSUDEN_NATS__USER", user)
    monkeypatch.setenv("SETSUDEN_NATS__PASSWORD_FILE", file)


# -- rights at the broker ---------------------------------------------------------------------


def test_a_device_is_well_though_it_may_see_its_own_stream_only(
    setsuden: Command, guarded: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_login(monkeypatch, DEVICE, "device.password")
    ended = setsuden("doctor", "--config", "agent.toml", "--json")
    rows = {row["name"]: row for row in ended.json["findings"]}
    assert rows["login"]["status"] == "ok", ended.out
    assert rows["streams"]["status"] == "ok"
    assert "EVT 0% full" in rows["streams"]["seen"]
    assert "not for a device to see: ESC, RES, DEAD, OTEL" in rows["streams"]["seen"]
    log = guarded.log.read_text(encoding="utf-8")
    assert "Violation" not in log
    assert setsuden("validate", "--connect", "agent.toml").code == 0
    assert "Violation" not in guarded.log.read_text(encoding="utf-8")


def test_what_this_user_may_not_see_is_said_and_is_no_failure(
    setsuden: Command, guarded: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_login(monkeypatch, DEVICE, "device.password")
    monkeypatch.setenv("SETSUDEN_PIPELINES__0__NAME", "x")  # whose inbox this user has not
    ended = setsuden("doctor", "--config", "cloud.toml", "--json")
    rows = {row["name"]: row for row in ended.json["findings"]}
    assert rows["login"]["status"] == "fail"
    assert "_INBOX.worker-x" in rows["login"]["seen"].replace("_inbox", "_INBOX")


# -- what is wrong with a file ------------------------------------------------------------------


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_half_a_login_is_refused(setsuden: Command, files: Path) -> None:
    edit(files / "agent.toml", "#user =", 'user = "anna"')
    ended = setsuden("validate", "agent.toml")
    assert ended.code == 78
    assert "nats.user: it needs nats.password_file beside it" in ended.out


@pytest.mark.parametrize(
    ("content", "words"), [(None, "there is no file secret"), ("", "secret is empty")]
)
def test_a_file_that_a_key_names_must_be_there(
    setsuden: Command, files: Path, content: str | None, words: str
) -> None:
    edit(files / "cloud.toml", "#user =", 'user = "anna"')
    edit(files / "cloud.toml", "#password_file =", 'password_file = "secret"')
    if content is not None:
        (files / "secret").write_text(content, encoding="utf-8")
    ended = setsuden("validate", "cloud.toml")
    assert ended.code == 78
    assert f"nats.password_file: {words}" in ended.out


def test_files_of_every_table_count(setsuden: Command, files: Path) -> None:
    edit(files / "cloud.toml", "#headers_file =", 'headers_file = "keys"')
    ended = setsuden("validate", "cloud.toml")
    assert ended.code == 78
    assert "bridge.headers_file: there is no file keys" in ended.out


def test_a_state_folder_that_is_a_file_is_refused(setsuden: Command, files: Path) -> None:
    (files / "state").write_text("", encoding="utf-8")
    ended = setsuden("validate", "agent.toml")
    assert ended.code == 78
    assert f"state: {files / 'state'} is no folder" in ended.out


@needs_root
def test_a_state_folder_that_this_user_cannot_write_is_refused(
    setsuden: Command, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = "mount -t tmpfs -o ro tmpfs state && exec "
    (files / "state").mkdir()
    words = [sys.executable, "-m", "setsuden.cli.main"]
    for command, code in (("validate agent.toml", 78), ("doctor -c agent.toml --json", 1)):
        line = mount + " ".join([*words, command])
        ended = subprocess.run(
            ["unshare", "--mount", "sh", "-c", line],  # noqa: S607  # util-linux
            capture_output=True,
            text=True,
            check=False,
        )
        if "unshare" in ended.stderr:
            pytest.skip(f"no namespaces here: {ended.stderr.strip()}")
        assert ended.returncode == code, ended.stdout
        assert f"may not write to {files / 'state'}" in ended.stdout


def test_a_secret_where_none_belongs_is_not_shown(setsuden: Command, files: Path) -> None:
    edit(files / "agent.toml", "#user =", 'password = "hunter2"\n#user =')
    ended = setsuden("validate", "agent.toml")
    assert ended.code == 78
    assert "unknown key 'nats.password'" in ended.out
    assert "hunter2" not in ended.out


@pytest.mark.parametrize("password", ["plain", "w/i@t/h@both", "a b"])
def test_no_command_prints_a_password_of_an_address(
    setsuden: Command, files: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("SETSUDEN_NATS__URLS", json.dumps([f"nats://anna:{password}@127.0.0.1:9"]))
    monkeypatch.setenv("SETSUDEN_NATS__CONNECT_TIMEOUT_SECONDS", "0.2")
    for command in (
        ("config", "show", "-c", "agent.toml"),
        ("config", "show", "-c", "agent.toml", "--json"),
        ("validate", "--connect", "agent.toml", "cloud.toml"),
        ("doctor", "-c", "agent.toml"),
        (
            *("event", "pub", "digits", "agent.toml", "--device", "d", "--timeout", "0.3"),
            *("--url", f"nats://anna:{password}@127.0.0.1:9"),
        ),
        ("--debug", "cloud", "streams", "--config", "cloud.toml"),
    ):
        ended = setsuden(*command)
        assert password not in ended.out + ended.err, command


def test_a_bundle_has_no_environment(
    setsuden: Command, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETSUDEN_NATS__URLS", "nats://elsewhere:4222")
    monkeypatch.setenv("SETSUDEN_HTTP__PORT", "1")
    assert setsuden("config", "show", "-c", "bundles/digits/bundle.toml").code == 0
    assert setsuden("validate", "agent.toml", "cloud.toml", "bundles/digits").code == 0
    monkeypatch.setenv("SETSUDEN_HTPP__PORT", "1")  # nobody's: a typing error
    assert setsuden("validate", "cloud.toml").code == 78


# -- terminals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LANG": "C", "LC_ALL": "C"},
        {"LC_ALL": "POSIX"},
    ],
)
def test_no_terminal_ends_a_command(files: Path, locale: dict[str, str]) -> None:
    """Also not by a file name that is no text, or by a sign that it lacks."""
    environment = {name: value for name, value in os.environ.items() if name != "LANG"} | locale
    edit(files / "agent.toml", "#port =", "prt =  # █ 日本 µ\n#port =")
    for command in (["validate", "agent.toml", b"\xff.toml"], ["doctor"], ["energy", "doctor"]):
        ended = subprocess.run(
            [sys.executable, "-m", "setsuden.cli.main", *command],
            env=environment,
            capture_output=True,
            check=False,
        )
        assert ended.returncode in {0, 1, 78}, ended.stderr
        assert b"Unicode" not in ended.stdout + ended.stderr


def test_drawings_degrade_to_ascii_and_other_signs_to_escapes() -> None:
    code = """
from setsuden.cli.output import tolerate_any_terminal
tolerate_any_terminal()
print("█▒·─ µ€ 日 \\udcff")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert ended.stdout == b"#:.- uEUR \\u65e5 \\xff\n"
