"""The systemd units do what they say: each is started by a real systemd, in its own sandbox."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from tests.support import ml, systemd
from tests.support.systemd import INFRA, Machine

from setsuden.schemas.roles import Device, Principal, Site, WorkerPrincipal
from setsuden.services import accounts

pytestmark = pytest.mark.slow
UNITS = sorted(path.name for path in INFRA.glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")
MAX_EXPOSURE = 20
"""Tenths: systemd calls everything up to 2.0 OK."""
SITE = Site(
    devices=(Device(name="dev-1", pipelines=("mine",)),),
    workers=(WorkerPrincipal(name="worker-local", pipelines=("mine",)),),
    bridges=(Principal(name="bridge"),),
)
"""Names as the units have them."""
STREAMS = "setsuden-streams.service"
BROKER = """\
listen: 127.0.0.1:4222
http: 127.0.0.1:8222
jetstream { store_dir: /var/lib/nats, sync_interval: always }
"""
COMMON = """\
[nats]
urls = ["nats://127.0.0.1:4222"]
monitor_url = "http://127.0.0.1:8222"
[[pipelines]]
name = "mine"
bundle = "mine"
"""
POST = """
import json, urllib.request
headers = {"ce-specversion": "1.0", "ce-id": "ID", "ce-source": "test", "ce-pipeline": "mine",
           "content-type": "application/octet-stream"}
request = urllib.request.Request("http://127.0.0.1:8787/events?wait=20", BODY, headers)
with urllib.request.urlopen(request, timeout=30) as answer:
    print(answer.read().decode())
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    etc = tmp_path_factory.mktemp("etc")
    etc.chmod(0o755)
    ml.write_bundle(etc / "mine", student=True)
    (etc / "agent.toml").write_text(
        'device = "dev-1"\n'
        + COMMON.replace("[nats]", '[nats]\nuser = "dev-1"')
        + "gate = { threshold = 0.0 }\n",
        encoding="utf-8",
    )
    (etc / "cloud.toml").write_text(
        '[bridge]\nfile = "/var/lib/setsuden-bridge/spans.jsonl"\n' + COMMON,
        encoding="utf-8",
    )
    passwords = re.sub(r"password: \$\w+", "password: secret", accounts.configuration(SITE))
    (etc / "nats.conf").write_text(BROKER + passwords, encoding="utf-8")
    for name in ("nats", "worker", "bridge", "operator"):
        password = etc / f"{name}-password"
        password.write_text("secret\n", encoding="utf-8")
        password.chmod(0o600)
    with systemd.booted(etc, tmp_path_factory.mktemp("log") / "systemd.log") as running:
        running.start("broker.service")
        yield running


def post(machine: Machine, key: str) -> dict[str, object]:
    body = repr(ml.observation(1))
    code = POST.replace("BODY", body).replace("ID", key)
    environment = ["env", "LD_LIBRARY_PATH=/opt/python/lib"]
    told: dict[str, object] = json.loads(
        machine.do(*environment, "/opt/setsuden/bin/python", "-c", code)
    )
    return told


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_hardened(unit: str) -> None:
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=yes", f"--threshold={MAX_EXPOSURE}", unit],
        cwd=INFRA,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:]


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(machine: Machine, unit: str) -> None:
    assert machine.do("sh", "-c", f"systemd-analyze verify {systemd.UNITS / unit} 2>&1") == ""


@pytest.mark.parametrize("unit", UNITS)
def test_a_process_runs_with_no_rights_beyond_its_unit(machine: Machine, unit: str) -> None:
    machine.start(unit)
    status = machine.status(unit)
    perfmon = 1 << 38 if "relay" in unit else 0
    assert int(status["CapEff"], 16) & ~perfmon == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    machine.do("systemctl", "stop", unit)
    assert machine.show(unit, "Result", "ExecMainStatus") == {
        "Result": "success",
        "ExecMainStatus": "0",
    }
    environment = machine.show(unit, "Environment")["Environment"]
    assert "ORT_DISABLE_TELEMETRY=1" in environment


