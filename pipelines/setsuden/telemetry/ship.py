"""Sends sealed spans to the broker, oldest first, and lets go of them when it has them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib

from setsuden.link import Link, LinkState
from setsuden.link.tasks import Backoff, wait
from setsuden.schemas import escalation, subjects
from setsuden.schemas.errors import LinkError, MessageTooLargeError, TraceDataError
from setsuden.schemas.log import get_logger

from .offset import Offset
from .recorder import Recorder, Timeline
from .spool import CLOCK_DONE, Segment

log = get_logger(__name__)
CONTENT_TYPE, CONTENT_ENCODING = "application/x-protobuf", "gzip"
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0


class Shipper:
    """One process's way from spool to ``otel.spans.<tier>.<name>``.

    A segment's bytes are settled on disk before they are first sent and are the same at every
    repetition, so that whatever arrives twice is recognised.
    """

    def __init__(
        self,
        link: Link,
        recorder: Recorder,
        sender: subjects.TelemetrySource,
        timeline: Timeline | None = None,
    ) -> None:
        self._link, self._recorder, self._timeline = link, recorder, timeline
        self._spool = recorder.spool
        self._subject = subjects.spans(*sender)
        self._name = f"{sender.tier}-{sender.name}"
        self._awake = asyncio.Event()
        self._awake.set()
        self._link_changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.shipped = 0
        """Spans the broker has."""
        recorder.on_sealed = self._wake_from_thread
        link.listen(self._on_link)

    def _on_link(self, _: LinkState) -> None:
        self._awake.set()
        self._link_changed.set()

    def _wake_from_thread(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._awake.set)

    async def run(self) -> None:
        """Send whatever is sealed, until cancelled."""
        pauses = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            self._awake.clear()
            if await self._send_all():
                pauses.reset()
                await self._awake.wait()
            else:
                self._link_changed.clear()
                await wait(self._link_changed, pauses.next())

    async def finish(self, seconds: float) -> None:
        """Send what is left, within bounds; the next life sends the rest."""
        try:
            async with asyncio.timeout(seconds):
                await self._send_all()
        except TimeoutError:
            log.info("spans_left_in_spool", segments=len(self._spool))

    async def _send_all(self) -> bool:
        """True when nothing is left to do now; False when the broker would not take one."""
        while self._link.state is LinkState.UP:
            segment = self._spool.oldest()
            if segment is None:
                return True
            if self._timeline is not None and segment.clock == self._timeline.boot:
                await self._timeline.asked.wait()
            if not await self._send(segment):
                return False
        return True

    async def _send(self, segment: Segment) -> bool:
        data = self._settled(segment)
        if data is None:
            return segment.clock == CLOCK_DONE or self._spool.read(segment) is None
        digest = hashlib.sha256(data).hexdigest()[:16]
        headers = {
            escalation.MSG_ID_HEADER: f"{self._name}-{segment.number}-{digest}",
            "content-type": CONTENT_TYPE,
            "content-encoding": CONTENT_ENCODING,
        }
        try:
            await self._link.store(self._subject, data, headers)
        except MessageTooLargeError:
            self._spool.drop(segment, "too_large")
            return True
        except LinkError as error:
            log.debug("spans_not_sent", detail=str(error))
            return False
        self._spool.remove(segment)
        self.shipped += segment.spans
        return True

    def _settled(self, segment: Segment) -> bytes | None:
        """The segment's final bytes; None when there is nothing to send."""
        from . import protobuf  # noqa: PLC0415  # loaded with the first span, not at start

        data = self._spool.read(segment)
        if data is None:
            self._spool.drop(segment, "damaged")
            return None
        try:
            raw = protobuf.decompress(data)
            if segment.clock == CLOCK_DONE:
                return data
            data = protobuf.compress(protobuf.corrected(raw, self._offset_of(segment)))
        except TraceDataError as error:
            log.warning("segment_damaged", detail=str(error), count=segment.spans)
            self._spool.drop(segment, "damaged")
            return None
        # Sent only once these bytes are on disk: a repetition must be the same.
        return data if self._spool.replace(segment, data, CLOCK_DONE) else None

    def _offset_of(self, segment: Segment) -> Offset | None:
        """Known for spans of this boot alone: another's timeline is gone."""
        timeline = self._timeline
        if timeline is None or segment.clock != timeline.boot:
            return None
        return timeline.offset()
