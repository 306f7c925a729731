"""The spans of events as they become final, and of their results on the way to the stream."""

from __future__ import annotations

import time

from setsuden.energy import MeteredRun
from setsuden.link import Stored
from setsuden.link.messages import Outcome
from setsuden.schemas.result import Result
from setsuden.telemetry import Recorder, SpanClock

from . import traces
from .core import Notify, StageTimes
from .metrics import Metrics
from .sampling import Sampler


class EventTracer:
    """Decides which events are traced, and records their spans."""

    def __init__(self, recorder: Recorder, clock: SpanClock, metrics: Metrics) -> None:
        self._recorder, self._clock, self._metrics = recorder, clock, metrics
        self._sampler = Sampler(recorder.easy_share, recorder.slow_ms)
        self._runs: dict[str, MeteredRun] = {}
        """Of events that are not final: their joules settle when the window has closed."""
        self._sending: dict[str, int] = {}
        """Traced events whose own final result is on its way, and since when."""

    def accepted(self, event_id: str, run: MeteredRun) -> None:
        """An event was admitted after this run."""
        self._runs[event_id] = run

    def withdrawn(self, event_id: str) -> None:
        """It could not be written: there is no such event."""
        self._runs.pop(event_id, None)

    def finished(self, final: Notify) -> None:
        """An event is final."""
        run = self._runs.pop(final.event_id, None)
        if not self._recorder.enabled:
            return
        result, sampler = final.result, self._sampler
        energy_class = sampler.energy_class(result)
        if final.times is None:
            return
        kept = sampler.keep(result, energy_class, final.times.sampled, time.monotonic())
        self._metrics.traces_declined = sampler.declined
        if kept is None:
            return
        finished = traces.FinishedEvent(
            result,
            final.times,
            self._clock.now_ns(),
            final.over_nats,
            final.finished,
            kept,
            energy_class,
            run,
        )
        spans = traces.event_spans(finished, self._clock.at)
        self._recorder.add(spans, keep=kept.reason in {"failed", "escalated"})
        if final.publishes:
            self._sending[final.event_id] = 0

    def follows(self, times: StageTimes) -> bool:
        """True unless the caller's trace is not sampled, or we make no spans at all."""
        return self._recorder.enabled and times.sampled is not False

    def publishing(self, result: Result) -> str | None:
        """The traceparent of a traced event's final result that is being sent."""
        if result.event_id not in self._sending:
            return None
        self._sending[result.event_id] = self._clock.now_ns()
        return traces.result_context(result)

    def published(self, result: Result, outcome: Outcome) -> None:
        """The span of the first try; a result stored after an outage has no more of them."""
        start = self._sending.pop(result.event_id, 0)
        if not start:
            return
        sequence = outcome.sequence if isinstance(outcome, Stored) else None
        error = None if isinstance(outcome, Stored) else outcome.code
        end = self._clock.now_ns()
        span = traces.sent_result(result, start, end, sequence=sequence, error=error)
        self._recorder.add([span], keep=error is not None)
