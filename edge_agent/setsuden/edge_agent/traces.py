"""The spans of one event, made in one go from its record when it is final."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from setsuden.energy import MeteredRun
from setsuden.schemas import spans
from setsuden.schemas.decision import Decision
from setsuden.schemas.energy import EnergyReading, total
from setsuden.schemas.result import ModelRef, Result, Status
from setsuden.schemas.streams import ESCALATIONS, RESULTS
from setsuden.telemetry import (
    Span,
    SpanEvent,
    SpanKind,
    SpanLink,
    derived_span_id,
    derived_trace_id,
    traceparent,
)
from setsuden.telemetry.span import Value, energy_attributes

from .core import Pending, StageTimes
from .core.records import Sent
from .sampling import Kept

_STEP_NS = 1_000
"""Siblings follow each other by a microsecond: Jaeger leaves equal ones off the critical path."""
_TO_BROKER: dict[str, Value] = {
    "messaging.system": "nats",
    "messaging.operation.name": "send",
    "messaging.operation.type": "send",
    "peer.service": "nats",
}
At = Callable[[int], int]
"""From the monotonic clock to the span timeline."""


class FinishedEvent(NamedTuple):
    """An event that is final, with all that its spans are made from."""

    result: Result
    times: StageTimes
    end_ns: int
    """On the span timeline, like the stage times."""
    over_nats: bool
    pending: Pending | None
    """Set for a hard case."""
    kept: Kept
    energy_class: str | None
    run: MeteredRun | None = None
    """The student's run, whose joules may not be settled yet."""


def root_id(result: Result) -> str:
    """The span id of this event's root."""
    return derived_span_id(result.trace_id, f"event/{result.event_id}")


def escalate_id(trace_id: str, event_id: str) -> str:
    """The span id that the cloud's work hangs under."""
    return derived_span_id(trace_id, f"escalate/{event_id}")


def escalation_context(result: Result, *, sampled: bool) -> str:
    """The traceparent an escalation carries."""
    identity = escalate_id(result.trace_id, result.event_id)
    return traceparent(result.trace_id, identity, sampled=sampled)


def result_context(result: Result) -> str:
    """The traceparent that a traced event's own final result carries."""
    return traceparent(*_send_result_ids(result))


def _send_result_ids(result: Result) -> tuple[str, str]:
    """Trace and span: the event's trace has ended when its result is sent to others."""
    trace_id = derived_trace_id(f"send-res/{result.trace_id}/{result.event_id}")
    return trace_id, derived_span_id(trace_id, "send-res")


def event_spans(finished: FinishedEvent, at: At) -> list[Span]:
    """Root, preprocessing, inference and, for a hard case, the escalation with its sends."""
    result, pending = finished.result, finished.pending
    root = root_id(result)
    prepared = _preprocess(finished, root)
    after = finished.times.accepted_ns if prepared is None else prepared.end_ns
    infer = _infer(finished, root, after + _STEP_NS)
    # No child may outlive its parent, whatever the clocks said: Jaeger warns of each one that does.
    end = max(finished.end_ns, infer.end_ns + 3 * _STEP_NS)
    found = [_root(finished, root, end), infer]
    if prepared is not None:
        found.append(prepared)
    if pending is not None:
        found += _escalation(result, pending, root, infer.end_ns + _STEP_NS, end - _STEP_NS, at)
    return found


def sent_result(
    result: Result, start_ns: int, end_ns: int, *, sequence: int | None, error: str | None
) -> Span:
    """The device's own final result on its way into the results stream: a trace of its own."""
    trace_id, identity = _send_result_ids(result)
    attributes = _TO_BROKER | {
        "messaging.destination.template": "res.<region>.<pipeline>.<device>.<event_id>",
        "messaging.message.id": result.event_id,
    }
    acked = _acked(RESULTS, sequence, end_ns)
    if error is not None:
        attributes["error.type"] = error
    return Span(
        trace_id,
        identity,
        None,
        spans.SEND_RESULT,
        SpanKind.PRODUCER,
        start_ns,
        max(end_ns, start_ns + _STEP_NS),
        attributes,
        events=acked,
        links=(SpanLink(result.trace_id, root_id(result)),),
        error=error,
    )


