"""Whole traces as the tiers make them, to be read, drawn, and broken one rule at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from setsuden.insight.traces.found import FoundSpan
from setsuden.schemas import spans as table
from setsuden.telemetry import otlp
from setsuden.telemetry.span import Span, SpanEvent, SpanKind, SpanLink, Value

ORIGIN_NS = 1_790_000_000_000_000_000
ESCALATED, SECOND, EASY, BATCH = ("a" * 32, "b" * 32, "e" * 32, "ba" * 16)
TEACHER_JOULES, STUDENT_JOULES = 0.25, 0.003
EDGE: dict[str, Value] = {
    "service.name": table.SERVICE_EDGE,
    "service.version": "0.1.0",
    "host.id": "device-host",
    "device.id": "meter-7",
}
NATS: dict[str, Value] = {
    "service.name": table.SERVICE_NATS,
    "host.id": "broker-host",
    "server.name": "hub",
}
WORKER: dict[str, Value] = {"service.name": table.SERVICE_WORKER, "host.id": "cloud-host"}


def span_id(trace_id: str, number: int) -> str:
    """An id that differs in every trace."""
    return f"{trace_id[:8]}{number:08x}"


class TraceBuilder:
    """Adds spans whose times are milliseconds after a common origin."""

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.found: list[FoundSpan] = []

    def add(
        self,
        resource: dict[str, Value],
        name: str,
        start_ms: float,
        end_ms: float,
        *,
        parent: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: dict[str, Value] | None = None,
        events: tuple[SpanEvent, ...] = (),
        links: tuple[SpanLink, ...] = (),
        error: str | None = None,
    ) -> str:
        """Add one span; its id."""
        made = Span(
            self.trace_id,
            span_id(self.trace_id, len(self.found) + 1),
            parent,
            name,
            kind,
            at(start_ms),
            at(end_ms),
            attributes or {},
            events,
            links,
            error,
        )
        self.found.append(FoundSpan(resource, made))
        return made.span_id


def at(ms: float) -> int:
    """Nanoseconds since 1970 of a moment after the origin."""
    return ORIGIN_NS + round(ms * 1e6)


def energy(joules: float, allocation: str = "exclusive") -> dict[str, Value]:
    """One span's energy attributes."""
    return {
        "setsuden.energy.joules": joules,
        "setsuden.energy.joules_low": joules * 0.5,
        "setsuden.energy.joules_high": joules * 2,
        "setsuden.energy.source": "table_model",
        "setsuden.energy.allocation": allocation,
    }


def total(joules: float, edge: float, cloud: float) -> dict[str, Value]:
    """The root's totals."""
    return {
        "setsuden.energy.trace_joules": joules,
        "setsuden.energy.trace_joules_low": joules * 0.5,
        "setsuden.energy.trace_joules_high": joules * 2,
        "setsuden.energy.edge_joules": edge,
        "setsuden.energy.cloud_joules": cloud,
        "setsuden.energy.complete": True,
        "setsuden.energy.source": "table_model",
        "setsuden.energy.class": "normal",
    }


def gate_event(ms: float, confidence: float) -> SpanEvent:
    """What the gate decided."""
    action = "answer" if confidence >= 0.9 else "escalate"
    return SpanEvent(
        table.GATE_DECISION,
        at(ms),
        {
            "setsuden.gate.action": action,
            "setsuden.gate.reason": "confident" if action == "answer" else "low_confidence",
            "setsuden.gate.confidence": confidence,
            "setsuden.gate.threshold": 0.9,
        },
    )


def easy(trace_id: str = EASY) -> list[FoundSpan]:
    """An event that the device answered."""
    made = TraceBuilder(trace_id)
    root = made.add(
        EDGE,
        table.EVENT,
        0,
        4,
        kind=SpanKind.SERVER,
        attributes={
            "setsuden.event_id": "meter-7.3.17",
            "setsuden.pipeline": "digits",
            "setsuden.tier": "edge",
            "setsuden.status": "final",
            "setsuden.escalated": False,
            **total(STUDENT_JOULES, STUDENT_JOULES, 0.0),
        },
    )
    made.add(EDGE, table.PREPROCESS, 0.1, 0.5, parent=root)
    made.add(
        EDGE,
        table.INFER,
        0.501,
        3,
        parent=root,
        attributes=energy(STUDENT_JOULES),
        events=(gate_event(3, 0.97),),
    )
    return made.found