def test_an_agent_answers_reloads_and_stops_under_its_unit(machine: Machine) -> None:
    unit = "edge-agent.service"
    machine.start(STREAMS)
    machine.until_logged(STREAMS, "stream_service_ready")
    machine.start(unit)
    answer = post(machine, "1")
    assert (answer["status"], answer["tier"]) == ("final", "edge")
    machine.until(unit, "StatusText", "link up, 0 events wait for the cloud")
    machine.do("systemctl", "reload", unit)
    machine.until_logged(unit, "config_reloaded")
    machine.do("systemctl", "stop", unit)
    log = machine.log(unit)
    assert '"event": "agent_stopped"' in log
    assert "Traceback" not in log
    assert machine.show(unit, "Result")["Result"] == "success"


def test_agent_worker_and_bridge_answer_an_event_together(machine: Machine) -> None:
    units = ("setsuden-worker.service", "setsuden-bridge.service", "edge-agent.service")
    machine.start(STREAMS)
    machine.until_logged(STREAMS, "stream_service_ready")
    machine.drop_in("edge-agent.service", "[Service]\nEnvironment=" + ESCALATE)
    for unit in units:
        machine.start(unit)
    answer = post(machine, "3")
    assert (answer["status"], answer["tier"]) == ("final", "cloud")
    for unit in reversed(units):
        machine.do("systemctl", "stop", unit)
        assert machine.show(unit, "Result")["Result"] == "success", machine.log(unit)
        assert "Traceback" not in machine.log(unit)
    machine.drop_in("edge-agent.service", "")
    assert "spans.jsonl" in machine.do("ls", "/var/lib/setsuden-bridge/")


ESCALATE = "SETSUDEN_PIPELINES__0__GATE__THRESHOLD=1.0"


def test_an_agent_whose_loop_hangs_is_started_again(machine: Machine) -> None:
    unit = "edge-agent.service"
    machine.drop_in(unit, "[Service]\nWatchdogSec=2\nRestartSec=0")
    machine.start(unit)
    pid = machine.show(unit, "MainPID")["MainPID"]
    before = machine.log(unit).count('"agent_ready"')
    machine.do("kill", "-STOP", pid)
    machine.until(unit, "NRestarts", "1")
    machine.until(unit, "ActiveState", "active")
    assert machine.show(unit, "MainPID")["MainPID"] != pid
    assert machine.log(unit).count('"agent_ready"') == before + 1
    machine.do("systemctl", "stop", unit)
    machine.drop_in(unit, "")


@pytest.mark.parametrize(("device", "opens"), [("/dev/vcio", True), ("/dev/kmsg", False)])
def test_a_sensors_device_is_open_and_others_are_not(
    machine: Machine, device: str, opens: bool
) -> None:
    unit = "edge-agent.service"
    text = "[Service]\nType=oneshot\nWatchdogSec=0\nRestart=no\nExecStartPre=\nExecReload=\n"
    text += f"ExecStart=\nExecStart=/bin/sh -c 'exec 3<{device}'"
    machine.drop_in(unit, text)
    machine.do("systemctl", "start", unit, check=False)
    assert (machine.show(unit, "Result")["Result"] == "success") is opens, machine.log(unit)
    machine.do("systemctl", "reset-failed", unit, check=False)
    machine.drop_in(unit, "")


def test_the_relay_serves_a_process_of_its_group_and_no_other(machine: Machine) -> None:
    machine.start("setsuden-energy-relay.service")
    told = machine.do(
        "stat", "--format=%a %G", "/run/setsuden-energy", "/run/setsuden-energy/relay"
    )
    assert told.splitlines() == ["750 setsuden-energy", "660 setsuden-energy"]
    machine.do("systemctl", "stop", "setsuden-energy-relay.service")
