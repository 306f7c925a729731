"""An event's way through the engine, for whoever waits in this process for its answer."""

from __future__ import annotations

import asyncio
from typing import Any

from numpy.typing import NDArray

from setsuden.edge_agent.core import Submission
from setsuden.edge_agent.engine import Arrival, Engine, now
from setsuden.edge_agent.uplink import Uplink
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Result

Gone = asyncio.Future[None]


class Submitter:
    """Submits events, and waits for their final results."""

    def __init__(self, engine: Engine, uplink: Uplink) -> None:
        self._engine = engine
        self._uplink = uplink
        self._stopping: Gone = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """Nobody waits for a final result any longer; what is known is the answer."""
        if not self._stopping.done():
            self._stopping.set_result(None)

    async def submit(self, event: Event, observation: NDArray[Any]) -> Result:
        """The accepted event's first result; raises SetsudenError, and nothing has changed then."""
        future: asyncio.Future[Result | SetsudenError]
        future = asyncio.get_running_loop().create_future()

        def answered(outcome: Result | SetsudenError, _repeated: bool) -> None:
            if not future.done():
                future.set_result(outcome)

        submission = Submission(event, over_nats=False, received=now())
        await self._engine.put(Arrival(submission, observation, answered))
        outcome = await future
        if isinstance(outcome, SetsudenError):
            raise outcome
        return outcome

    async def final(self, result: Result, seconds: float, gone: Gone) -> Result:
        """The final result when it comes in time, else the newest one.

        Nobody waits for a client that has hung up: its place is another's.
        """
        if result.is_final or seconds <= 0:
            return result
        waiter = self._uplink.wait_for(result.event_id)
        known = self._engine.outbox.result(result.event_id)
        if known is not None and known.result.is_final:
            waiter.cancel()
            return known.result
        first = asyncio.FIRST_COMPLETED
        ends: set[asyncio.Future[Any]] = {waiter, gone, self._stopping}
        await asyncio.wait(ends, timeout=seconds, return_when=first)
        if waiter.done():
            return waiter.result()
        waiter.cancel()
        return result
