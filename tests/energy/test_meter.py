"""The meter: windows close, runs settle, nothing is lost at the end, its own cost is bounded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import fsum
from pathlib import Path

import pytest
from tests.support import rows

from setsuden.energy.domain import Candidate, Domain, DomainKind, Reading
from setsuden.energy.host.system import Clock, Host, SysRoot
from setsuden.energy.metering.baseline import Baseline, observed
from setsuden.energy.metering.journal import SUFFIX, Journal
from setsuden.energy.metering.ledger import WorkKey
from setsuden.energy.metering.meter import Meter
from setsuden.energy.metering.policy import PATIENCE_SECONDS, SLACK_SECONDS
from setsuden.energy.metering.provisional import ProvisionalEstimator
from setsuden.energy.metering.sampler import EnergySampler
from setsuden.energy.metering.settle import MeterFacts
from setsuden.schemas.energy import Boundary, Method, Quality, Source
from setsuden.schemas.windows import Counts, WindowRow

KEY = WorkKey("digits", "digits/student", "0" * 64)
FACTS = MeterFacts("edge-1", Source.MEASURED, Boundary.HOST, 1.1, 1.05, 1.0)
DOMAIN = Domain(
    "host",
    "host",
    "enclosure",
    DomainKind.COUNTER,
    Source.MEASURED,
    Boundary.HOST,
    1.1,
    max_watts=200,
)


class HandClock(Clock):
    """Moves when told, and when somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.now += max(1, int(seconds * 1e9))
        return event.is_set()


class HandSensor:
    """A second implementation of the sensor protocol: says what the test put there."""

    def __init__(self, clock: HandClock, *domains: Domain) -> None:
        self.domains = domains or (DOMAIN,)
        self.values: dict[str, float | None] = {domain.id: 0.0 for domain in self.domains}
        self.reads = 0
        self._clock = clock

    def read(self) -> list[Reading]:
        self.reads += 1
        return [
            Reading(name, self._clock.now, value, None if value is not None else "gone")
            for name, value in self.values.items()
        ]

    def close(self) -> None:
        self.values = dict.fromkeys(self.values)


class Bench:
    """A meter whose clock, sensor and CPU are moved by hand."""

    def __init__(self, folder: Path, baseline: Baseline | None = None) -> None:
        self.folder = folder
        (folder / "proc").mkdir(parents=True)
        self.clock = HandClock()
        self.sensor = HandSensor(self.clock)
        self.cpu = 0.0
        self.busy_ticks = 0
        self.counts = Counts()
        self.rows: list[WindowRow] = []
        self._stat()
        candidate = Candidate(
            "hand",
            available=True,
            reason="test",
            domains=self.sensor.domains,
            primary=("host",),
            open=lambda: self.sensor,
        )
        self.meter = Meter(
            Host(root=SysRoot(folder), clock=self.clock),
            sampler=EnergySampler(candidate),
            baseline=baseline or Baseline(4.0, "test", 1.05),
            facts=FACTS,
            journal=Journal(folder / "energy", rows.meter(), 1 << 20),
            estimator=ProvisionalEstimator(2.0, 4.0, FACTS),
            window_seconds=1.0,
            max_core_share=0.001,
            process=self,
            counts=lambda: self.counts,
        )
        self.meter.on_row = self.rows.append

    def seconds(self) -> float:
        """CPU time of the process."""
        return self.cpu

    def _stat(self) -> None:
        text = f"cpu  {self.busy_ticks} 0 0 0 0 0 0 0 0 0\ncpu0 0\n"
        (self.folder / "proc/stat").write_text(text, encoding="ascii")

    def passes(self, seconds: float, joules: float, cpu: float = 0.0, busy: float = 0.0) -> None:
        """Time passes; the machine uses so much."""
        self.clock.now += int(seconds * 1e9)
        value = self.sensor.values["host"]
        if value is not None:
            self.sensor.values["host"] = value + joules
        self.cpu += cpu
        self.busy_ticks += round(max(busy, cpu) * 100)
        self._stat()


def total(row: WindowRow) -> float:
    parts = (row.request_dynamic, row.request_idle, row.overhead, row.idle_unused, row.other)
    return fsum(part for part in parts if part is not None)


