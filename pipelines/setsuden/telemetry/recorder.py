"""Takes finished spans off the hot path and seals them into the spool."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from setsuden.schemas.log import get_logger
from setsuden.schemas.streams import SPANS_MAX_MESSAGE_BYTES

from .offset import Offset
from .options import TraceOptions
from .resource import resource
from .span import Span, Value
from .spool import CLOCK_DONE, Spool

log = get_logger(__name__)
SEGMENT_SPANS = 512
"""Sealed at once when so many wait; 20 to 100 kB."""
SEGMENT_BYTES = 768 << 10
"""Of a segment before it is packed: the span bridge takes 1 MiB, and a correction of the clock adds
some to each root."""
SEGMENT_PACKED_BYTES = SPANS_MAX_MESSAGE_BYTES // 2


class Timeline(NamedTuple):
    """On whose clock spans are, and how to put them on the cloud's."""

    boot: str
    offset: Callable[[], Offset | None]
    """The newest estimate, or None while there is none; called from any thread."""
    asked: asyncio.Event
    """Set while the link is up and the cloud was asked for its time, whatever came of it."""


class _UnsettledSpans(NamedTuple):
    """Spans of one event until they are sealed."""

    keep: bool
    spans: Sequence[Span]
    since: float
    """On the monotonic clock, seconds."""


class Recorder:
    """One process's spans, queued here and sealed by a thread of its own."""

    def __init__(
        self,
        options: TraceOptions,
        folder: Path,
        service: str,
        extra: Mapping[str, Value],
        timeline: Timeline | None = None,
    ) -> None:
        self.resource = resource(service, options) | dict(extra)
        self.enabled = options.enabled
        self.easy_share = options.easy_share
        self.slow_ms = options.slow_ms
        self.recorded = 0
        """Spans sealed."""
        self.spool = Spool(
            folder / options.spool,
            max_bytes=options.spool_max_bytes,
            max_age_seconds=options.spool_max_age_seconds,
        )
        self.on_sealed: Callable[[], None] = lambda: None
        """Called in the recorder's thread when the spool has something new."""
        self._options, self._timeline = options, timeline
        self._queue: deque[_UnsettledSpans] = deque()
        self._held: deque[_UnsettledSpans] = deque()
        """The recorder thread's own: their joules are not settled yet."""
        self._looked = 0.0
        """When it last asked whether they are."""
        self._waiting = self._fresh = 0
        self._lock = threading.Lock()
        self._some, self._many, self._stop = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Spans that nobody will see, over all lives of this spool."""
        return self.spool.dropped.total()

    def add(self, spans: Sequence[Span], *, keep: bool = True) -> None:
        """Take the finished spans of one event; ``keep`` those that are dropped last."""
        with self._lock:
            room = self._waiting + len(spans) <= self._options.queue_max_spans
            if room:
                self._queue.append(_UnsettledSpans(keep, spans, time.monotonic()))
                self._waiting += len(spans)
                self._fresh += len(spans)
        if not room:
            self.spool.count("queue", len(spans))
            return
        if not self._some.is_set():
            self._some.set()
        if self._fresh >= SEGMENT_SPANS:
            self._many.set()

    def close(self) -> None:
        """Seal what is waiting and stop."""
        self._stop.set()
        self._some.set()
        self._many.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._some.wait()
            self._many.wait(self._options.segment_seconds)
            self._some.clear()
            self._many.clear()
            self._seal_all()
        self._seal_all(last=True)

    def _seal_all(self, *, last: bool = False) -> None:
        """Seal what is ready; hold spans whose joules are not settled yet."""
        ready: dict[bool, list[Span]] = {True: [], False: []}
        for waiting in self._candidates(last=last):
            spans = self._settled(waiting, last=last)
            if spans is None:
                self._held.append(waiting)
            else:
                self._gather(ready, waiting.keep, spans)
        held = sum(len(waiting.spans) for waiting in self._held)
        while 2 * held > self._options.queue_max_spans:
            # Provisional joules are better than no span.
            waiting = self._held.popleft()
            held -= len(waiting.spans)
            self._gather(ready, waiting.keep, self._settled(waiting, last=True) or ())
        self._seal_gathered(ready)
        if self._held:
            self._some.set()

    def _candidates(self, *, last: bool) -> list[_UnsettledSpans]:
        """What is new, and once in a while what was held: windows close once a second."""
        with self._lock:
            new = list(self._queue)
            self._queue.clear()
            self._fresh = 0
        now = time.monotonic()
        if not last and now - self._looked < self._options.segment_seconds:
            return new
        self._looked = now
        held, self._held = self._held, deque()
        return [*held, *new]

    def _gather(self, ready: dict[bool, list[Span]], keep: bool, spans: Sequence[Span]) -> None:
        ready[keep] += spans
        if len(ready[True]) + len(ready[False]) >= SEGMENT_SPANS:
            self._seal_gathered(ready)

    def _seal_gathered(self, ready: dict[bool, list[Span]]) -> None:
        """A segment of those to keep and one of the others."""
        count = sum(map(len, ready.values()))
        if not count:
            return
        with self._lock:
            self._waiting -= count
        for keep, spans in ready.items():
            if spans:
                self._seal(spans, keep=keep)
                ready[keep] = []
        self.on_sealed()

    def _settled(self, waiting: _UnsettledSpans, *, last: bool) -> Sequence[Span] | None:
        """The spans with their settled attributes; None while they may still get some."""
        if all(span.later is None for span in waiting.spans):
            return waiting.spans
        patience = time.monotonic() - waiting.since < self._options.settle_seconds
        settled = []
        for span in waiting.spans:
            if span.later is not None:
                more = span.later()
                if more is None and patience and not last:
                    return None
                span = span._replace(attributes={**span.attributes, **(more or {})})  # noqa: PLW2901  # the same span, settled
            settled.append(span)
        return settled

    def _seal(self, spans: list[Span], *, keep: bool) -> None:
        from . import protobuf  # noqa: PLC0415  # 40 ms that a process without spans need not pay

        timeline = self._timeline
        offset = timeline.offset() if timeline is not None else None
        try:
            raw = protobuf.encode(self.resource, spans, offset)
            data = protobuf.compress(raw)
        except Exception as error:  # one bad span must not end tracing
            log.exception("spans_not_encoded", detail=type(error).__name__)
            self.spool.count("unencoded", len(spans))
            return
        if len(spans) > 1 and (len(raw) > SEGMENT_BYTES or len(data) > SEGMENT_PACKED_BYTES):
            half = len(spans) // 2
            self._seal(spans[:half], keep=keep)
            self._seal(spans[half:], keep=keep)
            return
        clock = timeline.boot if timeline is not None and offset is None else CLOCK_DONE
        self.spool.add(data, len(spans), keep=keep, clock=clock)
        self.recorded += len(spans)
