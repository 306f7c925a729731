"""Stores in flight: each one ends in exactly one call of its ``done``."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from setsuden.link.messages import Outcome, Stored
from setsuden.link.window import AckWindow, parse_ack
from setsuden.schemas.errors import (
    AlreadyStoredError,
    ForbiddenError,
    LinkError,
    StreamFullError,
    UnavailableError,
)

TIMEOUT = 5.0


class WindowMachine(RuleBasedStateMachine):
    """Opens, acks, repeats, expires and loses stores in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.window = AckWindow(TIMEOUT)
        self.now = 0.0
        self.told: Counter[int] = Counter()
        self.opened: dict[int, tuple[str, float, str]] = {}

    def waiting(self) -> dict[int, tuple[str, float, str]]:
        return {n: opened for n, opened in self.opened.items() if not self.told[n]}

    @rule(subject=st.sampled_from(["evt.A.d", "evt.b.d"]))
    def open(self, subject: str) -> None:
        number = len(self.opened)

        def done(outcome: Outcome) -> None:
            self.told[number] += 1

        token = self.window.open(done, self.now, subject)
        assert token not in {opened[0] for opened in self.opened.values()}
        self.opened[number] = (token, self.now + TIMEOUT, subject)

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def settle_any_even_again(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.opened)))
        self.window.settle(self.opened[number][0], Stored("S", 1, duplicate=False))
        assert self.told[number] == 1

    @rule()
    def settle_a_stranger(self) -> None:
        before = self.told.total()
        self.window.settle("no-token", Stored("S", 1, duplicate=False))
        assert self.told.total() == before

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        overdue = {n for n, opened in self.waiting().items() if opened[1] <= self.now}
        before = set(self.waiting())
        self.window.expire(self.now)
        assert before - set(self.waiting()) == overdue

    @rule()
    def one_subject_is_denied(self) -> None:
        others = {n for n, opened in self.waiting().items() if opened[2] != "evt.A.d"}
        self.window.refuse("evt.a.d", ForbiddenError("denied"))
        assert set(self.waiting()) == others

    @rule()
    def the_link_is_lost(self) -> None:
        self.window.fail_all(UnavailableError("lost"))
        assert not self.waiting()

    @invariant()
    def nobody_is_told_twice_and_all_others_wait(self) -> None:
        assert max(self.told.values(), default=0) <= 1
        assert len(self.window) == len(self.waiting())


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_store_may_be_opened_while_all_are_failed() -> None:
    """A retry from inside ``done`` belongs to the next connection and is not failed with it."""
    window = AckWindow(TIMEOUT)
    window.open(lambda _: None if len(window) > 1 else again(), 0.0)

    def again() -> None:
        window.open(lambda _: None, 0.0)

    window.fail_all(UnavailableError("lost"))
    assert len(window) == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"code":400,"err_code":10071,"description":"wrong"}}', AlreadyStoredError),
        (b'{"error":{"code":503,"err_code":10077,"description":"max bytes"}}', StreamFullError),
        (b'{"error":{"code":500,"err_code":10023,"description":"full"}}', StreamFullError),
        (b'{"error":{"code":400,"err_code":10164,"description":"pending"}}', UnavailableError),
        (b'{"error":{}}', UnavailableError),
        (b'{"error":7}', UnavailableError),
        (b"{}", UnavailableError),
        (b"[]", UnavailableError),
        (b"", UnavailableError),
        (b"\xff", UnavailableError),
        (b" " * 20_000, UnavailableError),
    ],
)
def test_an_acknowledgement_that_refuses_is_typed(body: bytes, expected: type[LinkError]) -> None:
    assert isinstance(parse_ack(body, ""), expected)


def test_an_acknowledgement_tells_the_place() -> None:
    assert parse_ack(b'{"stream":"EVT","seq":7}', "") == Stored("EVT", 7, duplicate=False)
    assert parse_ack(b'{"stream":"EVT","seq":7,"duplicate":true}', "") == Stored(
        "EVT", 7, duplicate=True
    )


def test_no_responders_means_no_stream() -> None:
    outcome = parse_ack(b"", "503")
    assert isinstance(outcome, UnavailableError)
    assert "no stream" in outcome.message


@given(st.binary(max_size=200))
def test_no_acknowledgement_raises(body: bytes) -> None:
    assert isinstance(parse_ack(body, ""), Stored | LinkError)
