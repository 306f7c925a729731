"""The Raspberry Pi 5's power chip: what the command prints, and what it does not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.devices import SteppedClock
from tests.support.sensor_contract import assert_kept, opened

from setsuden.energy.domain import Candidate
from setsuden.energy.host.system import Host, Runner, SysRoot
from setsuden.energy.options import EnergyOptions
from setsuden.energy.sensors import pmic
from setsuden.schemas.energy import Boundary, Source


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


PRINTED = """\
 3V7_WL_SW_A current(0)=0.10000000A
   3V3_SYS_A current(1)=0.20000000A
  VDD_CORE_A current(7)=2.00000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.75000000V
     EXT5V_V volt(24)=5.11416000V
      BATT_V volt(25)=0.00000000V
"""
WATTS = 0.1 * 3.7 + 0.2 * 3.3 + 2 * 0.75


class Printing(Runner):
    """Prints what the test says, or fails."""

    def __init__(self, printed: str) -> None:
        self.printed: str | None = printed
        self.runs = 0

    def run(self, command: Sequence[str], timeout_seconds: float) -> str:
        assert list(command) == ["vcgencmd", "pmic_read_adc"]
        self.runs += 1
        if self.printed is None:
            raise OSError("vcgencmd: VCHI initialization failed")
        return self.printed

    def stop(self) -> None:
        self.printed = None


def pi(root: Path, model: str, runner: Runner, clock: SteppedClock | None = None) -> Candidate:
    path = root / "proc/device-tree/model"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.encode() + b"\0")
    return pmic.probe(EnergyOptions(), Host(SysRoot(root), clock or SteppedClock(), runner))


def test_the_power_chip_keeps_the_contract(tmp_path: Path, clock: SteppedClock) -> None:
    runner = Printing(PRINTED)

    def vanish() -> None:
        runner.stop()
        clock.passes(1)

    assert_kept(pi(tmp_path, "Raspberry Pi 5 Model B Rev 1.0", runner, clock), vanish=vanish)
    assert_kept(pmic.probe(EnergyOptions(), Host(root=SysRoot(tmp_path / "none"))))


def test_a_pi_5_tells_rails_and_the_corrected_input(tmp_path: Path) -> None:
    candidate = pi(tmp_path, "Raspberry Pi 5 Model B Rev 1.0", Printing(PRINTED))
    board, rails = candidate.domains
    assert (board.boundary, rails.boundary) == (Boundary.BOARD_DC, Boundary.MODULE)
    assert (board.source, rails.source) == (Source.DERIVED, Source.DERIVED)
    assert candidate.primary == (board.id,)
    assert rails.parent == board.id
    values = [reading.value for reading in opened(candidate).read()]
    assert values == pytest.approx([WATTS * 1.1451 + 0.5879, WATTS])


@pytest.mark.parametrize(
    "model", ["Raspberry Pi Compute Module 5 Rev 1.0", "Raspberry Pi 500 Rev 1.0"]
)
def test_the_correction_is_not_used_on_boards_it_was_not_made_on(
    tmp_path: Path, model: str
) -> None:
    (found,) = pi(tmp_path, model, Printing(PRINTED)).domains
    assert found.boundary is Boundary.MODULE


@pytest.mark.parametrize("model", ["Raspberry Pi 4 Model B Rev 1.5", "Raspberry Pi Zero 2 W"])
def test_an_older_pi_has_no_current_sensor(tmp_path: Path, model: str) -> None:
    runner = Printing(PRINTED)
    candidate = pi(tmp_path, model, runner)
    assert not candidate.available
    assert "no current sensor" in candidate.reason
    assert "plug" in candidate.remedy
    assert not runner.runs


def test_a_rail_that_is_missing_is_no_smaller_sum(tmp_path: Path, clock: SteppedClock) -> None:
    runner = Printing(PRINTED)
    sensor = opened(pi(tmp_path, "Raspberry Pi 5 Model B Rev 1.0", runner, clock))
    runner.printed = PRINTED.replace("VDD_CORE_V", "VDD_CURE_V")
    for reading in sensor.read():
        assert reading.value is None
        assert reading.problem == "no value for VDD_CORE"


def test_the_command_runs_once_a_second_whoever_asks(tmp_path: Path, clock: SteppedClock) -> None:
    runner = Printing(PRINTED)
    sensor = opened(pi(tmp_path, "Raspberry Pi 5 Model B Rev 1.0", runner, clock))
    first = sensor.read()
    for _ in range(8):
        clock.passes(0.1)
        assert sensor.read() == first
    clock.passes(0.19)
    assert sensor.read() != first
    assert runner.runs == 3  # the search was one


@pytest.mark.parametrize(
    "printed", ["", 'error=1 error_msg="Command not registered"', "A_V volt(1)=1V"]
)
def test_a_command_without_rails_is_no_meter(tmp_path: Path, printed: str) -> None:
    candidate = pi(tmp_path, "Raspberry Pi 5 Model B Rev 1.0", Printing(printed))
    assert_kept(candidate)
    assert not candidate.available


@pytest.mark.skipif(shutil.which("vcgencmd") is not None, reason="this is a Pi")
def test_without_the_command_the_remedy_names_its_package(tmp_path: Path) -> None:
    candidate = pi(tmp_path, "Raspberry Pi 5 Model B Rev 1.0", Runner())
    assert not candidate.available
    assert "raspi-utils" in candidate.remedy
