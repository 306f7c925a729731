"""What every ingress relies on, shown with a fourth one: a log in this process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.agent_runtime import SmallAgent

from setsuden.edge_agent.arrival import Accepted, Deferred, Outcome
from setsuden.edge_agent.core import StreamPlace
from setsuden.edge_agent.ingress.seam import Ingress, Position
from setsuden.schemas.errors import (
    InvalidTensorError,
    OutboxFullError,
    SetsudenError,
    UnavailableError,
    UnknownPipelineError,
)
from setsuden.schemas.event import Event
from setsuden.schemas.result import Status

IMAGE = np.zeros((28, 28), np.uint8)


class LogIngress:
    """Brings in the events of a log, each pipeline's in order, until all are durable."""

    def __init__(self, ingress: Ingress, log: Mapping[str, Sequence[Event]]) -> None:
        self._ingress, self._log = ingress, log
        self._answered = asyncio.Event()
        self.outcomes: dict[StreamPlace, list[Outcome]] = defaultdict(list)

    async def run(self) -> None:
        read = dict(self._ingress.cursor.positions)
        while not self._is_durable():
            self._answered.clear()
            if self._ingress.deferring:
                read = dict((await self._ingress.resume()).positions)
            for pipeline, events in self._log.items():
                for event in events[read.get(pipeline, 0) :]:
                    await self._ingress.room(pipeline)
                    read[pipeline] = read.get(pipeline, 0) + 1
                    await self._offer(event, read[pipeline])
            await self._answered.wait()

    async def _offer(self, event: Event, sequence: int) -> None:
        place = StreamPlace("log", event.pipeline, sequence)
        position = Position(place, f"log-{event.pipeline}-{sequence}")
        answered = partial(self._keep, place)
        await self._ingress.offer(event, IMAGE, answered, position=position)

    def _keep(self, place: StreamPlace, outcome: Outcome) -> None:
        self.outcomes[place].append(outcome)
        self._answered.set()

    def _is_durable(self) -> bool:
        durable = self._ingress.durable_cursor
        taken = {} if durable is None else durable.positions
        return all(taken.get(name, 0) == len(events) for name, events in self._log.items())


def event(number: int, pipeline: str = "digits", size: int = 784, key: str | None = None) -> Event:
    return Event(
        id=str(number),
        source="log",
        pipeline=pipeline,
        device="dev",
        data=bytes(size),
        idempotency_key=key,
        content_type="application/octet-stream",
    )


