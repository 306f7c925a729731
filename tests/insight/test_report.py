"""`setsuden report`: every joule of the rows once, with its bounds, and what is unknown named."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from math import fsum, isclose
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import rows as make
from tests.support.command import Command

from setsuden.energy.attribution.intervals import WINDOW_FACTOR, RelativeError
from setsuden.insight.report.assumptions import Declarations, read_declared
from setsuden.insight.report.build import read_run, report_of
from setsuden.insight.report.figures.counterfactual import Multiple, Term, difference_of, verdict_of
from setsuden.insight.report.figures.timeline import step_of
from setsuden.insight.report.model import Amount, Difference, Part, Report, Verdict
from setsuden.insight.report.render.terminal import text
from setsuden.insight.report.rows.read import RowsError, TimeRange
from setsuden.insight.report.rows.sums import ExactSum
from setsuden.schemas.energy import Method, Quality, Source
from setsuden.schemas.windows import Access, Component, Counts, MeterRow, WindowRow

EVERYTHING = TimeRange()
PARTS = list(Part)


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def reported(
    folder: Path, declared: Declarations | None = None, span: TimeRange = EVERYTHING
) -> Report:
    return report_of(read_run([folder], declared or Declarations(), span))


def of(report: Report, part: Part) -> Any:
    return report.components[PARTS.index(part)]


def one_device(folder: Path, meter: MeterRow, windows: Sequence[WindowRow]) -> Report:
    make.write(folder, meter, windows)
    return reported(folder)


# -- sums -------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e12, 1e12, allow_subnormal=True), max_size=2000))
@settings(max_examples=40, deadline=None)
def test_a_sum_is_exact_whatever_the_order_and_the_number_of_parts(values: list[float]) -> None:
    forward, backward = ExactSum(), ExactSum()
    for value in values:
        forward.add(value)
    for value in reversed(values):
        backward.add(value)
    assert forward.value == backward.value == fsum(values)


loads = st.tuples(
    st.none() | st.floats(0, 100),  # joules
    st.floats(0, 30),  # idle watts
    st.floats(0, 4),  # busy
    st.floats(0, 4),  # process
    st.floats(0, 3),  # runs
    st.integers(0, 50),  # local
    st.integers(0, 20),  # escalated and answered by the cloud
)


def windows_of(meter: MeterRow, drawn: Sequence[tuple[Any, ...]]) -> list[WindowRow]:
    return [
        make.window(
            meter,
            place,
            make.work(local + sent, cpu),
            joules=joules,
            idle_watts=idle,
            busy=busy,
            process=process,
            counts=Counts(local=local, cloud=sent, escalated=sent, bytes_up=sent * 900),
        )
        for place, (joules, idle, busy, process, cpu, local, sent) in enumerate(drawn)
    ]


@given(st.lists(loads, min_size=1, max_size=12), st.lists(loads, min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_parts_add_up_to_components_and_components_to_the_headline(
    edge: list[tuple[Any, ...]], cloud: list[tuple[Any, ...]]
) -> None:
    device, worker = make.meter(), make.meter(Component.CLOUD, "w", access=Access.LAN)
    with tempfile.TemporaryDirectory() as name:
        make.write(Path(name), device, windows_of(device, edge))
        make.write(Path(name), worker, windows_of(worker, cloud))
        report = reported(Path(name))
    for component in report.components:
        if component.whole.total.joules is None or component.dynamic is None:
            continue
        cells = (component.dynamic, component.idle, component.overhead)
        parts = [cell.total.joules or 0.0 for cell in cells if cell is not None]
        assert isclose(fsum(parts), component.whole.total.joules, rel_tol=1e-9, abs_tol=1e-12)
    known = [c.whole.total.joules for c in report.components if c.whole.total.joules is not None]
    assert (report.whole.total.joules or 0.0) == pytest.approx(fsum(known), rel=1e-12)
    by_hour = fsum(hour.joules or 0.0 for hour in report.hours)
    assert by_hour == pytest.approx(fsum(known), rel=1e-9)
    for machine in report.machines:
        if machine.joules is not None and machine.ours is not None:
            assert machine.ours <= machine.joules * (1 + 1e-9) + 1e-12
            assert machine.other == pytest.approx(machine.joules - machine.ours, abs=1e-6)


@given(st.lists(loads, min_size=1, max_size=20), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_splitting_the_rows_over_files_changes_nothing(
    drawn: list[tuple[Any, ...]], every: int
) -> None:
    device = make.meter()
    run = make.Scene({device: windows_of(device, drawn)})
    with tempfile.TemporaryDirectory() as name:
        whole = reported(run.write(Path(name) / "a" / "run"))
        parts = reported(run.split(Path(name) / "b" / "run", every))
    assert parts == whole


def test_two_folders_of_one_run_are_what_one_folder_is(tmp_path: Path) -> None:
    whole = reported(make.cascade().write(tmp_path / "run"))
    run = make.cascade().write(tmp_path / "parts" / "run")
    tiers = [run / "edge", run / "broker", run / "cloud", run / "edge" / "dev-1"]
    parts = report_of(read_run(tiers, Declarations(), EVERYTHING))
    assert parts.model_copy(update={"name": "run"}) == whole


def test_an_exact_scene_gives_exact_joules(tmp_path: Path) -> None:
    report = reported(make.cascade().write(tmp_path))
    edge = of(report, Part.EDGE)
    # A second of a device: 10 J, 4 of them idle; of the 6 others 0.4/1.0 runs, 0.4/1.0 overhead.
    assert edge.dynamic.total.joules == pytest.approx(2 * 10 * 2.4)
    assert edge.idle.total.joules == pytest.approx(2 * 10 * 4)
    assert edge.overhead.total.joules == pytest.approx(2 * 10 * 2.4)
    assert edge.other.joules == pytest.approx(2 * 10 * 1.2)
    assert edge.idle_unused.joules == pytest.approx(2 * 10 * 4 * 0.6)
    assert report.inferences == 2000
    assert edge.whole.per_1000.joules == pytest.approx(176 / 2)
    assert report.escalation_rate == pytest.approx(0.1)


def test_what_others_used_is_shown_and_in_no_total(tmp_path: Path) -> None:
    device = make.meter()
    busy = one_device(tmp_path / "a", device, make.device(device, busy=4.0, joules=10.0))
    edge = of(busy, Part.EDGE)
    assert edge.other.joules > 0
    assert edge.whole.total.joules + edge.other.joules == pytest.approx(100.0)


# -- bounds -----------------------------------------------------------------------------------


def test_of_a_machine_that_is_all_ours_the_sum_is_as_good_as_its_sensor(tmp_path: Path) -> None:
    device = make.meter()
    report = one_device(tmp_path, device, make.device(device, busy=0.8, process=0.8))
    whole = of(report, Part.EDGE).whole.total
    assert whole.high / whole.joules == pytest.approx(1.1)
    assert whole.joules / whole.low == pytest.approx(1.1)


def test_on_a_shared_machine_the_share_has_an_error_of_its_own(tmp_path: Path) -> None:
    device = make.meter(reserved_share=0.0)
    report = one_device(tmp_path, device, make.device(device, busy=4.0, process=0.8))
    whole = of(report, Part.EDGE).whole.total
    at_least = RelativeError.of(WINDOW_FACTOR).factor ** 0.8
    assert whole.high / whole.joules > max(1.1, at_least)


def test_the_whole_is_known_no_worse_than_its_parts_together(tmp_path: Path) -> None:
    report = reported(make.cascade().write(tmp_path))
    for part in (Part.EDGE, Part.BROKER, Part.CLOUD):
        component = of(report, part)
        cells = (component.dynamic.total, component.idle.total, component.overhead.total)
        assert component.whole.total.low >= fsum(cell.low for cell in cells) - 1e-9
        assert component.whole.total.high <= fsum(cell.high for cell in cells) + 1e-9


def test_a_shared_pool_widens_the_dynamic_part_alone(tmp_path: Path) -> None:
    device = make.meter()

    def report(name: str, method: Method) -> Any:
        runs = make.work(100, 0.4, method=method)
        rows = [make.window(device, 0, runs, counts=Counts(local=100))]
        return of(one_device(tmp_path / name, device, rows), Part.EDGE)

    sure, pool = report("a", Method.EXCLUSIVE), report("b", Method.SHARED_POOL)
    assert pool.dynamic.total.high > sure.dynamic.total.high
    assert pool.idle == sure.idle
    assert pool.whole == sure.whole


def test_bounds_of_different_meters_add_and_do_not_average(tmp_path: Path) -> None:
    report = reported(make.cascade().write(tmp_path))
    known = [c.whole.total for c in report.components]
    assert report.whole.total.low == pytest.approx(fsum(amount.low or 0 for amount in known))
    assert report.whole.total.high == pytest.approx(fsum(amount.high or 0 for amount in known))


# -- what is unknown --------------------------------------------------------------------------


def test_a_window_without_joules_makes_the_total_a_lower_bound(tmp_path: Path) -> None:
    device = make.meter()
    rows = make.device(device)
    lost = make.window(device, 10, make.work(100, 0.4), joules=None, counts=Counts(local=100))
    report = one_device(tmp_path, device, [*rows, lost])
    edge = of(report, Part.EDGE)
    assert not edge.whole.total.complete
    assert not report.whole.total.complete
    assert edge.whole.total.joules == pytest.approx(88.0)
    assert edge.unknown_seconds == pytest.approx(1.0)
    assert edge.cpu_seconds == pytest.approx(8.8)
    assert report.coverage.unknown_seconds_share == pytest.approx(1 / 11)
    assert report.coverage.unknown[0] == "edge: 1 of 11 s without joules"
    assert report.meters[0].unknown_windows == 1


def test_a_meter_without_any_source_has_unknown_joules_and_known_cpu_seconds(
    tmp_path: Path,
) -> None:
    device = make.silent(access=Access.LAN)
    report = one_device(tmp_path, device, make.device(device, joules=None, idle_watts=None))
    edge = of(report, Part.EDGE)
    assert edge.whole.total == Amount(complete=False)
    assert edge.cpu_seconds_per_1000 == pytest.approx(8.0)
    assert report.coverage.measured is None
    assert report.sci.grams is None
    assert "unknown" in text(report)


def test_escalations_without_rows_of_the_cloud_make_the_headline_incomplete(
    tmp_path: Path,
) -> None:
    device = make.meter()
    report = one_device(tmp_path, device, make.device(device))
    assert of(report, Part.CLOUD).whole.total == Amount(complete=False)
    assert not report.whole.total.complete
    assert report.coverage.unknown == (
        "broker: no rows in the run",
        "cloud: no rows in the run",
    )
    assert report.all_cloud.verdict is Verdict.CANNOT_TELL
    assert report.all_cloud.difference is not None
    assert report.all_cloud.difference.high is None


def test_a_device_alone_that_escalates_nothing_is_complete(tmp_path: Path) -> None:
    device = make.meter()
    rows = [make.window(device, 0, make.work(9, 0.4), counts=Counts(local=9))]
    report = one_device(tmp_path, device, rows)
    assert report.whole.total.complete
    assert report.coverage.unknown == ()
    assert report.all_cloud.reason == "nothing was escalated: the run has no joules of it"
    assert report.all_edge.verdict is Verdict.CANNOT_TELL
    assert report.all_edge.difference is not None
    assert report.all_edge.difference.joules == pytest.approx(0.0)


def test_rows_without_a_final_event_have_totals_and_no_figure_per_1000(tmp_path: Path) -> None:
    worker = make.meter(Component.CLOUD, "w")
    report = one_device(tmp_path, worker, make.worker(worker))
    assert report.inferences == 0
    assert report.whole.per_1000 is None
    assert report.sci.grams is None
    assert of(report, Part.CLOUD).whole.total.joules == pytest.approx(520.0)
    assert "energy of the run" in text(report)


def test_the_worst_quality_labels_the_figure_and_the_meter_counts_it(tmp_path: Path) -> None:
    device = make.meter()
    rows = make.device(device)
    rows[3] = rows[3].model_copy(update={"quality": Quality.DEGRADED})
    report = one_device(tmp_path, device, rows)
    assert of(report, Part.EDGE).whole.total.quality is Quality.DEGRADED
    assert report.meters[0].degraded_windows == 1


def test_a_gap_between_windows_is_counted(tmp_path: Path) -> None:
    device = make.meter()
    rows = make.device(device)
    report = one_device(tmp_path, device, [*rows[:3], *rows[7:]])
    assert report.meters[0].gap_seconds == pytest.approx(4.0)


def test_two_meters_of_one_machine_do_not_count_it_twice(tmp_path: Path) -> None:
    first = make.meter(host_id="one", reserved_share=0.5)
    second = make.meter(Component.CLOUD, "w", host_id="one", reserved_share=0.5)
    same: dict[str, Any] = {"joules": 10.0, "idle_watts": 4.0, "busy": 2.0, "process": 1.0}
    make.write(tmp_path, first, make.device(first, **same))
    make.write(tmp_path, second, make.worker(second, **same))
    (machine,) = reported(tmp_path).machines
    assert machine.joules == pytest.approx(100.0)
    assert machine.ours == pytest.approx(100.0)
    assert machine.other == pytest.approx(0.0, abs=1e-9)


def test_utilisation_counts_a_machine_once_however_many_processes_it_runs(tmp_path: Path) -> None:
    first = make.meter(Component.CLOUD, "worker-0", host_id="one", reserved_share=1.0)
    side = make.meter(Component.CLOUD, "ray", host_id="one", reserved_share=0.0)
    same: dict[str, Any] = {"joules": 60.0, "idle_watts": 20.0, "busy": 3.0}
    make.write(tmp_path, first, make.worker(first, **same))
    make.write(tmp_path, side, [make.window(side, n, process=0.4, **same) for n in range(10)])
    cloud = of(reported(tmp_path), Part.CLOUD)
    assert cloud.utilisation.machine == pytest.approx(3.0 / 4)
    assert cloud.utilisation.ours == pytest.approx(2.0 / 4)
    assert cloud.utilisation.inference == pytest.approx(1.5 / 4)


def test_meters_that_claim_more_than_their_machine_used_are_not_hidden(tmp_path: Path) -> None:
    first = make.meter(host_id="one")
    second = make.meter(Component.CLOUD, "w", host_id="one")
    make.write(tmp_path, first, make.device(first))
    make.write(tmp_path, second, make.device(second))
    (machine,) = reported(tmp_path).machines
    assert machine.ours is not None
    assert machine.joules is not None
    assert machine.ours > machine.joules
    assert machine.other is None


def test_shares_of_coverage_sum_to_one(tmp_path: Path) -> None:
    devices = make.cascade(source=Source.TABLE_MODEL)
    coverage = reported(devices.write(tmp_path)).coverage
    assert coverage.measured is not None
    assert coverage.modelled is not None
    assert coverage.measured + coverage.modelled == pytest.approx(1.0)
    assert fsum(coverage.by_source.values()) == pytest.approx(1.0)
    assert set(coverage.by_source) == {Source.MEASURED, Source.TABLE_MODEL}


# -- the network ------------------------------------------------------------------------------


def test_bytes_and_headers_times_the_rate_of_the_access(tmp_path: Path) -> None:
    report = reported(make.cascade().write(tmp_path))
    wire = 2 * 10 * (100_000 + 8_000 + 40 * 120)
    joules = wire / 1e9 * 0.0065 * 3.6e6
    network = of(report, Part.NETWORK).whole.total
    assert network.joules == pytest.approx(joules)
    assert network.high == pytest.approx(joules * 0.06 / 0.0065)
    assert network.source is Source.TABLE_MODEL


@pytest.mark.parametrize("access", [Access.LOOPBACK, Access.LAN])
def test_a_near_network_is_left_out_and_named(tmp_path: Path, access: Access) -> None:
    report = reported(make.cascade(access=access).write(tmp_path))
    network = of(report, Part.NETWORK)
    assert network.whole.total == Amount()
    assert "no figure exists" in network.note
    assert report.whole.total.complete
    assert f"network ({network.note})" in report.boundary


def test_an_undeclared_access_is_unknown_and_makes_the_total_incomplete(tmp_path: Path) -> None:
    report = reported(make.cascade(access=Access.UNDECLARED).write(tmp_path))
    assert of(report, Part.NETWORK).whole.total == Amount(complete=False)
    assert not report.whole.total.complete
    assert report.all_cloud.verdict is Verdict.SAVES, "an unknown network can only add to it"
    assert report.all_cloud.difference is not None
    assert report.all_cloud.difference.high is None


def test_the_brokers_side_of_the_bytes_is_not_counted_again(tmp_path: Path) -> None:
    server = make.meter(Component.BROKER, "nats")
    rows = [make.window(server, 0, counts=Counts(bytes_up=10**9, packets=1000))]
    report = one_device(tmp_path, server, rows)
    assert of(report, Part.NETWORK).whole.total.joules is None


# -- another way ------------------------------------------------------------------------------


def test_all_edge_is_the_student_and_the_device_alone(tmp_path: Path) -> None:
    other = reported(make.cascade().write(tmp_path)).all_edge
    assert set(other.by_component) == {Part.EDGE}
    assert other.per_1000 is not None
    assert other.per_1000.joules == pytest.approx(88.0)
    assert other.difference is not None
    assert other.difference.joules == pytest.approx(88.0 - 424.3952)
    assert other.verdict is Verdict.COSTS
    assert other.bytes_per_1000 == 0


def test_all_cloud_multiplies_what_an_escalation_costs_and_drops_the_student(
    tmp_path: Path,
) -> None:
    report = reported(make.cascade().write(tmp_path))
    other = report.all_cloud
    assert other.per_1000 is not None
    cloud = other.by_component[Part.CLOUD]
    # Per 1,000: 150 J dynamic times 10, 100 J idle, 10 J overhead once to 10 times.
    assert cloud.joules == pytest.approx(1500 + 100 + 55)
    assert other.by_component[Part.EDGE].joules == pytest.approx(40 + 24)
    assert other.by_component[Part.NETWORK].joules == pytest.approx(263.952)
    assert other.bytes_per_1000 == pytest.approx(10 * 112_800 * 20 / 2)
    assert other.verdict is Verdict.SAVES
    assert other.cpu_seconds_per_1000 == pytest.approx(4 + 5 + 75 + 0.5 * 5.5)


def test_an_incomplete_scenario_may_still_be_sure_on_one_side(tmp_path: Path) -> None:
    device = make.meter()
    report = one_device(tmp_path, device, make.device(device))
    assert report.all_edge.difference is not None
    assert report.all_edge.difference.low is None
    assert report.all_edge.verdict is Verdict.COSTS, "broker and cloud cost something"


bounded = st.tuples(st.floats(0, 1e3), st.floats(1, 5), st.floats(1, 3))
scales = st.tuples(st.floats(0, 20), st.floats(0, 20), st.floats(0, 20)).map(
    lambda drawn: Multiple(*sorted(drawn))
)


@given(st.lists(st.tuples(bounded, scales, st.floats(0, 1), st.floats(0, 1)), max_size=6))
@settings(max_examples=200, deadline=None)
def test_the_difference_holds_whatever_the_coefficients_are_within_their_bounds(
    drawn: list[tuple[tuple[float, float, float], Multiple, float, float]],
) -> None:
    terms, truth, mid = [], [], []
    for (joules, factor, stretch), scale, where, how in drawn:
        amount = Amount(
            joules=joules, low=joules / factor, high=joules * factor, source=Source.MEASURED
        )
        terms.append(Term(Part.CLOUD, amount, scale, stretch))
        low, high = joules / factor, joules * factor * stretch
        real = low + (high - low) * where
        times = scale.low + (scale.high - scale.low) * how
        truth.append((times - 1) * real)
        mid.append((scale.mid - 1) * joules)
    difference = difference_of(terms)
    assert difference.low is not None
    assert difference.high is not None
    slack = 1e-6 * (1 + max((abs(value) for value in truth), default=0))
    assert difference.low - slack <= fsum(truth) <= difference.high + slack
    assert difference.joules == pytest.approx(fsum(mid), abs=1e-6)
    verdict = verdict_of(difference)
    if verdict is Verdict.SAVES:
        assert fsum(truth) > -slack
    if verdict is Verdict.COSTS:
        assert fsum(truth) < slack


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.0, 2.0, Verdict.SAVES),
        (-2.0, -1.0, Verdict.COSTS),
        (-1.0, 1.0, Verdict.CANNOT_TELL),
        (0.0, 1.0, Verdict.CANNOT_TELL),
        (None, 1.0, Verdict.CANNOT_TELL),
        (None, -1.0, Verdict.COSTS),
        (1.0, None, Verdict.SAVES),
        (None, None, Verdict.CANNOT_TELL),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(
    low: float | None, high: float | None, verdict: Verdict
) -> None:
    assert verdict_of(Difference(joules=None, low=low, high=high)) is verdict


# -- time -------------------------------------------------------------------------------------


def test_a_window_over_the_hour_is_split_by_time(tmp_path: Path) -> None:
    device = make.meter()
    before = 3600 - (make.START_NS // make.SECOND) % 3600 - 6
    row = make.window(
        device, before, make.work(8, 0.4), seconds=10.0, joules=50.0, counts=Counts(local=8)
    )
    report = one_device(tmp_path, device, [row])
    first, second = [hour for hour in report.hours if hour.component is Part.EDGE]
    assert [first.seconds, second.seconds] == pytest.approx([6.0, 4.0])
    assert first.joules is not None
    assert second.joules is not None
    assert first.joules / second.joules == pytest.approx(1.5)
    assert first.inferences + second.inferences == pytest.approx(8)
    assert first.hour.endswith("16:00Z")
    assert second.hour.endswith("17:00Z")


@given(st.integers(1, 10**9))
@settings(max_examples=200)
def test_a_curve_has_at_most_300_points(seconds: int) -> None:
    start = make.START_NS
    step = step_of(start, start + seconds * make.SECOND)
    first, last = start // (step * 10**9), (start + seconds * 10**9 - 1) // (step * 10**9)
    assert last - first + 1 <= 300


def test_curves_hold_the_joules_of_their_component(tmp_path: Path) -> None:
    report = reported(make.cascade(seconds=600).write(tmp_path))
    for curve in report.series.curves:
        joules = fsum(watts or 0.0 for watts in curve.watts) * report.series.step_seconds
        assert joules == pytest.approx(of(report, curve.component).whole.total.joules, rel=0.02)
        assert len(curve.watts) <= 300
    assert fsum(report.series.inferences_per_second) * report.series.step_seconds == pytest.approx(
        report.inferences
    )


def test_only_windows_of_the_time_asked_for_count(tmp_path: Path) -> None:
    make.cascade().write(tmp_path)
    since, until = make.START_NS + 2 * make.SECOND, make.START_NS + 5 * make.SECOND
    report = reported(tmp_path, span=TimeRange(since, until))
    assert report.inferences == 600
    assert report.start_ns == since
    assert (report.since_ns, report.until_ns) == (since, until)
    with pytest.raises(RowsError, match="no windows of that time"):
        reported(tmp_path, span=TimeRange(until_ns=make.START_NS))


# -- models -----------------------------------------------------------------------------------


def test_models_share_a_windows_joules_by_cpu_and_open_time(tmp_path: Path) -> None:
    device = make.meter()
    works = (make.work(10, 0.1, idle_seconds=0.3), make.work(5, 0.3, "meter/b", idle_seconds=0.1))
    report = one_device(tmp_path, device, [make.window(device, 0, *works, counts=Counts(local=15))])
    second, first = report.models
    assert (first.model, second.model) == ("meter/student", "meter/b")
    assert second.dynamic.joules == pytest.approx(3 * (first.dynamic.joules or 0))
    assert first.idle.joules == pytest.approx(3 * (second.idle.joules or 0))
    edge = of(report, Part.EDGE)
    dynamic = (first.dynamic.joules or 0) + (second.dynamic.joules or 0)
    assert dynamic == pytest.approx(edge.dynamic.total.joules)
    assert first.cpu_ms_per_item == pytest.approx(10.0)


def test_joules_per_item_leave_out_items_whose_windows_had_none(tmp_path: Path) -> None:
    device = make.meter()
    rows = [
        make.window(device, 0, make.work(10, 0.4), counts=Counts(local=10)),
        make.window(device, 1, make.work(90, 0.4), joules=None, counts=Counts(local=90)),
    ]
    (model,) = one_device(tmp_path, device, rows).models
    assert model.items == 100
    assert model.joules_per_1000_items is not None
    both = (model.dynamic.joules or 0) + (model.idle.joules or 0)
    assert model.joules_per_1000_items.joules == pytest.approx(both * 100)
    assert not model.dynamic.complete


# -- grams and euros --------------------------------------------------------------------------


def declared(folder: Path, toml: str) -> Declarations:
    path = folder / "assumed.toml"
    path.write_text(toml, encoding="utf-8")
    return read_declared(path)


SITE = """
[profiles.lab]
zone = "FR"
pue = 1.5
wue_l_per_kwh = 2.0
lifespan_years = 5.0
source = "the meter room"
retrieved = 2026-11-23