def escalated(trace_id: str = ESCALATED, share: float = 0.5) -> list[FoundSpan]:
    """An event that the teacher answered, on a device whose clock was 400 ms ahead."""
    made = TraceBuilder(trace_id)
    joules = STUDENT_JOULES + TEACHER_JOULES
    root = made.add(
        EDGE,
        table.EVENT,
        0,
        142,
        kind=SpanKind.SERVER,
        attributes={
            "setsuden.event_id": "meter-7.3.18",
            "setsuden.pipeline": "digits",
            "setsuden.tier": "cloud",
            "setsuden.status": "final",
            "setsuden.escalated": True,
            "setsuden.escalation.reason": "low_confidence",
            "setsuden.escalation.attempts": 1,
            **total(joules, STUDENT_JOULES, TEACHER_JOULES),
            "setsuden.energy.class": "high",
            "setsuden.sampling.reason": "escalated",
            "setsuden.sampling.adjusted_count": 1,
            "setsuden.clock.offset_ms": -400.0,
            "setsuden.clock.offset_error_ms": 0.3,
            "setsuden.clock.corrected": True,
        },
    )
    made.add(EDGE, table.PREPROCESS, 0.1, 1, parent=root)
    made.add(
        EDGE,
        table.INFER,
        1.001,
        15,
        parent=root,
        attributes=energy(STUDENT_JOULES),
        events=(gate_event(15, 0.41),),
    )
    wait = made.add(EDGE, table.ESCALATE, 15.001, 140, parent=root, kind=SpanKind.CLIENT)
    made.add(
        EDGE,
        table.SEND_ESCALATION,
        15.1,
        23,
        parent=wait,
        kind=SpanKind.CLIENT,
        attributes={"peer.service": "nats"},
        links=(SpanLink(trace_id, wait),),
    )
    made.add(NATS, table.hop(True, "ESC"), 17, 19, parent=wait)
    _work(made, wait, share)
    return made.found


def _work(made: TraceBuilder, wait: str, share: float) -> None:
    process = made.add(
        WORKER,
        table.PROCESS,
        50,
        120.1,
        parent=wait,
        kind=SpanKind.CONSUMER,
        attributes={"messaging.nats.queue_ms": 31.0, "messaging.nats.delivery_count": 1},
        links=(SpanLink(made.trace_id, wait),),
    )
    made.add(
        WORKER,
        table.INFER,
        52,
        120,
        parent=process,
        attributes={
            **energy(TEACHER_JOULES, "batch_share"),
            "setsuden.batch.size": 2,
            "setsuden.batch.share": share,
            "setsuden.batch.wait_ms": 8.0,
            "setsuden.batch.trace_id": BATCH,
        },
        events=(SpanEvent(table.BATCH_JOINED, at(60), {}),),
        links=(SpanLink(BATCH, span_id(BATCH, 1)),),
    )
    made.add(NATS, table.hop(True, "RES"), 122, 124, parent=wait)


def batch(members: Iterable[list[FoundSpan]]) -> list[FoundSpan]:
    """The executed batch of these traces' teacher runs."""
    links = [
        SpanLink(*one.key)
        for spans in members
        for one in spans
        if (one.service, one.span.name) == (table.SERVICE_WORKER, table.INFER)
    ]
    made = TraceBuilder(BATCH)
    joules = TEACHER_JOULES * len(links)
    root = made.add(
        WORKER,
        table.BATCH,
        60,
        119,
        attributes={
            **energy(joules, "batch_total"),
            "setsuden.energy.trace_joules": joules,
            "setsuden.batch.size": len(links),
        },
        links=tuple(links),
    )
    made.add(WORKER, table.RUN, 61, 118, parent=root)
    return made.found


def scene() -> list[FoundSpan]:
    """An easy event, two escalated ones, and the batch that answered both."""
    pair = [escalated(), escalated(SECOND)]
    return [*easy(), *pair[0], *pair[1], *batch(pair)]


def late() -> list[FoundSpan]:
    """Work taken after the deadline: a trace of its own, linked to the wait it missed."""
    made = TraceBuilder("1a" * 16)
    made.add(
        WORKER,
        table.PROCESS,
        5_000,
        5_010,
        kind=SpanKind.CONSUMER,
        attributes={"setsuden.escalation.late": True, "messaging.nats.delivery_count": 2},
        links=(SpanLink(ESCALATED, span_id(ESCALATED, 4)),),
    )
    return made.found


def changed(
    spans: Iterable[FoundSpan], which: Callable[[FoundSpan], bool], **fields: object
) -> list[FoundSpan]:
    """The same spans, those that fit with other fields; ``attributes`` are added."""
    added = fields.pop("attributes", {})
    assert isinstance(added, dict)
    return [
        found._replace(
            span=found.span._replace(
                attributes={**found.span.attributes, **added},
                **fields,  # type: ignore[arg-type]  # fields of Span, named by the test
            )
        )
        if which(found)
        else found
        for found in spans
    ]


def named(
    name: str, service: str | None = None, trace_id: str = ESCALATED
) -> Callable[[FoundSpan], bool]:
    """Fits spans of this name in one trace."""
    return lambda found: (
        found.span.name == name
        and found.span.trace_id == trace_id
        and service in {None, found.service}
    )


def write(path: Path, spans: Iterable[FoundSpan]) -> Path:
    """An OTLP JSON Lines file, one line a span; its path."""
    path.write_text(
        "".join(otlp.line(found.resource, [found.span]) for found in spans), encoding="utf-8"
    )
    return path
