"""``setsuden validate``: what a wrong file, bundle, model or broker is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.command import Command

from setsuden.cli.loading import load_agent
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def files(setsuden: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as ``setsuden init`` leaves it, and the one we stand in."""
    assert setsuden("init", tmp_path / "meter").code == 0
    monkeypatch.chdir(tmp_path / "meter")
    return tmp_path / "meter"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_init_writes_is_valid(setsuden: Command, files: Path) -> None:
    ended = setsuden("validate", "agent.toml", "cloud.toml", "bundles/digits")
    assert ended.code == 0, ended.out
    runs = ", ".join(f"model {name} runs" for name in ("student", "teacher", "teacher-int8"))
    assert ended.out.splitlines() == [
        "ok     agent.toml: agent (pipeline digits runs)",
        "ok     cloud.toml: cloud (pipeline digits runs)",
        f"ok     bundles/digits: bundle ({runs})",
    ]


def test_a_problem_is_shown_with_its_line_and_a_caret(setsuden: Command, files: Path) -> None:
    path = files / "agent.toml"
    edit(path, "#port =", "prt =")
    number = path.read_text().split("\n").index("prt = 8787  # 0 to 65535") + 1
    ended = setsuden("validate", "agent.toml")
    assert ended.code == 78
    assert ended.out.splitlines() == [
        "wrong  agent.toml: agent, 1 problem",
        f"  agent.toml:{number}: unknown key 'http.prt', did you mean 'port'?",
        f"{number:>6} | prt = 8787  # 0 to 65535",
        "       | ^",
    ]


def test_all_problems_of_all_files_come_at_once(setsuden: Command, files: Path) -> None:
    edit(files / "agent.toml", 'device = "device-1"', 'device = "my meter"')
    edit(files / "agent.toml", "#port = 8787", "port = 99999")
    edit(files / "cloud.toml", "#region =", "regoin =")
    ended = setsuden("validate", "agent.toml", "cloud.toml", "--json")
    assert (ended.code, ended.json["ok"]) == (78, False)
    agent, cloud = ended.json["files"]
    assert [problem["key"] for problem in agent["problems"]] == ["device", "http.port"]
    (problem,) = cloud["problems"]
    assert (problem["key"], problem["did_you_mean"], problem["column"]) == ("regoin", "region", 1)


def test_a_syntax_error_is_shown_where_it_is(setsuden: Command, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('device = "a"\nregion = \n')
    ended = setsuden("validate", path)
    assert ended.code == 78
    assert f"{path}:2: no TOML: Invalid value" in ended.out
    assert "       |          ^" in ended.out


def test_a_missing_file_is_a_problem_like_others(setsuden: Command, files: Path) -> None:
    ended = setsuden("validate", "nowhere.toml", "agent.toml")
    assert ended.code == 78
    assert "cannot read nowhere.toml" in ended.out
    assert "ok     agent.toml" in ended.out


def test_the_environment_counts(
    setsuden: Command, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETSUDEN_HTTP__PORT", "x")
    ended = setsuden("validate", "agent.toml")
    assert ended.code == 78
    assert "  environment SETSUDEN_HTTP__PORT: http.port: " in ended.out


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"bundles/digits"', '"bundles/digit"', "pipelines.0.bundle: there is no bundle folder"),
        ('#teacher = "teacher"', 'teacher = "techer"', "did you mean 'teacher'?"),
        ("#tls_ca_file =", 'tls_ca_file = "nowhere"', "there is no file nowhere"),
        (
            "#threshold =",
            "escalate = 0.1\nthreshold = 0.5",
            "set either gate.escalate or gate.threshold",
        ),
    ],
)
def test_what_a_run_would_stumble_over_is_told_before(
    setsuden: Command, files: Path, old: str, new: str, told: str
) -> None:
    edit(files / "agent.toml", old, new)
    ended = setsuden("validate", "agent.toml")
    assert ended.code == 78
    assert told in ended.out
    assert "agent.toml:" in ended.out.split(told, maxsplit=1)[0].splitlines()[-1]


