"""CPU time of machine and processes, the idle baseline, and rows on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import rows

from setsuden.energy.host.cpu import (
    FollowedCpu,
    HostCpuReader,
    OwnCpu,
    cores,
    host_cpu,
    named,
    reserved_share,
)
from setsuden.energy.host.system import Host, SysRoot
from setsuden.energy.metering.baseline import SURE_AFTER, Baseline, observed
from setsuden.energy.metering.journal import SUFFIX, Journal
from setsuden.schemas.energy import Quality
from setsuden.schemas.windows import MeterRow, WindowRow

STAT = """\
cpu  100 20 30 4000 50 6 7 80 90 0
cpu0 50 10 15 2000 25 3 3 40 45 0
cpu1 50 10 15 2000 25 3 4 40 45 0
intr 1
"""


def tree(root: Path, **files: str) -> SysRoot:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return SysRoot(root)


def process(root: Path, pid: int, ticks: int, name: str = "nats-server") -> None:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    fields = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 30]
    (folder / "stat").write_text(f"{pid} (a ) name) {' '.join(fields)}", encoding="utf-8")
    (folder / "comm").write_text(f"{name}\n", encoding="utf-8")


# -- CPU time ---------------------------------------------------------------------------------


def test_busy_is_without_idle_waiting_steal_and_guests() -> None:
    found = host_cpu(STAT)
    assert found.busy_seconds == pytest.approx((100 + 20 + 30 + 6 + 7) / 100)
    assert found.steal_seconds == pytest.approx(0.8)


def test_an_old_kernel_without_steal_has_none() -> None:
    assert host_cpu("cpu  1 2 3 4 5 6 7\n").steal_seconds == 0


def test_cores_are_counted(tmp_path: Path) -> None:
    assert cores(tree(tmp_path, proc__stat=STAT)) == 2
    assert cores(SysRoot(tmp_path / "nothing")) == 1


def test_the_reader_sees_the_file_change(tmp_path: Path) -> None:
    reader = HostCpuReader(tree(tmp_path, proc__stat=STAT))
    before = reader.read().busy_seconds
    (tmp_path / "proc/stat").write_text(STAT.replace("cpu  100", "cpu  250"), encoding="utf-8")
    assert reader.read().busy_seconds - before == pytest.approx(1.5)
    reader.close()


def test_our_own_cpu_time_grows_with_work() -> None:
    own = OwnCpu()
    before = own.seconds()
    sum(range(200_000))
    assert own.seconds() > before


def test_a_followed_process_may_end_and_begin_again_without_losing_time(tmp_path: Path) -> None:
    root = SysRoot(tmp_path)
    process(tmp_path, 7, 300)
    cpu = FollowedCpu(root, lambda: named(root, "nats-server"))
    assert cpu.seconds() == pytest.approx(3.0)
    process(tmp_path, 7, 500)
    assert cpu.seconds() == pytest.approx(5.0)
    (tmp_path / "proc/7/stat").unlink()
    (tmp_path / "proc/7/comm").unlink()
    assert cpu.seconds() == pytest.approx(5.0)
    process(tmp_path, 9, 100)
    assert cpu.seconds() == pytest.approx(6.0)


@given(st.lists(st.integers(0, 1000), max_size=20))
def test_a_followed_figure_never_falls(ticks: list[int]) -> None:
    class One(SysRoot):
        now = 0

        def text(self, name: str) -> str:
            return f"7 (x) {' '.join(['S', *['0'] * 10, str(self.now), '0', *['0'] * 9])}"

    root = One()
    cpu = FollowedCpu(root, lambda: [7])
    last = 0.0
    for number in ticks:
        root.now = number
        assert cpu.seconds() >= last - 1e-9
        last = cpu.seconds()


def test_only_processes_of_that_name_are_followed(tmp_path: Path) -> None:
    process(tmp_path, 7, 1)
    process(tmp_path, 8, 1, name="nats")
    assert named(SysRoot(tmp_path), "nats-server") == [7]


@pytest.mark.parametrize(
    ("limit", "share"), [("100000 100000", 0.5), ("max 100000", None), ("300000 100000", None)]
)
def test_a_cgroups_quota_is_the_reserved_share(
    tmp_path: Path, limit: str, share: float | None
) -> None:
    root = tree(
        tmp_path,
        proc__stat=STAT,
        proc__self__cgroup="0::/pod\n",
        sys__fs__cgroup__pod__cpu_max="",
    )
    (tmp_path / "sys/fs/cgroup/pod/cpu.max").write_text(limit, encoding="utf-8")
    found, why = reserved_share(Host(root=root))
    allowed = min(1.0, len(os.sched_getaffinity(0)) / 2)
    assert found == pytest.approx(share or allowed)
    assert ("cpu.max" in why) == (share is not None and share < allowed)


# -- the baseline -----------------------------------------------------------------------------


def test_a_calibrated_baseline_stands_until_power_is_below_it_again_and_again() -> None:
    baseline = Baseline(10.0, "calibrated", 1.05)
    assert baseline.observe(9.0, 1.0) == 10.0
    assert baseline.observe(30.0, 1.0) == 10.0
    assert [baseline.observe(9.0, 1.0) for _ in range(3)][-1] == 9.0
    assert "calibrated" in baseline.origin
    assert "least power" in baseline.origin


def test_an_observed_baseline_is_the_least_power_and_is_unsure_at_first() -> None:
    baseline = observed()
    assert baseline.watts is None
    powers = [20.0, 12.0, 15.0, *[18.0] * SURE_AFTER]
    seen = [(baseline.observe(power, 1.0), baseline.sure) for power in powers]
    assert [watts for watts, _ in seen[:3]] == [20.0, 12.0, 12.0]
    assert not seen[0][1]
    assert seen[-1][1]
    assert baseline.factor > 1.05


# -- rows -------------------------------------------------------------------------------------


def window_row(number: int) -> WindowRow:
    return WindowRow(
        meter="edge-1",
        start_ns=number,
        seconds=1.0,
        joules=1.0,
        idle_watts=0.5,
        quality=Quality.OK,
        busy_cpu_seconds=0.1,
        steal_cpu_seconds=0.0,
        process_cpu_seconds=0.1,
        request_dynamic=0.0,
        request_idle=0.0,
        overhead=0.5,
        idle_unused=0.5,
        other=0.0,
    )


def test_every_file_of_rows_begins_with_its_meter(tmp_path: Path) -> None:
    journal = Journal(tmp_path, rows.meter(), 1 << 16)
    for number in range(200):
        journal.add(window_row(number))
    journal.close()
    files = sorted(tmp_path.glob(f"*{SUFFIX}"))
    assert len(files) > 1
    for path in files:
        first, second, *_ = path.read_text(encoding="utf-8").splitlines()
        assert MeterRow.model_validate_json(first) == rows.meter()
        assert WindowRow.model_validate_json(second).meter == "edge-1"


def test_rows_are_bounded_and_what_was_dropped_is_counted(tmp_path: Path) -> None:
    journal = Journal(tmp_path, rows.meter(), 1 << 16)
    for number in range(1000):
        journal.add(window_row(number))
    journal.close()
    files = list(tmp_path.glob(f"*{SUFFIX}"))
    kept = sum(len(path.read_text().splitlines()) - 1 for path in files)
    assert sum(path.stat().st_size for path in files) <= 1 << 16
    assert kept + journal.dropped == 1000
    assert journal.dropped > 0


def test_rows_are_on_disk_as_soon_as_they_are_added(tmp_path: Path) -> None:
    journal = Journal(tmp_path, rows.meter(), 1 << 20)
    journal.add(window_row(1))
    (path,) = tmp_path.glob(f"*{SUFFIX}")
    assert json.loads(path.read_text().splitlines()[1])["start_ns"] == 1
    journal.close()


def test_after_a_disk_that_took_no_file_rows_go_on_and_the_loss_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    journal = Journal(folder, rows.meter(), 1 << 16)
    number = 0
    while journal._written + 1000 < journal._file_bytes:  # the next file is near
        journal.add(window_row(number := number + 1))
    folder.rename(tmp_path / "away")
    folder.write_text("where no folder can be made")
    for _ in range(10):
        journal.add(window_row(number := number + 1))
    assert journal.dropped > 0
    folder.unlink()
    (tmp_path / "away").rename(folder)
    lost = journal.dropped
    journal.add(window_row(number := number + 1))
    journal.close()
    assert journal.dropped == lost
    kept = sum(len(path.read_text().splitlines()) - 1 for path in folder.glob(f"*{SUFFIX}"))
    assert kept + lost == number
