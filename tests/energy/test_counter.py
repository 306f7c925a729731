"""Joules between readings: wraps, resets, failed reads, gaps and nonsense."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setsuden.energy.domain import Domain, DomainKind, Reading
from setsuden.energy.sensors.counter import (
    COUNTER_STEP,
    STILL_SECONDS,
    Delta,
    Track,
    counter_step,
    power_step,
)
from setsuden.schemas.energy import Boundary, Quality, Source

INTEL_JOULES = 262_143.328_850
AMD_JOULES = 65_532.610_987
COUNTER = Domain(
    id="intel-rapl:0",
    name="package-0",
    hw_type="cpu",
    kind=DomainKind.COUNTER,
    source=Source.MEASURED,
    boundary=Boundary.CPU_PACKAGE,
    factor=1.1,
    max_joules=INTEL_JOULES,
    max_watts=280.0,
)
POWER = Domain(
    id="ina226:1-0040",
    name="power1",
    hw_type="enclosure",
    kind=DomainKind.AVERAGE_POWER,
    source=Source.DERIVED,
    boundary=Boundary.BOARD_DC,
    factor=1.1,
    max_watts=30.0,
    interval_seconds=0.2,
)
PLUG = replace(COUNTER, boundary=Boundary.WALL_AC, max_joules=None, max_watts=None)
Readings = list[tuple[float, float | None]]


MOMENTS = replace(POWER, kind=DomainKind.INSTANT_POWER)


def reading(seconds: float, value: float | None) -> Reading:
    return Reading("d", round(seconds * 1e9), value, None if value is not None else "EAGAIN")


def taken(domain: Domain, readings: Readings) -> Delta:
    track = Track(domain)
    for seconds, value in readings:
        track.add(reading(seconds, value))
    return track.take()


# -- counters ---------------------------------------------------------------------------------


def test_a_counter_that_rises_used_the_difference() -> None:
    assert taken(COUNTER, [(0, 100.0), (1, 150.0)]) == Delta(50.0, Quality.OK, 0, 10**9)


def test_a_fall_is_a_wrap_when_the_power_it_implies_is_plausible() -> None:
    delta = taken(COUNTER, [(0, INTEL_JOULES - 40), (1, 60.0)])
    assert delta.joules == pytest.approx(100 + COUNTER_STEP)
    assert delta.quality is Quality.OK


def test_a_fall_that_would_be_implausible_as_a_wrap_is_a_reset() -> None:
    """A zero in place of a failed read made others add 262 kJ here."""
    delta = taken(COUNTER, [(0, 100_000.0), (1, 0.0)])
    assert delta.joules is None
    assert delta.quality is Quality.DEGRADED
    assert "reset" in delta.problem


def test_a_fall_of_a_counter_of_unknown_range_is_a_reset() -> None:
    domain = replace(COUNTER, max_joules=None)
    assert taken(domain, [(0, INTEL_JOULES - 40), (1, 60.0)]).joules is None


def test_after_a_reset_the_counter_counts_on() -> None:
    track = Track(COUNTER)
    for seconds, value in ((0, 100_000.0), (1, 0.0)):
        track.add(reading(seconds, value))
    assert track.take().joules is None
    track.add(reading(2, 30.0))
    assert track.take() == Delta(30.0, Quality.OK, 10**9, 2 * 10**9)


def test_more_than_three_times_the_rated_power_is_quarantined() -> None:
    """The first reading after a permission was mended has shown 53 kW elsewhere."""
    delta = taken(COUNTER, [(0, 100.0), (1, 53_230.0)])
    assert delta.joules is None
    assert delta.quality is Quality.QUARANTINED
    assert "53130 J" in delta.problem


def test_an_unrated_machine_cannot_use_what_no_machine_uses() -> None:
    """9.2e14 J has been published for a container."""
    delta = taken(PLUG, [(0, 100.0), (1, 9.2e14)])
    assert delta.joules is None
    assert delta.quality is Quality.QUARANTINED


def test_a_failed_read_leaves_its_window_unknown_and_the_next_one_closes_both() -> None:
    track = Track(COUNTER)
    track.add(reading(0, 100.0))
    track.add(reading(1, None))
    unknown = track.take()
    assert unknown.joules is None
    assert unknown.problem == "EAGAIN"
    track.add(reading(2, 160.0))
    closed = track.take()
    assert closed == Delta(60.0, Quality.DEGRADED, 0, 2 * 10**9, "EAGAIN")


def test_energy_before_a_failed_read_at_a_windows_end_is_not_lost() -> None:
    track = Track(COUNTER)
    for seconds, value in ((0, 100.0), (1, 150.0), (2, None)):
        track.add(reading(seconds, value))
    assert track.take().joules is None
    track.add(reading(3, 190.0))
    assert track.take()[:4] == (90.0, Quality.DEGRADED, 0, 3 * 10**9)


def test_a_counter_that_may_have_gone_round_twice_is_unknown() -> None:
    """AMD's goes round every 78 s at three times 280 W."""
    domain = replace(COUNTER, max_joules=AMD_JOULES)
    assert taken(domain, [(0, 10.0), (60, 10_010.0)]).joules == 10_000.0
    late = taken(domain, [(0, 10.0), (200, 10_010.0)])
    assert late.joules is None
    assert late.quality is Quality.DEGRADED
    assert "wrapped" in late.problem


def test_a_range_of_zero_is_no_range() -> None:
    assert counter_step(replace(COUNTER, max_joules=None), reading(0, 5), reading(1, 6)) == (
        1.0,
        Quality.OK,
        "",
    )


