"""Runs get the joules of the windows they lie in, wherever the borders fall."""

from __future__ import annotations

from math import fsum, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setsuden.energy.metering.ledger import MeteredRun, RunLedger, WorkKey
from setsuden.energy.metering.provisional import ProvisionalEstimator
from setsuden.energy.metering.settle import ClosedWindow, MeterFacts, settle
from setsuden.schemas.energy import Boundary, Method, Quality, Source
from setsuden.schemas.windows import Counts, WindowRow

KEY = WorkKey("digits", "digits/student", "0" * 64)
FACTS = MeterFacts("edge-1", Source.MEASURED, Boundary.HOST, 1.1, 1.05, 0.5)
SECOND = 1_000_000_000


def window(
    start: float,
    end: float,
    joules: float | None = 10.0,
    *,
    busy: float = 1.0,
    process: float = 0.5,
    quality: Quality = Quality.OK,
    counts: Counts | None = None,
) -> ClosedWindow:
    return ClosedWindow(
        int(start * SECOND),
        int(end * SECOND),
        1_700_000_000 * SECOND + int(start * SECOND),
        joules,
        None if joules is None else 4.0,
        quality,
        busy,
        0.0,
        process,
        counts or Counts(),
    )


class Clock:
    """The ledger's, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ledger = RunLedger(lambda: int(self.now * SECOND))

    def run(self, start: float, end: float, cpu: float, items: int = 1) -> MeteredRun:
        self.now = start
        run = self.ledger.begin(KEY)
        self.now = end
        self.ledger.finish(run, items, cpu, Method.THREAD)
        return run


def buckets(row: WindowRow) -> list[float]:
    parts = (row.request_dynamic, row.request_idle, row.overhead, row.idle_unused, row.other)
    return [part for part in parts if part is not None]


def test_a_run_inside_one_window_is_settled_with_it() -> None:
    clock = Clock()
    run = clock.run(0.2, 0.4, 0.1)
    row = settle(window(0, 1), clock.ledger, FACTS)
    settled = run.settled
    assert settled is not None
    assert settled.joules == pytest.approx(6.0 * 0.1 / 1.0 + 4.0 * 0.5 * 0.2)
    bounds = (settled.joules_low or 0.0, settled.joules or 0.0, settled.joules_high or 0.0)
    assert 0 < bounds[0] < bounds[1] < bounds[2]
    assert (settled.dynamic_joules or 0.0) + (settled.idle_joules or 0.0) == bounds[1]
    assert (settled.source, settled.boundary) == (Source.MEASURED, Boundary.HOST)
    assert fsum(buckets(row)) == pytest.approx(10.0, rel=1e-9)


def test_a_run_over_a_border_is_settled_by_the_later_window_and_has_parts_of_both() -> None:
    clock = Clock()
    run = clock.run(0.5, 1.5, 0.4)
    first = settle(window(0, 1), clock.ledger, FACTS)
    assert run.settled is None
    second = settle(window(1, 2, 30.0), clock.ledger, FACTS)
    assert run.settled is not None
    given_away = fsum(
        (row.request_dynamic or 0.0) + (row.request_idle or 0.0) for row in (first, second)
    )
    assert run.settled.joules == pytest.approx(given_away)
    assert [row.work[0].cpu_seconds for row in (first, second)] == pytest.approx([0.2, 0.2])
    assert [row.work[0].runs for row in (first, second)] == pytest.approx([0.5, 0.5])


def test_a_batch_is_shared_equally_by_its_items() -> None:
    clock = Clock()
    run = clock.run(0.0, 0.5, 0.4, items=4)
    row = settle(window(0, 1), clock.ledger, FACTS)
    assert run.settled is not None
    assert run.settled.method is Method.BATCH_WEIGHTED
    assert run.settled.joules is not None
    assert 4 * run.settled.joules == pytest.approx(sum(buckets(row)[:2]))
    assert run.settled.cpu_seconds == pytest.approx(0.1)


def test_a_window_without_joules_leaves_its_runs_unknown_and_never_zero() -> None:
    clock = Clock()
    run = clock.run(0.5, 1.5, 0.4)
    row = settle(window(0, 1, None), clock.ledger, FACTS)
    assert buckets(row) == []
    settle(window(1, 2), clock.ledger, FACTS)
    assert run.settled is not None
    assert run.settled.joules is None
    assert run.settled.source is Source.NONE
    assert run.settled.cpu_seconds == pytest.approx(0.4)


def test_a_run_that_outlives_its_windows_patience_is_degraded() -> None:
    clock = Clock()
    clock.now = 0.5
    run = clock.ledger.begin(KEY)
    settle(window(0, 1), clock.ledger, FACTS)
    clock.now = 1.5
    clock.ledger.finish(run, 1, 0.4, Method.THREAD)
    settle(window(1, 2), clock.ledger, FACTS)
    assert run.settled is not None
    assert run.settled.quality is Quality.DEGRADED


def test_a_failed_run_is_nobodys_request() -> None:
    clock = Clock()
    run = clock.ledger.begin(KEY)
    clock.ledger.abandon(run)
    row = settle(window(0, 1), clock.ledger, FACTS)
    assert row.request_dynamic == 0
    assert row.request_idle == 0
    assert (row.overhead or 0) > 0


def test_the_worst_window_says_how_good_a_run_is() -> None:
    clock = Clock()
    run = clock.run(0.5, 1.5, 0.4)
    settle(window(0, 1, quality=Quality.DEGRADED), clock.ledger, FACTS)
    settle(window(1, 2), clock.ledger, FACTS)
    assert run.settled is not None
    assert run.settled.quality is Quality.DEGRADED


def test_a_brokers_whole_process_is_spread_over_its_messages() -> None:
    facts = MeterFacts(
        "broker-1",
        Source.MEASURED,
        Boundary.HOST,
        1.1,
        1.05,
        0.0,
        amortised=WorkKey("*", "nats-server", ""),
    )
    row = settle(window(0, 1, counts=Counts(messages=40)), Clock().ledger, facts)
    (work,) = row.work
    assert (work.method, work.items, work.cpu_seconds) == (Method.AMORTISED, 40, 0.5)
    assert row.request_dynamic == pytest.approx(6.0 * 0.5)
    assert row.overhead == pytest.approx(0.0)


runs = st.lists(
    st.tuples(st.floats(0, 5), st.floats(0, 2), st.floats(0, 1), st.integers(1, 8)), max_size=12
)
energies = st.lists(st.floats(0, 1000), min_size=1, max_size=8)


@given(runs, energies)
def test_spans_sum_to_the_request_bucket_whatever_the_borders(
    drawn: list[tuple[float, float, float, int]], joules: list[float]
) -> None:
    clock = Clock()
    made = [clock.run(start, start + long, cpu, items) for start, long, cpu, items in drawn]
    borders = [8.0 * place / len(joules) for place in range(len(joules) + 1)]
    rows = [
        settle(window(start, end, energy, busy=3.0, process=2.0), clock.ledger, FACTS)
        for start, end, energy in zip(borders[:-1], borders[1:], joules, strict=True)
    ]
    for row, energy in zip(rows, joules, strict=True):
        assert all(part >= 0 for part in buckets(row))
        assert isclose(fsum(buckets(row)), energy, rel_tol=1e-9, abs_tol=1e-9)
    in_rows = fsum(fsum(buckets(row)[:2]) for row in rows)
    in_spans = fsum(
        (run.settled.joules or 0.0) * run.items for run in made if run.settled is not None
    )
    assert all(run.settled is not None for run in made)
    assert isclose(in_spans, in_rows, rel_tol=1e-9, abs_tol=1e-9)


# -- provisional ------------------------------------------------------------------------------


def test_without_any_window_and_any_table_the_provisional_reading_is_none() -> None:
    reading = ProvisionalEstimator(None, 0.0, FACTS).reading(Clock().run(0, 1, 0.5), 1)
    assert (reading.joules, reading.source) == (None, Source.NONE)
    assert reading.cpu_seconds == 0.5


def test_a_provisional_reading_follows_the_newest_window() -> None:
    rate = ProvisionalEstimator(2.0, 0.0, FACTS)
    run = Clock().run(0, 1, 0.5)
    assert rate.reading(run, 1).joules == pytest.approx(1.0)
    rate.learn(window(0, 1, 10.0, busy=2.0), FACTS)  # 4 J idle, 6 J for 2 CPU-seconds
    reading = rate.reading(run, 1)
    assert reading.joules == pytest.approx(0.5 * 3.0 + 1.0 * 4.0 * 0.5)
    assert reading.quality is Quality.PROVISIONAL


def test_a_window_in_which_nothing_ran_teaches_no_rate() -> None:
    rate = ProvisionalEstimator(2.0, 0.0, FACTS)
    rate.learn(window(0, 1, 4.0, busy=0.0), FACTS)
    assert rate.reading(Clock().run(0, 0, 0.5), 1).joules == pytest.approx(1.0)


@given(runs, st.floats(0, 1000))
def test_readings_built_without_validation_would_pass_it(
    drawn: list[tuple[float, float, float, int]], joules: float
) -> None:
    clock = Clock()
    made = [clock.run(start, start + long, cpu, items) for start, long, cpu, items in drawn]
    provisional = [ProvisionalEstimator(2.0, 4.0, FACTS).reading(run, run.items) for run in made]
    settle(window(0, 8, joules, busy=3.0, process=2.0), clock.ledger, FACTS)
    settled = [run.settled for run in made if run.settled is not None]
    for reading in [*provisional, *settled]:
        assert type(reading).model_validate(reading.model_dump()) == reading
