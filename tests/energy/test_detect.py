"""Which source is chosen on which machine, and what is told of the others."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.sensor_contract import assert_described
from tests.support.trees import Machine

from setsuden.energy.domain import Candidate, Detection
from setsuden.energy.host.system import Host, Runner
from setsuden.energy.options import EnergyOptions, PlugOptions, RedfishOptions
from setsuden.energy.sensors.detect import ON_DEMAND, detect
from setsuden.schemas.errors import ConfigError

OPTIONS = EnergyOptions(calibration="none.json")


class NoRunner(Runner):
    """A search that starts a program fails the test."""

    def run(self, command: Sequence[str], timeout_seconds: float) -> str:
        raise AssertionError(f"{command[0]} was started")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.proc_stat()
    return made


def found(machine: Machine, options: EnergyOptions = OPTIONS, *extra: Candidate) -> Detection:
    return detect(options, replace(machine.host, runner=NoRunner()), extra)


def named(detection: Detection, name: str) -> Candidate:
    return next(one for one in detection.candidates if one.name == name)


WORTH: tuple[tuple[str, Callable[[Machine], object]], ...] = (
    ("ina238", lambda m: m.ina226(name="ina238")),
    ("ina226", lambda m: m.ina226()),
    ("ina219", lambda m: m.ina226(name="ina219")),
    ("acpi-meter", lambda m: m.acpi_meter()),
    ("jetson", lambda m: m.ina3221()),
    ("battery", lambda m: m.battery()),
    ("grace", lambda m: m.grace()),
    ("xgene", lambda m: m.xgene()),
    ("rapl", lambda m: m.rapl()),
    ("amd-energy", lambda m: m.amd_energy()),
    ("hwmon-energy", lambda m: m.hwmon_energy()),
    ("scmi", lambda m: m.scmi()),
)


@pytest.mark.parametrize("first", range(len(WORTH)))
def test_the_source_nearest_to_the_wall_is_chosen(machine: Machine, first: int) -> None:
    for _, build in WORTH[first:]:
        build(machine)
    detection = found(machine)
    assert detection.chosen.name == WORTH[first][0]
    available = [one.name for one in detection.candidates if one.available]
    assert available[: len(WORTH) - first] == [name for name, _ in WORTH[first:]]


def test_every_source_is_listed_with_a_reason_and_a_remedy(machine: Machine) -> None:
    detection = found(machine)
    names = [one.name for one in detection.candidates]
    assert len(set(names)) == len(names)
    assert names[0] == "plug"
    assert names[-1] == "none"
    order = ["plug", "ina226", "grace", "rapl", "hwmon-energy", "scmi", "perf", "relay"]
    assert [name for name in names if name in order] == order
    for one in detection.candidates:
        assert_described(one)


def test_a_virtual_machine_without_sensors_gets_the_table(machine: Machine) -> None:
    assert found(machine).chosen.name == "table"


def test_a_machine_of_which_nothing_is_known_gets_none_and_not_an_error(tmp_path: Path) -> None:
    chosen = found(Machine(tmp_path)).chosen
    assert chosen.name == "none"
    assert chosen.available
    assert chosen.domains == ()
    assert chosen.open is None


def test_a_counter_that_may_not_be_read_is_passed_over_with_its_remedy(machine: Machine) -> None:
    machine.rapl(denied=True)
    detection = found(machine)
    assert detection.chosen.name == "table"
    assert "CAP_PERFMON" in named(detection, "rapl").remedy


def test_a_source_whose_device_fails_is_passed_over(machine: Machine) -> None:
    machine.ina226()
    machine.rapl()
    machine.root.fail("sys/class/hwmon/*", errno.EIO)
    assert found(machine).chosen.name == "rapl"


def test_a_declared_figure_replaces_the_table_and_no_sensor(machine: Machine) -> None:
    options = OPTIONS.model_copy(update={"watts_per_core": 5.0})
    assert found(machine, options).chosen.name == "declared"
    machine.scmi()
    assert found(machine, options).chosen.name == "scmi"


def test_the_configuration_chooses_by_name(machine: Machine) -> None:
    machine.ina226()
    machine.rapl()
    for name in ("rapl", "table", "none", "ina226"):
        options = OPTIONS.model_copy(update={"sensor": name})
        assert found(machine, options).chosen.name == name


def test_an_unknown_name_is_an_error_that_lists_what_there_is(machine: Machine) -> None:
    machine.rapl()
    with pytest.raises(ConfigError) as raised:
        found(machine, OPTIONS.model_copy(update={"sensor": "rappl"}))
    assert "rappl" in raised.value.message
    assert "rapl" in raised.value.remedy
    assert "table" in raised.value.remedy


def test_a_name_that_is_not_to_be_had_here_is_an_error_and_no_silent_substitute(
    machine: Machine,
) -> None:
    machine.rapl(denied=True)
    with pytest.raises(ConfigError) as raised:
        found(machine, OPTIONS.model_copy(update={"sensor": "rapl"}))
    assert "may not read" in raised.value.message
    assert "0440" in raised.value.remedy
    assert "table" in raised.value.remedy


def test_a_meter_outside_the_machine_comes_before_all_others(machine: Machine) -> None:
    machine.ina226()
    machine.write("run/meter", 12.5)
    plug = PlugOptions(kind="file", path=str(machine.root.path / "run/meter"))
    assert found(machine, OPTIONS.model_copy(update={"plug": plug})).chosen.name == "plug"


def test_a_management_controller_is_listed_and_never_chosen_of_itself(machine: Machine) -> None:
    redfish = RedfishOptions(url="https://127.0.0.1:9/redfish/v1/Chassis/1/Power")
    detection = found(machine, OPTIONS.model_copy(update={"redfish": redfish}))
    assert "redfish" in ON_DEMAND
    assert named(detection, "redfish") in detection.candidates
    assert detection.chosen.name == "table"


def test_candidates_of_the_callers_own_come_first(machine: Machine) -> None:
    machine.ina226()
    own = Candidate("own", available=True, reason="a test's")
    assert found(machine, OPTIONS, own).chosen is own


def test_a_board_may_not_take_the_name_of_another_source(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[[board]]\nname = "rapl"\ncitation = "c"\nremedy = "r"\nworth = "board"\n'
        'boundary = "host"\nfactor = 1\nfolder = "sys/*"\n'
        'channels = [{ power = { file = "p", unit = "W" } }]\n'
    )
    with pytest.raises(ConfigError, match="rapl"):
        found(machine, OPTIONS.model_copy(update={"boards": (str(file),)}))


def test_the_search_takes_less_than_20_ms_on_a_machine_full_of_sensors(machine: Machine) -> None:
    for number in range(12):
        machine.hwmon(f"nvme{number}", {"temp1_input": 40_000, "temp1_label": "Composite"})
    machine.grace(sockets=2)
    machine.rapl(packages=2)
    detect(OPTIONS, machine.host)
    fastest = min(_seconds(machine.host) for _ in range(5))
    assert fastest < 0.02


def _seconds(host: Host) -> float:
    """CPU time: it waits for nothing, and other tests may run beside it."""
    began = time.process_time()
    detect(OPTIONS, host)
    return time.process_time() - began
