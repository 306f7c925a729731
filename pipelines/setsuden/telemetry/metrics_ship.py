"""Sends a meter's metrics to the broker, now and then, while the link is up.

Their counters are cumulative, so a message that is lost costs nothing but a step in time: nothing
is kept, and nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping

from setsuden.energy import Meter
from setsuden.energy.metering.instruments import instruments
from setsuden.link import Link, LinkState
from setsuden.schemas import subjects
from setsuden.schemas.errors import LinkError
from setsuden.schemas.log import get_logger

from .ship import CONTENT_ENCODING, CONTENT_TYPE
from .span import Value

log = get_logger(__name__)


class MetricsShipper:
    """One process's way to ``otel.metrics.<tier>.<name>``."""

    def __init__(
        self,
        link: Link,
        meter: Meter,
        resource: Mapping[str, Value],
        sender: subjects.TelemetrySource,
        seconds: float,
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.shipped = 0
        """Messages the broker has."""
        self._link, self._meter = link, meter
        self._resource = dict(resource)
        self._subject = subjects.metrics(*sender)
        self._seconds = seconds
        self._now_ns = now_ns
        self._changed = asyncio.Event()
        link.listen(lambda _: self._changed.set())

    async def run(self) -> None:
        """Send every so many seconds, until cancelled; with 0 seconds nothing is sent.

        A moment at which the link is down is made up for as soon as it is up.
        """
        if not self._seconds:
            await asyncio.Event().wait()  # its supervisor would begin it again
        # A site's devices that got their power back together would speak together for ever.
        await asyncio.sleep(random.uniform(0, self._seconds))  # noqa: S311  # jitter
        while True:
            await self._up()
            await self._send()
            await asyncio.sleep(self._seconds)

    async def finish(self, seconds: float) -> None:
        """Send the last values, once and within bounds."""
        if not self._seconds or self._link.state is not LinkState.UP:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._send()
        except TimeoutError:
            log.info("metrics_not_sent", detail="the broker did not answer in time")

    async def _up(self) -> None:
        while self._link.state is not LinkState.UP:
            self._changed.clear()
            await self._changed.wait()

    async def _send(self) -> None:
        headers = {"content-type": CONTENT_TYPE, "content-encoding": CONTENT_ENCODING}
        try:
            await self._link.store(self._subject, self._encoded(), headers)
        except LinkError as error:
            log.debug("metrics_not_sent", detail=str(error))
            return
        self.shipped += 1

    def _encoded(self) -> bytes:
        from . import metrics_protobuf, protobuf  # noqa: PLC0415  # loaded with the first message

        start_ns = self._meter.journal.meter.started_ns
        made = instruments(self._meter)
        return protobuf.compress(
            metrics_protobuf.encode(self._resource, made, start_ns, self._now_ns())
        )
