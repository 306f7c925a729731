"""Modelled power as a sensor: what it integrates, how it is labelled, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.sensor_contract import assert_kept, opened

from setsuden.energy import EnergyOptions
from setsuden.energy.domain import Candidate
from setsuden.energy.host.system import Clock, Host, SysRoot
from setsuden.energy.power_curve import PowerCurve
from setsuden.energy.sensors.model import probe_calibrated, probe_declared, probe_table
from setsuden.energy.sensors.table import GUEST_FACTOR, HOST_FACTOR, SKU_FACTOR, match
from setsuden.schemas.energy import Boundary, Source

EPYC = "model name\t: AMD EPYC 9554 64-Core Processor\nflags\t\t: fpu{more}\n"
ALTRA, GRACE = "jep106:0a16:0001", "jep106:036b:0241"


class Machine(Clock):
    """A folder for a machine, and its time."""

    def __init__(self, root: Path, *, cores: int = 2, cpuinfo: str = "") -> None:
        self.root, self.cores = root, cores
        self.now = 0
        self.ticks = [0] * 10
        self.put("proc/cpuinfo", cpuinfo)
        self.pass_time(0, 0)

    def monotonic_ns(self) -> int:
        return self.now

    def put(self, name: str, text: str) -> None:
        place = self.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")

    def pass_time(self, seconds: float, busy: float, *, steal: float = 0.0) -> None:
        """So many seconds in which all CPUs together were busy and stolen for so many."""
        self.now += round(seconds * 1e9)
        self.ticks[0] += round(busy * 100)
        self.ticks[7] += round(steal * 100)
        sums = " ".join(str(ticks) for ticks in self.ticks)
        lines = [f"cpu  {sums}", *(f"cpu{i} {sums}" for i in range(self.cores)), "intr 1 2 3"]
        self.put("proc/stat", "\n".join(lines) + "\n")

    @property
    def host(self) -> Host:
        return Host(SysRoot(self.root), self)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def declared(machine: Machine, **options: float) -> Candidate:
    return probe_declared(EnergyOptions.model_validate(options), machine.host)


def joules(candidate: Candidate, machine: Machine, *passed: tuple[float, float]) -> float:
    """What a sensor counts over these (seconds, busy seconds)."""
    sensor = opened(candidate)
    (before,) = sensor.read()
    for seconds, busy in passed:
        machine.pass_time(seconds, busy)
        sensor.read()
    (after,) = sensor.read()
    sensor.close()
    assert before.value is not None
    assert after.value is not None
    return after.value - before.value


# -- the integral ------------------------------------------------------------------------------


def test_an_idle_machine_uses_its_idle_watts(machine: Machine) -> None:
    found = declared(machine, watts_per_core=5, idle_watts_per_core=1)
    assert found.idle_watts == 2
    assert joules(found, machine, (10, 0)) == pytest.approx(20)


def test_a_full_machine_uses_its_full_watts(machine: Machine) -> None:
    found = declared(machine, watts_per_core=5, idle_watts_per_core=1)
    assert joules(found, machine, (10, 20)) == pytest.approx(100)


def test_stolen_time_is_not_ours(machine: Machine) -> None:
    found = declared(machine, watts_per_core=5, idle_watts_per_core=1)
    sensor = opened(found)
    sensor.read()
    machine.pass_time(10, 0, steal=15)
    assert sensor.read()[0].value == pytest.approx(20)
    sensor.close()


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 1000)), min_size=1, max_size=20))
def test_a_straight_line_gives_the_same_joules_however_often_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, passed: list[tuple[int, int]]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("m"))
    steps = [(ticks / 100, min(busy, 2 * ticks) / 100) for ticks, busy in passed]
    found = declared(machine, watts_per_core=7, idle_watts_per_core=2)
    often = joules(found, machine, *steps)
    machine.pass_time(1, 0)
    once = joules(found, machine, (sum(s for s, _ in steps), sum(b for _, b in steps)))
    assert often == pytest.approx(once)
    seconds, busy = sum(s for s, _ in steps), sum(b for _, b in steps)
    assert once == pytest.approx(4 * seconds + 5 * busy)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(-2, 10)), max_size=20))
def test_the_counter_never_falls_whatever_the_kernel_says(
    tmp_path_factory: pytest.TempPathFactory, passed: list[tuple[float, float]]
) -> None:
    """A CPU put off line takes its time out of the sum."""
    machine = Machine(tmp_path_factory.mktemp("m"))
    sensor = opened(declared(machine, watts_per_core=7))
    values = []
    for seconds, busy in passed:
        machine.pass_time(seconds, busy)
        values += [reading.value or 0.0 for reading in sensor.read()]
    sensor.close()
    assert values == sorted(values)


def test_a_failed_read_is_reported_and_its_time_is_not_lost(machine: Machine) -> None:
    sensor = opened(declared(machine, watts_per_core=5, idle_watts_per_core=1))
    sensor.read()
    machine.pass_time(5, 5)
    whole = (machine.root / "proc/stat").read_text(encoding="utf-8")
    machine.put("proc/stat", "cpu  x y\n")
    assert sensor.read()[0].value is None
    machine.put("proc/stat", whole)
    machine.pass_time(5, 5)
    assert sensor.read()[0].value == pytest.approx(2 * 10 + 4 * 10)
    sensor.close()


@pytest.mark.parametrize("text", ["", "cpu", "cpu  a b c d e f g h"])
def test_the_contract_of_sensors_is_kept(machine: Machine, text: str) -> None:
    for probe in (probe_calibrated, probe_declared, probe_table):
        for options in (EnergyOptions(), EnergyOptions(watts_per_core=3)):
            machine.pass_time(1, 1)
            assert_kept(
                probe(options, machine.host),
                advance=lambda: machine.pass_time(1, 1),
                vanish=lambda: machine.put("proc/stat", text),
            )


@given(
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(0, 100),
    st.lists(st.floats(0, 1.2), min_size=2, max_size=2),
)
def test_a_curve_rises_and_meets_its_points(
    idle: float, more: float, most: float, loads: list[float]
) -> None:
    curve = PowerCurve(((0.0, idle), (0.5, idle + more), (0.95, idle + more + most)))
    assert [curve.watts(u) for u, _ in curve.points] == pytest.approx([w for _, w in curve.points])
    low, high = sorted(loads)
    assert curve.watts(low) <= curve.watts(high) + 1e-9
    assert curve.watts(low) >= idle


def test_past_the_last_point_the_last_slope_goes_on() -> None:
    curve = PowerCurve(((0.0, 1.0), (0.5, 5.0), (0.9, 7.0)))
    assert curve.watts(1.0) == pytest.approx(7.5)


# -- declared ----------------------------------------------------------------------------------


def test_a_declared_figure_is_labelled_declared_with_its_own_factor(machine: Machine) -> None:
    found = declared(machine, watts_per_core=5, factor=1.4)
    (domain,) = found.domains
    assert (domain.source, domain.boundary, domain.factor) == (
        Source.DECLARED,
        Boundary.WALL_AC,
        1.4,
    )
    assert found.idle_watts == pytest.approx(2 * 5 * 0.3)
    assert "energy.watts_per_core" in found.origin


def test_idle_power_that_is_not_below_full_power_is_refused(machine: Machine) -> None:
    found = declared(machine, watts_per_core=5, idle_watts_per_core=5)
    assert not found.available
    assert "idle_watts_per_core" in found.remedy


def test_nothing_declared_is_reported_with_what_to_declare(machine: Machine) -> None:
    found = declared(machine)
    assert not found.available
    assert "energy.watts_per_core" in found.remedy


# -- the table ---------------------------------------------------------------------------------


def table(machine: Machine) -> Candidate:
    return probe_table(EnergyOptions(), machine.host)


def test_a_guest_has_the_widest_factor_and_is_reported(tmp_path: Path) -> None:
    found = table(Machine(tmp_path, cores=2, cpuinfo=EPYC.format(more=" hypervisor")))
    (domain,) = found.domains
    assert (domain.source, domain.factor) == (Source.TABLE_MODEL, GUEST_FACTOR)
    assert "virtual machine" in found.reason
    assert "each as a core" in found.reason
    assert "twice too much" in found.reason
    assert "2026-03-09" in found.origin
    assert found.idle_watts == pytest.approx(2 * 0.48)
    assert domain.max_watts == pytest.approx(2 * 2.67)


def test_two_threads_of_a_core_are_one_core_of_the_table(tmp_path: Path) -> None:
    """SPECpower's watts per core are those of a core with all its threads busy."""
    cpuinfo = EPYC.format(more="") + "siblings\t: 128\ncpu cores\t: 64\n"
    found = table(Machine(tmp_path, cores=128, cpuinfo=cpuinfo))
    assert found.idle_watts == pytest.approx(64 * 0.48)
    assert "128 CPUs as 64 cores" in found.reason
    assert "twice" not in found.reason


