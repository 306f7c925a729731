"""Final results for those in this process who wait for them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial

from setsuden.schemas.result import Result

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
