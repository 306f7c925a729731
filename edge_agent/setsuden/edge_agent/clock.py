"""Asks the cloud for its time, so that the device's spans can be put on its clock."""

from __future__ import annotations

import asyncio
import logging

from setsuden.link import JetStream, Link, LinkState
from setsuden.pipelines.tracing import Offset, OffsetEstimator, SpanClock, Timeline
from setsuden.schemas.errors import LinkError
from setsuden.schemas.streams import EVENTS

log = logging.getLogger(__name__)
_FIRST_QUESTIONS = 4
"""Asked in a row when the link is up: one of them meets no queue."""


class CloudClock:
    """Questions to the broker's clock over the link; no responder of ours is needed."""

    def __init__(
        self, clock: SpanClock, link: Link, jetstream: JetStream, period_seconds: float
    ) -> None:
        self._clock, self._link, self._jetstream = clock, link, jetstream
        self._period = period_seconds
        self._estimator = OffsetEstimator()
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()
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
            await self._pause()

    def _on_link(self, state: LinkState) -> None:
        if state is not LinkState.UP:
            self._asked.clear()
        self._changed.set()

    async def _ask(self) -> None:
        asked = self._clock.now_ns()
        try:
            cloud = await self._jetstream.server_time_ns(EVENTS)
        except (LinkError, KeyError, ValueError) as error:
            log.debug("cloud_time_unknown", extra={"detail": str(error)})
            return
        self._estimator.add(asked, cloud, self._clock.now_ns())

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._period if self._link.state is LinkState.UP else None):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()
