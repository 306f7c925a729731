"""Names of spans and attributes, in one table from which the documentation is made."""

from __future__ import annotations

from typing import Final, NamedTuple

SERVICE_EDGE: Final = "edge-agent"
SERVICE_NATS: Final = "nats"
SERVICE_WORKER: Final = "worker"

EVENT: Final = "event"
PREPROCESS: Final = "preprocess"
INFER: Final = "infer"
ESCALATE: Final = "escalate"
SEND_ESCALATION: Final = "send ESC"
SEND_RESULT: Final = "send RES"
PROCESS: Final = "process ESC"
BATCH: Final = "infer batch"
RUN: Final = "onnxruntime run"

GATE_DECISION: Final = "gate.decision"
NATS_ACK: Final = "nats.ack"
DEADLINE_EXCEEDED: Final = "deadline.exceeded"
BATCH_JOINED: Final = "batch.joined"

STREAMS_TRACED: Final = ("EVT", "ESC", "RES", "DEAD")
"""Streams whose messages the broker turns into spans of its own."""


class SpanRow(NamedTuple):
    """One kind of span."""

    name: str
    service: str
    kind: str
    parent: str
    """What it hangs under; empty for a root."""
    meaning: str


def hop(stored: bool, stream: str) -> str:
    """The name of a broker's span: it stored a message of this stream, or passed it on."""
    return f"{'store' if stored else 'route'} {stream}"


SPANS: Final[tuple[SpanRow, ...]] = (
    SpanRow(EVENT, SERVICE_EDGE, "SERVER, CONSUMER over NATS", "", "accepted until final"),
    SpanRow(PREPROCESS, SERVICE_EDGE, "INTERNAL", EVENT, "observation into the student's tensor"),
    SpanRow(INFER, SERVICE_EDGE, "INTERNAL", EVENT, "the student's run"),
    SpanRow(
        ESCALATE,
        SERVICE_EDGE,
        "CLIENT",
        EVENT,
        "the wait for the teacher, until answer or deadline",
    ),
    SpanRow(
        SEND_ESCALATION,
        SERVICE_EDGE,
        "CLIENT",
        ESCALATE,
        "one try to store the escalation, to its ack",
    ),
    SpanRow(
        SEND_RESULT,
        SERVICE_EDGE,
        "PRODUCER",
        "",
        "the device's own final result is stored for others: a trace of its own, linked to the "
        "event's, which has ended",
    ),
    *(
        SpanRow(
            hop(True, name),
            SERVICE_NATS,
            "INTERNAL",
            "what waits for it",
            f"arrived until {name} has it",
        )
        for name in STREAMS_TRACED
    ),
    *(
        SpanRow(
            hop(False, name),
            SERVICE_NATS,
            "INTERNAL",
            "what waits for it",
            "arrived until passed on",
        )
        for name in STREAMS_TRACED
    ),
    SpanRow(
        PROCESS,
        SERVICE_WORKER,
        "CONSUMER",
        ESCALATE,
        "arrived until its result was handed over or it was given back; one for each delivery",
    ),
    SpanRow(INFER, SERVICE_WORKER, "INTERNAL", PROCESS, "handed to the teacher until its answer"),
    SpanRow(BATCH, SERVICE_WORKER, "INTERNAL", "", "one executed batch, a trace of its own"),
    SpanRow(RUN, SERVICE_WORKER, "INTERNAL", BATCH, "the model's run inside it"),
)
"""Every span there is. Names hold no ids: they are bounded."""

NAMES: Final = frozenset(row.name for row in SPANS)


def names_of(service: str) -> frozenset[str]:
    """Every name of this service's spans."""
    return frozenset(row.name for row in SPANS if row.service == service)


EVENTS: Final[dict[str, str]] = {
    GATE_DECISION: "on the student's `infer`: what the gate decided and why",
    NATS_ACK: "on a send: the stream's word, with its sequence",
    DEADLINE_EXCEEDED: "on `escalate`: the student's answer became final here",
    BATCH_JOINED: "on the teacher's `infer`: the batch began to run",
}
"""Every span event there is."""

CLASSES: Final = ("low", "normal", "high")
"""Values of ``setsuden.energy.class``: Jaeger cannot search numbers by range."""

ALLOCATIONS: Final = ("exclusive", "batch_share", "batch_total", "overhead")
"""Values of ``setsuden.energy.allocation``. A trace's total sums the first two."""

SAMPLING_REASONS: Final = ("failed", "escalated", "slow", "costly", "caller", "share")
"""Values of ``setsuden.sampling.reason``, first one that holds."""

