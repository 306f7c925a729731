"""Takes finished spans off the hot path and seals them into the spool."""

from __future__ import annotations

import asyncio
import platform
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from uuid import NAMESPACE_DNS, uuid5

from pydantic import Field

from setsuden.schemas.base import Model
from setsuden.schemas.log import get_logger
from setsuden.schemas.streams import SPANS_MAX_MESSAGE_BYTES

from .offset import Offset
from .span import Span, Value
from .spool import CLOCK_DONE, Spool

log = get_logger(__name__)
SEGMENT_SPANS = 512
"""Sealed at once when so many wait; 20 to 100 kB."""
SEGMENT_BYTES = 768 << 10
"""Of a segment before it is packed: the span bridge takes 1 MiB, and a correction of the clock adds
some to each root."""
SEGMENT_PACKED_BYTES = SPANS_MAX_MESSAGE_BYTES // 2


_ARCHITECTURES = (
    ("aarch64", "arm64"),
    ("arm64", "arm64"),
    ("arm", "arm32"),
    ("x86_64", "amd64"),
    ("amd64", "amd64"),
    ("i386", "x86"),
    ("i486", "x86"),
    ("i586", "x86"),
    ("i686", "x86"),
    ("ppc64", "ppc64"),
    ("ppc", "ppc32"),
    ("s390x", "s390x"),
    ("ia64", "ia64"),
)
"""First fit: how a machine's name begins, and its ``host.arch`` in OpenTelemetry's conventions."""


class TraceOptions(Model):
    """The ``[traces]`` table: spans wait in a spool and travel over NATS to the span bridge."""

    enabled: bool = True
    """Without spans, results and metrics still carry joules and times."""
    spool: str = "spool"
    """Folder of sealed spans; relative paths are relative to the state folder."""
    spool_max_bytes: int = Field(default=64 << 20, ge=1 << 14)
    """Past it the oldest are dropped and counted, those of escalated and failed events last."""
    spool_max_age_seconds: float = Field(default=7 * 86_400.0, gt=0)
    """Older spans are dropped and counted."""
    segment_seconds: float = Field(default=1.0, gt=0, le=3600)
    """Spans wait so long for company before they are sealed. A killed process loses that much,
    and what waits for a window of its joules to close (``energy.window_seconds``)."""
    queue_max_spans: int = Field(default=20_000, ge=100)
    """Spans waiting to be sealed; past it new ones are dropped and counted."""
    settle_seconds: float = Field(default=15.0, ge=0, le=600)
    """Spans wait so long for the window of their joules to close; then they are sealed with the
    provisional ones."""
    ship: bool = True
    """Send sealed spans to ``otel.spans.<tier>.<name>`` while the link is up."""
    metrics_seconds: float = Field(default=60.0, ge=0, le=86_400)
    """How often energy metrics go to ``otel.metrics.<tier>.<name>`` while the link is up; 0 for
    never."""
    easy_share: float = Field(default=0.01, ge=0, le=1)
    """Share of the easy events that are traced. Escalated, failed, slow and costly ones always."""
    slow_ms: float = Field(default=250.0, gt=0)
    """An easy event that took longer is traced."""
    clock_seconds: float = Field(default=60.0, ge=1, le=86_400)
    """How often a device asks the cloud for its time."""
    environment: str | None = Field(default=None, min_length=1, max_length=64)
    """``deployment.environment.name`` of every span, e.g. ``production``."""
    host_id: str | None = Field(default=None, min_length=1, max_length=128)
    """``host.id`` of every span where ``/etc/machine-id`` is not the machine's own, as in some
    containers: Jaeger takes spans of one id for spans of one clock."""


class Timeline(NamedTuple):
    """On whose clock spans are, and how to put them on the cloud's."""

    boot: str
    offset: Callable[[], Offset | None]
    """The newest estimate, or None while there is none; called from any thread."""
    asked: asyncio.Event
    """Set while the link is up and the cloud was asked for its time, whatever came of it."""