def test_readings_out_of_order_give_no_joules() -> None:
    assert counter_step(COUNTER, reading(2, 1.0), reading(1, 2.0)).joules is None
    assert power_step(POWER, reading(2, 1.0), reading(1, 2.0)).joules is None


def test_before_two_readings_nothing_is_known() -> None:
    track = Track(COUNTER)
    assert track.take() == Delta(None, Quality.DEGRADED, None, None, "not read yet")
    track.add(reading(0, None))
    assert track.take().joules is None


def test_a_package_counter_that_stands_still_is_at_fault() -> None:
    """0 W for hours has passed for a measurement elsewhere."""
    delta = taken(COUNTER, [(second, 100.0) for second in range(int(STILL_SECONDS) + 1)])
    assert delta.joules is None
    assert "stood still" in delta.problem


def test_a_plug_that_counts_in_large_steps_may_stand_still_and_then_jump() -> None:
    """One step of 0.01 kWh is 36 kJ: in one second no machine uses it, in an hour any does."""
    track = Track(PLUG)
    for second in range(3600):
        track.add(reading(second, 36_000.0))
    assert track.take().joules == 0.0
    track.add(reading(3600, 72_000.0))
    assert track.take()[:2] == (36_000.0, Quality.OK)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[float], list[bool], float]:
    """Joules of each second within the rating, which reads fail, and where the counter begins."""
    steps = draw(st.lists(st.floats(0, 280, allow_nan=False), min_size=2, max_size=60))
    fails = draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    return steps, fails, draw(st.floats(0, AMD_JOULES))


@given(histories())
def test_joules_are_those_that_were_used_whatever_wraps_and_fails(
    history: tuple[list[float], list[bool], float],
) -> None:
    steps, fails, start = history
    domain = replace(COUNTER, max_joules=AMD_JOULES, boundary=Boundary.SOCKET)
    around = AMD_JOULES + COUNTER_STEP
    track = Track(domain)
    track.add(reading(0, start))
    used, found, covered = 0.0, 0.0, 0.0
    for second, (joules, failed) in enumerate(zip(steps, fails, strict=True), start=1):
        used += joules
        track.add(reading(second, None if failed else (start + used) % around))
        delta = track.take()
        assert (delta.joules is None) == failed
        if delta.joules is not None:
            assert delta.joules >= 0
            found += delta.joules
            covered = used
    assert found == pytest.approx(covered, abs=1e-3)


@given(
    st.lists(
        st.tuples(st.floats(0.001, 100), st.one_of(st.none(), st.floats(0, 1e9))),
        max_size=40,
    ),
    st.sampled_from([COUNTER, POWER, PLUG, replace(COUNTER, max_joules=None)]),
)
def test_no_history_gives_negative_or_implausible_joules(
    history: list[tuple[float, float | None]], domain: Domain
) -> None:
    track, now = Track(domain), 0.0
    for seconds, value in history:
        now += seconds
        track.add(reading(now, value))
        delta = track.take()
        assert delta.joules is None or delta.joules >= 0
        assert delta.joules is not None or delta.quality is not Quality.OK
        if delta.joules and domain.max_watts and delta.end_ns and delta.start_ns is not None:
            span = (delta.end_ns - delta.start_ns) / 1e9
            assert delta.joules <= 3 * domain.max_watts * (span + 0.06 * (len(history) + 1))


# -- power ------------------------------------------------------------------------------------


def test_power_of_a_moment_is_integrated_as_a_trapezoid() -> None:
    assert taken(MOMENTS, [(0, 10.0), (0.2, 20.0), (0.4, 20.0)]).joules == pytest.approx(7.0)


def test_averaged_power_stands_for_the_time_before_it() -> None:
    assert taken(POWER, [(0, 10.0), (0.2, 20.0), (0.4, 30.0)]).joules == pytest.approx(10.0)


def test_a_gap_of_more_than_three_intervals_is_degraded() -> None:
    assert taken(POWER, [(0, 10.0), (0.6, 10.0)]).quality is Quality.OK
    late = taken(POWER, [(0, 10.0), (0.7, 10.0)])
    assert late.joules == pytest.approx(7.0)
    assert late.quality is Quality.DEGRADED


def test_a_missed_sample_is_bridged_and_reported() -> None:
    delta = taken(POWER, [(0, 10.0), (0.2, None), (0.4, 10.0)])
    assert delta.joules == pytest.approx(4.0)
    assert delta.quality is Quality.DEGRADED


def test_power_that_was_not_seen_for_long_is_unknown_and_not_zero() -> None:
    samples: Readings = [(0, 10.0), *((n / 5, None) for n in range(1, 5)), (1.0, 10.0)]
    assert taken(POWER, samples).joules is None


def test_a_window_that_ends_in_a_failed_read_is_unknown() -> None:
    assert taken(POWER, [(0, 10.0), (0.2, 10.0), (0.4, None)]).joules is None


def test_power_of_more_than_three_times_the_rated_is_quarantined() -> None:
    delta = taken(POWER, [(0, 10.0), (0.2, 4_294_967.0)])
    assert delta.joules is None
    assert delta.quality is Quality.QUARANTINED


@given(st.lists(st.floats(0, 30), min_size=2, max_size=50))
def test_constant_intervals_integrate_to_mean_power(watts: list[float]) -> None:
    delta = taken(MOMENTS, [(n * 0.2, watt) for n, watt in enumerate(watts)])
    inner = sum(watts) - (watts[0] + watts[-1]) / 2
    assert delta.joules == pytest.approx(inner * 0.2, abs=1e-6)
    assert delta.quality is Quality.OK
