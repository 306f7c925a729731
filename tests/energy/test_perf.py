"""Energy events of the perf subsystem: trees of /sys, and the real system call where it is let."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.devices import SteppedClock
from tests.support.sensor_contract import assert_kept, opened

from setsuden.energy.domain import Candidate
from setsuden.energy.host.system import Host, SysRoot
from setsuden.energy.options import EnergyOptions
from setsuden.energy.sensors import perf
from setsuden.energy.sensors.pmu import Pmu, PmuEvent, attr
from setsuden.schemas.energy import Boundary, Source

POWER = "sys/bus/event_source/devices/power"
UNIT = 2.0**-32
PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK = 1, 0


class Counting(PmuEvent):
    """A counter that the test turns."""

    def __init__(self, pmu: Counters, kind: int, config: int, cpu: int) -> None:
        self.pmu, self.what = pmu, (kind, config, cpu)
        self.closed = False

    def count(self) -> int:
        if self.pmu.broken:
            raise OSError(errno.EBUSY, "the PMU has no counter free")
        return self.pmu.counts.get(self.what[1:], 0)

    def close(self) -> None:
        self.closed = True


class Counters(Pmu):
    """Our door to the perf subsystem, with counters that the test turns."""

    def __init__(self, refuses: int = 0, after: int = 0) -> None:
        self.counts: dict[tuple[int, int], int] = {}
        self.opened: list[Counting] = []
        self.broken = False
        self.refuses, self.after = refuses, after

    def open(self, kind: int, config: int, cpu: int) -> PmuEvent:
        if self.refuses and len(self.opened) >= self.after:
            raise OSError(self.refuses, "refused")
        self.opened.append(Counting(self, kind, config, cpu))
        return self.opened[-1]

    @property
    def left_open(self) -> list[Counting]:
        return [event for event in self.opened if not event.closed]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")


def power_tree(root: Path, events: str = "psys pkg cores gpu ram", cpus: str = "0,18") -> None:
    """As on a machine with two packages."""
    codes = {"cores": 1, "pkg": 2, "ram": 3, "gpu": 4, "psys": 5}
    files = {f"{POWER}/type": "24", f"{POWER}/cpumask": cpus}
    for event in events.split():
        name = f"{POWER}/events/energy-{event}"
        files[name] = f"event=0x0{codes[event]}"
        files[f"{name}.scale"] = "2.3283064365386962890625e-10"
        files[f"{name}.unit"] = "Joules"
    write(root, files)


def found(root: Path, pmu: Pmu | None = None) -> Candidate:
    host = Host(root=SysRoot(root), clock=SteppedClock())
    return perf.probe(EnergyOptions(), host, pmu or Counters())


def test_rapl_events_keep_the_contract(tmp_path: Path) -> None:
    power_tree(tmp_path)
    pmu = Counters()

    def advance() -> None:
        pmu.counts = {(2, 0): 1 << 32, (2, 18): 1 << 33}

    def vanish() -> None:
        pmu.broken = True

    assert_kept(found(tmp_path, pmu), advance=advance, vanish=vanish)
    assert not pmu.left_open


def test_a_package_is_reported_in_joules_and_holds_its_cores(tmp_path: Path) -> None:
    power_tree(tmp_path)
    pmu = Counters()
    candidate = found(tmp_path, pmu)
    known = {domain.id: domain for domain in candidate.domains}
    package = known["perf:power/energy-pkg@18"]
    assert (package.source, package.boundary) == (Source.MEASURED, Boundary.CPU_PACKAGE)
    assert package.parent == "perf:power/energy-psys@0"
    assert known["perf:power/energy-cores@18"].parent == package.id
    assert candidate.primary == tuple(
        f"perf:power/energy-{name}@{cpu}" for name in ("pkg", "ram") for cpu in (0, 18)
    )
    sensor = opened(candidate)
    pmu.counts = {(2, 18): 3 << 32}
    values = {reading.domain: reading.value for reading in sensor.read()}
    assert values[package.id] == 3.0
    assert values["perf:power/energy-pkg@0"] == 0.0
    sensor.close()


def test_without_a_platform_counter_nobody_has_it_for_a_parent(tmp_path: Path) -> None:
    power_tree(tmp_path, "pkg cores")
    assert {domain.parent for domain in found(tmp_path).domains} == {
        None,
        "perf:power/energy-pkg@0",
        "perf:power/energy-pkg@18",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("events/energy-pkg.unit", "Furlongs"),
        ("events/energy-pkg.scale", "-1"),
        ("events/energy-pkg.scale", "nan"),
        ("events/energy-pkg.scale", ""),
        ("events/energy-pkg", "event=0x0z"),
        ("events/energy-pkg", "umask=0x02"),
        ("type", "power"),
        ("cpumask", ""),
        ("cpumask", "all"),
    ],
)
def test_an_event_that_is_not_understood_is_not_guessed(
    tmp_path: Path, name: str, text: str
) -> None:
    power_tree(tmp_path, "pkg")
    write(tmp_path, {f"{POWER}/{name}": text})
    candidate = found(tmp_path)
    assert_kept(candidate)
    assert not candidate.available


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_missing_right_is_named_with_its_remedy(tmp_path: Path, code: int) -> None:
    power_tree(tmp_path)
    write(
        tmp_path,
        {
            "proc/sys/kernel/perf_event_paranoid": "2",
            "proc/self/status": "Name:\tx\nCapEff:\t0000000000000000",
        },
    )
    candidate = found(tmp_path, Counters(refuses=code))
    assert_kept(candidate)
    assert "perf_event_paranoid is 2, and no CAP_PERFMON" in candidate.reason
    assert "AmbientCapabilities=CAP_PERFMON" in candidate.remedy


@pytest.mark.parametrize(
    ("level", "capabilities", "may"),
    [
        ("2", "0000000000000000", False),
        ("1", "0000000000000000", False),
        ("0", "0000000000000000", True),
        ("-1", "0000000000000000", True),
        ("4", f"{1 << 38:016x}", True),
        ("2", f"{1 << 21:016x}", True),
        ("2", "x", False),
    ],
)
def test_who_may_count_a_whole_cpu(
    tmp_path: Path, level: str, capabilities: str, may: bool
) -> None:
    status = f"Name:\tx\nCapEff:\t{capabilities}"
    write(
        tmp_path,
        {"proc/sys/kernel/perf_event_paranoid": level, "proc/self/status": status},
    )
    root = SysRoot(tmp_path)
    assert perf.may_open(root) is may
    words = perf.why(PermissionError(errno.EPERM, "no"), root)
    assert ("sandbox" in words) is may


def test_any_other_failure_is_reported_as_it_is(tmp_path: Path) -> None:
    power_tree(tmp_path)
    candidate = found(tmp_path, Counters(refuses=errno.ENODEV))
    assert_kept(candidate)
    assert "refused" in candidate.reason


def test_a_set_that_cannot_be_opened_whole_leaves_none_open(tmp_path: Path) -> None:
    power_tree(tmp_path)
    pmu = Counters(refuses=errno.EMFILE, after=5)
    assert not found(tmp_path, pmu).available
    assert len(pmu.opened) == 5
    assert not pmu.left_open


def test_a_machine_without_such_a_pmu_is_reported(tmp_path: Path) -> None:
    candidate = found(tmp_path)
    assert_kept(candidate)
    assert "virtual machine" in candidate.reason


# -- Fujitsu's cores ----------------------------------------------------------------------------


def fujitsu_tree(root: Path, part: int, cpus: str, groups: list[str]) -> None:
    midr = 0x46 << 24 | 0xF << 16 | part << 4
    cpu = "sys/devices/system/cpu"
    files = {f"{cpu}/cpu0/regs/identification/midr_el1": f"0x{midr:016x}"}
    files |= {f"{cpu}/present": cpus, f"{cpu}/online": cpus}
    files["sys/bus/event_source/devices/armv8_pmuv3_0/type"] = "8"
    for number, group in enumerate(groups):
        files[f"sys/devices/system/node/node{number}/cpulist"] = group
    write(root, files)


def test_an_a64fx_adds_its_cores_and_reads_one_core_of_each_memory_group(tmp_path: Path) -> None:
    fujitsu_tree(tmp_path, 0x001, "0-47", ["0-11", "12-23", "24-35", "36-47"])
    pmu = Counters()
    candidate = found(tmp_path, pmu)
    assert_kept(candidate)
    assert candidate.primary == tuple(domain.id for domain in candidate.domains)
    sensor = opened(candidate)
    pmu.counts = {(0x1E0, cpu): 1_000_000_000 for cpu in range(48)}
    pmu.counts |= {(0x3E0, cpu): 1_000_000_000 for cpu in range(48)}
    pmu.counts |= {(0x3E8, cpu): 1_000_000_000 for cpu in range(48)}
    joules = [reading.value for reading in sensor.read()]
    assert joules == pytest.approx([48 * 8, 4 * 32, 4 * 256])
    sensor.close()
    assert not pmu.left_open


def test_the_small_a64fx_counts_in_other_units(tmp_path: Path) -> None:
    fujitsu_tree(tmp_path, 0x001, "0-23", ["0-11", "12-23"])
    pmu = Counters()
    sensor = opened(found(tmp_path, pmu))
    pmu.counts = {(0x1E0, 0): 1_000_000_000, (0x3E0, 12): 1_000_000_000}
    assert [reading.value for reading in sensor.read()] == pytest.approx([9, 36, 0])
    sensor.close()


def test_an_a64fx_without_memory_groups_is_not_guessed(tmp_path: Path) -> None:
    fujitsu_tree(tmp_path, 0x001, "0-47", [])
    candidate = found(tmp_path)
    assert_kept(candidate)
    assert not candidate.available


def test_monaka_counts_energy_in_a_unit_that_nobody_published(tmp_path: Path) -> None:
    fujitsu_tree(tmp_path, 0x003, "0-143", ["0-143"])
    pmu = Counters()
    candidate = found(tmp_path, pmu)
    assert_kept(candidate)
    assert not candidate.available
    assert "EA_CORE, EA_L3, EA_LDO_LOSS" in candidate.reason
    assert not pmu.opened


def test_another_arm_core_is_not_taken_for_one_of_them(tmp_path: Path) -> None:
    fujitsu_tree(tmp_path, 0xD0C, "0-79", ["0-79"])
    assert "offers no PMU" in found(tmp_path).reason


@given(st.lists(st.integers(0, 300), min_size=1, unique=True).map(sorted))
def test_a_list_of_cpus_is_read_as_the_kernel_writes_it(cpus: list[int]) -> None:
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and runs[-1][-1] == cpu - 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    assert perf.cpu_list(text) == tuple(cpus)


# -- the system call ----------------------------------------------------------------------------


def test_the_attributes_are_the_kernels_first_layout() -> None:
    data = attr(24, 2)
    assert len(data) == 64
    assert data[:16] == b"\x18\0\0\0\x40\0\0\0\x02\0\0\0\0\0\0\0"
    assert data[40:48] == b"\x04\0\0\0\0\0\0\0"


def test_the_call_opens_a_counter_that_counts() -> None:
    try:
        event = Pmu().open(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, 0)
    except OSError as error:
        pytest.skip(f"this process may not count: {error}")
    began = time.monotonic_ns()
    first = event.count()
    while (second := event.count()) == first and time.monotonic_ns() - began < 10**10:
        pass
    event.close()
    assert second > first


def test_a_pmu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match=r"."):
        Pmu().open(0x7FFF_FFFF, 0, 0)
