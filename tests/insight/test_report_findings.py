"""Findings of a run: each appears on rows that show it, and on no others."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from math import comb, fsum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import rows as make
from tests.support.rows import Scene

from setsuden.insight.report.assumptions import Declarations
from setsuden.insight.report.build import read_run, report_of
from setsuden.insight.report.figures import waste
from setsuden.insight.report.figures.findings import CHANGED_SHARE, RULES, findings, upper_share
from setsuden.insight.report.figures.waste import LEAST_SECONDS
from setsuden.insight.report.model import Finding, Severity
from setsuden.insight.report.rows.read import TimeRange
from setsuden.schemas.energy import Boundary, Method, Quality, Source
from setsuden.schemas.windows import Access, Component, Counts, MeterRow, WindowRow
from setsuden.services.platform_meter import RAY

MINUTE = int(LEAST_SECONDS)


def found_in(folder: Path) -> dict[str, Finding]:
    run = read_run([folder], Declarations(), TimeRange())
    result = findings(report_of(run), run)
    assert findings(report_of(run), run) == result
    assert [finding.severity for finding in result] == sorted(
        (finding.severity for finding in result), key=[*reversed(Severity)].index
    )
    for finding in result:
        assert finding.words
        assert finding.advice
        assert finding.evidence
    return {finding.code: finding for finding in result}


def findings_in(folder: Path, *pairs: tuple[MeterRow, Sequence[WindowRow]]) -> dict[str, Finding]:
    return found_in(Scene({of: list(windows) for of, windows in pairs}).write(folder))


def repeat(of: MeterRow, *works: Any, times: int = MINUTE, **changes: Any) -> list[WindowRow]:
    return [make.window(of, place, *works, **changes) for place in range(times)]


def thread(items: float, cpu_seconds: float, **changes: Any) -> Any:
    return make.work(items, cpu_seconds, method=Method.THREAD, **changes)


def good(seconds: int = MINUTE) -> Scene:
    """A cascade on machines that are calibrated, loaded and declared; the teacher is worth it."""
    device, server = make.meter(), make.meter(Component.BROKER, "nats", access=Access.LAN)
    teacher = make.meter(Component.CLOUD, "worker-0", access=Access.LAN)
    counts = Counts(local=90, cloud=10, escalated=10, changed=4, bytes_up=9000, packets=20)
    return Scene(
        {
            device: repeat(device, thread(100, 0.4), times=seconds, counts=counts),
            server: make.broker(server, seconds, joules=12.0, idle_watts=2.0),
            teacher: make.worker(teacher, seconds),
        }
    )


# -- a good run -----------------------------------------------------------------------------------


def test_a_good_run_has_no_findings(tmp_path: Path) -> None:
    assert found_in(good().write(tmp_path)) == {}


def test_a_few_seconds_say_nothing_of_load_and_power(tmp_path: Path) -> None:
    device = make.meter()
    idle = repeat(device, thread(1, 0.01), times=10, joules=5.0, idle_watts=4.9)
    busy = [row.model_copy(update={"steal_cpu_seconds": 2.0}) for row in idle]
    assert findings_in(tmp_path, (device, busy)) == {}


def test_every_rule_has_a_docstring_and_a_name_of_its_own() -> None:
    names = [rule.__name__ for rule in RULES]
    assert len(set(names)) == len(names)
    assert all(rule.__doc__ for rule in RULES)


# -- idle power -----------------------------------------------------------------------------------


def idle_device(folder: Path, joules: float, **changes: Any) -> dict[str, Finding]:
    device = make.meter(**{"idle_factor": 1.0} | changes)
    windows = repeat(device, thread(1, 0.5), joules=joules, idle_watts=4.0, process=0.5, busy=0.5)
    return findings_in(folder, (device, windows))


@pytest.mark.parametrize(
    ("joules", "severity"),
    [(8.1, None), (8.0, None), (7.9, Severity.INFO), (5.1, Severity.INFO), (5.0, Severity.WARNING)],
)
def test_idle_power_above_dynamic_is_reported_and_four_times_as_much_warned_of(
    tmp_path: Path, joules: float, severity: Severity | None
) -> None:
    finding = idle_device(tmp_path, joules).get("idle_above_dynamic")
    assert (finding and finding.severity) == severity
    if finding:
        assert finding.evidence["idle_joules"] == pytest.approx(240)
        assert finding.evidence["idle_share"] == pytest.approx(4 / joules)
        assert "reserved_share" in finding.advice


@pytest.mark.parametrize(("joules", "expected"), [(5.2, True), (5.4, False)])
def test_idle_power_is_above_dynamic_only_if_a_wrong_baseline_leaves_it_there(
    tmp_path: Path, joules: float, expected: bool
) -> None:
    """4 W known within 1.5 may be 2.67 W: then 1.33 J more are dynamic."""
    codes = idle_device(tmp_path, joules, idle_factor=1.5)
    assert ("idle_above_dynamic" in codes) == expected


def test_idle_replicas_are_reported_with_what_makes_them_fewer(tmp_path: Path) -> None:
    worker = make.meter(Component.CLOUD, "worker-0", host_id="node")
    other = make.meter(Component.CLOUD, "worker-1", host_id="node", reserved_share=0.5)
    halves = worker.model_copy(update={"reserved_share": 0.5})
    pairs = [
        (of, repeat(of, thread(1, 0.1), joules=21.0, idle_watts=20.0)) for of in (halves, other)
    ]
    finding = findings_in(tmp_path, *pairs)["idle_above_dynamic"]
    assert "serve.min_replicas = 0" in finding.advice
    assert "worker-0, worker-1" in finding.words


def test_only_the_idle_machines_are_named(tmp_path: Path) -> None:
    busy = make.meter(name="busy")
    pairs = [(busy, make.device(busy, MINUTE))]
    for number in range(5):
        of = make.meter(name=f"idle-{number}")
        pairs.append((of, repeat(of, thread(1, 0.1), joules=4.1)))
    finding = findings_in(tmp_path, *pairs)["idle_above_dynamic"]
    assert "idle-0, idle-1 and 3 more (5 of 6 machines)" in finding.words
    assert "busy" not in finding.words


def two_on_one(folder: Path, first: float, second: float, **changes: Any) -> dict[str, Finding]:
    pairs = []
    for share, component in ((first, Component.EDGE), (second, Component.CLOUD)):
        of = make.meter(component, component.value, host_id="one", reserved_share=share, **changes)
        pairs.append((of, make.device(of, MINUTE)))
    return findings_in(folder, *pairs)


@pytest.mark.parametrize(("second", "expected"), [(0.54, False), (0.56, True)])
def test_reserved_parts_of_one_machine_above_the_machine_are_warned_of(
    tmp_path: Path, second: float, expected: bool
) -> None:
    finding = two_on_one(tmp_path, 0.5, second).get("idle_claimed_twice")
    assert (finding is not None) == expected
    if finding:
        assert finding.severity is Severity.WARNING
        assert finding.evidence["reserved_share"] == pytest.approx(0.5 + second)


def test_lives_of_a_meter_that_follow_each_other_claim_the_machine_once(tmp_path: Path) -> None:
    first, second = make.meter(), make.meter(meter="edge-dev-1-again")
    later = [
        row.model_copy(update={"start_ns": row.start_ns + MINUTE * make.SECOND})
        for row in repeat(second, thread(100, 0.4))
    ]
    run = Scene({first: repeat(first, thread(100, 0.4))}).write(tmp_path)
    make.write(run, second, later)
    assert "idle_claimed_twice" not in found_in(run)


# -- CPU time outside runs ------------------------------------------------------------------------


def overhead(folder: Path, process: float, runs: float, **changes: Any) -> dict[str, Finding]:
    device = make.meter(**changes)
    windows = repeat(device, thread(20, runs), joules=20.0, process=process, busy=2.0)
    return findings_in(folder, (device, windows))


@pytest.mark.parametrize(
    ("process", "runs", "expected"),
    [
        (0.41, 0.01, True),  # onnxruntime's spinning: 20 ms of 20 a second
        (0.161, 0.01, True),
        (0.159, 0.01, False),  # below the floor
        (0.81, 0.2, True),
        (0.79, 0.2, False),  # below three times the runs
    ],
)
def test_cpu_time_outside_runs_that_dwarfs_them_is_warned_of(
    tmp_path: Path, process: float, runs: float, expected: bool
) -> None:
    finding = overhead(tmp_path, process, runs).get("overhead_above_requests")
    assert (finding is not None) == expected
    if finding:
        assert finding.words.startswith("edge: ")
        assert finding.evidence["cores_busy_outside"] == pytest.approx(process - runs)
        assert finding.evidence["outside_ms_per_item"] == pytest.approx((process - runs) * 50)


def test_busy_waiting_and_work_for_each_event_get_unlike_advice(tmp_path: Path) -> None:
    device = make.meter()
    spinning = repeat(device, thread(20, 0.01), joules=20.0, process=0.5)
    finding = findings_in(tmp_path / "spinning", (device, spinning))["overhead_above_requests"]
    assert "spin" in finding.advice
    tracing = repeat(device, thread(2000, 0.1), joules=20.0, process=0.9)
    finding = findings_in(tmp_path / "tracing", (device, tracing))["overhead_above_requests"]
    assert "traces.easy_share" in finding.advice


def test_ray_is_named_where_it_is_what_is_busy(tmp_path: Path) -> None:
    assert waste.RAY == RAY
    ray = make.meter(Component.CLOUD, RAY, host_id="node", reserved_share=0.0)
    worker = make.meter(Component.CLOUD, "worker-0", host_id="node")
    finding = findings_in(
        tmp_path,
        (ray, repeat(ray, process=0.3)),
        (worker, repeat(worker, thread(10, 0.02), process=0.04)),
    )["overhead_above_requests"]
    assert "`setsuden worker run`" in finding.advice
    assert finding.words.startswith("cloud: ")


def test_overhead_is_found_without_any_joules_and_then_claims_none(tmp_path: Path) -> None:
    device = make.silent()
    windows = repeat(device, thread(20, 0.01), joules=None, idle_watts=None, process=0.5)
    finding = findings_in(tmp_path, (device, windows))["overhead_above_requests"]
    assert "overhead_joules" not in finding.evidence


# -- threads, batches, steal ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "share", "method", "expected"),
    [
        (1, 1.0, Method.EXCLUSIVE, True),
        (4, 0.25, Method.EXCLUSIVE, True),
        (4, 0.5, Method.EXCLUSIVE, False),
        (1, 1.0, Method.THREAD, False),
    ],
)
def test_a_pool_of_threads_on_one_reserved_core_is_warned_of(
    tmp_path: Path, cores: int, share: float, method: Method, expected: bool
) -> None:
    device = make.meter(cores=cores, reserved_share=share)
    windows = repeat(device, make.work(100, 0.4, method=method), joules=20.0)
    finding = findings_in(tmp_path, (device, windows)).get("threads_over_cores")
    assert (finding is not None) == expected
    if finding:
        assert "meter/student" in finding.words
        assert finding.evidence["reserved_cores"] == cores * share


@pytest.mark.parametrize(
    ("items", "runs", "cpu", "process", "expected"),
    [
        (100.0, 100.0, 0.05, 0.9, True),
        (109.0, 100.0, 0.05, 0.9, True),
        (120.0, 100.0, 0.05, 0.9, False),  # batches are made
        (100.0, 100.0, 0.05, 0.4, False),  # nobody waits
        (100.0, 100.0, 0.2, 0.9, False),  # long runs gain nothing
        (1.0, 1.0, 0.0005, 0.9, False),  # too few runs
    ],
)
def test_a_busy_worker_that_runs_short_items_one_by_one_is_warned_of(
    tmp_path: Path, items: float, runs: float, cpu: float, process: float, expected: bool
) -> None:
    worker = make.meter(Component.CLOUD, "worker-0")
    work = make.work(items, cpu, "meter/teacher", method=Method.THREAD, runs=runs)
    windows = repeat(worker, work, joules=60.0, process=process)
    finding = findings_in(tmp_path, (worker, windows)).get("batches_of_one")
    assert (finding is not None) == expected
    if finding:
        assert "worker.max_batch" in finding.advice


@pytest.mark.parametrize(("stolen", "expected"), [(0.19, False), (0.21, True)])
def test_steal_above_a_twentieth_of_the_machine_is_warned_of(
    tmp_path: Path, stolen: float, expected: bool
) -> None:
    device = make.meter(cores=4)
    windows = [
        row.model_copy(update={"steal_cpu_seconds": stolen})
        for row in repeat(device, thread(100, 0.4))
    ]
    finding = findings_in(tmp_path, (device, windows)).get("steal")
    assert (finding is not None) == expected
    if finding:
        assert finding.evidence["steal_share"] == pytest.approx(stolen / 4)


# -- the cascade ----------------------------------------------------------------------------------


def taught(folder: Path, answers: int, changed: int) -> dict[str, Finding]:
    device, teacher = make.meter(), make.meter(Component.CLOUD, "worker-0", access=Access.LAN)
    counts = Counts(local=90, cloud=answers, escalated=answers, changed=changed)
    return findings_in(
        folder,
        (device, [make.window(device, 0, thread(100, 0.4), counts=counts)]),
        (teacher, make.worker(teacher, 1)),
    )


@pytest.mark.parametrize(
    ("answers", "changed", "expected"),
    [
        (5, 0, False),
        (72, 0, False),
        (74, 0, True),
        (74, 1, False),
        (1000, 35, True),
        (1000, 40, False),
        (1000, 500, False),
        (0, 0, False),
    ],
)
def test_a_teacher_that_hardly_changes_an_answer_is_warned_of_by_a_bound(
    tmp_path: Path, answers: int, changed: int, expected: bool
) -> None:
    finding = taught(tmp_path, answers, changed).get("teacher_never_pays")
    assert (finding is not None) == expected
    if finding:
        assert finding.evidence["answers"] == answers
        assert float(finding.evidence["changed_share_upper"]) < CHANGED_SHARE
        each = finding.evidence.get("joules_per_changed_answer")
        assert each == (pytest.approx(52 / changed) if changed else None)


@given(st.integers(20, 400), st.data())
@settings(max_examples=200, deadline=None)
def test_the_bound_is_passed_by_the_true_share_at_most_once_in_20(
    among: int, data: st.DataObject
) -> None:
    """Exactly, by the binomial itself; where a decision is made, far below one half."""
    of = data.draw(st.integers(0, among // 5))
    upper = upper_share(of, among)
    assert of / among < upper < 1
    as_few = fsum(
        comb(among, count) * upper**count * (1 - upper) ** (among - count)
        for count in range(of + 1)
    )
    assert as_few <= 0.05


@given(st.integers(1, 1000), st.data())
@settings(max_examples=50, deadline=None)
def test_more_changes_or_fewer_answers_raise_the_bound(among: int, data: st.DataObject) -> None:
    of = data.draw(st.integers(0, among - 1))
    assert upper_share(of, among) <= upper_share(of + 1, among) <= 1
    assert upper_share(of, among + 1) <= upper_share(of, among)


@pytest.mark.parametrize(("events", "expected"), [(100, True), (99, False)])
def test_a_cascade_that_costs_more_than_the_cloud_alone_is_warned_of(
    tmp_path: Path, events: int, expected: bool
) -> None:
    """A student that takes all the device has, and a teacher that takes next to nothing."""
    device, teacher = make.meter(), make.meter(Component.CLOUD, "worker-0", access=Access.LAN)
    counts = Counts(local=events - 90, cloud=90, escalated=90, changed=50)
    finding = findings_in(
        tmp_path,
        (device, [make.window(device, 0, thread(events, 0.8), joules=90.0, counts=counts)]),
        (
            make.meter(Component.BROKER, "nats", access=Access.LAN),
            make.broker(make.meter(Component.BROKER, "nats", access=Access.LAN), 1, joules=8.1),
        ),
        (teacher, [make.window(teacher, 0, thread(90, 0.01), joules=4.1, process=0.02)]),
    ).get("escalation_costs")
    assert (finding is not None) == expected
    if finding:
        assert float(finding.evidence["joules_more_per_1000_at_least"]) > 0
        assert "gate.threshold = 1" in finding.advice


# -- what the joules are worth --------------------------------------------------------------------


def test_a_meter_without_joules_is_warned_of(tmp_path: Path) -> None:
    device = make.silent()
    windows = repeat(device, thread(10, 0.1), times=3, joules=None, idle_watts=None)
    finding = findings_in(tmp_path, (device, windows))["unknown_joules"]
    assert finding.severity is Severity.WARNING
    assert "`setsuden energy doctor`" in finding.advice
    assert finding.evidence["unknown_share"] == 1.0


def test_escalations_without_the_clouds_rows_are_warned_of(tmp_path: Path) -> None:
    device = make.meter()
    counts = Counts(local=1, cloud=9, escalated=9, changed=9)
    windows = repeat(device, thread(10, 0.1), times=1, joules=20.0, counts=counts)
    finding = findings_in(tmp_path, (device, windows))["unknown_joules"]
    assert "folder of rows" in finding.advice


@pytest.mark.parametrize(("lost", "expected"), [(1, True), (0, False)])
def test_one_unknown_second_in_a_hundred_is_warned_of(
    tmp_path: Path, lost: int, expected: bool
) -> None:
    device = make.meter()
    windows = repeat(device, thread(100, 0.4), times=100, counts=Counts(local=100))[lost:]
    windows += [make.window(device, 100 + place, joules=None) for place in range(lost)]
    assert ("unknown_joules" in findings_in(tmp_path, (device, windows))) == expected


MODEL = {"source": Source.TABLE_MODEL, "boundary": Boundary.WALL_AC, "factor": 3.0}


@pytest.mark.parametrize(
    ("changes", "severity"),
    [
        (MODEL | {"idle_factor": 1.0}, Severity.INFO),
        (MODEL | {"source": Source.DECLARED}, Severity.INFO),
        ({"idle_factor": 1.5}, Severity.WARNING),
        ({"idle_factor": 1.05}, None),
        ({"source": Source.CALIBRATED_MODEL, "factor": 1.35}, None),
    ],
)
def test_uncalibrated_machines_are_reported(
    tmp_path: Path, changes: dict[str, Any], severity: Severity | None
) -> None:
    domain = make.meter().domains[0]
    source = changes.get("source", domain.source)
    row = make.meter(**changes, domains=(domain.model_copy(update={"source": source}),))
    finding = findings_in(tmp_path, (row, make.device(row, 2))).get("uncalibrated")
    assert (finding and finding.severity) == severity
    if finding:
        assert "`setsuden energy calibrate`" in finding.advice
        assert "dev-1" in finding.words


def test_an_unknown_site_is_reported_and_an_unknown_access_warned_of(tmp_path: Path) -> None:
    row = make.meter(site="undeclared", access=Access.UNDECLARED)
    by_code = findings_in(tmp_path, (row, make.device(row, 1)))
    assert by_code["undeclared_site"].severity is Severity.INFO
    assert "--site-of" in by_code["undeclared_site"].advice
    assert by_code["undeclared_access"].severity is Severity.WARNING
    assert "loopback, lan, fixed, mobile" in by_code["undeclared_access"].advice


def test_an_access_matters_only_when_something_was_sent(tmp_path: Path) -> None:
    row = make.meter(access=Access.UNDECLARED)
    windows = repeat(row, thread(10, 0.4), times=1, counts=Counts(local=10))
    assert "undeclared_access" not in findings_in(tmp_path, (row, windows))


@pytest.mark.parametrize(
    ("bad", "windows", "expected"), [(1, 20, True), (1, 21, False), (5, 19, False), (20, 20, True)]
)
def test_a_twentieth_of_the_windows_degraded_is_warned_of(
    tmp_path: Path, bad: int, windows: int, expected: bool
) -> None:
    row = make.meter()
    made = make.device(row, windows - bad)
    made += [
        make.window(row, windows - bad + place, thread(1, 0.1), quality=Quality.DEGRADED)
        for place in range(bad)
    ]
    finding = findings_in(tmp_path, (row, made)).get("degraded_windows")
    assert (finding is not None) == expected
    if finding:
        assert finding.evidence["degraded"] == bad


@pytest.mark.parametrize(("missing", "expected"), [(0, False), (2, True)])
def test_time_without_rows_is_warned_of(tmp_path: Path, missing: int, expected: bool) -> None:
    row = make.meter()
    windows = make.device(row, MINUTE)
    assert (
        "lost_rows" in findings_in(tmp_path, (row, windows[:5] + windows[5 + missing :]))
    ) == expected


# -- whatever the rows ----------------------------------------------------------------------------

loads = st.tuples(
    st.none() | st.floats(0, 100),  # joules
    st.floats(0, 30),  # idle watts
    st.floats(0, 4),  # busy
    st.floats(0, 4),  # process
    st.floats(0, 3),  # CPU of runs
    st.integers(0, 50),  # local
    st.integers(0, 200),  # answered by the cloud
    st.sampled_from(Quality),
)
meters = st.builds(
    make.meter,
    st.sampled_from(Component),
    st.sampled_from(["one", "two", RAY]),
    host_id=st.sampled_from(["here", "there"]),
    site=st.sampled_from(["fr-par-2", "undeclared"]),
    access=st.sampled_from(Access),
    cores=st.integers(1, 8),
    reserved_share=st.floats(0, 1),
    idle_factor=st.none() | st.floats(1, 5),
    source=st.sampled_from([source for source in Source if source is not Source.NONE]),
)


@given(st.lists(st.tuples(meters, st.lists(loads, min_size=1, max_size=6)), max_size=4, min_size=1))
@settings(max_examples=100, deadline=None)
def test_any_rows_give_printable_findings(
    drawn: list[tuple[MeterRow, list[tuple[Any, ...]]]],
) -> None:
    pairs = {}
    for number, (row, windows) in enumerate(drawn):
        of = row.model_copy(update={"meter": f"{row.component}-{number}"})
        pairs[of] = [
            make.window(
                of,
                place * 20,
                make.work(local + sent, cpu),
                joules=joules,
                idle_watts=idle,
                busy=busy,
                process=process,
                seconds=20.0,
                quality=quality,
                counts=Counts(
                    local=local, cloud=sent, escalated=sent, changed=sent // 50, bytes_up=sent
                ),
            )
            for place, (joules, idle, busy, process, cpu, local, sent, quality) in enumerate(
                windows
            )
        ]
    with tempfile.TemporaryDirectory() as name:
        for of, rows in pairs.items():
            make.write(Path(name), of, rows, number=int(of.meter.rpartition("-")[2]))
        for finding in found_in(Path(name)).values():
            assert finding.words.isprintable()
            assert finding.advice.isprintable()
            Finding.model_validate_json(finding.model_dump_json())
