"""Which events are traced: what must be kept is, and the rest can be counted back."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setsuden.edge_agent.sampling import (
    CALLER_EVENTS_PER_SECOND,
    WINDOW,
    Kept,
    Quantiles,
    Sampler,
    known_joules,
)
from setsuden.schemas.decision import Action, Decision, Reason
from setsuden.schemas.energy import EnergyReading, Source
from setsuden.schemas.result import Energy, Result, Status, Timing

AT = datetime(2026, 10, 1, tzinfo=UTC)
ANSWERED = Decision(action=Action.ANSWER, reason=Reason.CONFIDENT)
ESCALATED = Decision(action=Action.ESCALATE, reason=Reason.LOW_CONFIDENCE)
TRACE_IDS = st.integers(1, 2**128 - 1).map(lambda number: f"{number:032x}")


def reading(joules: float | None) -> EnergyReading:
    if joules is None:
        return EnergyReading(cpu_seconds=0.1)
    return EnergyReading(
        joules=joules,
        joules_low=joules,
        joules_high=joules,
        cpu_seconds=0.1,
        source=Source.TABLE_MODEL,
    )


def event(
    trace_id: str = "f" * 32,
    *,
    status: Status = Status.FINAL,
    decision: Decision | None = ANSWERED,
    total_ms: float | None = 3.0,
    edge: EnergyReading | None = None,
    cloud: EnergyReading | None = None,
    pipeline: str = "digits",
) -> Result:
    return Result(
        event_id="d-00000000-1",
        pipeline=pipeline,
        device="d",
        status=status,
        decision=decision,
        timing=Timing(total_ms=total_ms),
        energy=Energy(edge=edge, cloud=cloud),
        trace_id=trace_id,
        at=AT,
    )


# -- what is always kept -------------------------------------------------------------------------


@given(
    trace_id=TRACE_IDS,
    status=st.sampled_from([Status.FINAL, Status.DEAD, Status.EXPIRED]),
    decision=st.sampled_from([ANSWERED, ESCALATED, None]),
    total_ms=st.none() | st.floats(0, 1000),
    energy_class=st.sampled_from(["low", "normal", "high", None]),
    share=st.floats(0, 1),
)
def test_failed_escalated_slow_and_costly_events_are_kept_and_stand_for_themselves(
    trace_id: str,
    status: Status,
    decision: Decision | None,
    total_ms: float | None,
    energy_class: str | None,
    share: float,
) -> None:
    result = event(trace_id, status=status, decision=decision, total_ms=total_ms)
    reasons = {
        "failed": status in {Status.DEAD, Status.EXPIRED},
        "escalated": decision is ESCALATED,
        "slow": (total_ms or 0) > 250,
        "costly": energy_class == "high",
    }
    expected = next((name for name, holds in reasons.items() if holds), None)
    kept = Sampler(share, 250).keep(result, energy_class, None, 0.0)
    if expected is not None:
        assert kept == Kept(expected, 1.0)
    else:
        assert kept is None or kept == Kept("share", 1 / share)


def test_without_a_share_no_easy_event_is_kept_and_with_all_of_it_every_one() -> None:
    ids = ["0" * 31 + "1", "f" * 32, "8" * 32]
    assert [Sampler(0.0, 250).keep(event(one), None, None, 0.0) for one in ids] == [None] * 3
    assert [Sampler(1.0, 250).keep(event(one), None, None, 0.0) for one in ids] == [
        Kept("share", 1.0)
    ] * 3


# -- what the caller says ------------------------------------------------------------------------


@given(
    trace_id=TRACE_IDS,
    status=st.sampled_from([Status.FINAL, Status.DEAD, Status.EXPIRED]),
    decision=st.sampled_from([ANSWERED, ESCALATED, None]),
    energy_class=st.sampled_from(["low", "normal", "high", None]),
    share=st.floats(0, 1),
)
def test_no_event_of_an_unsampled_trace_is_kept(
    trace_id: str,
    status: Status,
    decision: Decision | None,
    energy_class: str | None,
    share: float,
) -> None:
    """Its spans would hang under one that nobody exports."""
    result = event(trace_id, status=status, decision=decision, total_ms=1e6)
    assert Sampler(share, 250).keep(result, energy_class, False, 0.0) is None


@given(TRACE_IDS, st.floats(0, 1))
def test_an_easy_event_of_a_sampled_trace_is_kept_and_stands_for_itself(
    trace_id: str, share: float
) -> None:
    assert Sampler(share, 250).keep(event(trace_id), "normal", True, 0.0) == Kept("caller", 1.0)


def test_a_sampled_trace_of_a_hard_event_is_kept_for_the_better_reason() -> None:
    sampler = Sampler(0.0, 250)
    for _ in range(1000):
        kept = sampler.keep(event(decision=ESCALATED), None, True, 0.0)
        assert kept == Kept("escalated", 1.0)
    assert sampler.declined == 0


@given(st.lists(st.floats(0, 3), min_size=1, max_size=30), st.integers(1, 50))
def test_a_caller_that_samples_everything_is_bounded_and_the_rest_is_counted(
    pauses: list[float], burst: int
) -> None:
    sampler, now, asked, kept = Sampler(0.0, 250), 100.0, 0, 0
    for pause in pauses:
        now += pause
        for _ in range(burst):
            asked += 1
            kept += sampler.keep(event(), None, True, now) is not None
    most = CALLER_EVENTS_PER_SECOND * (1 + now - 100.0)
    assert kept <= most + 1e-6
    assert kept + sampler.declined == asked
    if asked <= CALLER_EVENTS_PER_SECOND:
        assert kept == asked


def test_the_bound_is_so_many_a_second_for_as_long_as_it_takes() -> None:
    sampler = Sampler(0.0, 250)
    kept = [sampler.keep(event(), None, True, 1.0 + n / 1000) is not None for n in range(10_000)]
    assert sum(kept) == pytest.approx(11 * CALLER_EVENTS_PER_SECOND, abs=2)


# -- counting back -------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 1), st.integers(0, 2**32))
def test_adjusted_counts_sum_to_the_number_of_events(share: float, seed: int) -> None:
    count, source, sampler = 4_000, random.Random(seed), Sampler(share, 250)
    kept = [
        sampler.keep(event(f"{source.getrandbits(128) or 1:032x}"), "normal", None, 0.0)
        for _ in range(count)
    ]
    total = sum(one.adjusted_count for one in kept if one is not None)
    # Binomial; 5 sigma and a count, so that no seed of hypothesis is unlucky.
    error = math.sqrt(count * (1 - share) / share)
    assert abs(total - count) <= 5 * error + 1 / share


def test_adjusted_counts_are_within_four_standard_errors_for_a_large_population() -> None:
    count, share, source = 100_000, 0.01, random.Random(7)
    base, sampler = event(), Sampler(share, 250)
    total = 0.0
    for _ in range(count):
        trace_id = f"{source.getrandbits(128):032x}"
        kept = sampler.keep(base.model_copy(update={"trace_id": trace_id}), "normal", None, 0.0)
        total += kept.adjusted_count if kept is not None else 0.0
    assert abs(total - count) <= 4 * math.sqrt(count * (1 - share) / share)


@given(TRACE_IDS)
def test_a_larger_share_keeps_whatever_a_smaller_one_did(trace_id: str) -> None:
    result = event(trace_id)
    kept = [
        Sampler(share / 20, 250).keep(result, None, None, 0.0) is not None for share in range(21)
    ]
    assert kept == sorted(kept)


# -- classes of joules ---------------------------------------------------------------------------


def renewed(count: int) -> bool:
    """True when the bounds are taken anew after so many values."""
    return count in {32, 64, 128} or (count > 0 and count % 256 == 0)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 1300))
def test_classes_are_those_of_numpys_percentiles_of_the_window(seed: int, count: int) -> None:
    source, quantiles = random.Random(seed), Quantiles()
    values: list[float] = []
    window: list[float] | None = None
    for _ in range(count):
        value = source.lognormvariate(0, 1)
        found = quantiles.classify(value)
        if window is None:
            assert found == "normal"
        values.append(value)
        if renewed(len(values)):
            window = values[-WINDOW:]
    if window is None:
        return
    lower = [float(np.percentile(window, share, method="lower")) for share in (10, 99)]
    higher = [float(np.percentile(window, share, method="higher")) for share in (10, 99)]
    probe = source.lognormvariate(0, 1)
    found = quantiles.classify(probe)
    if probe < lower[0]:
        assert found == "low"
    elif higher[0] <= probe <= lower[1]:
        assert found == "normal"
    elif probe > higher[1]:
        assert found == "high"


@given(st.floats(0, 1e6), st.integers(1, 700))
def test_equal_values_are_neither_low_nor_high(value: float, count: int) -> None:
    quantiles = Quantiles()
    assert {quantiles.classify(value) for _ in range(count)} == {"normal"}


def test_the_window_forgets_what_is_old() -> None:
    quantiles = Quantiles()
    for number in range(WINDOW):
        quantiles.classify(number)
    assert quantiles.classify(10_000) == "high"
    for number in range(10_000, 10_000 + WINDOW):
        quantiles.classify(number)
    assert quantiles.classify(10_000 + WINDOW // 2) == "normal"
    assert quantiles.classify(511) == "low"


def test_each_pipeline_has_quantiles_of_its_own() -> None:
    sampler = Sampler(0, 250)
    for number in range(64):
        sampler.energy_class(event(edge=reading(1 + number / 1000)))
        sampler.energy_class(event(edge=reading(100 + number / 1000), pipeline="heavy"))
    assert sampler.energy_class(event(edge=reading(100.03))) == "high"
    assert sampler.energy_class(event(edge=reading(100.03), pipeline="heavy")) == "normal"


@pytest.mark.parametrize("edge", [None, reading(None)])
@pytest.mark.parametrize("cloud", [None, reading(None)])
def test_an_event_with_unknown_joules_has_no_class(
    edge: EnergyReading | None, cloud: EnergyReading | None
) -> None:
    sampler = Sampler(0, 250)
    for _ in range(100):
        assert sampler.energy_class(event(edge=edge, cloud=cloud)) is None
    assert sampler.energy_class(event(edge=reading(5.0))) == "normal"


def test_known_joules_are_those_of_both_tiers() -> None:
    assert known_joules(event(edge=reading(1.0), cloud=reading(2.0))) == 3.0
    assert known_joules(event(edge=reading(1.0), cloud=reading(None))) == 1.0
    assert known_joules(event(edge=None, cloud=reading(2.0))) == 2.0
    assert known_joules(event(edge=reading(0.0))) == 0.0
