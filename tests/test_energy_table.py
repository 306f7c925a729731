"""The table model: every figure says where it comes from and how far it can be off."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from setsuden.pipelines.energy import EnergyModel, EnergyOptions, choose
from setsuden.pipelines.energy.table import GUEST_FACTOR, HOST_FACTOR
from setsuden.schemas.energy import Boundary, Method, Quality, Source

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
    model = choose(EnergyOptions(), root)
    assert (model.watts_per_core, model.factor, model.source) == (
        2.67,
        HOST_FACTOR,
        Source.TABLE_MODEL,
    )
    assert "EPYC" in model.origin


@pytest.mark.parametrize(("more", "sensor"), [(" hypervisor", True), ("", False)])
def test_a_guest_or_a_machine_without_sensors_has_the_wide_spread(
    tmp_path: Path, more: str, sensor: bool
) -> None:
    model = choose(EnergyOptions(), machine(tmp_path, EPYC.format(more=more), sensor=sensor))
    assert model.factor == GUEST_FACTOR


def test_an_unknown_machine_has_the_median_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    model = choose(EnergyOptions(), tmp_path)
    assert (model.watts_per_core, model.factor) == (5.46, GUEST_FACTOR)
    assert model.source is Source.TABLE_MODEL


def test_an_arm_server_has_the_arm_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert choose(EnergyOptions(), tmp_path).watts_per_core == 1.75


def test_a_declared_figure_stands_before_the_table_and_says_so(tmp_path: Path) -> None:
    root = machine(tmp_path, EPYC.format(more=" hypervisor"), sensor=False)
    model = choose(EnergyOptions(watts_per_core=7.5, factor=1.5), root)
    assert (model.watts_per_core, model.factor, model.source) == (7.5, 1.5, Source.DECLARED)


@pytest.mark.parametrize("options", [{"watts_per_core": 0}, {"factor": 0.5}, {"watts": 1}])
def test_an_impossible_declaration_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EnergyOptions.model_validate(options)


@given(st.floats(0, 1e6), st.floats(0.01, 1000), st.floats(1, 100), st.sampled_from(Method))
def test_a_reading_keeps_its_label_and_its_bounds(
    cpu: float, watts: float, factor: float, method: Method
) -> None:
    model = EnergyModel(watts, factor, Source.TABLE_MODEL, "test")
    reading = model.reading(cpu, method)
    assert reading.joules is not None
    assert reading.joules == pytest.approx(cpu * watts)
    assert reading.joules_low == pytest.approx(reading.joules / factor)
    assert reading.joules_high == pytest.approx(reading.joules * factor)
    assert (reading.cpu_seconds, reading.source, reading.method) == (
        cpu,
        Source.TABLE_MODEL,
        method,
    )
    assert (reading.boundary, reading.quality) == (Boundary.WALL_AC, Quality.PROVISIONAL)
    # Built without validation: it must still be what validation would let through.
    assert type(reading).model_validate(reading.model_dump()) == reading


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_more_work_never_costs_less(one: float, two: float) -> None:
    model = EnergyModel(3.0, 2.0, Source.TABLE_MODEL, "test")
    less, more = (model.reading(cpu, Method.THREAD).joules for cpu in sorted((one, two)))
    assert less is not None
    assert more is not None
    assert less <= more
