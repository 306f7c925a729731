"""Factors and how they add up."""

from __future__ import annotations

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setsuden.energy.attribution.intervals import (
    MAX_FACTOR,
    METHODS,
    WINDOW_FACTOR,
    RelativeError,
    baseline_spread,
    combine,
    dynamic_factor,
    idle_part_factor,
    interval,
)
from setsuden.schemas.energy import Method

factors = st.floats(1.0, MAX_FACTOR)
joules = st.floats(0.0, 1e6)


@given(factors)
def test_a_factor_becomes_a_spread_and_comes_back(factor: float) -> None:
    assert RelativeError.of(factor).factor == pytest.approx(factor)


@given(st.floats(0, 1e6), factors)
def test_an_interval_holds_its_middle_and_is_even_in_log_space(mid: float, factor: float) -> None:
    low, high = interval(mid, RelativeError.of(factor).sigma)
    assert 0 <= low <= mid * (1 + 1e-12)
    assert mid <= high * (1 + 1e-12)
    assert low * high == pytest.approx(mid * mid)


def test_independent_spreads_add_as_squares() -> None:
    assert combine(RelativeError(0.3), RelativeError(0.4)).sigma == pytest.approx(0.5)


def test_a_factor_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        RelativeError.of(0.9)


@given(factors, factors, joules, joules, st.sampled_from(Method))
def test_a_dynamic_factor_is_finite_and_never_below_its_parts(
    sensor: float, idle: float, idle_joules: float, dynamic_joules: float, method: Method
) -> None:
    found = dynamic_factor(sensor, idle, idle_joules, dynamic_joules, method)
    least = max(sensor, METHODS[method].factor, WINDOW_FACTOR)
    assert least * (1 - 1e-9) <= found <= MAX_FACTOR * (1 + 1e-9)


def test_every_method_has_its_factor_and_the_reason() -> None:
    assert set(METHODS) == set(Method)
    assert all(row.factor >= 1 and row.origin for row in METHODS.values())


def test_cpu_time_is_exact_but_in_a_shared_pool() -> None:
    assert METHODS[Method.EXCLUSIVE].factor == METHODS[Method.THREAD].factor == 1
    assert METHODS[Method.SHARED_POOL].factor == 1.5


def test_the_baselines_error_grows_as_the_dynamic_part_shrinks() -> None:
    spread = RelativeError.of(1.05).sigma
    assert baseline_spread(1.05, 9.0, 1.0).sigma == pytest.approx(9 * spread)
    found = [dynamic_factor(1.1, 1.05, 1.0, part, Method.EXCLUSIVE) for part in (10, 1, 0.1, 0.01)]
    assert found == sorted(found)


def test_without_dynamic_joules_the_factor_stops_at_its_cap() -> None:
    assert dynamic_factor(1.0, 1.05, 1.0, 0.0, Method.EXCLUSIVE) == pytest.approx(MAX_FACTOR)
    assert interval(0.0, RelativeError.of(MAX_FACTOR).sigma) == (0.0, 0.0)


def test_an_exactly_known_baseline_adds_nothing() -> None:
    exact = dynamic_factor(1.1, 1.0, 1.0, 0.001, Method.EXCLUSIVE)
    expected = exp((log(1.1) ** 2 + log(WINDOW_FACTOR) ** 2) ** 0.5)
    assert exact == pytest.approx(expected)


def test_the_idle_part_has_the_sensors_and_the_baselines_error() -> None:
    assert idle_part_factor(1.1, 1.0) == pytest.approx(1.1)
    assert idle_part_factor(1.1, 1.1) == pytest.approx(1.1 ** (2**0.5))
