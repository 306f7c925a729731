"""``setsuden doctor`` on machines made of a folder, a few versions and commands of the test."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import pytest
from tests.support.command import Command

from setsuden.cli import doctor
from setsuden.cli.checks import broker as broker_checks
from setsuden.cli.checks import host, software
from setsuden.cli.checks.machine import (
    CheckedMachine,
    CheckResult,
    CheckStatus,
    Completed,
    KernelClock,
    kernel_clock,
    libc_version,
    run_command,
)
from setsuden.energy import EnergyOptions
from setsuden.link import LinkOptions
from setsuden.schemas.streams import StreamBounds, all_streams
from setsuden.testing.broker import LocalBroker
from setsuden.testing.server import free_port

KILLS_ITSELF = f"import os; os.kill(os.getpid(), {signal.SIGILL})"


def no_such_program(command: Sequence[str]) -> None:
    return None


def machine(root: Path, **parts: object) -> CheckedMachine:
    """A machine with nothing on it but what the test gives."""
    bare = CheckedMachine(
        root=root,
        run=no_such_program,
        python=(3, 12, 1),
        libc=lambda: "glibc 2.36",
        installed=lambda name: None,
        kernel_clock=lambda: None,
    )
    return replace(bare, **parts)  # type: ignore[arg-type]  # the test names real fields


def put(root: Path, path: str, text: str = "1\n") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def advises(finding: CheckResult) -> bool:
    """True when it says why and what to do."""
    return bool(finding.cause and finding.remedy and "\n" not in finding.remedy)


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


# -- the machine ------------------------------------------------------------------------------


def test_an_old_python_fails_with_a_remedy(tmp_path: Path) -> None:
    assert host.python(machine(tmp_path)).status is CheckStatus.OK
    finding = host.python(machine(tmp_path, python=(3, 10, 9)))
    assert finding.status is CheckStatus.FAIL
    assert advises(finding)


@pytest.mark.parametrize(
    ("version", "status"),
    [("glibc 2.28", "ok"), ("glibc 2.36", "ok"), ("glibc 2.17", "fail"), ("", "fail")],
)
def test_glibc_2_28_is_the_floor(tmp_path: Path, version: str, status: str) -> None:
    finding = host.libc(machine(tmp_path, libc=lambda: version))
    assert finding.status == status


def test_musl_is_named(tmp_path: Path) -> None:
    put(tmp_path, "lib/ld-musl-aarch64.so.1")
    finding = host.libc(machine(tmp_path, libc=str))
    assert (finding.status, finding.seen) == ("fail", "musl")
    assert advises(finding)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("Features\t: fp asimd asimddp i8mm bf16 sve", "asimd asimddp i8mm bf16 sve"),
        ("flags\t\t: fpu avx2 avx512_vnni", "avx2 avx512_vnni"),
        ("model name\t: avx2 made simple", "no feature we know of"),
    ],
)
def test_cpu_features_are_told_on_both_architectures(tmp_path: Path, line: str, seen: str) -> None:
    put(tmp_path, "proc/cpuinfo", f"processor\t: 0\n{line}\n")
    assert host.cpu(machine(tmp_path)) == CheckResult("cpu", CheckStatus.OK, seen)


def test_a_state_folder_in_memory_fails_for_an_agent(tmp_path: Path) -> None:
    """An accepted event would not survive a reboot there."""
    mounts = f"/dev/vda / ext4 rw 0 0\ntmpfs {tmp_path.parent} tmpfs rw 0 0\n"
    put(tmp_path, "proc/mounts", mounts)
    folder = tmp_path / "not" / "yet"
    agent = host.disk(machine(tmp_path), folder, needed_bytes=1, outbox=True)
    worker = host.disk(machine(tmp_path), folder, needed_bytes=1, outbox=False)
    assert (agent.status, worker.status) == ("fail", "warn")
    assert "tmpfs" in agent.seen
    assert advises(agent)


def test_the_longest_mount_point_decides(tmp_path: Path) -> None:
    mounts = f"tmpfs / tmpfs rw 0 0\n/dev/sda1 {tmp_path} ext4 rw 0 0\ntmpfs {tmp_path}x tmpfs\n"
    put(tmp_path, "proc/mounts", mounts)
    finding = host.disk(machine(tmp_path), tmp_path, needed_bytes=1, outbox=True)
    assert finding.status is CheckStatus.OK
    assert finding.seen.endswith("on ext4")


def test_too_little_room_is_a_warning(tmp_path: Path) -> None:
    finding = host.disk(machine(tmp_path), tmp_path, needed_bytes=1 << 60, outbox=True)
    assert finding.status is CheckStatus.WARN
    assert advises(finding)


@pytest.mark.parametrize(
    ("timedatectl", "kernel", "status", "seen"),
    [
        ("yes\n", None, "ok", "synchronised (timedatectl)"),
        ("no\n", None, "warn", "not synchronised (timedatectl)"),
        (None, KernelClock(True, 0.0123), "ok", "synchronised (kernel, off by 0.0123 s at most)"),
        (None, KernelClock(False, 16.0), "warn", "not synchronised (kernel)"),
        (None, None, "warn", "unknown"),
    ],
)
def test_the_clock_is_told_by_whoever_knows(
    tmp_path: Path, timedatectl: str | None, kernel: KernelClock | None, status: str, seen: str
) -> None:
    def run(command: Sequence[str]) -> Completed | None:
        return None if timedatectl is None else Completed(0, timedatectl, "")

    finding = host.clock(machine(tmp_path, run=run, kernel_clock=lambda: kernel))
    assert (finding.status, finding.seen) == (status, seen)
    assert finding.status is CheckStatus.OK or advises(finding)


def test_timesyncd_s_mark_counts_where_nothing_else_tells(tmp_path: Path) -> None:
    put(tmp_path, "run/systemd/timesync/synchronized", "")
    assert host.clock(machine(tmp_path)).seen == "synchronised (timesyncd)"


STAT = "cpu  1 2 3 4 5 6 7 8\ncpu0 1 2 3 4 5 6 7 8\n"


def test_without_a_sensor_joules_are_said_to_come_from_a_model(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", "model name\t: AMD EPYC\nflags\t: hypervisor\n")
    put(tmp_path, "proc/stat", STAT)
    finding = host.power(machine(tmp_path), EnergyOptions())
    assert finding.status is CheckStatus.OK
    assert finding.seen.startswith("no sensor: joules are from table (table_model), within a")


def test_a_declared_figure_is_told_as_declared(tmp_path: Path) -> None:
    put(tmp_path, "proc/stat", STAT)
    finding = host.power(machine(tmp_path), EnergyOptions(watts_per_core=3.0))
    assert "joules are from declared (declared)" in finding.seen


def test_without_any_source_joules_are_unknown(tmp_path: Path) -> None:
    assert "none" in host.power(machine(tmp_path), EnergyOptions()).seen


def test_a_sensor_that_may_not_be_read_gets_one_remedy(tmp_path: Path) -> None:
    put(tmp_path, "proc/stat", STAT)
    zone = "sys/class/powercap/intel-rapl:0"
    put(tmp_path, f"{zone}/name", "package-0\n")
    counter = put(tmp_path, f"{zone}/energy_uj")
    closed = machine(tmp_path, readable=lambda path: path != counter)
    finding = host.power(closed, EnergyOptions())
    assert (finding.status, finding.seen) == ("warn", "rapl")
    assert "may not read" in finding.cause
    assert finding.remedy == "setsuden energy doctor"


def test_a_readable_sensor_is_named_with_its_boundary(tmp_path: Path) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    put(tmp_path, f"{zone}/name", "package-0\n")
    put(tmp_path, f"{zone}/energy_uj")
    put(tmp_path, f"{zone}/max_energy_range_uj", "262143328850\n")
    finding = host.power(machine(tmp_path), EnergyOptions())
    assert finding.status is CheckStatus.OK
    assert finding.seen.startswith("rapl (measured), within a factor of 1.1")


def test_this_machine_itself_can_be_asked() -> None:
    assert libc_version().startswith("glibc ")
    clock = kernel_clock()
    assert clock is None or clock.max_error_seconds >= 0


# -- software ---------------------------------------------------------------------------------


def test_onnxruntime_runs_a_model_in_a_child_process() -> None:
    finding = software.onnxruntime(CheckedMachine(), needed=True)
    assert finding.status is CheckStatus.OK
    assert finding.seen.endswith(", runs a model")


def test_a_child_that_dies_of_a_signal_is_told_by_its_name(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> Completed | None:
        return run_command([sys.executable, "-c", KILLS_ITSELF])

    finding = software.onnxruntime(machine(tmp_path, run=run), needed=True)
    assert (finding.status, finding.seen) == ("fail", "killed by SIGILL")
    assert advises(finding)


@pytest.mark.parametrize(("needed", "status"), [(True, "fail"), (False, "warn")])
def test_a_missing_onnxruntime_says_what_to_install(
    tmp_path: Path, needed: bool, status: str
) -> None:
    def run(command: Sequence[str]) -> Completed | None:
        """A Python without site-packages."""
        return run_command([command[0], "-S", "-I", *command[1:]])

    finding = software.onnxruntime(machine(tmp_path, run=run), needed=needed)
    assert finding.status == status
    assert finding.remedy == "pip install 'setsuden[edge]'"


def test_a_broken_onnxruntime_fails_with_its_own_words(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> Completed | None:
        return run_command([sys.executable, "-c", "raise OSError('libgomp.so.1 not found')"])

    finding = software.onnxruntime(machine(tmp_path, run=run), needed=True)
    assert (finding.status, finding.cause) == ("fail", "OSError: libgomp.so.1 not found")


def test_ray_is_missed_only_where_the_cloud_runs(tmp_path: Path) -> None:
    assert software.ray(machine(tmp_path), needed=False).status is CheckStatus.OK
    missing = software.ray(machine(tmp_path), needed=True)
    assert missing.status is CheckStatus.WARN
    assert advises(missing)
    there = machine(tmp_path, installed=lambda name: "2.60.0" if name == "ray" else None)
    assert software.ray(there, needed=True) == CheckResult("ray", CheckStatus.OK, "2.60.0")


def test_extras_are_told_complete_or_with_what_they_lack(tmp_path: Path) -> None:
    requirements = [
        "click>=8.1",
        "numpy>=1.26; extra == 'edge'",
        "onnxruntime>=1.23; extra == 'edge'",
        "numpy>=1.26; extra == 'cloud'",
        "ray[serve]>=2.60; extra == 'cloud'",
        "torch>=2.6; extra == 'train'",
    ]
    versions = {"numpy": "2.4", "onnxruntime": "1.32"}
    finding = software.extras(machine(tmp_path, installed=versions.get), requirements)
    assert finding.seen == "edge, cloud (without ray)"


# -- the broker -------------------------------------------------------------------------------


def by_name(findings: list[CheckResult]) -> dict[str, CheckResult]:
    return {finding.name: finding for finding in findings}


def test_a_fit_broker_is_told_with_version_and_streams(broker: LocalBroker) -> None:
    found = by_name(broker_checks.check(broker.options, configured=True))
    assert found["nats-server"].seen.startswith("2.")
    assert all(found[name].status is CheckStatus.OK for name in ("broker", "durability", "login"))
    assert found["streams"].seen == "missing: EVT, ESC, RES, DEAD, OTEL, LEASE"
    assert "setsuden cloud streams" in found["streams"].remedy


async def test_streams_that_are_there_are_told_with_how_full_they_are(
    broker: LocalBroker, jetstream: object
) -> None:
    findings = await broker_checks._check(broker.options)
    names = [str(stream["name"]) for stream in all_streams(StreamBounds())]
    assert by_name(findings)["streams"].seen == ", ".join(f"{name} 0% full" for name in names)


def test_a_broker_that_syncs_late_fails_under_strict_and_warns_under_relaxed(
    tmp_path: Path,
) -> None:
    with LocalBroker(tmp_path, sync="2m") as lax:
        relaxed = lax.options.model_copy(update={"durability": "relaxed"})
        strict = by_name(broker_checks.check(lax.options, configured=True))["durability"]
        lenient = by_name(broker_checks.check(relaxed, configured=True))["durability"]
    assert (strict.status, lenient.status) == ("fail", "warn")
    assert advises(strict)
    assert "sync_interval: always" in strict.remedy


def test_without_a_monitoring_address_durability_is_not_proven(broker: LocalBroker) -> None:
    options = broker.options.model_copy(update={"monitor_url": None})
    finding = by_name(broker_checks.check(options, configured=True))["durability"]
    assert finding.status is CheckStatus.FAIL
    assert "nats.monitor_url" in finding.remedy


def away() -> LinkOptions:
    return LinkOptions(urls=(f"nats://127.0.0.1:{free_port()}",), connect_timeout_seconds=0.5)


def test_a_broker_that_is_away_fails_only_if_somebody_configured_it() -> None:
    (configured,) = broker_checks.check(away(), configured=True)
    (guessed,) = broker_checks.check(away(), configured=False)
    assert (configured.status, guessed.status) == ("fail", "warn")
    assert "Connection refused" in configured.seen
    assert advises(configured)


def test_one_address_of_several_being_away_is_a_warning(broker: LocalBroker) -> None:
    urls = (broker.url, *away().urls)
    options = broker.options.model_copy(update={"urls": urls})
    finding = by_name(broker_checks.check(options, configured=True))["broker"]
    assert finding.status is CheckStatus.WARN
    assert "Connection refused" in finding.cause


def test_what_is_no_nats_server_is_told_as_such(broker: LocalBroker) -> None:
    """A web server that waits for a request says nothing."""
    place = broker.monitor_url.removeprefix("http://")
    options = LinkOptions(urls=(f"nats://{place}",), connect_timeout_seconds=0.3)
    (finding,) = broker_checks.check(options, configured=True)
    assert finding.seen == f"{place}: no answer within 0.3 s"


def test_an_old_server_fails_under_strict() -> None:
    server = broker_checks.ServerFacts("host:4222", "2.9.10", 1.0)
    finding = broker_checks._version(server, LinkOptions())
    assert (finding.status, finding.seen) == ("fail", "2.9.10")
    assert advises(finding)


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def files(setsuden: Command, tmp_path: Path) -> Path:
    assert setsuden("init", tmp_path / "meter").code == 0
    return tmp_path / "meter"


def test_every_warning_and_failure_has_a_cause_and_one_remedy(tmp_path: Path) -> None:
    """On a machine where everything is wrong."""
    bad = machine(tmp_path, python=(3, 9, 0), libc=str, readable=lambda path: False)
    put(tmp_path, "proc/mounts", "tmpfs / tmpfs rw 0 0\n")
    put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj")
    findings = list(doctor.examine(bad, None))
    wrong = [finding for finding in findings if finding.status is not CheckStatus.OK]
    assert len(wrong) >= 5
    assert [finding for finding in wrong if not advises(finding)] == []


def test_a_wrong_configuration_is_a_finding_and_the_rest_goes_on(
    setsuden: Command, tmp_path: Path
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('devise = "x"\n')
    ended = setsuden("doctor", "--config", path, "--json")
    rows = {row["name"]: row for row in ended.json["findings"]}
    assert (ended.code, ended.json["ok"]) == (1, False)
    assert rows["config"]["remedy"] == f"setsuden validate {path}"
    assert {"python", "glibc", "onnxruntime", "disk", "clock", "power", "ray"} <= rows.keys()


def test_it_exits_0_when_nothing_failed(
    setsuden: Command, files: Path, broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETSUDEN_NATS__URLS", broker.url)
    monkeypatch.setenv("SETSUDEN_NATS__MONITOR_URL", broker.monitor_url)
    ended = setsuden("doctor", "--config", files / "cloud.toml")
    assert ended.code == 0, ended.out
    assert ended.out.splitlines()[-1].endswith(", 0 failed")


def test_a_table_shows_remedies_only_where_something_is_to_be_done() -> None:
    text = doctor.table(
        [
            CheckResult("python", CheckStatus.OK, "3.12.1", "unused", "unused"),
            CheckResult("clock", CheckStatus.WARN, "unknown", "nobody tells", "ask the kernel"),
        ]
    )
    assert [line.rstrip() for line in click.unstyle(text).splitlines()] == [
        "ok    python  3.12.1",
        "warn  clock   unknown",
        "              cause:  nobody tells",
        "              remedy: ask the kernel",
        "",
        "1 ok, 1 to look at, 0 failed",
    ]


def test_a_finding_travels_as_plain_json(setsuden: Command) -> None:
    ended = setsuden("doctor", "--json")
    for row in json.loads(ended.out)["findings"]:
        assert row.keys() == {"name", "status", "seen", "cause", "remedy"}
        assert row["status"] in {"ok", "warn", "fail"}
