"""From the run of a student to what the core decides by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random, SystemRandom

from setsuden.pipelines.pipeline import JudgedBatch, Pipeline
from setsuden.telemetry import TraceContext, new_trace_id, parse_traceparent

from .core import EdgeVerdict, StageTimes, Submission

_RANDOM = Random(SystemRandom().getrandbits(128))  # noqa: S311  # ids, no secrets


def verdict(
    submission: Submission,
    pipeline: Pipeline,
    run: JudgedBatch,
    place: int,
    at: Callable[[int], int],
) -> EdgeVerdict:
    """What the student and the gate say of one submission; ``at`` gives the span timeline."""
    context = parse_traceparent(submission.event.traceparent)
    times = StageTimes(
        None if context is None else context.span_id,
        at(submission.received.mono_ns),
        at(run.start_ns),
        at(run.end_ns),
        len(run.judged),
        at(run.prepare_ns) if run.prepare_ns < run.start_ns else 0,
        None if context is None else context.sampled,
    )
    return EdgeVerdict(
        run.judged[place],
        run.model,
        run.energy,
        times,
        _trace_id(submission, context),
        pipeline.spec.deadline_seconds,
    )


def _trace_id(submission: Submission, context: TraceContext | None) -> str:
    """The caller's; else one that an event read again from the broker has again.

    An event's result is recognised by it, so it must not be possible to guess it: the event's
    bytes are part of it.
    """
    event = submission.event
    if context is not None:
        return context.trace_id
    if event.trace_id is not None and int(event.trace_id, 16):
        return event.trace_id
    if submission.event_id is not None:
        name = f"{submission.event_id}/{event.identity}".encode()
        return hashlib.blake2b(name, digest_size=16).hexdigest()
    return new_trace_id(_RANDOM)