async def beside(agent: SmallAgent, work: Coroutine[None, None, None]) -> None:
    """Run the agent for as long as the work takes."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(agent.runtime.run()),
            tasks.create_task(agent.announce_finals()),
        ]
        await work
        for task in running:
            task.cancel()


@pytest.fixture
async def agent(tmp_path: Path) -> SmallAgent:
    return SmallAgent(tmp_path, Random(0))


@pytest.fixture
async def unsure(tmp_path: Path) -> SmallAgent:
    """Every event is a hard case, and the outbox has room for ten."""
    return SmallAgent(tmp_path, Random(0), sure=0.0)


# -- a caller that waits -------------------------------------------------------------------------


async def test_an_accepted_event_has_a_receipt_and_a_repeat_has_the_same(agent: SmallAgent) -> None:
    async def work() -> None:
        first = await agent.ingress.submit(event(1))
        again = await agent.ingress.submit(event(1))
        assert (first.repeated, again.repeated) == (False, True)
        assert first.result.status is Status.FINAL
        assert again.result == first.result
        assert len(agent.outbox.rows) == 1

    await beside(agent, work())


async def test_the_same_event_sent_by_many_at_once_is_accepted_once(agent: SmallAgent) -> None:
    async def work() -> None:
        receipts = await asyncio.gather(*[agent.ingress.submit(event(1)) for _ in range(20)])
        assert len(agent.outbox.rows) == 1
        assert sum(not receipt.repeated for receipt in receipts) == 1
        assert len({receipt.result.event_id for receipt in receipts}) == 1

    await beside(agent, work())


async def test_a_refused_event_changes_nothing_and_is_counted(agent: SmallAgent) -> None:
    async def work() -> None:
        with pytest.raises(UnknownPipelineError):
            await agent.ingress.submit(event(1, pipeline="other"))
        with pytest.raises(InvalidTensorError):
            await agent.ingress.submit(event(1, size=5))
        assert agent.outbox.rows == {}
        assert agent.ingress.metrics.refused.total() == 2

    await beside(agent, work())


async def test_a_hard_case_without_room_is_refused_to_its_caller(unsure: SmallAgent) -> None:
    async def work() -> None:
        await unsure.ingress.submit(event(1))
        with pytest.raises(OutboxFullError):
            await unsure.ingress.submit(event(2))
        assert len(unsure.outbox.rows) == 1

    await beside(unsure, work())


async def test_the_final_result_of_a_hard_case_can_be_waited_for(unsure: SmallAgent) -> None:
    async def work() -> None:
        receipt = await unsure.ingress.submit(event(1))
        assert receipt.result.status is Status.PROVISIONAL
        waiting = asyncio.create_task(receipt.final(20))
        unsure.answer_all()
        assert (await waiting).status is Status.FINAL
        again = unsure.ingress.result(receipt.result.event_id)
        assert again is not None
        assert await again.final(0) == await waiting

    await beside(unsure, work())


async def test_waiting_for_a_final_result_ends_with_what_is_known(unsure: SmallAgent) -> None:
    async def work() -> None:
        receipt = await unsure.ingress.submit(event(1))
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone.set_result(None)
        assert (await receipt.final(20, gone)).status is Status.PROVISIONAL

    await beside(unsure, work())


async def test_an_ingress_is_held_back_while_nothing_is_judged(agent: SmallAgent) -> None:
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

    async def offer_all() -> None:
        for number in range(40):
            await agent.ingress.offer(event(number), IMAGE, outcomes.put_nowait)

    offering = asyncio.create_task(offer_all())
    await asyncio.wait([offering], timeout=0.05)
    assert not offering.done()

    async def work() -> None:
        await offering
        for _ in range(40):
            assert isinstance(await outcomes.get(), Accepted)

    await beside(agent, work())


async def test_what_is_not_judged_as_the_agent_stops_is_refused_or_deferred(
    agent: SmallAgent,
) -> None:
    outcomes: list[Outcome] = []
    position = Position(StreamPlace("log", "digits", 1), "log-digits-1")
    await agent.ingress.offer(event(1), IMAGE, outcomes.append)
    await agent.ingress.offer(event(2), IMAGE, outcomes.append, position=position)
    agent.runtime.refuse_queued()
    assert [type(outcome) for outcome in outcomes] == [UnavailableError, Deferred]


# -- events that are stored elsewhere ------------------------------------------------------------


async def test_stored_events_without_room_are_deferred_and_read_again_in_order(
    unsure: SmallAgent,
) -> None:
    log = LogIngress(unsure.ingress, {"digits": [event(number) for number in range(30)]})

    async def work() -> None:
        reading = asyncio.create_task(log.run())
        while not reading.done():
            unsure.answer_all()
            await asyncio.wait([reading], timeout=0.001)
        await reading

    await beside(unsure, work())
    ids = [row.event.id for row in unsure.outbox.rows.values()]
    assert ids == [str(number) for number in range(30)]
    assert any(isinstance(one, Deferred) for all_ in log.outcomes.values() for one in all_)


async def test_a_stored_event_that_can_never_fit_is_refused(unsure: SmallAgent) -> None:
    outcomes: list[Outcome] = []
    position = Position(StreamPlace("log", "digits", 1), "log-digits-1")

    async def work() -> None:
        done = asyncio.Event()

        def answered(outcome: Outcome) -> None:
            outcomes.append(outcome)
            done.set()

        await unsure.ingress.offer(event(1, size=1001), IMAGE, answered, position=position)
        await done.wait()

    await beside(unsure, work())
    assert [type(outcome) for outcome in outcomes] == [OutboxFullError]
    assert not unsure.ingress.deferring
    assert unsure.ingress.cursor.positions == {"digits": 1}


PIPELINES = ("a", "b", "c")
EVENTS = 40


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_every_stored_event_is_accepted_once_and_in_its_pipelines_order(
    tmp_path: Path, seed: int
) -> None:
    """Students quick and slow, an outbox that fills up, a disk that refuses, repeated keys."""

    async def run() -> SmallAgent:
        random = Random(seed)
        agent = SmallAgent(tmp_path, random, PIPELINES, quick=0.7, sure=0.6, refuses=0.03)
        log = LogIngress(
            agent.ingress,
            {name: [event(n, name, 40) for n in range(EVENTS)] for name in PIPELINES},
        )

        async def work() -> None:
            reading = asyncio.create_task(log.run())
            while not reading.done():
                agent.answer_all()
                await asyncio.wait([reading], timeout=0.002)
            await reading

        await beside(agent, work())
        for outcomes in log.outcomes.values():
            accepted = [one for one in outcomes if isinstance(one, Accepted)]
            assert accepted
            assert sum(not one.repeated for one in accepted) <= 1
            assert not any(isinstance(one, SetsudenError) for one in outcomes)
        return agent

    rows = asyncio.run(run()).outbox.rows.values()
    for name in PIPELINES:
        ids = [row.event.id for row in rows if row.event.pipeline == name]
        assert ids == [str(number) for number in range(EVENTS)], "lost, twice or out of order"
