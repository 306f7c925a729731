"""When a window closes, decided from facts alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from setsuden.energy.metering.policy import (
    LEAST_SECONDS,
    LONGEST_SECONDS,
    SLACK_SECONDS,
    OpenWindow,
    WindowPolicy,
)

POLICY = WindowPolicy(
    window_seconds=1.0, idle_seconds=10.0, patience_seconds=10.0, max_core_share=0.001
)
seconds = st.floats(0, 100)
costs = st.floats(0, 0.05)
policies = st.builds(
    WindowPolicy,
    window_seconds=st.floats(0.1, 60),
    idle_seconds=st.floats(60, 120),
    patience_seconds=st.floats(10, 100),
    max_core_share=st.floats(0.001, 0.1),
)
windows = st.builds(
    OpenWindow,
    seconds=seconds,
    idle=st.booleans(),
    first_run=st.booleans(),
    close_cost=costs,
    read_cost=costs,
    sample_every=st.none() | st.floats(0.05, 60),
    lag_seconds=seconds,
)


def fresh(**facts: float | bool | None) -> OpenWindow:
    plain = OpenWindow(0.0, False, False, 0.0, 0.0, None, 0.0)
    return plain._replace(**facts)  # type: ignore[arg-type]  # the test names fields that exist


@given(policies, windows)
def test_waiting_as_asked_always_ends_the_window_in_time(
    policy: WindowPolicy, window: OpenWindow
) -> None:
    window = window._replace(seconds=0.0, first_run=False)
    longest = (
        policy.idle_seconds
        if window.idle
        else max(policy.window_seconds, window.close_cost / policy.max_core_share, LONGEST_SECONDS)
    )
    steps = 0
    while (wait := policy.wait_seconds(window)) > 1e-9:
        window = window._replace(seconds=window.seconds + wait)
        steps += 1
        assert steps < 10_000
    assert window.seconds <= longest + 1e-6
    assert window.seconds >= (policy.idle_seconds if window.idle else policy.window_seconds) - 1e-6


@given(policies, windows)
def test_a_costly_source_is_never_read_beyond_its_share_of_a_core(
    policy: WindowPolicy, window: OpenWindow
) -> None:
    step = policy.sample_seconds(window.read_cost, window.sample_every)
    if window.sample_every is not None:
        assert window.read_cost / step <= policy.max_core_share * (1 + 1e-9)
    assert 0 <= policy.wait_seconds(window) <= step


@given(policies, windows)
def test_the_first_run_after_an_idle_stretch_closes_it_unless_it_has_hardly_begun(
    policy: WindowPolicy, window: OpenWindow
) -> None:
    window = window._replace(first_run=True)
    if window.seconds > LEAST_SECONDS:
        assert policy.wait_seconds(window) == 0
    else:
        assert policy.wait_seconds(window) == policy.wait_seconds(window._replace(first_run=False))


def test_windows_are_short_while_runs_begin_and_long_while_nothing_happens() -> None:
    assert POLICY.wait_seconds(fresh()) == 1.0
    assert POLICY.wait_seconds(fresh(idle=True)) == 10.0
    assert POLICY.wait_seconds(fresh(seconds=0.75)) == 0.25
    assert POLICY.wait_seconds(fresh(seconds=1.5)) == 0.0


def test_a_costly_or_lagging_source_makes_longer_windows() -> None:
    assert POLICY.wait_seconds(fresh(close_cost=0.005)) == 5.0
    assert POLICY.wait_seconds(fresh(lag_seconds=2.0)) == 8.0
    assert POLICY.wait_seconds(fresh(lag_seconds=1e6)) == LONGEST_SECONDS


def test_patience_for_a_source_and_for_runs_ends() -> None:
    assert POLICY.waits_for_source(9.9)
    assert not POLICY.waits_for_source(10.0)
    assert POLICY.waits_for_runs(SLACK_SECONDS - 0.1)
    assert not POLICY.waits_for_runs(SLACK_SECONDS)