ATTRIBUTES: Final[dict[str, str]] = {
    "setsuden.event_id": "device, outbox epoch and sequence of the event",
    "setsuden.pipeline": "the pipeline's name",
    "setsuden.tier": "edge or cloud: who answered",
    "setsuden.status": "final, expired, dead or superseded",
    "setsuden.escalated": "true when the teacher was asked",
    "setsuden.gate.action": "answer or escalate",
    "setsuden.gate.reason": "why the gate decided so, from a closed set",
    "setsuden.gate.confidence": "the student's calibrated confidence, 0 to 1",
    "setsuden.gate.threshold": "what it was compared with, 0 to 1",
    "setsuden.model.name": "bundle/model",
    "setsuden.model.digest": "SHA-256 of the ONNX file",
    "setsuden.cpu.seconds": "exact CPU time of this span's session.run, seconds",
    "setsuden.energy.joules": "exclusive energy of this span, J",
    "setsuden.energy.joules_low": "lower bound, J",
    "setsuden.energy.joules_high": "upper bound, J",
    "setsuden.energy.dynamic_joules": "its part above the machine's idle power, J",
    "setsuden.energy.idle_joules": "its part of the idle power, while it was open, J",
    "setsuden.energy.source": "measured … table_model, none",
    "setsuden.energy.boundary": "what is inside the figure",
    "setsuden.energy.method": "how this span's part was found",
    "setsuden.energy.quality": "ok, provisional (its window had not closed: of a root with an "
    "answer of the cloud), degraded or quarantined",
    "setsuden.energy.allocation": "exclusive or batch_share count towards the trace's total; "
    "batch_total (batch traces) and overhead (attempts without a result) do not",
    "setsuden.energy.trace_joules": "root only: sum over the trace, J",
    "setsuden.energy.trace_joules_low": "root only: lower bound of the sum, J",
    "setsuden.energy.trace_joules_high": "root only: upper bound of the sum, J",
    "setsuden.energy.edge_joules": "root only: the edge's part, J",
    "setsuden.energy.cloud_joules": "root only: the cloud's part, J",
    "setsuden.energy.complete": "root only: false when a tier's part is unknown",
    "setsuden.energy.class": "root only: low, normal or high against the pipeline's own recent "
    "events (below the 10th, above the 99th percentile)",
    "setsuden.batch.size": "events in the executed batch",
    "setsuden.batch.share": "this event's share of the batch; shares of a batch sum to 1",
    "setsuden.batch.wait_ms": "taken by the worker until its batch ran, ms",
    "setsuden.batch.trace_id": "the trace of the executed batch",
    "setsuden.escalation.reason": "root only: why the gate escalated",
    "setsuden.escalation.attempts": "times the escalation was sent",
    "setsuden.escalation.late": "true when the deadline had passed before the worker took it",
    "setsuden.result.store_ms": "on `process ESC`: its result handed over until the stream's word "
    "on it, ms",
    "setsuden.result.store_error": "on `process ESC`: code of the stream's refusal",
    "setsuden.sampling.reason": "root only: why this trace was kept: failed, escalated, slow, "
    "costly, caller (whose trace is sampled) or share",
    "setsuden.sampling.adjusted_count": "root only: how many events this trace stands for",
    "setsuden.clock.offset_ms": "root only: cloud's clock minus the device's, ms",
    "setsuden.clock.offset_error_ms": "root only: bound of its error, ms",
    "setsuden.clock.corrected": "root only: true when the device's spans were moved by the offset",
    "messaging.system": "nats",
    "messaging.operation.name": "send, process, store or route",
    "messaging.operation.type": "send or process",
    "messaging.destination.template": "subject template, never a device id",
    "messaging.message.id": "what makes a repeated send the same message",
    "messaging.message.body.size": "bytes of the observation",
    "messaging.batch.message_count": "deliveries in the executed batch",
    "messaging.nats.stream": "the stream that holds the message",
    "messaging.nats.consumer": "the durable consumer that delivered it",
    "messaging.nats.sequence": "stream sequence of the message",
    "messaging.nats.delivery_count": "1 for the first delivery",
    "messaging.nats.queue_ms": "stored until taken, by cloud clocks only, ms",
    "setsuden.nats.hop": "place of this server on the message's way, from 0",
    "peer.service": "the service a leaf span talks to",
    "error.type": "code of the error, from a closed set",
}
"""Every attribute we set on spans and their events. Standard conventions keep their own names."""

RESOURCE: Final[dict[str, str]] = {
    "service.name": "edge-agent, nats or worker",
    "service.version": "Setsuden's version; the server's for nats",
    "service.instance.id": "one life of one process",
    "host.id": "the machine: without it Jaeger's clock adjuster takes every span for another host",
    "host.name": "the machine's name",
    "host.arch": "its architecture",
    "device.id": "devices only",
    "deployment.environment.name": "as `traces.environment` says",
    "server.name": "nats only: the server's own name",
}
"""Every attribute of a resource."""
