"""The worker's spans of one delivery, made in one go when it is settled, and of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from setsuden.energy import MeteredRun
from setsuden.schemas import spans
from setsuden.schemas.energy import EnergyReading
from setsuden.schemas.errors import AlreadyStoredError
from setsuden.schemas.result import ModelRef
from setsuden.schemas.streams import ESCALATIONS
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

from .work import BatchRun, Work

_STEP_NS = 1_000
"""Siblings follow each other by a microsecond: Jaeger leaves equal ones off the critical path."""
_TEMPLATE = "esc.<region>.<pipeline>.<device>.<event_id>"


class SpanMaker:
    """Spans of one pipeline's worker."""

    def __init__(self, pipeline: str, consumer: str, model: ModelRef) -> None:
        nats: dict[str, Value] = {"messaging.system": "nats"}
        self._process = nats | {
            "setsuden.pipeline": pipeline,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.template": _TEMPLATE,
            "messaging.nats.stream": ESCALATIONS,
            "messaging.nats.consumer": consumer,
        }
        self._infer: dict[str, Value] = {
            "setsuden.model.name": f"{model.bundle}/{model.model}",
            "setsuden.model.digest": model.digest,
            "setsuden.tier": "cloud",
        }
        self._batch = self._infer | {"setsuden.pipeline": pipeline}

    def context(self, work: Work, now_ns: int) -> str:
        """The traceparent that a result or a dead letter carries: of the span that waits for it."""
        if work.parent_id is not None and not _is_past(work, _answered_ns(work, now_ns)):
            return traceparent(work.trace_id, work.parent_id, sampled=work.sampled)
        trace_id = _apart(work)
        return traceparent(trace_id, _process_id(trace_id, work), sampled=work.sampled)

    def of(self, work: Work, status: str | None, end_ns: int) -> list[Span]:
        """``process`` and what ran in it; ``status`` is ``None`` for a failed attempt.

        Nothing here may outlive the device's wait, which ends as soon as the result is stored and
        before we hear of that: so ``process`` ends when the result is handed over. Where nobody
        waits, it is a root and ends when all is done.
        """
        trace_id, parent, links = _own(work, end_ns)
        process = _process_id(trace_id, work)
        end = _answered_ns(work, end_ns) if parent is not None else end_ns
        found = []
        if work.ran is not None:
            found.append(self._infer_span(work, work.ran, status, process))
            end = max(end, found[0].end_ns + _STEP_NS)
        error = None if work.problem is None else work.problem.code
        found.append(
            Span(
                trace_id, process, parent, spans.PROCESS, SpanKind.CONSUMER, work.arrived_ns,
                max(end, work.arrived_ns + _STEP_NS), self._attributes(work, status, error),
                links=links, error=error,
            )
        )  # fmt: skip
        return found

    def settled(self, ran: BatchRun, work: Work | None = None) -> list[Span]:
        """The batch's spans, when this was the last of its deliveries that was not settled.

        The batch is a trace of its own, linked to its members as they are to it. Without ``work``
        the delivery is run again elsewhere and no member any more. Members that nobody exports
        are left out, and a batch of none but those has no spans.
        """
        ran.unsettled -= 1
        if work is not None and work.sampled:
            ran.members.append(SpanLink(_own(work)[0], _infer_id(work)))
        return [] if ran.unsettled or not ran.members else self._batch_spans(ran)

    def _batch_spans(self, ran: BatchRun) -> list[Span]:
        trace_id, root, start = ran.trace_id, _batch_root(ran), ran.start_ns
        count: dict[str, Value] = {
            "setsuden.batch.size": ran.items,
            "messaging.batch.message_count": ran.items,
        }
        end = max(ran.end_ns, start + 3 * _STEP_NS)
        began = max(end - int(ran.infer_ms * 1e6) - _STEP_NS, start + _STEP_NS)
        return [
            Span(
                trace_id, root, None, spans.BATCH, SpanKind.INTERNAL, start, end,
                self._batch | _whole(ran.whole) | count, links=tuple(ran.members),
                later=partial(_settled_whole, ran.metered),
            ),
            Span(
                trace_id, derived_span_id(trace_id, "run"), root, spans.RUN, SpanKind.INTERNAL,
                began, end - _STEP_NS, {"setsuden.batch.size": ran.items},
            ),
        ]  # fmt: skip

    def _infer_span(self, work: Work, ran: BatchRun, status: str | None, process: str) -> Span:
        attributes = self._infer | ran.energy_attributes
        attributes["setsuden.batch.wait_ms"] = max(0, ran.start_ns - work.arrived_ns) / 1e6
        attributes["setsuden.batch.trace_id"] = ran.trace_id
        allocation = "overhead" if _in_vain(work, status) else None
        if allocation is not None and "setsuden.energy.joules" in attributes:
            attributes["setsuden.energy.allocation"] = allocation
        start = max(work.taken_ns, work.arrived_ns + _STEP_NS)
        joined = SpanEvent(spans.BATCH_JOINED, ran.start_ns, {"setsuden.batch.size": ran.items})
        return Span(
            _own(work)[0],
            _infer_id(work),
            process,
            spans.INFER,
            SpanKind.INTERNAL,
            start,
            max(ran.end_ns, start + _STEP_NS),
            attributes,
            events=(joined,),
            links=(SpanLink(ran.trace_id, _batch_root(ran)),),
            error=None if work.problem is None else work.problem.code,
            later=partial(_settled, ran, allocation),
        )

    def _attributes(self, work: Work, status: str | None, error: str | None) -> dict[str, Value]:
        found = self._process | {
            "messaging.nats.sequence": work.delivery.stream_sequence,
            "messaging.nats.delivery_count": work.delivery.attempt,
            "messaging.nats.queue_ms": max(0, work.arrived_ns - work.delivery.stored_at_ns) / 1e6,
            "messaging.message.body.size": len(work.message.data),
        }
        if work.event_id is not None:
            found["setsuden.event_id"] = work.event_id
        if status is not None:
            found["setsuden.status"] = status
        if work.late:
            found["setsuden.escalation.late"] = True
        if work.acked_ns:
            found["setsuden.result.store_ms"] = (work.acked_ns - work.stored_ns) / 1e6
        if work.store_error is not None:
            found["setsuden.result.store_error"] = work.store_error
        if error is not None:
            found["error.type"] = error
        return found


