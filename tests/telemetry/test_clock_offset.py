"""The device's span timeline, and how far it is said to be from the cloud's clock."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setsuden.telemetry import Offset, OffsetEstimator, SpanClock
from setsuden.telemetry.offset import DRIFT, SAMPLES

MS = 1_000_000
START = 1_790_000_000 * 1000 * MS
TRIPS = st.lists(
    st.tuples(
        st.integers(0, 5_000 * MS),  # pause before the question
        st.integers(0, 3_000 * MS),  # there
        st.integers(0, 3_000 * MS),  # back
    ),
    min_size=1,
    max_size=20,
)
TRUTHS = st.integers(-(10**13), 10**13)


def ask(estimator: OffsetEstimator, truth: int, at: int, there: int, back: int) -> int:
    """One question to a cloud whose clock is ``truth`` ahead; when it was answered."""
    estimator.add(at, at + there + truth, at + there + back)
    return at + there + back


# -- the estimate --------------------------------------------------------------------------------


@given(TRUTHS, TRIPS, st.integers(0, 3600 * 1000 * MS))
def test_the_truth_is_never_farther_than_the_error(
    truth: int, trips: list[tuple[int, int, int]], later: int
) -> None:
    estimator, now = OffsetEstimator(), START
    for pause, there, back in trips:
        now = ask(estimator, truth, now + pause, there, back)
        for moment in (now, now + later):
            found = estimator.at(moment)
            assert found is not None
            assert abs(found.offset_ns - truth) <= found.error_ns


@given(TRUTHS, TRIPS, st.floats(-DRIFT / 2, DRIFT / 2))
def test_the_truth_is_never_farther_than_the_error_when_the_clocks_drift_apart(
    truth: int, trips: list[tuple[int, int, int]], drift: float
) -> None:
    estimator, now = OffsetEstimator(), START
    for pause, there, back in trips:
        asked = now + pause
        then = asked + there
        estimator.add(asked, then + truth + int((then - START) * drift), then + back)
        now = then + back
        found = estimator.at(now)
        assert found is not None
        assert abs(found.offset_ns - truth - int((now - START) * drift)) <= found.error_ns + 2


@given(TRUTHS, st.lists(st.integers(1, 1_000), min_size=1, max_size=30, unique=True))
def test_the_shortest_round_trip_of_the_last_eight_wins(truth: int, trips: list[int]) -> None:
    estimator, now = OffsetEstimator(), START
    for trip_ms in trips:
        # All of the way there: the estimate is off by half the round trip, and so tells which.
        now = ask(estimator, truth, now, trip_ms * MS, 0)
    best = min(trips[-SAMPLES:])
    found = estimator.at(now)
    assert found is not None
    assert found.offset_ns == truth + best * MS // 2
    assert best * MS // 2 <= found.error_ns <= best * MS // 2 + DRIFT * 8_000 * MS


@given(TRUTHS, TRIPS, st.integers(7_000 * MS, 10**15), st.sampled_from([1, -1]))
def test_a_step_of_either_clock_voids_what_was_measured_before(
    truth: int, trips: list[tuple[int, int, int]], step: int, sign: int
) -> None:
    estimator, now = OffsetEstimator(), START
    for pause, there, back in trips:
        now = ask(estimator, truth, now + pause, there, back)
    stepped = truth + sign * step
    now = ask(estimator, stepped, now, 1_000 * MS, 500 * MS)
    found = estimator.at(now)
    assert found == Offset(stepped + 250 * MS, 750 * MS + int(1_500 * MS * DRIFT))


def test_before_the_first_answer_nothing_is_known() -> None:
    assert OffsetEstimator().at(START) is None


def test_an_answer_before_its_question_is_not_believed() -> None:
    estimator = OffsetEstimator()
    estimator.add(START, START, START - 1)
    assert estimator.at(START) is None


@given(st.integers(-1000, 1000), st.integers(0, 1000))
def test_an_offset_corrects_only_when_it_is_larger_than_its_error(offset: int, error: int) -> None:
    assert Offset(offset, error).corrects == (abs(offset) > error)


def test_the_error_grows_with_the_age_of_the_measurement() -> None:
    estimator = OffsetEstimator()
    now = ask(estimator, 0, START, MS, MS)
    hour = 3600 * 1000 * MS
    assert estimator.at(START) == Offset(0, MS)
    assert estimator.at(now) == Offset(0, MS + 200)
    assert estimator.at(START + hour) == Offset(0, MS + int(hour * DRIFT))


# -- the timeline --------------------------------------------------------------------------------


def kept(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "clock.json").read_text(encoding="utf-8"))
    return found


def test_two_lives_of_one_boot_share_the_timeline(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from setsuden.telemetry import SpanClock\n"
        "clock = SpanClock(Path(sys.argv[1])); print(clock.boot, clock.anchor_ns)"
    )
    lives = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    here = SpanClock(tmp_path)
    assert lives == [[here.boot, str(here.anchor_ns)]] * 2


def test_the_timeline_is_the_wall_clock_at_first_and_the_monotonic_clock_from_then_on(
    tmp_path: Path,
) -> None:
    before = time.time_ns()
    clock = SpanClock(tmp_path)
    moment = time.monotonic_ns()
    assert abs(clock.now_ns() - before) < 1_000 * MS
    assert clock.at(moment + 5) - clock.at(moment) == 5
    assert clock.at(moment) <= clock.now_ns() <= clock.at(time.monotonic_ns())


def test_another_boot_takes_another_timeline(tmp_path: Path) -> None:
    other = {"boot": "0" * 8, "anchor_ns": 17}
    (tmp_path / "clock.json").write_text(json.dumps(other), encoding="utf-8")
    clock = SpanClock(tmp_path)
    assert clock.boot != other["boot"]
    assert abs(clock.now_ns() - time.time_ns()) < 1_000 * MS
    assert kept(tmp_path) == {"boot": clock.boot, "anchor_ns": clock.anchor_ns}


def test_the_timeline_of_this_boot_is_taken_as_it_stands(tmp_path: Path) -> None:
    boot = SpanClock(tmp_path).boot
    (tmp_path / "clock.json").write_text(
        json.dumps({"boot": boot, "anchor_ns": 123}), encoding="utf-8"
    )
    assert SpanClock(tmp_path).anchor_ns == 123


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'"x"',
        b"null",
        b"7",
        b'{"boot": "BOOT"}',
        b'{"boot": "BOOT", "anchor_ns": null}',
        b'{"boot": "BOOT", "anchor_ns": 1e999}',
        b'{"boot": "BOOT", "anchor_ns": "x"}',
        b'{"boot": "BOOT", "anchor_ns": []}',
    ],
)
def test_a_damaged_file_is_replaced(tmp_path: Path, damage: bytes) -> None:
    boot = SpanClock(tmp_path).boot.encode()
    (tmp_path / "clock.json").write_bytes(damage.replace(b"BOOT", boot))
    clock = SpanClock(tmp_path)
    assert abs(clock.now_ns() - time.time_ns()) < 1_000 * MS
    assert kept(tmp_path) == {"boot": clock.boot, "anchor_ns": clock.anchor_ns}
    assert [path.name for path in tmp_path.iterdir()] == ["clock.json"]
