"""What the broker tells of a traced message, turned into spans of the service ``nats``.

nats-server (2.11 and newer) publishes one JSON event for each server that a message with a sampled
``traceparent`` passed, when its account has ``msg_trace { dest: "otel.hops" }``. Nobody else turns
them into spans (nats-server PR 5014 left that to others). Ids are hashes of what is told, so a
replay is identical.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from setsuden.pipelines.tracing import Kind, ResourceSpans, Span, derived_span_id
from setsuden.pipelines.tracing.span import Value
from setsuden.schemas import spans
from setsuden.schemas.errors import TraceDataError
from setsuden.schemas.trace_context import parse_traceparent

_STREAMS = {"evt": "EVT", "esc": "ESC", "res": "RES", "late": "RES", "dead": "DEAD"}
_TEMPLATES = {
    "EVT": "evt.<pipeline>.<device>",
    "ESC": "esc.<region>.<pipeline>.<device>",
    "RES": "res.<device>.<event_id>",
    "DEAD": "dead.<pipeline>.<device>",
}
_HOP_HEADER = "Nats-Trace-Hop"
_STEP_NS = 1_000
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading JSON of any shape raises."""


def spans_of(data: bytes) -> ResourceSpans | None:
    """The span of one server's hop; None for messages that are none of ours.

    Raises TraceDataError for what is no trace event.
    """
    try:
        told = json.loads(data)
        return _spans_of(told)
    except _BROKEN as error:
        raise TraceDataError(f"no trace event of nats-server: {error!r}"[:200]) from error


def _spans_of(told: dict[str, Any]) -> ResourceSpans | None:
    headers = told["request"].get("header") or {}
    context = parse_traceparent(_first(headers, "traceparent"))
    arrived = next((found for found in told["events"] if found["type"] == "in"), None)
    if context is None or arrived is None:
        return None
    stream = _STREAMS.get(arrived["subj"].partition(".")[0])
    if stream is None:
        return None
    return ResourceSpans(_resource(told["server"]), [_span(told, context, arrived, stream)])


def _span(
    told: dict[str, Any], context: tuple[str, str], arrived: dict[str, Any], stream: str
) -> Span:
    trace_id, parent = context
    stored = next((found for found in told["events"] if found["type"] == "js"), None)
    start = _ns(arrived["ts"])
    # A store that lost the compare-and-set is told as one with an error, and so it is shown.
    problem = _problem(stored) if stored is not None else None
    operation = "store" if stored is not None else "route"
    attributes: dict[str, Value] = {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.destination.template": _TEMPLATES[stream],
        "setsuden.nats.hop": _hop(told),
    }
    if stored is not None:
        attributes["messaging.nats.stream"] = str(stored["stream"])
    if problem is not None:
        attributes["error.type"] = problem
    identity = hashlib.blake2b(
        f"{told['server']['id']}/{arrived['subj']}/{arrived['ts']}".encode(), digest_size=8
    ).hexdigest()
    return Span(
        trace_id,
        derived_span_id(trace_id, f"hop/{parent}/{identity}"),
        parent,
        spans.hop(stored is not None, stream),
        Kind.INTERNAL,
        start,
        max([start + _STEP_NS, *(_ns(found["ts"]) for found in told["events"])]),
        attributes,
    )


def _problem(stored: dict[str, Any]) -> str | None:
    if not stored.get("error") or "duplicate" in stored["error"]:
        return None  # a repeated message that was recognised is as well as stored
    return "already_stored" if "last sequence" in stored["error"] else "not_stored"


def _hop(told: dict[str, Any]) -> int:
    """0 at the server the message came in at; its number is a path like ``1.2`` further on."""
    path = _first(told["request"]["header"], _HOP_HEADER)
    return len(path.split(".")) if path else 0


def _resource(server: dict[str, Any]) -> dict[str, Value]:
    return {
        "service.name": spans.SERVICE_NATS,
        "service.version": str(server["ver"]),
        "service.instance.id": str(server["id"]),
        "host.id": f"nats/{server['name']}",
        "host.name": str(server["host"]),
        "server.name": str(server["name"]),
    }


def _first(headers: dict[str, Any], name: str) -> str:
    values = headers.get(name) or [""]
    return str(values[0])


def _ns(stamp: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 stamp with up to nine digits of a second."""
    whole, _, rest = stamp.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int(rest[:9].ljust(9, "0") or 0)