class _Waiting(NamedTuple):
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
        self._queue: deque[_Waiting] = deque()
        self._held: deque[_Waiting] = deque()
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
                self._queue.append(_Waiting(keep, spans, time.monotonic()))
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
        sealed = False
        for taken in self._segments(self._ready(self._candidates(last=last), last=last)):
            for keep, spans in taken.items():
                self._seal(spans, keep=keep)
            sealed = True
        if sealed:
            self.on_sealed()
        if self._held:
            self._some.set()

    def _candidates(self, *, last: bool) -> Iterable[_Waiting]:
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

    def _ready(self, candidates: Iterable[_Waiting], *, last: bool) -> Iterator[_Waiting]:
        """Those that are settled; the others are held, the oldest not past half of the bound."""
        for waiting in candidates:
            spans = self._settled(waiting, last=last)
            if spans is None:
                self._held.append(waiting)
            else:
                yield waiting._replace(spans=spans)
        held = sum(len(waiting.spans) for waiting in self._held)
        while 2 * held > self._options.queue_max_spans:
            # Provisional joules are better than no span.
            waiting = self._held.popleft()
            held -= len(waiting.spans)
            yield waiting._replace(spans=self._settled(waiting, last=True) or ())

    def _segments(self, ready: Iterator[_Waiting]) -> Iterator[dict[bool, list[Span]]]:
        """About a segment's worth each, by whether it is to be kept."""
        taken: dict[bool, list[Span]] = {}
        count = 0
        for waiting in ready:
            taken.setdefault(waiting.keep, []).extend(waiting.spans)
            count += len(waiting.spans)
            if count >= SEGMENT_SPANS:
                self._gone(count)
                yield taken
                taken, count = {}, 0
        if count:
            self._gone(count)
            yield taken

    def _gone(self, count: int) -> None:
        with self._lock:
            self._waiting -= count

    def _settled(self, waiting: _Waiting, *, last: bool) -> Sequence[Span] | None:
        """The spans with their settled attributes; None while they may still get some."""
        if all(span.later is None for span in waiting.spans):
            return waiting.spans
        patience = time.monotonic() - waiting.since < self._options.settle_seconds
        found = []
        for span in waiting.spans:
            if span.later is not None:
                more = span.later()
                if more is None and patience and not last:
                    return None
                span = span._replace(attributes={**span.attributes, **(more or {})})  # noqa: PLW2901  # the same span, settled
            found.append(span)
        return found

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


def resource(service: str, options: TraceOptions) -> dict[str, Value]:
    """What Jaeger needs of every process; ``host.id`` keeps its clock adjuster honest."""
    host = platform.node()
    found: dict[str, Value] = {
        "service.name": service,
        "service.version": version("setsuden"),
        "service.instance.id": str(uuid5(NAMESPACE_DNS, f"{host}/{service}/{time.time_ns()}")),
        "host.id": host_id(options),
        "host.name": host,
        "host.arch": architecture(platform.machine()),
    }
    if options.environment is not None:
        found["deployment.environment.name"] = options.environment
    return found


def architecture(machine: str) -> str:
    """``host.arch`` of what ``uname -m`` says: OpenTelemetry's word where it has one."""
    for prefix, name in _ARCHITECTURES:
        if machine.lower().startswith(prefix):
            return name
    return machine


def host_id(options: TraceOptions) -> str:
    """What tells this machine from others: declared, its machine id, or its name."""
    if options.host_id is not None:
        return options.host_id
    return machine_id(Path("/etc/machine-id")) or platform.node()


def machine_id(path: Path) -> str | None:
    """32 hexadecimal digits; None for anything else.

    An image that was never booted holds nothing, or the word "uninitialized" (machine-id(5)),
    and so does every machine made of it.
    """
    try:
        found = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return found if re.fullmatch(r"[0-9a-f]{32}", found) else None
