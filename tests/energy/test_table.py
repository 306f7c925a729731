"""The table: the row for a machine, and how far it can be off."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from setsuden.energy import EnergyOptions
from setsuden.energy.host.system import SysRoot
from setsuden.energy.sensors.table import GUEST_FACTOR, HOST_FACTOR, match

EPYC = "model name\t: AMD EPYC 9554 64-Core Processor\nflags\t\t: fpu vme{more}\n"


def machine(root: Path, cpuinfo: str, *, sensor: bool) -> Path:
    """A captured tree of /proc and /sys."""
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo, encoding="utf-8")
    if sensor:
        (root / "sys/class/powercap/intel-rapl:0").mkdir(parents=True)
    return root


def test_a_known_host_has_its_row_and_the_narrow_spread(tmp_path: Path) -> None:
    root = machine(tmp_path, EPYC.format(more=""), sensor=True)
    model = match(SysRoot(root))
    assert (model.row.watts_per_core, model.factor) == (2.67, HOST_FACTOR)
    assert "EPYC" in model.origin


@pytest.mark.parametrize(("more", "sensor"), [(" hypervisor", True), ("", False)])
def test_a_guest_or_a_machine_without_sensors_has_the_wide_spread(
    tmp_path: Path, more: str, sensor: bool
) -> None:
    model = match(SysRoot(machine(tmp_path, EPYC.format(more=more), sensor=sensor)))
    assert model.factor == GUEST_FACTOR


def test_an_unknown_machine_has_the_median_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    model = match(SysRoot(tmp_path))
    assert (model.row.watts_per_core, model.factor) == (5.46, GUEST_FACTOR)


def test_an_arm_server_has_the_arm_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert match(SysRoot(tmp_path)).row.watts_per_core == 1.75


@pytest.mark.parametrize("options", [{"watts_per_core": 0}, {"factor": 0.5}, {"watts": 1}])
def test_an_impossible_declaration_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EnergyOptions.model_validate(options)
