"""Arrivals until they are judged: in order, once, and nobody's behind anybody else's student."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from setsuden.edge_agent.arrival import Arrival, Runs
from setsuden.edge_agent.config import HttpOptions, IntakeOptions
from setsuden.edge_agent.core import Now, Submission
from setsuden.edge_agent.intake import Intake
from setsuden.edge_agent.lane import Lane
from setsuden.edge_agent.outbox import StreamPlace
from setsuden.pipelines.gate import unusable
from setsuden.pipelines.pipeline import JudgedBatch
from setsuden.schemas.decision import Reason
from setsuden.schemas.event import Event

PIPELINES = ("a", "b", "c")
EVENTS = 60


def arrival(pipeline: str, sequence: int, generation: int = 1) -> Arrival:
    event = Event(id=str(sequence), source="t", pipeline=pipeline, device="d", data=b"")
    place = StreamPlace("born", pipeline, sequence)
    submission = Submission(event, over_nats=True, received=Now(0, 0))
    return Arrival(submission, np.zeros(1), lambda *_: None, place, generation)


class Moody:
    """A student that is quick or not as it pleases, and takes its time."""

    patience_seconds = 60.0
    max_batch = 2

    def __init__(self, random: Random) -> None:
        self._random = random

    def quick(self, items: int) -> bool:
        return self._random.random() < 0.6

    def judge_now(self, observations: Sequence[Any]) -> JudgedBatch | None:
        return self._run(observations) if self._random.random() < 0.8 else None

    async def judge(self, observations: Sequence[Any]) -> JudgedBatch:
        for _ in range(self._random.randrange(6)):
            await asyncio.sleep(0)
        return self._run(observations)

    def _run(self, observations: Sequence[Any]) -> JudgedBatch:
        return JudgedBatch([unusable(Reason.NO_STUDENT)] * len(observations), None, 0, 0, 0)


class Shell:
    """What an intake needs of the engine; now and then it has no room, as a full outbox."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.config = SimpleNamespace(
            intake=IntakeOptions(batch=5, queue_max_events=16), http=HttpOptions(max_waiting=12)
        )
        self.students = {name: Moody(random) for name in PIPELINES}
        self.metrics = SimpleNamespace(student_cpu_seconds=0.0)
        self.batches = asyncio.Semaphore(2)
        self.generation = 1
        self.decided = dict.fromkeys(PIPELINES, 0)
        self.changed = asyncio.Event()
        self.intake = Intake(self)  # type: ignore[arg-type]  # all of the engine that it uses

    def is_current(self, one: Arrival) -> bool:
        return one.generation == self.generation

    def without_repeats(self, batch: list[Arrival]) -> list[Arrival]:
        return batch

    def release(self, one: Arrival, error: object) -> None:
        """Nobody waits for a key here."""

    def forget_key(self, one: Arrival) -> list[Arrival]:
        return []

    def on_blocked(self) -> None:
        self.changed.set()

    def decide(self, batch: list[Arrival], fresh: list[Arrival], runs: Runs) -> None:
        full = self._random.random() < 0.05
        for one in batch:
            assert self.is_current(one)
            assert id(one) in runs
            if full and self._random.random() < 0.5:
                self.generation += 1
                break
            assert one.place is not None
            assert one.place.sequence == self.decided[one.pipeline] + 1, "out of order, or twice"
            self.decided[one.pipeline] += 1
        self.changed.set()
        asyncio.get_running_loop().call_soon(self.batches.release)


async def feed(shell: Shell, random: Random) -> None:
    """As the broker's door does: in order, again from the cursor when told, no more than fits."""
    read, generation = dict(shell.decided), shell.generation
    while any(done < EVENTS for done in shell.decided.values()):
        if generation != shell.generation:
            read, generation = dict(shell.decided), shell.generation
        open_ones = [name for name in PIPELINES if read[name] < EVENTS and shell.intake.takes(name)]
        if not open_ones:
            shell.changed.clear()
            await shell.changed.wait()
            continue
        name = random.choice(open_ones)
        read[name] += 1
        await shell.intake.put(arrival(name, read[name], generation))
        if random.random() < 0.3:
            await asyncio.sleep(0)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_event_is_decided_once_and_in_its_pipelines_order(seed: int) -> None:
    async def run() -> None:
        random = Random(seed)
        shell = Shell(random)
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(shell.intake.run(tasks))
            await feed(shell, random)
            assert set(shell.decided.values()) == {EVENTS}
            for task in [taking, *(set(asyncio.all_tasks()) - {asyncio.current_task()})]:
                task.cancel()

    asyncio.run(run())


async def test_a_lane_says_once_when_it_has_room_again() -> None:
    lane = Lane(4)
    for number in range(4):
        assert not lane.full
        lane.put(arrival("a", number))
    assert lane.full
    await lane.take(1)
    assert not lane.emptied()
    await lane.take(1)
    assert lane.emptied()
    assert not lane.emptied()


async def test_what_waits_can_be_withdrawn_and_what_is_judged_cannot() -> None:
    lane = Lane()
    first, second = arrival("a", 1), arrival("a", 1)
    lane.put(first)
    lane.put(second)
    await lane.take(1)
    assert not lane.withdraw(first)
    assert lane.withdraw(second)
    assert lane.drain() == [first]
    assert not lane.busy