[embodied.lab]
total_kg = 100.0
source = "the maker"
retrieved = 2026-11-23

[prices.lab]
euros_per_kwh = 0.2
source = "the contract"
retrieved = 2026-11-23

[rents.cloud]
euros_per_hour = 0.36
source = "the price list"
retrieved = 2026-11-23

[devices.edge]
euros = 80.0
source = "the invoice"
retrieved = 2026-11-23
"""


def test_grams_are_joules_times_pue_times_the_grid_of_its_year(tmp_path: Path) -> None:
    make.cascade(site="lab").write(tmp_path / "run")
    report = reported(tmp_path / "run", declared(tmp_path, SITE))
    row = report.carbon.rows[0]
    assert (row.component, row.site, row.zone, row.pue) == (Part.EDGE, "lab", "FR", 1.5)
    assert row.year is not None
    assert row.year <= 2025, "the run is of 2025: no later grid is used for it"
    assert row.kwh == pytest.approx(176.0 * 1.5 / 3.6e6)
    assert row.intensity_g_per_kwh is not None
    assert row.operational_g == pytest.approx(176.0 * 1.5 / 3.6e6 * row.intensity_g_per_kwh)
    assert row.water_l == pytest.approx(176.0 / 3.6e6 * 2.0)
    year = 365.25 * 86_400
    assert row.embodied_g == pytest.approx(100_000 * 20 / (5 * year))
    assert any("grid FR" in line for line in report.assumptions)


def test_sci_is_operational_plus_embodied_per_1000_inferences(tmp_path: Path) -> None:
    make.cascade(site="lab").write(tmp_path / "run")
    report = reported(tmp_path / "run", declared(tmp_path, SITE))
    assert report.sci.operational_g is not None
    assert report.sci.embodied_g is not None
    assert report.sci.grams == pytest.approx(report.sci.operational_g + report.sci.embodied_g)
    assert "M of some machines undeclared" in report.sci.boundary
    assert not report.sci.complete


def test_an_undeclared_site_has_no_grams_and_no_euros_not_zero(tmp_path: Path) -> None:
    report = reported(make.cascade(site="undeclared").write(tmp_path))
    row = report.carbon.rows[0]
    assert (row.operational_g, row.embodied_g, row.water_l, row.year) == (None,) * 4
    assert not report.carbon.complete
    assert report.cost.per_1000_eur is None
    assert "grid intensity of edge at site undeclared" in report.carbon.undeclared


def test_a_rent_holds_the_electricity_and_a_device_its_price_over_its_life(
    tmp_path: Path,
) -> None:
    make.cascade(site="lab").write(tmp_path / "run")
    cost = reported(tmp_path / "run", declared(tmp_path, SITE)).cost
    edge, broker, cloud = cost.rows
    assert edge.electricity_eur == pytest.approx(176.0 * 1.5 / 3.6e6 * 0.2)
    assert edge.device_eur == pytest.approx(80 * 20 / (5 * 365.25 * 86_400))
    assert cloud.electricity_eur is None
    assert cloud.instance_eur == pytest.approx(0.36 / 360)
    assert broker.whole_eur is None
    assert not cost.complete
    assert "price of broker: a tariff at site fr-par-2, or a rent" in cost.undeclared
    assert cost.all_edge_per_1000_eur == pytest.approx((edge.whole_eur or 0) / 2)
    assert cost.all_cloud_per_1000_eur is None, "the broker's price is unknown"


def test_what_a_component_says_of_its_site_can_be_overruled(tmp_path: Path) -> None:
    make.cascade(site="undeclared").write(tmp_path / "run")
    declarations = declared(tmp_path, '[site_of]\nedge = "nl-ams-1"\n')
    row = reported(tmp_path / "run", declarations).carbon.rows[0]
    assert (row.site, row.zone) == ("nl-ams-1", "NL")


# -- damaged rows -----------------------------------------------------------------------------


def test_a_torn_last_line_is_left_out_and_counted(tmp_path: Path) -> None:
    device = make.meter()
    path = make.write(tmp_path, device, make.device(device))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    report = reported(tmp_path)
    assert report.rows.torn == 1
    assert report.rows.windows == 9
    assert any("cut off" in line for line in report.assumptions)


def test_a_last_line_that_only_lacks_its_newline_counts(tmp_path: Path) -> None:
    device = make.meter()
    path = make.write(tmp_path, device, make.device(device))
    path.write_bytes(path.read_bytes()[:-1])
    report = reported(tmp_path)
    assert (report.rows.torn, report.rows.windows) == (0, 10)


def test_a_file_cut_off_in_its_meter_row_holds_nothing(tmp_path: Path) -> None:
    device = make.meter()
    make.write(tmp_path, device, make.device(device))
    (tmp_path / "b.rows.jsonl").write_text('{"row":"meter","ver', encoding="utf-8")
    (tmp_path / "c.rows.jsonl").write_text("", encoding="utf-8")
    report = reported(tmp_path)
    assert (report.rows.torn, report.rows.windows) == (1, 10)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{broken", "Invalid JSON"),
        ('{"meter": "edge-dev-1"}', "start_ns: Field required"),
        (
            make.window(make.meter(), 3).model_copy(update={"start_ns": 1 << 63}).model_dump_json(),
            "start_ns: Input should be less than",
        ),
        (
            make.window(make.meter(name="other"), 3).model_dump_json(),
            "a window of edge-other in a file of edge-dev-1",
        ),
        (
            make.window(make.meter(), 0, joules=11.0).model_dump_json(),
            "a second, different window",
        ),
    ],
)
def test_any_other_bad_line_is_reported_with_file_and_line(
    tmp_path: Path, line: str, expected: str
) -> None:
    device = make.meter()
    path = make.write(tmp_path, device, make.device(device))
    path.write_text(f"{path.read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    with pytest.raises(RowsError) as error:
        reported(tmp_path)
    assert f"{path}:12: " in str(error.value)
    assert expected in str(error.value)


def test_a_file_that_begins_with_a_window_is_refused(tmp_path: Path) -> None:
    row = make.window(make.meter(), 0).model_dump_json()
    (tmp_path / "a.rows.jsonl").write_text(f"{row}\n", encoding="utf-8")
    with pytest.raises(RowsError, match=r"a\.rows\.jsonl:1: no meter"):
        reported(tmp_path)


def test_rows_of_a_newer_software_are_refused(tmp_path: Path) -> None:
    device = make.meter(version=2)
    make.write(tmp_path, device, make.device(device))
    with pytest.raises(RowsError, match="rows of version 2"):
        reported(tmp_path)


def test_a_copied_file_counts_once(tmp_path: Path) -> None:
    device = make.meter()
    path = make.write(tmp_path, device, make.device(device))
    (tmp_path / "copy.rows.jsonl").write_bytes(path.read_bytes())
    report = reported(tmp_path)
    assert (report.rows.windows, report.rows.duplicates) == (10, 10)


def test_joules_from_a_meter_without_a_source_are_refused(tmp_path: Path) -> None:
    device = make.silent()
    make.write(tmp_path, device, make.device(device))
    with pytest.raises(RowsError, match="no source of them"):
        reported(tmp_path)


# -- the command ------------------------------------------------------------------------------


def test_the_command_tells_the_table_and_keeps_what_it_stands_on(
    setsuden: Command, tmp_path: Path
) -> None:
    make.cascade().write(tmp_path)
    ended = setsuden("report", tmp_path)
    assert ended.code == 0
    assert "energy per 1,000 inferences, low to high:" in ended.out
    assert "the cascade saves" in ended.out
    assert "the cascade costs more" in ended.out
    assert {path.name for path in tmp_path.glob("*.json")} == {"assumptions.json", "report.json"}
    assert Report.model_validate_json((tmp_path / "report.json").read_bytes()).inferences == 2000


def test_json_is_one_document_that_reads_back(setsuden: Command, tmp_path: Path) -> None:
    make.cascade().write(tmp_path)
    ended = setsuden("report", tmp_path, "--json")
    assert Report.model_validate_json(ended.out) == Report.model_validate(
        json.loads(ended.out), strict=False
    )
    assert ended.json["whole"]["per_1000"]["joules"] == pytest.approx(424.3952)


def test_figures_of_another_number_of_inferences(setsuden: Command, tmp_path: Path) -> None:
    make.cascade().write(tmp_path)
    ended = setsuden("report", tmp_path, "--per", "1")
    assert "energy per 1 inferences" in ended.out
    assert "424 mJ" in ended.out


def test_prices_on_the_command_line_are_kept_for_the_next_report(
    setsuden: Command, tmp_path: Path
) -> None:
    make.cascade().write(tmp_path)
    first = setsuden("report", tmp_path, "--json", "--tariff", "0.2", "--price", "cloud=0.36").json
    again = setsuden("report", tmp_path, "--json").json
    assert first["cost"]["per_1000_eur"] is not None
    assert again == first


def test_energy_report_is_the_same_command(setsuden: Command, tmp_path: Path) -> None:
    make.cascade().write(tmp_path)
    assert setsuden("energy", "report", tmp_path).out == setsuden("report", tmp_path).out


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ((), 1, "no energy rows in"),
        (("--out", "x"), 2, "--out needs --export"),
        (("--json", "--export", "impact"), 2, "cannot both go to standard output"),
        (("--price", "moon=1"), 2, "write one of edge, broker, cloud"),
        (("--price", "cloud=dear"), 2, "is not a price"),
        (("--site-of", "edge=a b"), 2, "is not a site name"),
        (("--since", "yesterday"), 2, "is not a time"),
        (("--since", "2026-01-02", "--until", "2026-01-01"), 2, "must be before"),
        (("--recompute", "--tariff", "1"), 2, "what the kept report was made with"),
        (("--assumptions", "missing.toml"), 78, "cannot read missing.toml"),
    ],
)
def test_wrong_arguments_are_reported_with_their_exit_code(
    setsuden: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, expected: str
) -> None:
    ended = setsuden("report", tmp_path, *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert expected in ended.err


def test_a_missing_folder_is_reported(setsuden: Command, tmp_path: Path) -> None:
    ended = setsuden("report", tmp_path / "gone")
    assert ended.code == 1
    assert "is not a folder" in ended.err


def test_a_misspelt_key_among_the_assumptions_is_reported_with_the_right_one(
    setsuden: Command, tmp_path: Path
) -> None:
    make.cascade().write(tmp_path)
    path = tmp_path / "a.toml"
    path.write_text('[site_off]\nedge = "lab"\n', encoding="utf-8")
    ended = setsuden("report", tmp_path, "--assumptions", path)
    assert ended.code == 78
    assert "did you mean 'site_of'?" in ended.err


def test_names_from_rows_do_not_steer_the_terminal(setsuden: Command, tmp_path: Path) -> None:
    device = make.meter()
    rows = [make.window(device, 0, make.work(1, 0.1, "\x1b[2Jx"), counts=Counts(local=1))]
    make.write(tmp_path, device, rows)
    assert "\x1b" not in setsuden("report", tmp_path).out
