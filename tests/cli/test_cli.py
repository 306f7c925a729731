"""The command tree: light, lazy, and every error one exit code, one message, one remedy."""

from __future__ import annotations

import errno
import importlib
import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from tests.support.command import Command

from setsuden.cli import failure
from setsuden.cli.lazy import CommandPlace, LazyGroup, needs
from setsuden.cli.main import COMMANDS, cli
from setsuden.schemas import errors
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

HEAVY = ("onnxruntime", "numpy", "ray", "nats", "pydantic", "rich", "opentelemetry", "uvicorn")


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def files(setsuden: Command, tmp_path: Path) -> Path:
    """A folder as ``setsuden init`` leaves it."""
    folder = tmp_path / "meter"
    assert setsuden("init", folder).code == 0
    return folder


# -- light and lazy ---------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["agent", "run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from setsuden.cli.main import run
try:
    run({arguments!r})
except SystemExit:
    pass
print(sorted(set({HEAVY!r}) & sys.modules.keys()), file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == "[]"


def test_help_imports_no_command() -> None:
    code = """
import sys
from setsuden.cli.main import run
run(["--help"])
ours = sorted(name for name in sys.modules if name.startswith("setsuden."))
print(" ".join(ours), file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr.split() == [
        *("setsuden.cli", "setsuden.cli.failure", "setsuden.cli.lazy", "setsuden.cli.main"),
        *("setsuden.cli.output", "setsuden.process", "setsuden.process.quiet"),
        *("setsuden.schemas", "setsuden.schemas.errors", "setsuden.schemas.redact"),
    ]


def test_help_names_every_command_and_exit_code(setsuden: Command) -> None:
    out = setsuden("--help").out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert "69 broker unreachable" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_has_help(setsuden: Command, name: str) -> None:
    ended = setsuden(name, "--help")
    assert (ended.code, ended.err) == (0, "")


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    """The table's words stand in for the commands' own, so they must not drift apart."""
    context = click.Context(cli)
    for name, place in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert place.short_help.endswith(".")
        assert command.get_short_help_str(200)


def test_the_version_is_the_distribution_s(setsuden: Command) -> None:
    assert setsuden("--version").out == f"setsuden {version('setsuden')}\n"


@pytest.mark.parametrize(("shell", "mark"), [("bash", "complete -o"), ("fish", "complete --no")])
def test_completion_prints_the_shell_s_script(setsuden: Command, shell: str, mark: str) -> None:
    out = setsuden("completion", shell).out
    assert "_SETSUDEN_COMPLETE" in out
    assert mark in out


def test_completing_a_command_imports_no_command() -> None:
    names = [item.value for item in cli.shell_complete(click.Context(cli), "de")]
    assert names == ["demo"]


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SetsudenError("x"), 1),
        (errors.MissingExtraError("x"), 1),
        (errors.OutboxLockedError("x"), 1),
        (errors.ForbiddenError("x"), 1),
        (errors.ResultTimeoutError("x"), 1),
        (RuntimeError("x"), 1),
        (click.UsageError("x"), 2),
        (errors.UnavailableError("x"), 69),
        (errors.ConfigError("x"), 78),
        (errors.BundleError("x"), 78),
        (errors.NotDurableError("x"), 78),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert failure.failure_of(error).exit_code == code


def test_a_full_disk_under_an_output_is_told_as_that() -> None:
    told = failure.failure_of(OSError(errno.ENOSPC, "No space left on device"))
    assert (told.code, told.message) == ("file", "No space left on device")
    assert told.remedy == "make room on that disk"


def test_an_error_is_words_and_a_remedy_on_standard_error(setsuden: Command) -> None:
    ended = setsuden("config", "show", "--config", "nowhere.toml")
    assert (ended.code, ended.out) == (78, "")
    assert ended.err == (
        "error: cannot read nowhere.toml: No such file or directory\n"
        "  remedy: `setsuden init DIR` writes one\n"
    )


def test_with_json_an_error_is_one_object_on_standard_error(setsuden: Command) -> None:
    ended = setsuden("config", "show", "--config", "nowhere.toml", "--json")
    told = json.loads(ended.err)["error"]
    assert (ended.out, told["code"], told["exit_code"]) == ("", "config_invalid", 78)
    assert told["remedy"]


def test_a_misspelt_command_gets_the_right_name(setsuden: Command) -> None:
    ended = setsuden("validat")
    assert ended.code == 2
    assert "Did you mean 'validate'?" in ended.err


def test_a_traceback_appears_only_with_debug(setsuden: Command) -> None:
    plain = setsuden("config", "show", "--config", "nowhere.toml")
    debug = setsuden("--debug", "config", "show", "--config", "nowhere.toml")
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.code == 78


def test_ctrl_c_ends_with_130(setsuden: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        cli.table, "wait", CommandPlace("tests.support.command:interrupted", "Wait.")
    )
    ended = setsuden("wait")
    assert (ended.code, ended.err) == (130, "\nerror: interrupted\n")


def test_colour_is_left_out_when_no_color_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert failure.colour() is False
    monkeypatch.delenv("NO_COLOR")
    assert failure.colour() is None


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    with pytest.raises(errors.MissingExtraError) as caught, needs("edge"):
        importlib.import_module("no_such_module_of_anybody")
    assert caught.value.remedy == "pip install 'setsuden[edge]'"


def test_a_missing_part_of_our_own_is_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, needs("edge"):
        importlib.import_module("setsuden.no_such_part")
    assert not isinstance(caught.value, errors.MissingExtraError)


def test_a_lazy_group_knows_only_its_table() -> None:
    group = LazyGroup("g", table={})
    assert group.get_command(click.Context(group), "demo") is None


# -- config show ------------------------------------------------------------------------------


def test_config_show_is_toml_that_means_the_same(setsuden: Command, files: Path) -> None:
    out = setsuden("config", "show", "-c", files / "agent.toml", "--origin").out
    again = files / "again.toml"
    again.write_text(out)
    assert tomllib.loads(out)["device"] == "device-1"
    shown = [
        setsuden("config", "show", "-c", path, "--json").json
        for path in (again, files / "agent.toml")
    ]
    values = [[(row["key"], row["value"]) for row in document["values"]] for document in shown]
    assert values[0] == values[1]


@pytest.mark.parametrize("name", ["cloud.toml", "bundles/digits/bundle.toml"])
def test_config_show_reads_every_kind_of_file(setsuden: Command, files: Path, name: str) -> None:
    out = setsuden("config", "show", "-c", files / name).out
    assert tomllib.loads(out)


def test_config_show_says_where_each_value_came_from(
    setsuden: Command, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETSUDEN_NATS__URLS", "nats://anna:secret@broker:4222")
    path = files / "agent.toml"
    ended = setsuden("config", "show", "-c", path, "--set", "http.port=0", "--json")
    rows = {row["key"]: row for row in ended.json["values"]}
    assert rows["http.port"] == {"key": "http.port", "value": 0, "origin": "--set http.port"}
    assert rows["nats.urls"]["origin"] == "environment SETSUDEN_NATS__URLS"
    assert rows["nats.urls"]["value"] == ["nats://***@broker:4222"]
    assert rows["outbox.max_events"]["origin"] == "default"
    lines = path.read_text().splitlines()
    number = int(rows["pipelines.0.bundle"]["origin"].rsplit(":", 1)[1])
    assert lines[number - 1].startswith('bundle = "bundles/digits"')


# -- against a broker -------------------------------------------------------------------------


def test_cloud_streams_changes_what_is_wrong_and_nothing_else(
    setsuden: Command, files: Path, broker: LocalBroker
) -> None:
    where = [
        *("--set", f"nats.urls={broker.url}", "--set", f"nats.monitor_url={broker.monitor_url}"),
        "--json",
    ]
    command = ["cloud", "streams", "-c", files / "cloud.toml", *where]
    names = ["EVT", "ESC", "RES", "DEAD", "OTEL", "LEASE", "bridge", "bridge-metrics"]
    names.append("teacher=local=digits")
    assert setsuden(*command).json == {"changed": names, "unchanged": []}
    assert setsuden(*command).json == {"changed": [], "unchanged": names}
    smaller = [*command, "--set", "streams.events_max_bytes=500_000_000"]
    assert setsuden(*smaller).json["changed"] == ["EVT"]


def test_no_broker_ends_with_69(setsuden: Command, files: Path) -> None:
    url = f"nats.urls=nats://127.0.0.1:{free_port()}"
    fast = "nats.connect_timeout_seconds=0.2"
    ended = setsuden("cloud", "streams", "-c", files / "cloud.toml", "--set", url, "--set", fast)
    assert ended.code == 69
    assert ended.err.startswith("error: cannot reach 127.0.0.1:")
    assert "remedy:" in ended.err


def test_a_broker_that_is_not_durable_ends_with_78(
    setsuden: Command, files: Path, tmp_path: Path
) -> None:
    with LocalBroker(tmp_path / "lax", sync="2m") as lax:
        where = ["--set", f"nats.urls={lax.url}", "--set", f"nats.monitor_url={lax.monitor_url}"]
        ended = setsuden("cloud", "streams", "-c", files / "cloud.toml", *where)
    assert ended.code == 78
    assert "sync_interval: always" in ended.err


def test_an_event_nobody_stores_ends_with_69(setsuden: Command, tmp_path: Path) -> None:
    path = tmp_path / "event"
    path.write_bytes(b"x")
    url = f"nats://127.0.0.1:{free_port()}"
    where = ["--device", "d", "--url", url, "--timeout", "0.3"]
    ended = setsuden("event", "pub", "digits", *where, path)
    assert ended.code == 69
    assert ended.out == ""


@pytest.mark.parametrize("command", [["agent", "run"], ["worker", "run"], ["cloud", "run"]])
def test_a_run_with_a_wrong_file_ends_with_78(
    setsuden: Command, tmp_path: Path, command: list[str]
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[nats]\nurl = 1\n")
    ended = setsuden(*command, "--config", path)
    assert ended.code == 78
    assert "did you mean 'urls'?" in ended.err
