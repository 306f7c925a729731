"""Every joule of a window ends in one bucket, and in the right one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from math import fsum
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setsuden.energy.attribution.attribute import (
    Attribution,
    HostWindow,
    ProcessUse,
    RunUse,
    attribute,
    buckets,
    open_seconds,
)

CLOSE = 1e-9


def some(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


exponents = st.one_of(st.just(1.0), some(0.2, 1.0))
windows = st.builds(HostWindow, some(0.05, 60), some(0, 1e4), some(0, 500), some(0, 500), exponents)
processes = st.builds(ProcessUse, some(0, 500), some(0, 1))


@st.composite
def runs_in(draw: st.DrawFn, seconds: float) -> RunUse:
    opened, closed = sorted(draw(st.tuples(some(0, seconds), some(0, seconds))))
    return RunUse(draw(some(0, 20)), opened, closed)


@st.composite
def cases(draw: st.DrawFn) -> tuple[HostWindow, ProcessUse, list[RunUse]]:
    window = draw(windows)
    return window, draw(processes), draw(st.lists(runs_in(window.seconds), max_size=12))


def attributed(window: HostWindow, process: ProcessUse, runs: Sequence[RunUse]) -> Attribution:
    found = attribute(window, process, runs)
    assert found is not None
    return found


def near(first: float, second: float, joules: float) -> bool:
    return abs(first - second) <= CLOSE * max(joules, 1e-12)


@given(cases())
def test_buckets_sum_to_the_windows_joules(
    case: tuple[HostWindow, ProcessUse, list[RunUse]],
) -> None:
    window = case[0]
    assert window.joules is not None
    assert near(fsum(attributed(*case).buckets), window.joules, window.joules)


@given(cases())
def test_no_bucket_and_no_share_is_negative(
    case: tuple[HostWindow, ProcessUse, list[RunUse]],
) -> None:
    found = attributed(*case)
    assert min(found.buckets) >= 0
    assert all(part >= 0 for share in found.shares for part in share)


@given(cases())
def test_shares_sum_to_the_requests_buckets(
    case: tuple[HostWindow, ProcessUse, list[RunUse]],
) -> None:
    found = attributed(*case)
    joules = case[0].joules or 0.0
    assert near(fsum(s.idle for s in found.shares), found.buckets.request_idle, joules)
    if fsum(run.cpu_seconds for run in case[2]) > 0:
        dynamic = fsum(share.dynamic for share in found.shares)
        assert near(dynamic, found.buckets.request_dynamic, joules)


@given(windows, processes)
def test_without_runs_nothing_goes_to_requests(window: HostWindow, process: ProcessUse) -> None:
    found = attributed(window, process, [])
    assert found.shares == ()
    assert found.buckets.request_dynamic == found.buckets.request_idle == 0


@given(cases())
def test_the_sums_alone_give_the_same_buckets(
    case: tuple[HostWindow, ProcessUse, list[RunUse]],
) -> None:
    """What an auditor computes from a row of the journal."""
    window, process, runs = case
    found = attributed(window, process, runs)
    cpu = fsum(run.cpu_seconds for run in runs)
    assert buckets(window, process, cpu, fsum(found.idle_seconds)) == found.buckets


@given(cases(), some(0.01, 0.99))
def test_a_run_split_in_two_uses_what_it_used_whole(
    case: tuple[HostWindow, ProcessUse, list[RunUse]], at: float
) -> None:
    """One after the other, the CPU time split in any way: nobody's joules change."""
    window, process, runs = case
    if not runs:
        return
    first = runs[0]
    middle = first.opened + (first.closed - first.opened) * at
    parts = [
        RunUse(first.cpu_seconds * at, first.opened, middle),
        RunUse(first.cpu_seconds * (1 - at), middle, first.closed),
    ]
    whole, split = attributed(*case), attributed(window, process, [*parts, *runs[1:]])
    joules = window.joules or 0.0
    for one, other in zip(whole.buckets, split.buckets, strict=True):
        assert near(one, other, joules)
    halves = fsum(part for share in split.shares[:2] for part in share)
    assert near(fsum(whole.shares[0]), halves, joules)


@given(cases(), st.randoms())
def test_the_order_of_runs_changes_nothing(
    case: tuple[HostWindow, ProcessUse, list[RunUse]], random: Random
) -> None:
    window, process, runs = case
    places = list(range(len(runs)))
    random.shuffle(places)
    straight = attributed(window, process, runs)
    shuffled = attributed(window, process, [runs[place] for place in places])
    for position, place in enumerate(places):
        for part in (0, 1):
            one, other = straight.shares[place][part], shuffled.shares[position][part]
            assert near(one, other, window.joules or 0.0)