def _root(finished: FinishedEvent, root: str, end_ns: int) -> Span:
    result, times = finished.result, finished.times
    escalated = result.decision is not None and result.decision.escalates
    attributes: dict[str, Value] = {
        "setsuden.event_id": result.event_id,
        "setsuden.pipeline": result.pipeline,
        "setsuden.status": result.status.value,
        "setsuden.escalated": escalated,
        "setsuden.sampling.reason": finished.kept.reason,
        "setsuden.sampling.adjusted_count": finished.kept.adjusted_count,
    }
    if result.tier is not None:
        attributes["setsuden.tier"] = result.tier.value
    if escalated and result.decision is not None:
        attributes["setsuden.escalation.reason"] = result.decision.reason.value
    if finished.energy_class is not None:
        attributes["setsuden.energy.class"] = finished.energy_class
    failed = result.status in {Status.DEAD, Status.EXPIRED}
    if failed:
        attributes["error.type"] = _error_of(result)
    return Span(
        result.trace_id,
        root,
        times.parent_span_id,
        spans.EVENT,
        SpanKind.CONSUMER if finished.over_nats else SpanKind.SERVER,
        times.accepted_ns,
        end_ns,
        attributes | _totals(result, result.energy.edge),
        error=_error_of(result) if failed else None,
        later=_later(finished, partial(_totals, result)),
    )


def _error_of(result: Result) -> str:
    return result.error.code if result.error is not None else result.status.value


def _later(
    finished: FinishedEvent, attributes: Callable[[EnergyReading], dict[str, Value]]
) -> Callable[[], dict[str, Value] | None] | None:
    """The attributes of the student's run once its window has closed."""
    run = finished.run
    if run is None:
        return None
    return lambda: None if run.settled is None else attributes(run.settled)


def _totals(result: Result, edge: EnergyReading | None) -> dict[str, Value]:
    """Energy over the whole trace, so that Jaeger shows it without summing.

    The cloud's part is the one its answer carried: provisional.
    """
    cloud = result.energy.cloud
    escalated = result.decision is not None and result.decision.escalates
    parts = [part for part in (edge, cloud) if part is not None]
    whole = total(parts)
    found: dict[str, Value] = {
        "setsuden.energy.complete": whole.joules is not None
        and (cloud is not None or not escalated),
        "setsuden.energy.quality": whole.quality.value,
    }
    values = {
        "trace_joules": whole.joules,
        "trace_joules_low": whole.joules_low,
        "trace_joules_high": whole.joules_high,
        "edge_joules": _joules(edge),
        "cloud_joules": _joules(cloud),
    }
    return found | {
        f"setsuden.energy.{name}": value for name, value in values.items() if value is not None
    }


def _joules(reading: EnergyReading | None) -> float | None:
    return None if reading is None else reading.joules


def _preprocess(finished: FinishedEvent, root: str) -> Span | None:
    result, times = finished.result, finished.times
    if not times.prepare_start_ns:
        return None
    start = max(times.prepare_start_ns, times.accepted_ns + _STEP_NS)
    return Span(
        result.trace_id,
        derived_span_id(result.trace_id, f"preprocess/{result.event_id}"),
        root,
        spans.PREPROCESS,
        SpanKind.INTERNAL,
        start,
        max(times.infer_start_ns - _STEP_NS, start + _STEP_NS),
        {"setsuden.batch.size": times.infer_items},
    )


