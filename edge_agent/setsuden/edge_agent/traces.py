"""The spans of one event, made in one go from its record when it is final."""

from __future__ import annotations

from setsuden.pipelines.tracing import (
    Kind,
    Span,
    SpanEvent,
    derived_span_id,
    parse_traceparent,
    traceparent,
)
from setsuden.pipelines.tracing.span import Value, energy_attributes
from setsuden.schemas import spans
from setsuden.schemas.energy import EnergyReading, total
from setsuden.schemas.result import ModelRef, Result, Status

from .core import Pending, Trail
from .core.records import Sent

_STEP_NS = 1_000
"""Siblings follow each other by a microsecond: Jaeger leaves equal ones off the critical path."""


def root_id(result: Result) -> str:
    """The span id of this event's root."""
    return derived_span_id(result.trace_id, f"event/{result.event_id}")


def escalate_id(trace_id: str, event_id: str) -> str:
    """The span id that the cloud's work hangs under."""
    return derived_span_id(trace_id, f"escalate/{event_id}")


def escalation_context(result: Result) -> str:
    """The traceparent an escalation carries."""
    return traceparent(result.trace_id, escalate_id(result.trace_id, result.event_id))


def parent_of(header: str | None) -> str | None:
    """The application's own span, when it sent one."""
    context = parse_traceparent(header)
    return context[1] if context is not None else None


def event_spans(
    result: Result, trail: Trail, end_ns: int, *, over_nats: bool, pending: Pending | None
) -> list[Span]:
    """Root, inference and, for a hard case, the escalation with its sends."""
    root = root_id(result)
    infer = _infer(result, trail, root, (pending.provisional if pending else result).model)
    found = [_root(result, trail, root, max(end_ns, infer.end_ns + _STEP_NS), over_nats), infer]
    if pending is not None:
        found += _escalation(result, pending, root, infer.end_ns + _STEP_NS, end_ns)
    return found


def _root(result: Result, trail: Trail, root: str, end_ns: int, over_nats: bool) -> Span:
    attributes: dict[str, Value] = {
        "setsuden.event_id": result.event_id,
        "setsuden.pipeline": result.pipeline,
        "setsuden.status": result.status.value,
        "setsuden.escalated": result.decision is not None and result.decision.escalates,
    }
    if result.tier is not None:
        attributes["setsuden.tier"] = result.tier.value
    failed = result.status in {Status.DEAD, Status.EXPIRED}
    return Span(
        result.trace_id,
        root,
        trail.parent_span_id,
        spans.EVENT,
        Kind.CONSUMER if over_nats else Kind.SERVER,
        trail.accepted_ns,
        end_ns,
        attributes | _totals(result),
        error=result.status.value if failed else None,
    )


def _totals(result: Result) -> dict[str, Value]:
    """Energy over the whole trace, so that Jaeger shows it without summing."""
    edge, cloud = result.energy.edge, result.energy.cloud
    escalated = result.decision is not None and result.decision.escalates
    parts = [part for part in (edge, cloud) if part is not None]
    whole = total(parts)
    found: dict[str, Value] = {
        "setsuden.energy.complete": whole.joules is not None
        and (cloud is not None or not escalated)
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


def _infer(result: Result, trail: Trail, root: str, model: ModelRef | None) -> Span:
    decision = result.decision
    gate: dict[str, Value] = {}
    if decision is not None:
        gate = {
            "setsuden.gate.action": decision.action.value,
            "setsuden.gate.reason": decision.reason.value,
        }
        if decision.confidence is not None:
            gate["setsuden.gate.confidence"] = decision.confidence
        if decision.threshold is not None:
            gate["setsuden.gate.threshold"] = decision.threshold
    attributes = energy_attributes(result.energy.edge)
    attributes["setsuden.batch.size"] = trail.infer_items
    attributes["setsuden.batch.share"] = 1 / trail.infer_items
    if model is not None:
        attributes["setsuden.model.name"] = f"{model.bundle}/{model.model}"
        attributes["setsuden.model.digest"] = model.digest
    start = max(trail.infer_start_ns, trail.accepted_ns + _STEP_NS)
    end = max(trail.infer_end_ns, start + _STEP_NS)
    return Span(
        result.trace_id,
        derived_span_id(result.trace_id, f"infer/{result.event_id}"),
        root,
        spans.INFER,
        Kind.INTERNAL,
        start,
        end,
        attributes,
        events=(SpanEvent(spans.GATE_DECISION, end, gate),),
    )


def _escalation(
    result: Result, pending: Pending, root: str, start_ns: int, end_ns: int
) -> list[Span]:
    identity = escalate_id(result.trace_id, result.event_id)
    error = result.status.value if result.status is not Status.FINAL else None
    end_ns = max(end_ns - _STEP_NS, start_ns + _STEP_NS)
    attributes: dict[str, Value] = {
        "setsuden.pipeline": result.pipeline,
        "setsuden.escalation.attempts": len(pending.sends),
    }
    escalate = Span(
        result.trace_id,
        identity,
        root,
        spans.ESCALATE,
        Kind.CLIENT,
        start_ns,
        end_ns,
        attributes,
        error=error,
    )
    sends = [_send(result, sent, number, identity) for number, sent in enumerate(pending.sends)]
    return [escalate, *(send for send in sends if send is not None)]


def _send(result: Result, sent: Sent, number: int, parent: str) -> Span | None:
    if sent.end_ns is None:
        return None
    attributes: dict[str, Value] = {
        "messaging.system": "nats",
        "messaging.operation.type": "send",
        "messaging.destination.template": "esc.<region>.<pipeline>.<device>",
        "peer.service": "nats",
    }
    if sent.sequence is not None:
        attributes["messaging.nats.sequence"] = sent.sequence
    if sent.error is not None:
        attributes["error.type"] = sent.error
    return Span(
        result.trace_id,
        derived_span_id(result.trace_id, f"send/{result.event_id}/{sent.start_ns}/{number}"),
        parent,
        spans.SEND,
        Kind.CLIENT,
        sent.start_ns,
        max(sent.end_ns, sent.start_ns + _STEP_NS),
        attributes,
        error=sent.error,
    )
