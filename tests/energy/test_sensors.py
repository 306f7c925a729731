"""Sensors that are files: every row on a captured tree, each with its traps."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.sensor_contract import assert_kept, opened
from tests.support.trees import HWMON, POWERCAP, SUPPLY, Machine

from setsuden.energy.domain import Candidate, Domain, DomainKind
from setsuden.energy.options import EnergyOptions
from setsuden.energy.sensors import rapl
from setsuden.energy.sensors.board_probe import match, probe_boards
from setsuden.energy.sensors.boards import boards
from setsuden.energy.sensors.factors import FACTORS, ErrorClass, accuracy_factor
from setsuden.schemas.energy import Boundary, Source
from setsuden.schemas.errors import ConfigError

ORIN = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
XAVIER = ("GPU", "CPU", "SOC")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def candidate(machine: Machine, name: str, *files: Path) -> Candidate:
    """What the row of this name, or RAPL, finds."""
    options = EnergyOptions(boards=tuple(str(file) for file in files))
    if name == rapl.NAME:
        return rapl.probe(options, machine.host)
    found = [one for _, one in probe_boards(options, machine.host) if one.name == name]
    return found[0]


def values(found: Candidate) -> dict[str, float | None]:
    """One reading of each domain, by name."""
    sensor = opened(found)
    try:
        read = {reading.domain: reading.value for reading in sensor.read()}
    finally:
        sensor.close()
    return {domain.name: read[domain.id] for domain in found.domains}


def problems(found: Candidate, change: Callable[[], None]) -> list[str | None]:
    """Problems of the readings after a change."""
    sensor = opened(found)
    try:
        change()
        return [reading.problem for reading in sensor.read()]
    finally:
        sensor.close()


def domain(found: Candidate, name: str) -> Domain:
    return next(one for one in found.domains if one.name == name)


def summed(found: Candidate) -> set[str]:
    """Names of the primary domains."""
    return {one.name for one in found.domains if one.id in found.primary}


# -- every row keeps the contract ---------------------------------------------------------------

BUILT: dict[str, Callable[[Machine], object]] = {
    "ina238": lambda m: m.ina226(name="ina238"),
    "ina226": lambda m: m.ina226(),
    "ina219": lambda m: m.ina226(name="ina219"),
    "acpi-meter": lambda m: m.acpi_meter(),
    "jetson": lambda m: m.ina3221(),
    "jetson-iio": lambda m: m.ina3221(driver="ina3221x"),
    "battery": lambda m: m.battery(),
    "grace": lambda m: m.grace(module=True),
    "xgene": lambda m: m.xgene(),
    "amd-energy": lambda m: m.amd_energy(),
    "hwmon-energy": lambda m: m.hwmon_energy(),
    "scmi": lambda m: m.scmi(),
    "rapl": lambda m: m.rapl(psys=True, mmio=True),
}


def test_there_is_a_tree_for_every_row() -> None:
    assert {board.name for board in boards()} | {rapl.NAME} == set(BUILT)


@pytest.mark.parametrize("name", BUILT)
def test_every_row_keeps_the_contract(machine: Machine, name: str) -> None:
    BUILT[name](machine)
    found = candidate(machine, name)
    assert found.available, found.reason
    assert found.origin
    assert_kept(found, advance=machine.advance, vanish=machine.vanish)


@pytest.mark.parametrize("name", BUILT)
def test_a_machine_without_the_device_says_so_and_what_to_do(machine: Machine, name: str) -> None:
    found = candidate(machine, name)
    assert not found.available
    assert_kept(found)


@pytest.mark.parametrize("name", BUILT)
def test_a_device_that_may_not_be_read_is_no_source_and_says_how_it_could_be(
    machine: Machine, name: str
) -> None:
    BUILT[name](machine)
    machine.root.deny("*_input")
    machine.root.deny("*energy_uj")
    machine.root.deny("*power_uw")
    machine.root.deny("*_average")
    machine.root.deny("*power_now")
    found = candidate(machine, name)
    assert not found.available
    assert "may not read" in found.reason
    ways = [found.remedy.find(way) for way in ("0440", "watch --serve")]
    assert ways == sorted(ways)
    assert -1 not in ways
    assert_kept(found)


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("code", [errno.ENODATA, errno.EAGAIN, errno.EIO])
def test_a_read_that_fails_now_has_a_reason_and_the_next_one_a_value(
    machine: Machine, name: str, code: int
) -> None:
    BUILT[name](machine)
    sensor = opened(candidate(machine, name))
    machine.root.fail("*", code)
    failed = sensor.read()
    machine.root.fail("*", 0)
    read = sensor.read()
    sensor.close()
    assert all(reading.value is None and reading.problem for reading in failed)
    assert all(reading.value is not None for reading in read)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-", "1 W", "\0\0"])
def test_a_file_that_says_no_number_gives_no_value(machine: Machine, text: str) -> None:
    folder = machine.ina226()
    found = candidate(machine, "ina226")
    (told,) = problems(found, lambda: machine.write(f"{folder}/power1_input", text))
    assert told is not None
    assert "power1_input" in told


def test_a_sensor_that_cannot_be_opened_again_leaves_no_file_open(machine: Machine) -> None:
    machine.ina3221()
    found = candidate(machine, "jetson")
    machine.root.deny("*curr3_input")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(PermissionError):
        opened(found)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# -- INA on a rail ------------------------------------------------------------------------------


def test_ina226_tells_power_itself_and_the_shunt_that_scales_it(machine: Machine) -> None:
    machine.ina226()
    found = candidate(machine, "ina226")
    assert list(values(found).values()) == [12.0]
    assert "shunt_resistor is 2000" in found.reason
    assert found.domains[0].id == "ina226:1-0040"
    assert found.domains[0].boundary is Boundary.BOARD_DC


def test_ina226_without_power_is_bus_voltage_times_current_and_never_the_shunt(
    machine: Machine,
) -> None:
    folder = machine.ina226()
    (machine.root.path / folder / "power1_input").unlink()
    found = candidate(machine, "ina226")
    assert list(values(found).values()) == [12.0]
    assert found.domains[0].source is Source.DERIVED


def test_an_average_that_covers_the_interval_is_measured_a_shorter_one_derived(
    machine: Machine,
) -> None:
    folder = machine.ina226()
    short = candidate(machine, "ina226")
    assert short.domains[0].source is Source.DERIVED
    assert short.domains[0].interval_seconds == 0.2
    assert "averages over 0.035 s" in short.reason
    machine.write(f"{folder}/update_interval", 280)
    whole = candidate(machine, "ina226")
    assert whole.domains[0].source is Source.MEASURED
    assert whole.domains[0].interval_seconds == 0.28
    assert "averages" not in whole.reason


def test_ina219_tells_power_at_one_moment(machine: Machine) -> None:
    machine.ina226(name="ina219")
    (one,) = candidate(machine, "ina219").domains
    assert one.kind is DomainKind.INSTANT_POWER
    assert one.source is Source.DERIVED
    assert one.interval_seconds == 0.1


def test_two_chips_on_unknown_rails_are_not_summed(machine: Machine) -> None:
    machine.ina226("1-0040")
    machine.ina226("1-0041")
    found = candidate(machine, "ina226")
    assert not found.available
    assert "ina226:1-0041" in found.reason
    assert "energy.boards" in found.remedy


def test_a_sensor_wired_backwards_is_a_fault_and_noise_below_zero_is_not(
    machine: Machine,
) -> None:
    folder = machine.ina226()
    found = candidate(machine, "ina226")
    (told,) = problems(found, lambda: machine.write(f"{folder}/power1_input", -12_000_000))
    assert told is not None
    assert "backwards" in told
    machine.write(f"{folder}/power1_input", -390_000)
    assert list(values(found).values()) == [0.0]


# -- Jetson -------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["ina3221", "ina3221x"])
def test_the_modules_input_is_the_total_and_its_rails_lie_within(
    machine: Machine, driver: str
) -> None:
    machine.ina3221(driver=driver)
    found = candidate(machine, "jetson" if driver == "ina3221" else "jetson-iio")
    assert values(found) == {"VDD_IN": 5.0, "VDD_CPU_GPU_CV": 10.0, "VDD_SOC": 15.0}
    assert summed(found) == {"VDD_IN"}
    assert domain(found, "VDD_SOC").parent == domain(found, "VDD_IN").id
    assert found.domains[0].boundary is Boundary.MODULE


def test_sums_and_shunts_of_an_ina3221_are_no_channels(machine: Machine) -> None:
    """curr4 and in7 hold the rails again; in4 to in6 are microvolts."""
    folder = machine.ina3221(("VDD_IN", "NC", "off"))
    machine.write(f"{folder}/in7_enable", 1)
    assert values(candidate(machine, "jetson")) == {"VDD_IN": 5.0}


def test_agx_orin_sums_three_rails_and_not_memory_which_one_of_them_feeds(
    machine: Machine,
) -> None:
    machine.ina3221(ORIN)
    machine.ina3221(("NC", "VDDQ_VDD2_1V8AO", "NC"), device="1-0041")
    found = candidate(machine, "jetson")
    assert summed(found) == set(ORIN)
    assert domain(found, "VDDQ_VDD2_1V8AO").parent == domain(found, "VIN_SYS_5V0").id


def test_agx_xavier_sums_six_rails_of_two_chips(machine: Machine) -> None:
    machine.ina3221(XAVIER)
    incomplete = candidate(machine, "jetson")
    assert not incomplete.available
    machine.ina3221(("CV", "VDDRQ", "SYS5V"), device="1-0041")
    assert len(candidate(machine, "jetson").primary) == 6


def test_rails_of_unknown_names_are_not_summed(machine: Machine) -> None:
    machine.ina3221(("3V3", "5V", "1V8"))
    found = candidate(machine, "jetson")
    assert not found.available
    assert "3V3" in found.reason


def test_a_rail_that_is_part_of_the_sum_and_cannot_be_read_stops_the_sum(
    machine: Machine,
) -> None:
    machine.ina3221(ORIN)
    machine.root.fail("*curr2_input", errno.EIO)
    found = candidate(machine, "jetson")
    assert not found.available
    assert "curr2_input" in found.reason


def test_a_rail_beside_the_sum_that_cannot_be_read_is_reported_and_left_out(
    machine: Machine,
) -> None:
    machine.ina3221()
    machine.root.fail("*curr2_input", errno.EIO)
    found = candidate(machine, "jetson")
    assert set(values(found)) == {"VDD_IN", "VDD_SOC"}
    assert "not read" in found.reason


# -- ACPI, Grace --------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("told", "factor"), [("95.0%", 1 / 0.95), ("90", 1 / 0.9), ("2.5%", 1 / 0.975)]
)
def test_the_accuracy_that_firmware_states_is_the_factor(
    machine: Machine, told: str, factor: float, *, old: bool
) -> None:
    machine.acpi_meter(told, old=old)
    found = candidate(machine, "acpi-meter")
    (one,) = found.domains
    assert list(values(found).values()) == [150.0]
    assert one.factor == pytest.approx(factor)
    assert one.boundary is Boundary.HOST
    assert one.source is Source.MEASURED
    assert one.interval_seconds == 1.0


@pytest.mark.parametrize("told", ["100.0%", "0.0%", "unknown", "", "-5%", "400%"])
def test_an_accuracy_that_cannot_be_meant_is_not_believed(machine: Machine, told: str) -> None:
    machine.acpi_meter(told)
    (one,) = candidate(machine, "acpi-meter").domains
    assert one.factor == FACTORS[ErrorClass.HOST].value


def test_a_battery_behind_an_acpi_meter_is_not_the_host(machine: Machine) -> None:
    machine.acpi_meter(power1_is_battery=1)
    assert not candidate(machine, "acpi-meter").available


def test_firmware_without_a_reading_does_not_say_four_megawatts(machine: Machine) -> None:
    folder = machine.acpi_meter()
    found = candidate(machine, "acpi-meter")
    (told,) = problems(found, lambda: machine.write(f"{folder}/power1_average", 0xFFFFFFFF * 1000))
    assert told is not None
    assert not candidate(machine, "acpi-meter").available


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("module", [True, False])
def test_grace_is_not_added_to_the_processor_and_io_it_holds(
    machine: Machine, *, module: bool, old: bool
) -> None:
    machine.grace(sockets=2, module=module, old=old)
    found = candidate(machine, "grace")
    assert summed(found) == {"Grace Power Socket 0", "Grace Power Socket 1"}
    inner = domain(found, "SysIO Power Socket 1")
    assert inner.parent == domain(found, "Grace Power Socket 1").id
    outer = domain(found, "Grace Power Socket 1").parent
    assert outer == (domain(found, "Module Power Socket 1").id if module else None)
    assert sum(values(found)[name] or 0 for name in summed(found)) == 200.0
    assert domain(found, "Grace Power Socket 0").source is Source.DERIVED


def test_grace_is_no_host_meter(machine: Machine) -> None:
    machine.grace()
    assert not candidate(machine, "acpi-meter").available


def test_accuracy_below_half_is_the_error_itself() -> None:
    assert accuracy_factor(5.0) == pytest.approx(1 / 0.95)
    assert accuracy_factor(95.0) == pytest.approx(1 / 0.95)
    assert accuracy_factor(100.0) is None


# -- others in files ------------------------------------------------------------------------------


@pytest.mark.parametrize("swapped", [True, False])
def test_xgene_is_recognised_by_text_and_not_by_number(machine: Machine, *, swapped: bool) -> None:
    machine.xgene(swapped=swapped)
    found = candidate(machine, "xgene")
    assert values(found) == {"CPU power": 80.0, "IO power": 15.0}
    assert len(found.primary) == 2


def test_scmi_sums_outer_zones_of_average_power(machine: Machine) -> None:
    machine.scmi()
    found = candidate(machine, "scmi")
    assert values(found) == {"soc": 30.0, "cluster": 20.0, "dram": 5.0}
    assert summed(found) == {"soc", "dram"}
    assert domain(found, "cluster").parent == domain(found, "soc").id
    assert domain(found, "soc").kind is DomainKind.AVERAGE_POWER


def test_hwmon_energy_counts_microjoules(machine: Machine) -> None:
    machine.hwmon_energy()
    found = candidate(machine, "hwmon-energy")
    assert list(values(found).values()) == [1000.0]
    assert found.domains[0].kind is DomainKind.COUNTER
    assert found.domains[0].interval_seconds == 1.0


def test_a_counter_that_is_switched_off_is_not_used(machine: Machine) -> None:
    machine.hwmon_energy(counters=2, energy2_enable=0)
    assert candidate(machine, "hwmon-energy").available


def test_a_counter_without_data_is_not_used(machine: Machine) -> None:
    machine.hwmon_energy(counters=2)
    assert not candidate(machine, "hwmon-energy").available
    machine.root.fail("*energy2_input", errno.ENODATA)
    assert candidate(machine, "hwmon-energy").available


@pytest.mark.parametrize("card", ["i915", "xe", "amdgpu"])
def test_a_graphics_cards_counter_is_not_the_machines(machine: Machine, card: str) -> None:
    machine.hwmon_energy(card)
    assert not candidate(machine, "hwmon-energy").available


def test_energy_is_preferred_to_power_of_the_same_chip(machine: Machine) -> None:
    folder = machine.ina226(name="ina228")
    machine.counter(f"{folder}/energy1_input", 5_000_000)
    (one,) = candidate(machine, "ina238").domains
    assert one.kind is DomainKind.COUNTER


def test_amd_energy_counts_sockets_and_leaves_cores_out(machine: Machine) -> None:
    machine.amd_energy(cores=4, sockets=2)
    assert summed(candidate(machine, "amd-energy")) == {"Esocket0", "Esocket1"}


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_a_battery_is_a_source_only_while_it_discharges(machine: Machine, status: str) -> None:
    machine.battery(status)
    found = candidate(machine, "battery")
    assert not found.available
    assert status in found.reason
    assert "unplug" in found.remedy


def test_a_battery_on_which_the_charger_is_plugged_in_has_no_value(machine: Machine) -> None:
    folder = machine.battery()
    found = candidate(machine, "battery")
    (told,) = problems(found, lambda: machine.write(f"{folder}/status", "Charging"))
    assert told is not None
    assert "Charging" in told


@pytest.mark.parametrize("sign", [1, -1])
def test_a_battery_has_no_sign(machine: Machine, sign: int) -> None:
    machine.battery(power_now=None, current_now=sign * 750_000)
    found = candidate(machine, "battery")
    assert list(values(found).values()) == [pytest.approx(9.0)]


def test_a_mouse_has_a_battery_that_is_not_the_machines(machine: Machine) -> None:
    machine.battery(name="hidpp_battery_0", scope="Device")
    assert not candidate(machine, "battery").available
    machine.write(f"{SUPPLY}/AC/type", "Mains")
    machine.battery()
    assert len(candidate(machine, "battery").primary) == 1


# -- RAPL -----------------------------------------------------------------------------------------


def test_rapl_sums_packages_and_memory_and_nothing_twice(machine: Machine) -> None:
    machine.rapl(packages=2, dram=True, psys=True, mmio=True)
    found = candidate(machine, "rapl")
    assert set(found.primary) == {
        "intel-rapl:0",
        "intel-rapl:1",
        "intel-rapl:0:1",
        "intel-rapl:1:1",
    }
    parents = {one.id: one.parent for one in found.domains}
    assert parents["intel-rapl:0:0"] == "intel-rapl:0"
    assert parents["intel-rapl:0"] == "intel-rapl:2"
    assert parents["intel-rapl:0:1"] == "intel-rapl:2"
    assert parents["intel-rapl:2"] is None
    assert not any("mmio" in one.id for one in found.domains)


def test_memory_does_not_lie_within_its_package(machine: Machine) -> None:
    machine.rapl(packages=1)
    assert domain(candidate(machine, "rapl"), "dram").parent is None


def test_mmio_alone_is_read(machine: Machine) -> None:
    machine.zone("intel-rapl-mmio:0", "package-0", 7_000_000)
    assert candidate(machine, "rapl").primary == ("intel-rapl-mmio:0",)


def test_rapl_knows_its_range_and_its_rating(machine: Machine) -> None:
    machine.rapl(packages=1)
    one = domain(candidate(machine, "rapl"), "package-0")
    assert one.max_joules == pytest.approx(262_143.328850)
    assert one.max_watts == 280.0
    assert one.boundary is Boundary.CPU_PACKAGE


def test_a_range_of_zero_means_that_it_is_unknown(machine: Machine) -> None:
    machine.rapl(packages=1, max_uj=0)
    assert domain(candidate(machine, "rapl"), "package-0").max_joules is None


def test_packages_that_show_one_counter_count_once(machine: Machine) -> None:
    machine.rapl(packages=2, dram=False, mirrored=True)
    found = candidate(machine, "rapl")
    assert found.primary == ("intel-rapl:0",)
    assert "intel-rapl:1 shows the counter of intel-rapl:0" in found.reason


def test_a_denied_counter_is_a_reason_with_three_remedies_in_order(machine: Machine) -> None:
    machine.rapl(denied=True)
    found = candidate(machine, "rapl")
    assert not found.available
    assert "energy_uj" in found.reason
    places = [found.remedy.index(way) for way in ("0440", "watch --serve", "CAP_PERFMON")]
    assert places == sorted(places)
    assert "a+r" not in found.remedy


def test_one_package_of_two_that_may_not_be_read_is_not_half_a_machine(machine: Machine) -> None:
    machine.rapl(packages=2)
    machine.root.deny(f"{POWERCAP}/intel-rapl:1/energy_uj")
    assert not candidate(machine, "rapl").available


def test_a_package_that_cannot_be_read_stops_the_sum_and_a_core_does_not(
    machine: Machine,
) -> None:
    machine.rapl(packages=2)
    machine.root.fail(f"{POWERCAP}/intel-rapl:0:0/energy_uj", errno.ENODATA)
    assert candidate(machine, "rapl").available
    machine.root.fail(f"{POWERCAP}/intel-rapl:0/energy_uj", errno.EIO)
    found = candidate(machine, "rapl")
    assert not found.available
    assert "package-0" in found.reason


def test_memory_that_stands_at_zero_is_not_there(machine: Machine) -> None:
    machine.rapl(packages=1, dram=False)
    machine.zone("intel-rapl:0:2", "dram", 0)
    assert candidate(machine, "rapl").primary == ("intel-rapl:0",)


def test_sgx_is_reported_because_it_may_skew_figures(machine: Machine) -> None:
    machine.rapl(packages=1)
    machine.write("proc/cpuinfo", "flags\t\t: fpu sgx sgx_lc")
    assert "SGX" in candidate(machine, "rapl").reason


# -- rows of a person's own -----------------------------------------------------------------------

ROW = """
[[board]]
name = "robot"
citation = "schematic of the robot, sheet 3"
remedy = "plug the sensor board in"
worth = "board"
boundary = "board_dc"
factor = 1.02
folder = "sys/class/hwmon/hwmon*"
only_if = [{ file = "name", says = ["ina226"] }]
channels = [{ power = { file = "power1_input", unit = "uW" } }]
label = "label"
primary = [["battery rail"]]
within = [["motor", "battery rail"]]
max_watts = 60
"""


def test_a_person_adds_a_board_with_a_file(machine: Machine, tmp_path: Path) -> None:
    machine.ina226("1-0040", label="battery rail")
    machine.ina226("1-0041", label="motor")
    file = tmp_path / "robot.toml"
    file.write_text(ROW)
    found = candidate(machine, "robot", file)
    assert summed(found) == {"battery rail"}
    assert domain(found, "motor").parent == domain(found, "battery rail").id
    assert found.domains[0].factor == 1.02
    assert found.domains[0].max_watts == 60
    assert_kept(found, advance=machine.advance, vanish=machine.vanish)


def test_a_persons_row_replaces_ours_of_the_same_name_and_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(ROW.replace('"robot"', '"grace"'))
    rows = boards([str(file)])
    assert rows[0].name == "grace"
    assert [row.name for row in rows].count("grace") == 1


def test_a_counter_of_ones_own_says_where_it_wraps(machine: Machine, tmp_path: Path) -> None:
    machine.hwmon("meter", {"total": 12})
    file = tmp_path / "own.toml"
    channel = 'channels = [{ energy = { file = "total", unit = "J" } }]\nwrap_joules = 65536'
    text = "\n".join(
        line
        for line in ROW.replace('"ina226"', '"meter"').splitlines()
        if not line.startswith(("label", "primary", "within", "channels"))
    )
    file.write_text(f"{text}\n{channel}\n")
    (one,) = candidate(machine, "robot", file).domains
    assert (one.kind, one.max_joules) == (DomainKind.COUNTER, 65536)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('unit = "uW"', 'unit = "kW"', "channels.0.power.unit"),
        ('unit = "uW"', 'unit = "mV"', "channels"),
        ("max_watts = 60", "max_wats = 60", "max_wats"),
        ("factor = 1.02", "factor = 0.5", "factor"),
        ('worth = "board"', 'worth = "gold"', "worth"),
        ('boundary = "board_dc"', 'boundary = "bord"', "boundary"),
        ('remedy = "plug the sensor board in"', "", "remedy"),
    ],
)
def test_an_invalid_row_is_reported_with_file_row_and_field(
    tmp_path: Path, old: str, new: str, key: str
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(ROW.replace(old, new))
    with pytest.raises(ConfigError) as raised:
        boards([str(file)])
    assert str(file) in raised.value.message
    assert "robot" in raised.value.message
    assert key in raised.value.message


def test_two_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(ROW + ROW)
    with pytest.raises(ConfigError, match="robot"):
        boards([str(file)])


def test_a_file_of_rows_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        boards([str(tmp_path / "nowhere.toml")])


def test_a_pattern_tells_what_its_star_stands_for() -> None:
    assert match("CPU Power Socket *", "CPU Power Socket 1") == "1"
    assert match("VDD_IN", "VDD_IN") == ""
    assert match("VDD_IN", "VDD_INX") is None


def test_names_of_hwmon_devices_outlive_reboots(machine: Machine) -> None:
    machine.hwmon("nvme", {})
    folder = machine.ina226("7-0041")
    assert folder == f"{HWMON}/hwmon1"
    assert candidate(machine, "ina226").domains[0].id == "ina226:7-0041"
