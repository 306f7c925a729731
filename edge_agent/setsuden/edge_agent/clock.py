"""Asks the cloud for its time: spans are put on its clock, and deadlines are kept by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from setsuden.link import Link, LinkState
from setsuden.link.tasks import wait
from setsuden.schemas.errors import LinkError
from setsuden.schemas.log import get_logger
from setsuden.schemas.stream_service import StreamInfo
from setsuden.telemetry import Offset, OffsetEstimator, SpanClock, Timeline

from .ingress.source import EventSource

log = get_logger(__name__)
_FIRST_QUESTIONS = 4
"""Asked in a row when the link is up: one of them meets no queue."""


class CloudClock:
    """Questions to the broker's clock over the link, with what else the answer tells."""

    def __init__(
        self, clock: SpanClock, link: Link, source: EventSource, period_seconds: float
    ) -> None:
        self._clock, self._link, self._source = clock, link, source
        self._period = period_seconds
        self._estimator = OffsetEstimator()
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()
        self.info: StreamInfo | None = None
        """The newest answer."""
        self.on_known: Callable[[int], None] = lambda _: None
        """Called after each round of questions with cloud minus monotonic clock, nanoseconds."""
        self.timeline = Timeline(clock.boot, self.offset, self._asked)
        link.listen(self._on_link)

    def offset(self) -> Offset | None:
        """Cloud minus device, as well as it is known now."""
        return self._estimator.at(self._clock.now_ns())

    async def run(self) -> None:
        """Ask when the link comes up and every period after that, until cancelled."""
        while True:
            if self._link.state is LinkState.UP:
                for _ in range(1 if self._asked.is_set() else _FIRST_QUESTIONS):
                    await self._ask()
                self._asked.set()
                offset = self.offset()
                if offset is not None:
                    self.on_known(self._clock.anchor_ns + offset.offset_ns)
            await self._pause()

    def _on_link(self, state: LinkState) -> None:
        if state is not LinkState.UP:
            self._asked.clear()
        self._changed.set()

    async def _ask(self) -> None:
        asked = self._clock.now_ns()
        try:
            self.info = await self._source.info()
            answered = self._clock.now_ns()
            cloud = round(datetime.fromisoformat(self.info.now).timestamp() * 1e6) * 1000
        except (LinkError, ValueError) as error:
            log.debug("cloud_time_unknown", detail=str(error))
            return
        self._estimator.add(asked, cloud, answered)

    async def _pause(self) -> None:
        if await wait(self._changed, self._period if self._link.state is LinkState.UP else None):
            self._changed.clear()
