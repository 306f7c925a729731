"""The worker's spans of one delivery, made in one go when it is settled, and of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from setsuden.pipelines.energy import MeteredRun
from setsuden.pipelines.tracing import Kind, Link, Span, SpanEvent, derived_span_id, traceparent
from setsuden.pipelines.tracing.span import Value, energy_attributes
from setsuden.schemas import spans
from setsuden.schemas.energy import EnergyReading
from setsuden.schemas.errors import AlreadyStoredError
from setsuden.schemas.result import ModelRef
from setsuden.schemas.streams import ESCALATIONS, RESULTS

from .work import Ran, Work, derived_trace_id

_STEP_NS = 1_000
"""Siblings follow each other by a microsecond: Jaeger leaves equal ones off the critical path."""
_TEMPLATE = "esc.<region>.<pipeline>.<device>"


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
        self._send = nats | {
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.template": "res.<device>.<event_id>",
            "messaging.nats.stream": RESULTS,
            "peer.service": "nats",
        }
        self._settle = nats | {
            "messaging.operation.name": "settle",
            "messaging.operation.type": "settle",
            "messaging.destination.template": _TEMPLATE,
            "peer.service": "nats",
        }
        self._batch = self._infer | {"setsuden.pipeline": pipeline}

    def send_context(self, work: Work) -> str:
        """The traceparent that a result carries into its stream."""
        trace_id = _own(work)[0]
        return traceparent(trace_id, derived_span_id(trace_id, f"send/{_key(work)}"))

    def of(self, work: Work, status: str | None, end_ns: int) -> list[Span]:
        """``process`` with its children; ``status`` is ``None`` for a failed attempt."""
        trace_id, parent, links = _own(work)
        key = _key(work)
        process = derived_span_id(trace_id, f"process/{key}")
        found = []
        last = work.arrived_ns
        done = end_ns
        if work.ran is not None:
            found.append(self._infer_span(work, work.ran, status, process))
            last = work.ran.end_ns
        if work.stored_ns:
            found.append(self._send_span(work, process, last + _STEP_NS))
            # The device has the result before we know that it is stored. A child that ends after
            # its parent, on another host, is taken for a wrong clock by Jaeger.
            done = found[-1].start_ns
            last = found[-1].end_ns
        end = max(end_ns, last + 2 * _STEP_NS)
        settle = derived_span_id(trace_id, f"settle/{key}")
        found.append(
            Span(
                trace_id, settle, process, spans.SETTLE, Kind.CLIENT, last + _STEP_NS, end,
                self._settle,
            )
        )  # fmt: skip
        error = None if work.problem is None else work.problem.code
        attributes = self._attributes(work, status, error)
        found.append(
            Span(
                trace_id, process, parent, spans.PROCESS, Kind.CONSUMER, work.arrived_ns,
                max(done, work.arrived_ns + _STEP_NS), attributes, links=links, error=error,
            )
        )  # fmt: skip
        return found

    def batch(self, works: Sequence[Work], ran: Ran, energy: EnergyReading) -> list[Span]:
        """The executed batch as a trace of its own, linked to its members as they are to it.

        ``energy`` is the whole batch's, provisional.
        """
        trace_id, root, start = ran.trace_id, _batch_root(ran), ran.start_ns
        count: dict[str, Value] = {
            "setsuden.batch.size": ran.items,
            "messaging.batch.message_count": ran.items,
        }
        end = max(ran.end_ns, start + 3 * _STEP_NS)
        began = max(end - int(ran.infer_ms * 1e6) - _STEP_NS, start + _STEP_NS)
        run = derived_span_id(trace_id, "run")
        members = tuple(Link(_own(work)[0], _infer_id(work)) for work in works)
        return [
            Span(
                trace_id, root, None, spans.BATCH, Kind.INTERNAL, start, end,
                self._batch | _whole(energy) | count, links=members,
                later=partial(_settled_whole, ran.metered),
            ),
            Span(
                trace_id, run, root, spans.RUN, Kind.INTERNAL, began, end - _STEP_NS,
                {"setsuden.batch.size": ran.items},
            ),
        ]  # fmt: skip

    def _infer_span(self, work: Work, ran: Ran, status: str | None, process: str) -> Span:
        attributes = self._infer | ran.energy_attributes
        attributes["setsuden.batch.wait_ms"] = max(0, ran.start_ns - work.arrived_ns) / 1e6
        attributes["setsuden.batch.trace_id"] = ran.trace_id
        allocation = "overhead" if _in_vain(work, status) else None
        if allocation is not None and "setsuden.energy.joules" in attributes:
            attributes["setsuden.energy.allocation"] = allocation
        joined = SpanEvent(spans.BATCH_JOINED, ran.start_ns, {"setsuden.batch.size": ran.items})
        return Span(
            _own(work)[0],
            _infer_id(work),
            process,
            spans.INFER,
            Kind.INTERNAL,
            max(work.taken_ns, work.arrived_ns + _STEP_NS),
            ran.end_ns,
            attributes,
            events=(joined,),
            links=(Link(ran.trace_id, _batch_root(ran)),),
            error=None if work.problem is None else work.problem.code,
            later=partial(_settled, ran, allocation),
        )

    def _send_span(self, work: Work, process: str, not_before_ns: int) -> Span:
        trace_id = _own(work)[0]
        start = max(work.stored_ns, not_before_ns)
        attributes = self._send
        if work.store_error is not None:
            attributes = attributes | {"error.type": work.store_error}
        return Span(
            trace_id,
            derived_span_id(trace_id, f"send/{_key(work)}"),
            process,
            spans.SEND_RESULT,
            Kind.CLIENT,
            start,
            max(work.acked_ns, start + _STEP_NS),
            attributes,
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
        if error is not None:
            found["error.type"] = error
        return found


def _settled(ran: Ran, allocation: str | None) -> dict[str, Value] | None:
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


def _batch_root(ran: Ran) -> str:
    return derived_span_id(ran.trace_id, "batch")


def _key(work: Work) -> str:
    return f"{work.delivery.stream_sequence}/{work.delivery.attempt}"


def _infer_id(work: Work) -> str:
    return derived_span_id(_own(work)[0], f"infer/{_key(work)}")


def _in_vain(work: Work, status: str | None) -> bool:
    """True when another attempt's answer counts, or none: these joules are in no result."""
    beaten = work.store_error == AlreadyStoredError.code and not work.late
    return status is None or work.problem is not None or beaten


def _own(work: Work) -> tuple[str, str | None, tuple[Link, ...]]:
    """Trace, parent and links of a delivery, settled when first asked for.

    Late work starts a trace of its own: the event's would stretch over hours.
    """
    if work.span_context is None:
        work.span_context = _context(work)
    return work.span_context


def _context(work: Work) -> tuple[str, str | None, tuple[Link, ...]]:
    if work.parent_id is None:
        return work.trace_id, None, ()
    escalated = Link(work.trace_id, work.parent_id)
    if not work.late:
        return work.trace_id, work.parent_id, (escalated,)
    name = f"late/{ESCALATIONS}/{work.trace_id}/{work.delivery.stream_sequence}"
    return derived_trace_id(name), None, (escalated,)