@pytest.mark.parametrize("topology", ["siblings\t: 1\ncpu cores\t: 0\n", "siblings\t: x\n", ""])
def test_a_topology_that_makes_no_sense_is_no_topology(tmp_path: Path, topology: str) -> None:
    found = table(Machine(tmp_path, cores=4, cpuinfo=EPYC.format(more="") + topology))
    assert found.idle_watts == pytest.approx(4 * 0.48)


@pytest.mark.parametrize(
    ("soc", "cores", "khz", "watts", "factor"),
    [
        (ALTRA, 80, "3000000", 1.75, SKU_FACTOR),
        (ALTRA, 128, "3000000", 1.56, SKU_FACTOR),
        (ALTRA, 80, "2600000", 1.75, HOST_FACTOR),  # a Q80-26
        (ALTRA, 32, "3000000", 1.75, HOST_FACTOR),
        (ALTRA, 80, None, 1.75, HOST_FACTOR),
        (GRACE, 144, None, 4.30, SKU_FACTOR),
        (GRACE, 72, None, 1.75, HOST_FACTOR),
        (None, 80, "3000000", 1.75, HOST_FACTOR),
    ],
)
def test_only_the_very_product_has_the_narrow_factor(
    tmp_path: Path, soc: str | None, cores: int, khz: str | None, watts: float, factor: float
) -> None:
    machine = Machine(tmp_path, cores=cores, cpuinfo="CPU part\t: 0xd0c\n")
    machine.put("sys/class/hwmon/hwmon0/name", "nvme")
    if soc is not None:
        machine.put("sys/devices/soc0/soc_id", soc + "\n")
    if khz is not None:
        machine.put("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", khz + "\n")
    found = match(machine.host.root)
    assert (found.row.watts_per_core, found.factor) == (watts, factor)


def test_a_guest_of_a_known_product_is_still_a_guest(tmp_path: Path) -> None:
    machine = Machine(tmp_path, cores=144, cpuinfo="CPU part : 0xd4f\nFeatures : hypervisor\n")
    machine.put("sys/devices/soc0/soc_id", GRACE)
    assert match(machine.host.root).factor == GUEST_FACTOR


def test_an_empty_sensor_class_is_no_sensor(tmp_path: Path) -> None:
    """Arm guests have /sys/class/hwmon with nothing in it, and no flag that says guest."""
    machine = Machine(tmp_path, cpuinfo="CPU part\t: 0xd0c\n")
    (tmp_path / "sys/class/hwmon").mkdir(parents=True)
    assert match(machine.host.root).factor == GUEST_FACTOR


def test_without_proc_stat_no_model_is_available(tmp_path: Path) -> None:
    host = Host(SysRoot(tmp_path))
    for found in (
        probe_table(EnergyOptions(), host),
        probe_declared(EnergyOptions(watts_per_core=1), host),
    ):
        assert not found.available
        assert found.remedy
