"""The worker's spans of one delivery, made in one go when it is settled."""

from __future__ import annotations

from setsuden.pipelines.tracing import Kind, Link, Span, derived_span_id
from setsuden.pipelines.tracing.span import Value
from setsuden.schemas import spans
from setsuden.schemas.result import ModelRef
from setsuden.schemas.streams import ESCALATIONS

from .work import Work, derived_trace_id

_STEP_NS = 1_000
"""Siblings follow each other by a microsecond: Jaeger leaves equal ones off the critical path."""
_TEMPLATE = "esc.<region>.<pipeline>.<device>"


class SpanMaker:
    """Spans of one pipeline's worker."""

    def __init__(self, pipeline: str, model: ModelRef) -> None:
        self._process: dict[str, Value] = {
            "setsuden.pipeline": pipeline,
            "messaging.system": "nats",
            "messaging.operation.type": "process",
            "messaging.destination.template": _TEMPLATE,
        }
        self._infer: dict[str, Value] = {
            "setsuden.model.name": f"{model.bundle}/{model.model}",
            "setsuden.model.digest": model.digest,
            "setsuden.tier": "cloud",
        }
        self._settle: dict[str, Value] = {
            "messaging.system": "nats",
            "messaging.operation.type": "settle",
            "messaging.destination.template": _TEMPLATE,
            "peer.service": "nats",
        }

    def of(self, work: Work, status: str | None, end_ns: int) -> list[Span]:
        """``process`` with its children; ``status`` is ``None`` for a failed attempt."""
        trace_id, parent, links = _context(work)
        key = f"{work.delivery.stream_sequence}/{work.delivery.attempt}"
        process = derived_span_id(trace_id, f"process/{key}")
        found = []
        last = work.taken_ns
        if work.ran is not None:
            found.append(self._infer_span(work, trace_id, process, key))
            last = work.ran.end_ns
        if work.stored_ns:
            start = max(work.stored_ns, last + _STEP_NS)
            last = max(end_ns, start + _STEP_NS)
            settle = derived_span_id(trace_id, f"settle/{key}")
            found.append(
                Span(
                    trace_id, settle, process, spans.SETTLE, Kind.CLIENT, start, last, self._settle
                )
            )
        end = max(end_ns, last + _STEP_NS)
        error = None if work.problem is None else work.problem.code
        attributes = self._attributes(work, status, error)
        found.append(
            Span(
                trace_id, process, parent, spans.PROCESS, Kind.CONSUMER, work.taken_ns, end,
                attributes, links=links, error=error,
            )
        )  # fmt: skip
        return found

    def _infer_span(self, work: Work, trace_id: str, process: str, key: str) -> Span:
        ran = work.ran
        assert ran is not None  # noqa: S101  # the caller looked
        attributes = self._infer | ran.energy_attributes
        return Span(
            trace_id,
            derived_span_id(trace_id, f"infer/{key}"),
            process,
            spans.INFER,
            Kind.INTERNAL,
            max(ran.start_ns, work.taken_ns + _STEP_NS),
            ran.end_ns,
            attributes,
            error=None if work.problem is None else work.problem.code,
        )

    def _attributes(self, work: Work, status: str | None, error: str | None) -> dict[str, Value]:
        found = self._process | {
            "messaging.nats.sequence": work.delivery.stream_sequence,
            "messaging.nats.delivery_count": work.delivery.attempt,
            "messaging.nats.queue_ms": max(0, work.taken_ns - work.delivery.stored_at_ns) / 1e6,
            "messaging.message.body.size": len(work.message.data),
        }
        if work.event_id is not None:
            found["setsuden.event_id"] = work.event_id
        if status is not None:
            found["setsuden.status"] = status
        if work.late:
            found["setsuden.escalation.late"] = True
        if error is not None:
            found["error.type"] = error
        return found


def _context(work: Work) -> tuple[str, str | None, tuple[Link, ...]]:
    """Late work starts a trace of its own: the event's would stretch over hours."""
    if not work.late or work.parent_id is None:
        return work.trace_id, work.parent_id, ()
    name = f"late/{ESCALATIONS}/{work.trace_id}/{work.delivery.stream_sequence}"
    return derived_trace_id(name), None, (Link(work.trace_id, work.parent_id),)