def _infer(finished: FinishedEvent, root: str, not_before_ns: int) -> Span:
    result, times = finished.result, finished.times
    model = (finished.pending.provisional if finished.pending else result).model
    attributes = energy_attributes(result.energy.edge)
    attributes["setsuden.batch.size"] = times.infer_items
    attributes["setsuden.batch.share"] = 1 / times.infer_items
    if model is not None:
        attributes |= _model(model)
    start = max(times.infer_start_ns, not_before_ns)
    end = max(times.infer_end_ns, start + _STEP_NS)
    return Span(
        result.trace_id,
        derived_span_id(result.trace_id, f"infer/{result.event_id}"),
        root,
        spans.INFER,
        SpanKind.INTERNAL,
        start,
        end,
        attributes,
        events=(SpanEvent(spans.GATE_DECISION, end, _gate(result.decision)),),
        later=_later(finished, energy_attributes),
    )


def _model(model: ModelRef) -> dict[str, Value]:
    return {
        "setsuden.model.name": f"{model.bundle}/{model.model}",
        "setsuden.model.digest": model.digest,
    }


def _gate(decision: Decision | None) -> dict[str, Value]:
    if decision is None:
        return {}
    found: dict[str, Value] = {
        "setsuden.gate.action": decision.action.value,
        "setsuden.gate.reason": decision.reason.value,
    }
    if decision.confidence is not None:
        found["setsuden.gate.confidence"] = decision.confidence
    if decision.threshold is not None:
        found["setsuden.gate.threshold"] = decision.threshold
    return found


def _escalation(  # noqa: PLR0917  # all that the wait for the cloud is made of
    result: Result, pending: Pending, root: str, start_ns: int, end_ns: int, at: At
) -> list[Span]:
    identity = escalate_id(result.trace_id, result.event_id)
    failed = result.status is not Status.FINAL
    attributes: dict[str, Value] = {
        "setsuden.pipeline": result.pipeline,
        "setsuden.escalation.attempts": pending.tries,
    }
    if failed:
        attributes["error.type"] = _error_of(result)
    expired = result.status is Status.EXPIRED
    escalate = Span(
        result.trace_id,
        identity,
        root,
        spans.ESCALATE,
        SpanKind.CLIENT,
        start_ns,
        end_ns,
        attributes,
        events=(SpanEvent(spans.DEADLINE_EXCEEDED, end_ns, {}),) if expired else (),
        error=_error_of(result) if failed else None,
    )
    sends = [_send(result, sent, escalate, at) for sent in pending.sends]
    return [escalate, *(send for send in sends if send is not None)]


def _send(result: Result, sent: Sent, escalate: Span, at: At) -> Span | None:
    if sent.end_mono_ns is None:
        return None
    attributes = _TO_BROKER | {
        "messaging.destination.template": "esc.<region>.<pipeline>.<device>.<event_id>",
        "messaging.message.id": sent.message_id,
    }
    if sent.error is not None:
        attributes["error.type"] = sent.error
    began = at(sent.start_mono_ns)
    start = max(escalate.start_ns, min(began, escalate.end_ns - _STEP_NS))
    end = min(max(at(sent.end_mono_ns), start + _STEP_NS), escalate.end_ns)
    return Span(
        result.trace_id,
        derived_span_id(result.trace_id, f"send/{result.event_id}/{began}"),
        escalate.span_id,
        spans.SEND_ESCALATION,
        SpanKind.CLIENT,
        start,
        end,
        attributes,
        events=_acked(ESCALATIONS, sent.sequence, end),
        links=(SpanLink(result.trace_id, escalate.span_id),),  # the context the message carries
        error=sent.error,
    )


def _acked(stream: str, sequence: int | None, at_ns: int) -> tuple[SpanEvent, ...]:
    if sequence is None:
        return ()
    attributes: dict[str, Value] = {
        "messaging.nats.stream": stream,
        "messaging.nats.sequence": sequence,
    }
    return (SpanEvent(spans.NATS_ACK, at_ns, attributes),)
