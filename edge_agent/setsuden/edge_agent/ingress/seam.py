"""The one way into the agent: whatever brings events brings them here.

An ingress that has a caller waiting uses :meth:`Ingress.submit`. One whose events are stored
elsewhere, and whose order counts, uses :meth:`Ingress.offer` with the event's position; it reads on
from :attr:`Ingress.cursor`, and again from :meth:`Ingress.resume` when events were deferred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from setsuden.edge_agent.arrival import Accepted, Answered, Arrival, Deferred, FinalResults, Outcome
from setsuden.edge_agent.core import Cursor, Reply, StreamPlace, Submission
from setsuden.edge_agent.durable import now
from setsuden.edge_agent.outbox import Known
from setsuden.edge_agent.runtime import Runtime
from setsuden.schemas.errors import SetsudenError, UnavailableError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Problem, Result

from . import validation


class Position(NamedTuple):
    """Where an event is stored; it is safe there until it is accepted here."""

    place: StreamPlace
    event_id: str
    """Follows from the place, so that an event that is read again has it again."""
    stored_ns: int | None = None
    """When it was stored, by the cloud's clock."""


class Receipt:
    """An accepted event."""

    def __init__(
        self, result: Result, finals: FinalResults, runtime: Runtime, *, repeated: bool
    ) -> None:
        self.result, self.repeated = result, repeated
        self._finals, self._outbox = finals, runtime.durable.outbox

    async def final(self, seconds: float, *ends: asyncio.Future[None]) -> Result:
        """The final result when it comes in time and before any of ``ends``, else the newest."""
        result = self.result
        if result.is_final or seconds <= 0:
            return result
        final = self._finals.wait_for(result.event_id)
        known = self._outbox.result(result.event_id)
        if known is not None and known.result.is_final:
            final.cancel()
            return known.result
        waited: set[asyncio.Future[Any]] = {final, *ends}
        await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if final.done():
            return final.result()
        final.cancel()
        return result


class Ingress:
    """Accepts events. Whoever waits here is held back as long as the agent has no room."""

    def __init__(self, runtime: Runtime, finals: FinalResults) -> None:
        self._runtime, self._finals = runtime, finals
        self._outbox, self._positions = runtime.durable.outbox, runtime.positions
        self.device, self.region = runtime.config.device, runtime.config.region
        self.students = runtime.students
        """The pipelines, with what they declare."""
        self.metrics = runtime.metrics

    # -- events with a caller -----------------------------------------------------------------

    async def submit(self, event: Event) -> Receipt:
        """Check an event and wait until it is durable.

        Raises SetsudenError when it is refused, and nothing has changed then.
        """
        event, observation = self.check(event)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def answered(outcome: Outcome) -> None:
            if not answer.done():  # the caller may have gone
                answer.set_result(outcome)

        await self.offer(event, observation, answered)
        match await answer:
            case Accepted(result, repeated):
                return Receipt(result, self._finals, self._runtime, repeated=repeated)
            case Deferred(reason):
                raise reason
            case error:
                raise error

    def check(self, event: Event) -> tuple[Event, NDArray[Any]]:
        """The event as it is kept, and its observation; raises RejectedError, which is counted."""
        try:
            return validation.check(event, self.students)
        except SetsudenError as error:
            self.count_refusal(error)
            raise

    def count_refusal(self, error: SetsudenError) -> None:
        """Count an event that is refused before it can be offered."""
        self.metrics.refused[error.code] += 1

    def result(self, event_id: str) -> Receipt | None:
        """An event that was accepted, with its newest result; None when there is none."""
        known = self._outbox.result(event_id)
        if known is None:
            return None
        return Receipt(known.result, self._finals, self._runtime, repeated=True)

    # -- events in general --------------------------------------------------------------------

    async def offer(
        self,
        event: Event,
        observation: NDArray[Any] | None,
        answered: Answered,
        *,
        position: Position | None = None,
        settled: Result | Problem | None = None,
    ) -> None:
        """Hand over a checked event and wait for room only; ``answered`` gets the outcome, once.

        Stored events of a pipeline must be offered in their order. After one of them is deferred
        all are, until :meth:`resume`. A ``settled`` event needs no observation: its final result is
        known, or the reason why it can have no other than none.
        """
        if position is None:
            submission = Submission(event, over_nats=False, received=now())
            await self._runtime.put(Arrival(submission, observation, answered, settled=settled))
            return
        if self._positions.deferring:
            answered(Deferred(UnavailableError("an event before it is deferred")))
            return
        place, event_id, stored_ns = position
        submission = Submission(event, True, now(), event_id, stored_ns)
        reading = self._positions.reading
        await self._runtime.put(Arrival(submission, observation, answered, place, reading, settled))

    def reply(self, subject: str, body: bytes) -> None:
        """A message to an application, in order with what else it is sent; best effort."""
        self._runtime.durable.send(Reply(subject, body))

    # -- events that are stored elsewhere -----------------------------------------------------

    @property
    def cursor(self) -> Cursor:
        """How far stored events were taken."""
        return self._positions.cursor

    @property
    def durable_cursor(self) -> Cursor | None:
        """How far stored events are durable here: their space may be freed."""
        return self._outbox.cursor()

    @property
    def deferring(self) -> bool:
        """True when an event was deferred and :meth:`resume` was not called since."""
        return self._positions.deferring

    async def resume(self) -> Cursor:
        """Wait until deferred events can be taken; read on from where this says."""
        return await self._runtime.resume()

    def takes(self, pipeline: str) -> bool:
        """False while so much waits for this pipeline that its events should stay stored."""
        return self._runtime.takes(pipeline)

    async def room(self, pipeline: str) -> None:
        """Wait until the pipeline takes events again."""
        await self._runtime.room(pipeline)

    def accepted(self, event_ids: Sequence[str]) -> Mapping[str, Result]:
        """Results of those of these stored events that were accepted before."""
        known = self._outbox.accepted(event_ids)
        return {name: one.result for name, one in known.items() if isinstance(one, Known)}