def test_a_window_settles_its_runs_and_writes_one_row(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    run = bench.meter.begin(KEY)
    bench.passes(0.5, 5.0, cpu=0.4)
    bench.meter.finish(run, 2, 0.3, Method.EXCLUSIVE)
    assert bench.meter.provisional(run).quality is Quality.PROVISIONAL
    bench.passes(0.5, 5.0, cpu=0.1, busy=0.5)
    bench.meter.turn()
    assert run.settled is not None
    assert run.settled.quality is Quality.OK
    (row,) = bench.rows
    assert row.joules == pytest.approx(10.0)
    assert total(row) == pytest.approx(10.0, rel=1e-9)
    assert row.work[0].items == 2
    assert run.settled.joules is not None
    assert 2 * run.settled.joules == pytest.approx(
        (row.request_dynamic or 0) + (row.request_idle or 0)
    )


def test_rows_on_disk_are_the_rows_that_were_settled(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for _ in range(3):
        bench.passes(1.0, 6.0, cpu=0.2)
        bench.meter.turn()
    (path,) = (tmp_path / "energy").glob(f"*{SUFFIX}")
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    assert [WindowRow.model_validate_json(line) for line in lines] == bench.rows


def test_counts_of_a_window_are_what_came_in_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.counts = Counts(local=5, bytes_up=100)
    bench.passes(1.0, 6.0)
    bench.meter.turn()
    bench.counts = Counts(local=7, cloud=1, bytes_up=150)
    bench.passes(1.0, 6.0)
    bench.meter.turn()
    assert [row.counts.local for row in bench.rows] == [5, 2]
    assert bench.rows[1].counts == Counts(local=2, cloud=1, bytes_up=50)


def test_a_window_waits_for_a_run_that_began_in_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    run = bench.meter.begin(KEY)
    bench.passes(1.0, 6.0, cpu=0.5)
    bench.meter.turn()
    assert bench.rows == []
    bench.passes(0.5, 3.0, cpu=0.3)
    bench.meter.finish(run, 1, 0.8, Method.EXCLUSIVE)
    bench.passes(0.5, 3.0)
    bench.meter.turn()
    assert len(bench.rows) == 2
    assert run.settled is not None
    assert run.settled.quality is Quality.OK


def test_a_window_waits_no_longer_than_its_slack(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.meter.begin(KEY)
    bench.passes(1.0, 6.0)
    bench.meter.turn()
    bench.passes(SLACK_SECONDS + 1, 60.0)
    bench.meter.turn()
    assert len(bench.rows) == 1


def test_closing_settles_what_has_ended_and_loses_no_joule(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    ended, hanging = bench.meter.begin(KEY), bench.meter.begin(KEY)
    bench.passes(0.2, 2.0, cpu=0.1)
    bench.meter.finish(ended, 1, 0.1, Method.THREAD)
    bench.meter.close()
    assert ended.settled is not None
    assert hanging.settled is None
    assert fsum(map(total, bench.rows)) == pytest.approx(2.0)


def test_a_sensor_that_fails_for_a_while_makes_one_longer_window(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    known = bench.sensor.values["host"]
    bench.sensor.values["host"] = None
    bench.passes(1.0, 0.0)
    bench.meter.turn()
    assert bench.rows == []
    bench.sensor.values["host"] = (known or 0.0) + 12.0
    bench.passes(1.0, 0.0)
    bench.meter.turn()
    (row,) = bench.rows
    assert row.joules == pytest.approx(12.0)
    assert row.seconds >= 2.0
    assert row.quality is Quality.DEGRADED


def test_a_sensor_that_is_gone_gives_windows_without_joules_and_never_zero(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.sensor.values["host"] = None
    bench.passes(PATIENCE_SECONDS + 1, 0.0, cpu=0.5)
    bench.meter.turn()
    (row,) = bench.rows
    assert row.joules is None
    assert row.overhead is None
    assert row.process_cpu_seconds == pytest.approx(0.5)
    assert bench.meter.totals.summed().unknown_windows == 1


def test_an_uncalibrated_baseline_makes_the_first_windows_degraded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, observed())
    bench.passes(1.0, 6.0)
    bench.meter.turn()
    assert bench.rows[0].quality is Quality.DEGRADED


def test_totals_are_the_sums_of_the_rows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for _ in range(5):
        run = bench.meter.begin(KEY)
        bench.passes(0.3, 4.0, cpu=0.2)
        bench.meter.finish(run, 1, 0.15, Method.THREAD)
        bench.passes(0.7, 6.0, busy=0.3)
        bench.meter.turn()
    summed = bench.meter.totals.summed()
    parts = fsum(summed.inference_joules.values())
    rest = summed.overhead_joules + fsum(summed.unattributed_joules.values())
    assert parts + rest == pytest.approx(fsum(row.joules or 0 for row in bench.rows))
    assert parts + rest == pytest.approx(bench.meter.domain_joules()["host"])
    assert summed.items[KEY.pipeline, KEY.model] == pytest.approx(5)


def test_power_is_read_inside_a_window_a_counter_only_at_its_end(tmp_path: Path) -> None:
    clock = HandClock()
    power = Domain(
        "rail", "rail", "cpu", DomainKind.INSTANT_POWER, Source.DERIVED, Boundary.BOARD_DC, 1.1,
        interval_seconds=0.1,
    )  # fmt: skip
    sensors: list[Callable[[], HandSensor]] = [
        lambda: HandSensor(clock, DOMAIN),
        lambda: HandSensor(clock, power),
    ]
    sampled = []
    for opened in sensors:
        domains = opened().domains
        candidate = Candidate(
            "hand", available=True, reason="", domains=domains, primary=(domains[0].id,),
            open=opened,
        )  # fmt: skip
        sampled.append(EnergySampler(candidate).sampled)
    assert sampled == [False, True]


@pytest.mark.parametrize(("cost_ms", "least", "most"), [(0.0, 5, 11), (5.0, 0, 1)])
def test_power_that_is_dear_to_read_is_read_less_often(
    tmp_path: Path, cost_ms: float, least: int, most: int
) -> None:
    """At most a thousandth of a core: 5 ms a reading allow one in five seconds, not ten in one."""
    bench = Bench(tmp_path)
    power = replace(DOMAIN, kind=DomainKind.INSTANT_POWER, interval_seconds=0.1)

    def read() -> list[Reading]:
        bench.sensor.reads += 1
        until = time.thread_time() + cost_ms / 1000
        while time.thread_time() < until:
            pass
        return [Reading("host", bench.clock.now, 10.0)]

    bench.sensor.read = read  # type: ignore[method-assign]  # a device on a slow bus
    candidate = Candidate(
        "hand", available=True, reason="", domains=(power,), primary=("host",),
        open=lambda: bench.sensor,
    )  # fmt: skip
    bench.meter._sampler = EnergySampler(candidate)
    for _ in range(20):  # its cost is known by now
        bench.meter._sampler.read()
    bench.meter.begin(KEY)
    before = bench.sensor.reads
    bench.meter._wait()
    assert least <= bench.sensor.reads - before <= most


def test_a_running_meter_settles_a_real_run_within_two_windows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    settled = threading.Event()
    host = Host(root=SysRoot(tmp_path))
    sensor = HandSensor(HandClock())
    sensor.read = lambda: [Reading("host", time.monotonic_ns(), time.monotonic() * 10)]  # type: ignore[method-assign]  # a machine of 10 W
    candidate = Candidate(
        "hand", available=True, reason="", domains=(DOMAIN,), primary=("host",), open=lambda: sensor
    )
    meter = Meter(
        host,
        sampler=EnergySampler(candidate),
        baseline=Baseline(4.0, "test", 1.05),
        facts=FACTS,
        journal=Journal(tmp_path / "real", rows.meter(), 1 << 20),
        estimator=ProvisionalEstimator(2.0, 4.0, FACTS),
        window_seconds=0.2,
        max_core_share=0.1,
    )
    meter.on_row = lambda row: settled.set() if row.work else None
    meter.start()
    run = meter.begin(KEY)
    meter.finish(run, 1, 0.001, Method.THREAD)
    assert settled.wait(10)
    meter.close()
    assert run.settled is not None
    assert bench.rows == []
    lines = next((tmp_path / "real").glob(f"*{SUFFIX}")).read_text().splitlines()
    assert json.loads(lines[0])["row"] == "meter"


def test_a_source_slower_than_the_window_makes_longer_windows_and_no_false_zero(
    tmp_path: Path,
) -> None:
    """A plug asked every 5 s says its last value again, with its own time, until the next."""
    bench = Bench(tmp_path)
    said = [bench.clock.now, 0.0]
    bench.sensor.read = lambda: [Reading("host", int(said[0]), said[1])]  # type: ignore[method-assign]  # a slow plug
    for second in range(1, 21):
        bench.clock.now += 1_000_000_000
        if second % 5 == 0:
            said[:] = [bench.clock.now, said[1] + 50.0]
        bench.meter.turn()
    assert [row.joules for row in bench.rows] == pytest.approx([50.0] * 4)
    assert min(row.seconds for row in bench.rows) >= 4.0


def test_a_source_that_raises_is_asked_again_in_its_own_time(tmp_path: Path) -> None:
    """A failed window stays open; without a pause the thread would spin."""
    bench = Bench(tmp_path)
    asked = []

    def broken() -> list[Reading]:
        asked.append(bench.clock.now)
        if len(asked) == 5:
            bench.meter._stop.set()
        raise RuntimeError("a driver's mistake")

    bench.sensor.read = broken  # type: ignore[method-assign]  # the point
    bench.clock.now += 60_000_000_000
    bench.meter._run()
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert min(gaps) >= 1_000_000_000
