"""An event on its way from an ingress to the core, and what becomes of it there."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from numpy.typing import NDArray

from setsuden.pipelines.pipeline import JudgedBatch
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.result import Problem, Result

from .core import StreamPlace, Submission


class Accepted(NamedTuple):
    """The event is durable."""

    result: Result
    """The newest: provisional while the cloud is asked, else final."""
    repeated: bool
    """It had been accepted before, or its result was known before anybody judged it."""


class Deferred(NamedTuple):
    """Not accepted now and not refused: the event is safe where it is stored; read it again."""

    reason: SetsudenError


Outcome = Accepted | Deferred | SetsudenError
"""An error is a refusal: nothing has changed."""
Answered = Callable[[Outcome], None]


class Arrival(NamedTuple):
    """A checked event on its way to student, gate and outbox."""

    submission: Submission
    observation: NDArray[Any] | None
    answered: Answered
    """Called once, with the outcome."""
    place: StreamPlace | None = None
    """Where the event is stored, if it is."""
    reading: int = 0
    """The reading of the stream that brought it."""
    settled: Result | Problem | None = None
    """It is not judged: its final result is known, or the reason why it cannot have one."""

    @property
    def pipeline(self) -> str:
        """The pipeline it is for."""
        return self.submission.event.pipeline

    @property
    def key(self) -> str:
        """What makes it the same event as another."""
        return self.submission.event.key


class JudgedArrival(NamedTuple):
    """An arrival with its observation's place in the student's run; no run when it is settled."""

    arrival: Arrival
    run: JudgedBatch | None
    place: int = 0


FinalResult = asyncio.Future[Result]


class FinalResults:
    """Futures by event; costs nothing where nobody waits."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[FinalResult]] = defaultdict(set)

    def wait_for(self, event_id: str) -> FinalResult:
        """A future of the event's final result; cancel it to wait no longer."""
        final: FinalResult = asyncio.get_running_loop().create_future()
        self._waiting[event_id].add(final)
        final.add_done_callback(partial(self._forget, event_id))
        return final

    def announce(self, result: Result) -> None:
        """The final result is durable."""
        for final in self._waiting.get(result.event_id, ()):
            if not final.done():
                final.set_result(result)

    def _forget(self, event_id: str, final: FinalResult) -> None:
        waiting = self._waiting.get(event_id)
        if waiting is not None:
            waiting.discard(final)
            if not waiting:
                del self._waiting[event_id]