def _settled(ran: BatchRun, allocation: str | None) -> dict[str, Value] | None:
    """One event's share, put into words once for the whole batch."""
    if allocation not in ran.settled:
        reading = ran.metered.settled
        if reading is None:
            return None
        ran.settled[allocation] = energy_attributes(reading, allocation)
    return ran.settled[allocation]


def _settled_whole(run: MeteredRun) -> dict[str, Value] | None:
    whole = run.settled_whole
    return None if whole is None else _whole(whole)


def _whole(energy: EnergyReading) -> dict[str, Value]:
    """The batch's own total, which counts towards no event's trace a second time."""
    found = energy_attributes(energy, "batch_total")
    if energy.joules is not None:
        found["setsuden.energy.trace_joules"] = energy.joules
    return found


def batch_trace_id(works: Sequence[Work]) -> str:
    """The id of these deliveries' batch: no delivery is twice first among as many."""
    return derived_trace_id(f"batch/{works[0].trace_id}/{_key(works[0])}/{len(works)}")


def _batch_root(ran: BatchRun) -> str:
    return derived_span_id(ran.trace_id, "batch")


def _key(work: Work) -> str:
    return f"{work.delivery.stream_sequence}/{work.delivery.attempt}"


def _infer_id(work: Work) -> str:
    return derived_span_id(_own(work)[0], f"infer/{_key(work)}")


def _in_vain(work: Work, status: str | None) -> bool:
    """True when another attempt's answer counts, or none: these joules are in no result."""
    beaten = work.store_error == AlreadyStoredError.code and not work.late
    return status is None or work.problem is not None or beaten


def _process_id(trace_id: str, work: Work) -> str:
    return derived_span_id(trace_id, f"process/{_key(work)}")


def _answered_ns(work: Work, end_ns: int) -> int:
    """When the result was handed to the link; a delivery without one is over at its end."""
    return work.stored_ns or end_ns


def _is_past(work: Work, at_ns: int) -> bool:
    """True when the device waits no longer, as far as the cloud can know."""
    deadline = work.deadline_ns
    return work.late or (deadline is not None and at_ns > deadline)


def _own(work: Work, end_ns: int = 0) -> tuple[str, str | None, tuple[SpanLink, ...]]:
    """Trace, parent and links of a delivery, settled when its spans are made."""
    if work.span_context is None:
        work.span_context = _context(work, end_ns)
    return work.span_context


def _context(work: Work, end_ns: int) -> tuple[str, str | None, tuple[SpanLink, ...]]:
    """The device's wait is the parent, unless it was over before the work was.

    Late work, and work on an event that another attempt or the device itself has ended, starts a
    trace of its own: the event's would stretch past its end.
    """
    if work.parent_id is None:
        return work.trace_id, None, ()
    waits = SpanLink(work.trace_id, work.parent_id)
    if work.overtaken or _is_past(work, _answered_ns(work, end_ns)):
        return _apart(work), None, (waits,)
    return work.trace_id, work.parent_id, (waits,)


def _apart(work: Work) -> str:
    """The trace of work that nobody waits for."""
    if work.parent_id is None:
        return work.trace_id
    return derived_trace_id(f"apart/{ESCALATIONS}/{work.trace_id}/{_key(work)}")