def test_a_share_without_fitted_points_is_refused(setsuden: Command, files: Path) -> None:
    manifest = files / "bundles/digits/bundle.toml"
    kept = [block for block in manifest.read_text().split("\n\n") if "gate.points" not in block]
    manifest.write_text("\n\n".join(kept) + "\n")
    edit(files / "agent.toml", "#escalate =", "escalate = 0.2")
    ended = setsuden("validate", "agent.toml")
    assert ended.code == 78
    assert "pipelines.0.gate.escalate: the bundle has no [[gate.points]]" in ended.out


def test_a_changed_model_file_is_noticed_without_running_it(setsuden: Command, files: Path) -> None:
    with (files / "bundles/digits/teacher.onnx").open("ab") as file:
        file.write(b"\0")
    ended = setsuden("validate", "--no-load", "agent.toml", "cloud.toml", "bundles/digits")
    assert ended.code == 78
    lines = ended.out.splitlines()
    assert lines[0] == "ok     agent.toml: agent (pipeline digits)"  # it runs the student alone
    assert sum("teacher.onnx is not the file that models.teacher.sha256" in x for x in lines) == 2


def test_a_model_that_does_not_run_as_declared_is_noticed(setsuden: Command, files: Path) -> None:
    manifest = files / "bundles/digits/bundle.toml"
    edit(manifest, 'input = "image"', 'input = "picture"')
    edit(manifest, "shape = [28, 28]", "shape = [28, 27]")
    edit(manifest, "shape = [1, 28, 28]", "shape = [1, 28, 27]")
    ended = setsuden("validate", manifest.parent)
    assert ended.code == 78
    assert "bundle.toml: models.teacher.shape [1, 28, 28] has 784 elements" in ended.out
    edit(manifest, "shape = [28, 27]", "shape = [28, 28]")
    edit(manifest, "shape = [1, 28, 27]", "shape = [1, 28, 28]")
    ended = setsuden("validate", "--load", manifest)
    assert "takes ['image'], the manifest says input = 'picture'" in ended.out
    assert "[models.student]" in ended.out


def test_a_missing_model_file_is_noticed(setsuden: Command, files: Path) -> None:
    (files / "bundles/digits/student.onnx").unlink()
    ended = setsuden("validate", "bundles/digits")
    assert ended.code == 78
    assert "cannot read model file bundles/digits/student.onnx: No such file" in ended.out


def test_connect_tries_the_broker(setsuden: Command, files: Path, broker: LocalBroker) -> None:
    edit(files / "agent.toml", '#urls = ["nats://127.0.0.1:4222"]', f'urls = ["{broker.url}"]')
    edit(files / "agent.toml", "http://127.0.0.1:8222", broker.monitor_url)
    ended = setsuden("validate", "--connect", "agent.toml")
    assert ended.code == 0, ended.out
    assert f"broker {broker.url}" in ended.out


def test_a_broker_that_is_away_is_no_fault_of_the_file(setsuden: Command, files: Path) -> None:
    urls = f'urls = ["nats://127.0.0.1:{free_port()}"]\nconnect_timeout_seconds = 0.2\n'
    edit(files / "agent.toml", '#urls = ["nats://127.0.0.1:4222"]\n', urls)
    ended = setsuden("validate", "--connect", "agent.toml")
    assert ended.code == 69
    assert ended.out.startswith("away   agent.toml: agent, 1 problem")


def test_a_broker_that_is_not_durable_is(setsuden: Command, files: Path, tmp_path: Path) -> None:
    with LocalBroker(tmp_path / "lax", sync="2m") as lax:
        edit(files / "agent.toml", '#urls = ["nats://127.0.0.1:4222"]', f'urls = ["{lax.url}"]')
        edit(files / "agent.toml", "http://127.0.0.1:8222", lax.monitor_url)
        ended = setsuden("validate", "--connect", "agent.toml")
    assert ended.code == 78
    assert "the broker acknowledges before its disk has the message" in ended.out


def test_files_of_the_nats_table_are_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        'device = "d"\n[nats]\nuser = "u"\npassword_file = "secret"\n'
        '[[pipelines]]\nname = "p"\nbundle = "b"\n'
    )
    config = load_agent(tmp_path / "agent.toml")
    assert config.nats.password_file == str(tmp_path / "secret")
    assert config.nats.tls_ca_file is None