@given(cases(), some(0, 1))
def test_a_run_that_used_nothing_changes_nobodys_joules(
    case: tuple[HostWindow, ProcessUse, list[RunUse]], part: float
) -> None:
    window, process, runs = case
    moment = window.seconds * part
    with_it = attributed(window, process, [*runs, RunUse(0.0, moment, moment)])
    assert with_it.shares[-1] == (0.0, 0.0)
    for one, other in zip(with_it.buckets, attributed(*case).buckets, strict=True):
        assert near(one, other, window.joules or 0.0)


@given(cases(), some(1.0, 100.0))
def test_a_batch_weighs_its_items_and_its_scale_does_not_matter(
    case: tuple[HostWindow, ProcessUse, list[RunUse]], scale: float
) -> None:
    """Weights are CPU-seconds: the same unit on all sides changes no joule."""
    window, process, runs = case
    scaled = [run._replace(cpu_seconds=run.cpu_seconds * scale) for run in runs]
    bigger = window._replace(busy_cpu_seconds=window.busy_cpu_seconds * scale)
    more = process._replace(cpu_seconds=process.cpu_seconds * scale)
    one, other = attributed(*case), attributed(bigger, more, scaled)
    for first, second in zip(one.buckets, other.buckets, strict=True):
        assert abs(first - second) <= 1e-7 * max(window.joules or 0.0, 1e-12)


@given(processes, st.lists(runs_in(1.0), max_size=3), exponents)
def test_unknown_joules_stay_unknown(
    process: ProcessUse, runs: list[RunUse], exponent: float
) -> None:
    """A failed read is neither 0 J nor a wrap of the counter."""
    window = HostWindow(1.0, None, 2.0, 0.5, exponent)
    assert attribute(window, process, runs) is None
    assert buckets(window, process, 0.1, 0.1) is None


@given(st.lists(runs_in(1.0), max_size=20))
def test_open_time_is_the_union_of_the_runs_shared_among_them(runs: list[RunUse]) -> None:
    seconds = open_seconds(runs)
    points = sorted({moment for run in runs for moment in (run.opened, run.closed)})
    expected = [0.0] * len(runs)
    for begin, end in pairwise(points):
        inside = [i for i, run in enumerate(runs) if run.opened <= begin and run.closed >= end]
        for place in inside:
            expected[place] += (end - begin) / len(inside)
    assert seconds == pytest.approx(expected, abs=1e-12)


def test_two_runs_share_the_time_in_which_both_are_open() -> None:
    runs = [RunUse(0.1, 0.0, 0.6), RunUse(0.1, 0.4, 1.0)]
    assert open_seconds(runs) == pytest.approx([0.5, 0.5])


def test_idle_is_the_baseline_at_every_load_and_no_residual_of_utilisation() -> None:
    """Kepler takes idle as what utilisation leaves: 0 at full load."""
    runs = [RunUse(1.0, 0.0, 1.0)]
    for busy in (1.0, 2.0, 4.0):
        found = attributed(HostWindow(1.0, 10.0, 3.0, busy), ProcessUse(1.0, 1.0), runs)
        assert found.buckets.request_idle == pytest.approx(3.0)
        assert found.buckets.request_dynamic == pytest.approx(7.0 / busy)


def test_a_process_never_gets_more_than_the_node_used() -> None:
    """Kepler #1836: pods that together exceed the node. Here /proc/stat lags by a tick."""
    window = HostWindow(0.1, 1.0, 3.0, busy_cpu_seconds=0.02)
    found = attributed(window, ProcessUse(0.029, 1.0), [RunUse(0.035, 0.0, 0.04)])
    assert fsum(found.buckets) == pytest.approx(1.0, rel=CLOSE)
    assert found.buckets.other == pytest.approx(0.0, abs=1e-12)
    assert found.buckets.overhead == 0


def test_a_host_whose_ticks_lag_was_as_busy_as_its_process() -> None:
    window = HostWindow(0.1, 3.0, 0.0, busy_cpu_seconds=0.02)
    found = attributed(window, ProcessUse(0.03, 1.0), [RunUse(0.01, 0.0, 0.01)])
    assert found.buckets == pytest.approx((1.0, 0.0, 2.0, 0.0, 0.0))


def test_dynamic_joules_go_by_cpu_seconds_to_runs_process_and_others() -> None:
    window = HostWindow(1.0, 8.0, 0.0, busy_cpu_seconds=4.0)
    found = attributed(window, ProcessUse(1.0, 1.0), [RunUse(0.5, 0.0, 0.5)])
    assert found.buckets == pytest.approx((1.0, 0.0, 1.0, 0.0, 6.0))


