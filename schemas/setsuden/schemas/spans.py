"""Names of spans and attributes, in one table from which the documentation is made."""

from __future__ import annotations

from typing import Final

SERVICE_EDGE: Final = "edge-agent"
SERVICE_WORKER: Final = "worker"

EVENT: Final = "event"
INFER: Final = "infer"
ESCALATE: Final = "escalate"
SEND: Final = "send ESC"
PROCESS: Final = "process ESC"
SETTLE: Final = "settle ESC"
GATE_DECISION: Final = "gate.decision"

ATTRIBUTES: Final[dict[str, str]] = {
    "setsuden.event_id": "device, outbox epoch and sequence of the event",
    "setsuden.pipeline": "the pipeline's name",
    "setsuden.tier": "edge or cloud: who answered",
    "setsuden.status": "final, expired or dead",
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
    "setsuden.energy.source": "measured … table_model, none",
    "setsuden.energy.boundary": "what is inside the figure",
    "setsuden.energy.method": "how this span's part was found",
    "setsuden.energy.trace_joules": "root only: sum over the trace, J",
    "setsuden.energy.trace_joules_low": "root only: lower bound of the sum, J",
    "setsuden.energy.trace_joules_high": "root only: upper bound of the sum, J",
    "setsuden.energy.edge_joules": "root only: the edge's part, J",
    "setsuden.energy.cloud_joules": "root only: the cloud's part, J",
    "setsuden.energy.complete": "root only: false when a tier's part is unknown",
    "setsuden.batch.size": "events in the executed batch",
    "setsuden.batch.share": "this event's share of the batch",
    "setsuden.escalation.attempts": "times the escalation was sent",
    "setsuden.escalation.late": "true when the deadline had passed before the worker took it",
    "messaging.system": "nats",
    "messaging.operation.type": "send, process or settle",
    "messaging.destination.template": "subject template, never a device id",
    "messaging.message.body.size": "bytes of the observation",
    "messaging.nats.sequence": "stream sequence of the escalation",
    "messaging.nats.delivery_count": "1 for the first delivery",
    "messaging.nats.queue_ms": "stored until taken, by cloud clocks only, ms",
    "peer.service": "the service a leaf span talks to",
    "error.type": "code of the error, from a closed set",
}
"""Every attribute we set, with its meaning. Standard conventions keep their own names."""
