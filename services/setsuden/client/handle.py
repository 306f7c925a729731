"""One submitted event, as an asyncio application holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

from setsuden.schemas.errors import ResultTimeoutError, SetsudenError
from setsuden.schemas.result import Result

from .inquiry import Inquiry

Seconds = float | timedelta
"""A duration: seconds, or a timedelta."""


class AsyncHandle:
    """A submitted event: its updates as they come, and its one final result.

    ::

        handle = await client.submit("digits", pixels)
        async for update in handle:
            print(update.status, update.answer)
        result = await handle.result(timeout=5)
    """

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry

    @property
    def trace_id(self) -> str:
        """The accepted event's trace; until it is known, the one this submission asked for."""
        return self._inquiry.trace_id

    @property
    def event_id(self) -> str | None:
        """The agent's name of the event, once it said that it has it."""
        return self._inquiry.event_id

    @property
    def idempotency_key(self) -> str:
        """The application's key, else the one made for it: submit it again, get the same result."""
        return self._inquiry.idempotency_key

    @property
    def done(self) -> bool:
        """True once there is a final result, a refusal, or the handle was closed."""
        return self._inquiry.outcome is not None

    @property
    def superseded(self) -> Result | None:
        """The cloud's answer that came after the deadline, if one did."""
        return self._inquiry.superseded

    async def result(self, timeout: Seconds | None = None) -> Result:  # noqa: ASYNC109  # as concurrent.futures names it
        """The final result: ``final``, ``expired`` or ``dead``.

        Raises the RejectedError with which the agent refused the event, or ResultTimeoutError
        after ``timeout`` seconds; the event lives on then, and this may be called again.
        """
        limit = seconds_of(timeout)
        try:
            async with asyncio.timeout(limit):
                outcome = await self._inquiry.ended()
        except TimeoutError as error:
            raise self._late(limit) from error
        if isinstance(outcome, SetsudenError):
            raise outcome
        return outcome

    async def __aiter__(self) -> AsyncIterator[Result]:
        """Provisional when the case is hard, then final; each iteration begins at the first.

        The cloud's late answer to an expired event follows only if it is there by then.
        """
        position = 0
        while (update := await self.update(position)) is not None:
            yield update
            position += 1

    async def update(self, position: int) -> Result | None:
        """The update at this position, awaited; None behind the final one. Raises a refusal."""
        return await self._inquiry.update(position)

    def close(self) -> None:
        """Follow no more, which frees a place among the open handles. The event lives on."""
        self._inquiry.fail(SetsudenError("the handle was closed"))

    def _late(self, limit: float | None) -> ResultTimeoutError:
        name = self.event_id or f"the event with key {self.idempotency_key}"
        return ResultTimeoutError(
            f"no final result of {name} within {limit} s",
            remedy="wait again, or give a deadline at submit",
            trace_id=self.trace_id,
        )


def seconds_of(duration: Seconds | None) -> float | None:
    """A duration in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
