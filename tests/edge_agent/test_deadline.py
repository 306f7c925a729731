"""Deadlines over restarts, reboots and clocks that are set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from setsuden.edge_agent.core import Clocks, at_moment, in_time
from setsuden.edge_agent.core.deadline import due

SECOND, HOUR, YEAR = 10**9, 3600 * 10**9, 365 * 86_400 * 10**9
MOMENTS = st.integers(0, 200 * YEAR)
DURATIONS = st.integers(1, 30 * 86_400 * SECOND)


def clocks(boot: str, mono: int, wall: int, cloud: int | None) -> Clocks:
    return Clocks(boot, mono, wall, cloud)


@given(MOMENTS, MOMENTS, MOMENTS, DURATIONS, DURATIONS)
def test_within_a_boot_seconds_are_seconds_whatever_the_wall_clock_does(
    mono: int, wall: int, later_wall: int, allowed: int, passed: int
) -> None:
    deadline = in_time(clocks("b", mono, wall, None), allowed)
    moment = due(deadline, clocks("b", mono + passed, later_wall, None))
    assert (moment.mono_ns, moment.verified) == (mono + allowed, True)


@given(MOMENTS, MOMENTS, MOMENTS, MOMENTS, DURATIONS, DURATIONS)
def test_after_a_reboot_the_clouds_clock_decides(
    mono: int, wall: int, cloud: int, later_wall: int, allowed: int, passed: int
) -> None:
    deadline = in_time(clocks("b", mono, wall, cloud), allowed)
    moment = due(deadline, clocks("c", 7, later_wall, cloud + passed))
    assert (moment.mono_ns, moment.verified) == (7 + allowed - passed, True)


@given(MOMENTS, MOMENTS, MOMENTS, DURATIONS)
def test_after_a_reboot_without_the_cloud_nothing_waits_longer_than_it_was_given(
    mono: int, wall: int, later_wall: int, allowed: int
) -> None:
    """A device without a battery-backed clock is in 1970 after each boot."""
    deadline = in_time(clocks("b", mono, wall, None), allowed)
    moment = due(deadline, clocks("c", 7, later_wall, None))
    assert moment.mono_ns <= 7 + allowed
    assert not moment.verified


@given(MOMENTS, MOMENTS, MOMENTS, st.integers(-HOUR, 40 * YEAR))
def test_a_moment_of_the_worlds_clock_is_kept_by_the_clouds_clock(
    mono: int, wall: int, cloud: int, left: int
) -> None:
    deadline = at_moment(clocks("b", mono, wall, cloud), cloud + left)
    moment = due(deadline, clocks("b", mono, wall + HOUR, cloud))
    assert (moment.mono_ns, moment.verified) == (mono + left, True)


@given(MOMENTS, MOMENTS, MOMENTS, st.integers(0, 40 * YEAR), DURATIONS)
def test_a_moment_is_set_right_when_the_clouds_clock_becomes_known(
    mono: int, wrong_wall: int, cloud: int, left: int, passed: int
) -> None:
    deadline = at_moment(clocks("b", mono, wrong_wall, None), cloud + left)
    assert not due(deadline, clocks("b", mono, wrong_wall, None)).verified
    moment = due(deadline, clocks("b", mono + passed, wrong_wall, cloud + passed))
    assert (moment.mono_ns, moment.verified) == (mono + left, True)
