"""`cloud streams --plan` and `cloud accounts` with what people type."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.support.command import Command

from setsuden.schemas.roles import password_variable
from setsuden.schemas.streams import MOST_BYTES, Rates, StreamBounds, plan
from setsuden.testing.broker import ONE_ACCOUNT, LocalBroker, find_server


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.mark.parametrize(
    "words",
    [["--plan", rate] for rate in ("nan", "inf", "-1", "0", "-0.0", "1e18", "1e308", "abc", "")]
    + [["--plan", "5", "--escalated", "nan"], ["--plan", "5", "--event-bytes", "9" * 20]],
)
def test_a_rate_that_no_site_has_is_refused_in_one_line(
    setsuden: Command, tmp_path: Path, words: list[str]
) -> None:
    assert setsuden("init", tmp_path / "site").code == 0
    ended = setsuden("cloud", "streams", "--config", tmp_path / "site" / "cloud.toml", *words)
    assert (ended.code, ended.out) == (2, "")
    assert "Traceback" not in ended.err
    assert "ValueError" not in ended.err


def test_no_planned_bound_is_beyond_what_the_server_counts() -> None:
    bounds = StreamBounds(results_max_age_seconds=1e300)
    rows = plan(Rates(events=1e6, escalated=1.0, event_bytes=64 << 20), bounds)
    assert max(row.max_bytes for row in rows) <= MOST_BYTES


@pytest.mark.parametrize(
    ("jetstream", "remedy"),
    [("jetstream { max_file: 100MB }", "--plan"), ("", "jetstream: enabled")],
)
def test_an_account_without_room_for_the_streams_is_told_what_to_do(
    setsuden: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jetstream: str,
    remedy: str,
) -> None:
    assert setsuden("init", tmp_path / "site").code == 0
    account = ONE_ACCOUNT.replace("jetstream: enabled", jetstream)
    with LocalBroker(tmp_path / "nats", accounts=account) as broker:
        monkeypatch.setenv("SETSUDEN_NATS__URLS", broker.url)
        monkeypatch.setenv("SETSUDEN_NATS__MONITOR_URL", broker.monitor_url)
        ended = setsuden("cloud", "streams", "--config", tmp_path / "site" / "cloud.toml")
    assert ended.code == 69
    assert remedy in ended.err


WORKER = '[[workers]]\nname = "{}"\npipelines = ["p"]\n'


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (WORKER.format("dev-1") + WORKER.format("dev_1"), "$DEV_1_PASSWORD"),
        (WORKER.format("dev") + WORKER.format("DEV"), "$DEV_PASSWORD"),
        (WORKER.format("a.b"), "workers.0.name"),
        (WORKER.format("$a"), "workers.0.name"),
        (WORKER.format("a") * 2, "given twice"),
        (WORKER.format("a") + "extra = 1\n", "extra"),
        ('[[applications]]\nname = "a"\npipelines = ["p"]\ndevices = ["x"]\n', "'x'"),
        ("workers = 3\n", "workers"),
        ("workers = [\n", ""),
    ],
)
def test_a_site_that_cannot_be_meant_is_refused_with_its_reason(
    setsuden: Command, tmp_path: Path, text: str, word: str
) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(text, encoding="utf-8")
    ended = setsuden("cloud", "accounts", path)
    assert (ended.code, ended.out) == (78, "")
    assert word in ended.err


def test_a_site_in_latin_1_is_refused_with_its_reason(setsuden: Command, tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_bytes((WORKER.format("a") + "# é\n").encode("latin-1"))
    ended = setsuden("cloud", "accounts", path)
    assert (ended.code, ended.out) == (78, "")
    assert "UTF-8" in ended.err


@pytest.mark.parametrize("name", ["1dev", "-", "_", "SYS", "x" * 64])
def test_the_server_takes_the_accounts_of_every_name_that_is_allowed(
    setsuden: Command, tmp_path: Path, name: str
) -> None:
    path, made = tmp_path / "broker.toml", tmp_path / "accounts.conf"
    path.write_text(WORKER.format(name), encoding="utf-8")
    made.write_text(setsuden("cloud", "accounts", path).out, encoding="utf-8")
    names = [password_variable(name), password_variable("operator")]
    environment = dict.fromkeys(names, "secret")
    ended = subprocess.run(
        [find_server(), "-t", "-c", str(made)], env=environment, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
