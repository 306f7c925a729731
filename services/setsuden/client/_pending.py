"""One submitted event until its outcome is known: the client's side of it, and the handle on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

from setsuden.schemas.errors import ResultTimeoutError, SetsudenError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Result, Status
from setsuden.schemas.subjects import Place

from . import _messages

Seconds = float | timedelta
"""A duration: seconds, or a timedelta."""
Outcome = Result | SetsudenError
"""The final result, or the error that takes its place."""


class PendingSubmission:
    """Merges updates of one event, which may arrive more than once and by more than one route."""

    def __init__(
        self,
        token: str,
        event: Event,
        trace_id: str,
        on_outcome: Callable[[PendingSubmission], None],
    ) -> None:
        self.token = token
        self.device = event.device
        self.idempotency_key = event.idempotency_key or ""
        self.trace_id = trace_id
        self.place: Place | None = None
        """Where the event's records are stored, once the agent has named the event."""
        self.event: Event | None = event
        """Kept for sending it again; dropped once the agent is known to have it."""
        self.sequences: dict[int, int] = {}
        """The stream sequence of each copy of the event, by copy number."""
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
        self._on_outcome = on_outcome

    @property
    def provisional(self) -> Result | None:
        """The student's answer to a hard case, once it has arrived."""
        first = self._updates[0] if self._updates else None
        return first if first is not None and first.status is Status.PROVISIONAL else None

    @property
    def event_id(self) -> str | None:
        """The agent's id of the event, once the agent has confirmed it."""
        return None if self.place is None else self.place.event_id

    def matches(self, result: Result) -> bool:
        """True when a result can belong to this event: same device, pipeline and event id."""
        return (
            result.device == self.device
            and result.pipeline == self._pipeline
            and self.event_id in {None, result.event_id}
        )

    def on_update(self, result: Result) -> None:
        """Apply one update; a repeated one changes nothing."""
        self.place, self.trace_id, self.event = result.place, result.trace_id, None
        if result.status is Status.SUPERSEDED:
            self._supersede(result)
        elif self.outcome is None and result.is_final:
            self._finish(self._with_names(result))
        elif not self._updates and result.status is Status.PROVISIONAL:
            self._updates.append(self._with_names(result))
            self._changed.set()

    def on_record(self, record: Result) -> None:
        """Apply a record read from the results stream."""
        self.on_update(_messages.completed(record, self.provisional))

    def fail(self, error: SetsudenError) -> None:
        """End without a final result; does nothing when there is an outcome already."""
        if self.outcome is None:
            error.trace_id = self.trace_id
            self._end(error)

    async def wait_outcome(self) -> Outcome:
        """The outcome, once there is one."""
        while self.outcome is None:
            await self._wait_change()
        return self.outcome

    async def update(self, position: int) -> Result | None:
        """The update at this position, or None past the last one; raises a refusal."""
        while position >= len(self._updates):
            if isinstance(self.outcome, SetsudenError):
                raise self.outcome
            if self.outcome is not None:
                return None
            await self._wait_change()
        return self._updates[position]

    async def _wait_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _finish(self, result: Result) -> None:
        self._updates.append(result)
        if self.superseded is not None:
            self._updates.append(self.superseded)
        self._end(result)

    def _supersede(self, result: Result) -> None:
        if self.superseded is None:
            self.superseded = self._with_names(result)
            if isinstance(self.outcome, Result):
                self._updates.append(self.superseded)

    def _end(self, outcome: Outcome) -> None:
        self.outcome, self.event = outcome, None
        self._changed.set()
        self._on_outcome(self)

    def _with_names(self, result: Result) -> Result:
        """Adds the application's own id and key, which records written by the cloud lack."""
        names = {"source_id": self._source_id, "idempotency_key": self.idempotency_key}
        missing = {name: value for name, value in names.items() if getattr(result, name) is None}
        return result.model_copy(update=missing) if missing else result


class AsyncHandle:
    """A submitted event: its updates as they arrive, and its one final result.

    ::

        handle = await client.submit("digits", pixels)
        async for update in handle:
            print(update.status, update.answer)
        result = await handle.result(timeout=5)
    """

    def __init__(self, pending: PendingSubmission) -> None:
        self._pending = pending

    @property
    def trace_id(self) -> str:
        """The trace id of the accepted event; before it is accepted, the one submitted with it.

        They differ when the idempotency key was used before: then it is the first event's trace.
        """
        return self._pending.trace_id

    @property
    def event_id(self) -> str | None:
        """The agent's id of the event; None until the agent has sent its first update."""
        return self._pending.event_id

    @property
    def idempotency_key(self) -> str:
        """The application's key, or a generated one: submitting with it gives the same result."""
        return self._pending.idempotency_key

    @property
    def done(self) -> bool:
        """True once there is a final result, a refusal, or the handle was closed."""
        return self._pending.outcome is not None

    @property
    def superseded(self) -> Result | None:
        """The cloud's answer that arrived after the deadline, if one did."""
        return self._pending.superseded

    async def result(self, timeout: Seconds | None = None) -> Result:  # noqa: ASYNC109  # as concurrent.futures names it
        """The final result: its status is ``final``, ``expired`` or ``dead``.

        Raises the RejectedError with which the agent refused the event, or ResultTimeoutError
        after ``timeout`` seconds. The event is still processed then, and ``result`` may be called
        again.
        """
        limit = seconds_of(timeout)
        try:
            async with asyncio.timeout(limit):
                outcome = await self._pending.wait_outcome()
        except TimeoutError as error:
            raise self._timeout_error(limit) from error
        if isinstance(outcome, SetsudenError):
            raise outcome
        return outcome

    async def __aiter__(self) -> AsyncIterator[Result]:
        """Provisional when the case is hard, then final; each iteration starts from the first.

        The cloud's late answer to an expired event follows only if it has arrived by then.
        """
        position = 0
        while (update := await self.update(position)) is not None:
            yield update
            position += 1

    async def update(self, position: int) -> Result | None:
        """The update at this position, awaited; None past the last one. Raises a refusal."""
        return await self._pending.update(position)

    def close(self) -> None:
        """Stop following the event, which frees one of ``max_open_handles``.

        The agent processes the event all the same.
        """
        self._pending.fail(SetsudenError("the handle was closed"))

    def _timeout_error(self, limit: float | None) -> ResultTimeoutError:
        name = self.event_id or f"the event with key {self.idempotency_key}"
        return ResultTimeoutError(
            f"no final result of {name} within {limit} s",
            remedy="wait again, or give a deadline at submit",
            trace_id=self.trace_id,
        )


def seconds_of(duration: Seconds | None) -> float | None:
    """A duration in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
