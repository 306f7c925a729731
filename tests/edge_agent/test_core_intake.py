"""What the core decides before an event is admitted: repeats, the cursor, the deadline."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from tests.support.agent_world import EASY, HARD, World

from setsuden.edge_agent.core import Clocks, Cursor, Positions, Repeats, StreamPlace
from setsuden.edge_agent.core.deadline import of_event
from setsuden.schemas.event import Event

SECOND = 1_000_000_000
CLOCKS = Clocks("boot", 5 * SECOND, 1000 * SECOND, 1010 * SECOND)


class ManyRepeats(RuleBasedStateMachine):
    """Events with few keys, in batches; each first one is accepted, or is given up."""

    def __init__(self) -> None:
        super().__init__()
        self.repeats: Repeats[tuple[int, str]] = Repeats()
        self.accepted: dict[str, int] = {}
        self.deciding: list[tuple[int, str]] = []
        self.outcomes: Counter[int] = Counter()
        self.sent = 0

    @rule(keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
    def send(self, keys: list[str]) -> None:
        items = [(self.sent + place, key) for place, key in enumerate(keys)]
        self.sent += len(items)
        fresh, repeats = self.repeats.sort(items, keys, self.accepted)
        self.deciding += fresh
        assert len({key for _, key in self.deciding}) == len(self.deciding), "decided twice at once"
        for (number, key), before in repeats:
            assert before == self.accepted[key]
            self.outcomes[number] += 1

    @precondition(lambda self: self.deciding)
    @rule(accepted=st.booleans(), data=st.data())
    def decide(self, accepted: bool, data: st.DataObject) -> None:
        first = data.draw(st.sampled_from(self.deciding))
        self.deciding.remove(first)
        if accepted:
            assert first[1] not in self.accepted, "accepted twice"
            self.accepted[first[1]] = first[0]
        for number, key in [first, *self.repeats.settle(first, first[1])]:
            assert key == first[1]
            self.outcomes[number] += 1
        assert self.repeats.settle(first, first[1]) == []

    def teardown(self) -> None:
        while self.deciding:
            first = self.deciding.pop()
            for number, _ in [first, *self.repeats.settle(first, first[1])]:
                self.outcomes[number] += 1
        assert self.outcomes == Counter(range(self.sent)), "each has one outcome"


TestManyRepeats = ManyRepeats.TestCase


@given(
    stops=st.dictionaries(st.sampled_from("pq"), st.integers(1, 9)),
    order=st.lists(st.tuples(st.sampled_from("pq"), st.integers(1, 9)), max_size=20),
)
def test_the_cursor_never_moves_past_an_event_that_is_not_decided(
    stops: dict[str, int], order: list[tuple[str, int]]
) -> None:
    positions = Positions(Cursor("born", {}))
    places = [StreamPlace("born", name, sequence) for name, sequence in order]
    moved = positions.move(places, stops)
    for name in "pq":
        decided = [n for other, n in order if other == name and n < stops.get(name, 10)]
        assert positions.cursor.positions.get(name, 0) == max(decided, default=0)
    assert (moved is None) == (positions.cursor.positions == {})


def test_after_a_deferral_only_the_next_reading_counts() -> None:
    positions = Positions(None)
    place, first = StreamPlace("born", "p", 1), positions.reading
    assert not positions.is_stale(place, first)
    positions.move([place], {})
    positions.go_back(None)
    assert positions.deferring
    assert positions.is_stale(place, first)
    assert not positions.is_stale(None, first)
    assert positions.resume() == Cursor("", {})
    assert not positions.deferring
    assert not positions.is_stale(place, positions.reading)


def event(ttl_ms: int | None, at_s: int | None) -> Event:
    deadline = None if at_s is None else datetime.fromtimestamp(at_s, UTC)
    return Event(
        id="1", source="s", pipeline="p", device="d", data=b"", ttl_ms=ttl_ms, deadline=deadline
    )


@given(
    ttl=st.none() | st.integers(1, 10**6),
    at_s=st.none() | st.integers(1000, 2000),
    default=st.none() | st.floats(0.1, 1000),
    waited=st.integers(0, 10**12),
)
def test_the_sooner_of_its_own_deadlines_counts_and_the_pipelines_only_without_one(
    ttl: int | None, at_s: int | None, default: float | None, waited: int
) -> None:
    deadline = of_event(event(ttl, at_s), CLOCKS, 1010 * SECOND - waited, default)
    own = []
    if ttl is not None:
        own.append(CLOCKS.mono_ns + ttl * 1_000_000 - waited)
    if at_s is not None:
        own.append(CLOCKS.mono_ns + at_s * SECOND - 1010 * SECOND)
    if own:
        assert deadline is not None
        assert deadline.mono_ns == min(own)
    elif default is None:
        assert deadline is None
    else:
        assert deadline is not None
        assert deadline.mono_ns == CLOCKS.mono_ns + int(default * SECOND)


@pytest.mark.parametrize(
    ("cloud_ns", "stored_ns", "left_ms"),
    [
        (1010 * SECOND, 1007 * SECOND, 6000),
        (1010 * SECOND, 2000 * SECOND, 9000),  # stored later than now: some clock was set
        (1010 * SECOND, None, 9000),
        (None, 1007 * SECOND, 9000),
    ],
)
def test_a_time_to_live_counts_from_when_the_broker_stored_the_event(
    cloud_ns: int | None, stored_ns: int | None, left_ms: int
) -> None:
    clocks = CLOCKS._replace(cloud_ns=cloud_ns)
    deadline = of_event(event(9000, None), clocks, stored_ns, None)
    assert deadline is not None
    assert deadline.mono_ns == clocks.mono_ns + left_ms * 1_000_000


def test_an_easy_event_has_no_deadline_to_keep() -> None:
    world = World()
    world.submit(EASY, deadline_s=3)
    assert world.core.next_wakeup_ns() is None
    world.submit(HARD, deadline_s=3)
    assert world.core.next_wakeup_ns() == world.mono_ns + 3 * SECOND