def test_only_our_part_of_the_machine_is_ours() -> None:
    """CodeCarbon's process mode gives RAPL of the whole machine to one process."""
    found = attributed(HostWindow(1.0, 10.0, 2.0, 4.0), ProcessUse(1.0, 0.25), [])
    assert found.buckets.overhead == pytest.approx(2.0)
    assert found.buckets.idle_unused == pytest.approx(0.5)
    assert found.buckets.other == pytest.approx(7.5)


def test_a_quiet_machines_joules_are_idle_and_not_shared_by_cpu() -> None:
    """Below the baseline everything is idle: no dynamic joule is made up."""
    found = attributed(HostWindow(1.0, 1.5, 2.0, 0.5), ProcessUse(0.5, 1.0), [RunUse(0.5, 0, 0.5)])
    assert found.buckets == pytest.approx((0.0, 0.75, 0.0, 0.75, 0.0))


def test_a_window_in_which_nobody_was_busy_gives_its_joules_to_others() -> None:
    """Heat, fans, other hardware: no CPU-second, so no claim of ours beyond the idle share."""
    for exponent in (1.0, 0.5):
        window = HostWindow(1.0, 5.0, 2.0, 0.0, exponent)
        found = attributed(window, ProcessUse(0.0, 0.5), [RunUse(0.0, 0.25, 0.75)])
        assert found.buckets == pytest.approx((0.0, 0.5, 0.0, 0.5, 4.0))


def test_the_runs_of_a_process_are_scaled_down_to_its_cpu_time() -> None:
    """Thread clocks and the process clock are read at different moments."""
    runs = [RunUse(0.3, 0.0, 0.5), RunUse(0.1, 0.5, 1.0)]
    found = attributed(HostWindow(1.0, 8.0, 0.0, 0.4), ProcessUse(0.2, 1.0), runs)
    assert [share.dynamic for share in found.shares] == pytest.approx([3.0, 1.0])
    assert found.buckets.overhead == 0


def test_a_run_that_took_no_time_in_the_window_keeps_its_cpu_seconds() -> None:
    found = attributed(
        HostWindow(1.0, 4.0, 1.0, 1.0, 0.5), ProcessUse(0.5, 1.0), [RunUse(0.5, 0.3, 0.3)]
    )
    assert found.shares[0] == pytest.approx((1.5, 0.0))


def test_the_calibrated_curve_undoes_the_dear_joules_of_lightly_loaded_time() -> None:
    """A run of 1 core in 4 for a quarter of the time, neighbours steady at 0.8 cores."""
    bend, watts = 0.55, 4.3
    alone, loaded = (watts * (cores / 4) ** bend for cores in (0.8, 1.8))
    joules = 0.75 * alone + 0.25 * loaded
    true = 0.25 * loaded / 1.8
    runs = [RunUse(0.25, 0.1, 0.35)]
    plain = attributed(HostWindow(1.0, joules, 0.0, 1.05), ProcessUse(0.25, 1.0), runs)
    bent = attributed(HostWindow(1.0, joules, 0.0, 1.05, bend), ProcessUse(0.25, 1.0), runs)
    assert bent.shares[0].dynamic == pytest.approx(true)
    assert plain.shares[0].dynamic == pytest.approx(1.25 * true, rel=0.02)


@given(cases())
def test_an_exponent_of_one_shares_by_cpu_seconds_alone(
    case: tuple[HostWindow, ProcessUse, list[RunUse]],
) -> None:
    """And an exponent close to it differs little: the curve is a refinement, no other method."""
    window, process, runs = case
    by_cpu = attributed(window._replace(exponent=1.0), process, runs)
    nearly = attributed(window._replace(exponent=1.0 - 1e-12), process, runs)
    for one, other in zip(by_cpu.buckets, nearly.buckets, strict=True):
        assert abs(one - other) <= 1e-6 * max(window.joules or 0.0, 1e-12)


def test_attributing_a_run_takes_less_than_ten_microseconds() -> None:
    runs = [RunUse(0.004, 0.009 * place, 0.009 * place + 0.02) for place in range(100)]
    window, process = HostWindow(1.0, 5.0, 2.7, 1.2, 0.55), ProcessUse(0.5, 1.0)
    taken = []
    for _ in range(20):
        began = time.thread_time_ns()
        attribute(window, process, runs)
        taken.append(time.thread_time_ns() - began)
    assert min(taken) / 1e3 / len(runs) < 10
