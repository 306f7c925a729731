"""What the client keeps of one submitted event until its outcome is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Result, Status
from setsuden.schemas.subjects import Place

from . import updates

Outcome = Result | SetsudenError
"""The final result, or why there will be none here."""


class Inquiry:
    """Takes what is told of one event, from whatever way it came and however often."""

    def __init__(
        self, token: str, event: Event, trace_id: str, ended: Callable[[Inquiry], None]
    ) -> None:
        self.token = token
        self.device = event.device
        self.idempotency_key = event.idempotency_key or ""
        self.trace_id = trace_id
        self.place: Place | None = None
        """Where the event's records are stored, once the agent named it."""
        self.question: Event | None = event
        """What would be asked again; dropped once the agent is known to have it."""
        self.sequences: dict[int, int] = {}
        """Where each copy of the question lies in the broker's stream."""
        self.copies = 0
        self.checks = 0
        self.due = 0.0
        """When it is checked next, on the loop's clock."""
        self.problem = ""
        """Why the broker has not stored it yet."""
        self.outcome: Outcome | None = None
        self.superseded: Result | None = None
        self._pipeline, self._source_id = event.pipeline, event.id
        self._updates: list[Result] = []
        self._changed = asyncio.Event()
        self._ended = ended

    @property
    def provisional(self) -> Result | None:
        """The student's answer to a hard case, once it came."""
        first = self._updates[0] if self._updates else None
        return first if first is not None and first.status is Status.PROVISIONAL else None

    @property
    def event_id(self) -> str | None:
        """The agent's name of the event, once it said that it has it."""
        return None if self.place is None else self.place.event_id

    def concerns(self, result: Result) -> bool:
        """True when a result can be of this event: its device, its pipeline, its one id."""
        return (
            result.device == self.device
            and result.pipeline == self._pipeline
            and self.event_id in {None, result.event_id}
        )

    def tell(self, result: Result) -> None:
        """Take one update; what is known already changes nothing."""
        self.place, self.trace_id, self.question = result.place, result.trace_id, None
        if result.status is Status.SUPERSEDED:
            self._supersede(result)
        elif self.outcome is None and result.is_final:
            self._finish(self._named(result))
        elif not self._updates and result.status is Status.PROVISIONAL:
            self._updates.append(self._named(result))
            self._changed.set()

    def recover(self, record: Result) -> None:
        """Take a record found in the results stream."""
        self.tell(updates.completed(record, self.provisional))

    def fail(self, error: SetsudenError) -> None:
        """End without a final result."""
        if self.outcome is None:
            error.trace_id = self.trace_id
            self._end(error)

    async def ended(self) -> Outcome:
        """The outcome, once there is one."""
        while self.outcome is None:
            await self._change()
        return self.outcome

    async def update(self, position: int) -> Result | None:
        """The update at this position, None behind the final one; raises a refusal."""
        while position >= len(self._updates):
            if isinstance(self.outcome, SetsudenError):
                raise self.outcome
            if self.outcome is not None:
                return None
            await self._change()
        return self._updates[position]

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _finish(self, result: Result) -> None:
        self._updates.append(result)
        if self.superseded is not None:
            self._updates.append(self.superseded)
        self._end(result)

    def _supersede(self, result: Result) -> None:
        if self.superseded is None:
            self.superseded = self._named(result)
            if isinstance(self.outcome, Result):
                self._updates.append(self.superseded)

    def _end(self, outcome: Outcome) -> None:
        self.outcome, self.question = outcome, None
        self._changed.set()
        self._ended(self)

    def _named(self, result: Result) -> Result:
        """With the names the application gave; records made by the cloud lack them."""
        names = {"source_id": self._source_id, "idempotency_key": self.idempotency_key}
        missing = {name: value for name, value in names.items() if getattr(result, name) is None}
        return result.model_copy(update=missing) if missing else result
