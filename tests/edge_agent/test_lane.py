"""Arrivals that wait for a student that takes its time."""

from __future__ import annotations

import numpy as np

from setsuden.edge_agent.arrival import Arrival
from setsuden.edge_agent.core import Now, StreamPlace, Submission
from setsuden.edge_agent.lane import Lane
from setsuden.schemas.event import Event


def arrival(sequence: int) -> Arrival:
    event = Event(id=str(sequence), source="t", pipeline="a", device="d", data=b"")
    submission = Submission(event, over_nats=True, received=Now(0, 0))
    return Arrival(submission, np.zeros(1), lambda _: None, StreamPlace("born", "a", sequence))


async def test_a_full_lane_has_room_again_when_it_is_half_empty() -> None:
    lane = Lane(4)
    for number in range(4):
        assert not lane.full
        assert lane.room.is_set()
        lane.put(arrival(number))
    assert lane.full
    await lane.take(1)
    assert len(lane.done()) == 1
    assert not lane.room.is_set()
    await lane.take(1)
    assert len(lane.done()) == 1
    assert lane.room.is_set()


async def test_what_waits_can_be_withdrawn_and_what_is_judged_cannot() -> None:
    lane = Lane()
    first, second = arrival(1), arrival(1)
    lane.put(first)
    lane.put(second)
    await lane.take(1)
    assert not lane.withdraw(first)
    assert lane.withdraw(second)
    assert lane.drain() == [first]
    assert lane.done() == []
    assert not lane.busy
