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
from tests.support.roles import RolesBroker
from tests.support.running import Running

from setsuden.schemas.roles import Application, Device, Site, WorkerPrincipal

DEVICE = "device-1"
SITE = Site(
    devices=(Device(name=DEVICE, pipelines=("digits",), applications=("shop",)),),
    applications=(Application(name="shop", devices=(DEVICE,), pipelines=("digits",)),),
    workers=(WorkerPrincipal(name="w1", pipelines=("digits",)),),
)
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
def roles(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RolesBroker]:
    """A broker that allows everybody what they must and no more; the files lead there."""
    with RolesBroker(tmp_path / "nats", SITE) as running:
        monkeypatch.setenv("SETSUDEN_NATS__URLS", running.url)
        monkeypatch.setenv("SETSUDEN_NATS__MONITOR_URL", running.monitor_url)
        yield running


@pytest.fixture
def served(roles: RolesBroker, files: Path) -> Iterator[Running]:
    """The operator's stream service."""
    login = roles.login("operator")
    environment = {
        "SETSUDEN_NATS__USER": "operator",
        "SETSUDEN_NATS__PASSWORD_FILE": str(login.password_file),
    }
    words = ("cloud", "streams", "--serve", "--config", "cloud.toml")
    with Running(*words, folder=files, environment=environment) as running:
        running.until("stream_service_ready")
        yield running


def log_in(monkeypatch: pytest.MonkeyPatch, roles: RolesBroker, name: str) -> None:
    monkeypatch.setenv("SETSUDEN_NATS__USER", name)
    monkeypatch.setenv("SETSUDEN_NATS__PASSWORD_FILE", str(roles.login(name).password_file))


# -- rights at the broker ---------------------------------------------------------------------


@pytest.mark.parametrize(("file", "name"), [("agent.toml", DEVICE), ("cloud.toml", "w1")])
def test_doctor_and_validate_ask_for_no_more_than_the_process_may(
    setsuden: Command,
    roles: RolesBroker,
    served: Running,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    name: str,
) -> None:
    log_in(monkeypatch, roles, name)
    ended = setsuden("doctor", "--config", file, "--json")
    rows = {row["name"]: row for row in ended.json["findings"]}
    assert rows["login"]["status"] == "ok", ended.out
    assert rows["streams"]["status"] == "ok", ended.out
    assert "the streams themselves are for it to see" in rows["streams"]["seen"]
    assert setsuden("validate", "--connect", file).code == 0
    assert "Violation" not in roles.log.read_text(encoding="utf-8")


def test_doctor_takes_the_stream_services_proof_where_no_monitoring_is_reached(
    setsuden: Command,
    files: Path,
    roles: RolesBroker,
    served: Running,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_in(monkeypatch, roles, DEVICE)
    monkeypatch.delenv("SETSUDEN_NATS__MONITOR_URL")
    edit(files / "agent.toml", "\nmonitor_url =", "\n#monitor_url =")
    rows = setsuden("doctor", "--config", "agent.toml", "--json").json["findings"]
    durability = next(row for row in rows if row["name"] == "durability")
    assert durability["seen"] == "the stream service has proof of sync_always"


def test_doctor_says_that_nobody_serves_the_streams(
    setsuden: Command, roles: RolesBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, roles, DEVICE)
    rows = setsuden("doctor", "--config", "agent.toml", "--json").json["findings"]
    streams = next(row for row in rows if row["name"] == "streams")
    assert (streams["status"], streams["seen"]) == ("warn", "nobody serves them")
    assert streams["remedy"] == "setsuden cloud streams --serve --config cloud.toml"


def test_doctor_says_what_this_user_may_not_ask(
    setsuden: Command, roles: RolesBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, roles, DEVICE)
    monkeypatch.setenv("SETSUDEN_DEVICE", "another")
    rows = setsuden("doctor", "--config", "agent.toml", "--json").json["findings"]
    streams = next(row for row in rows if row["name"] == "streams")
    assert (streams["status"], streams["seen"]) == ("warn", "not seen")


# -- what is wrong with a file ------------------------------------------------------------------


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_half_a_login_is_refused(setsuden: Command, files: Path) -> None:
    edit(files / "agent.toml", "#user =", 'user = "anna"')
    ended = setsuden("validate", "agent.toml")
    assert ended.code == 78
    assert "user needs password_file beside it" in ended.out


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
            ["unshare", "--mount", "sh", "-c", line],  # util-linux
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
