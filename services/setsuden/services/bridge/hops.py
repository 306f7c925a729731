"""What the broker tells of a traced message, turned into spans of the service ``nats``.

nats-server (2.11 and newer) publishes one JSON event for each server that a message with a sampled
``traceparent`` passed, when its account has ``msg_trace { dest: "otel.hops" }``. Nobody else turns
them into spans (nats-server PR 5014 left that to others). Ids are hashes of what is told, so a
replay is identical.

The server publishes in the name of the message's sender, so whoever may send a traced message can
write here too, and nothing in an event proves that a server wrote it. So its shape is checked, and
that its sender could have sent the message it tells of; a span of it says nothing but where one of
our messages was and when.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Annotated, Final

from pydantic import Field, StringConstraints, ValidationError

from setsuden.schemas import spans
from setsuden.schemas.base import ShortText, WireModel
from setsuden.schemas.errors import TraceDataError
from setsuden.schemas.subjects import HOPS, hop_fits
from setsuden.schemas.trace_context import parse_traceparent
from setsuden.telemetry import (
    ResourceSpans,
    Span,
    SpanKind,
    SpanLink,
    TraceContext,
    derived_span_id,
    derived_trace_id,
)
from setsuden.telemetry.span import Value

MAX_BYTES: Final = 1 << 16
"""Of one event. It repeats the message's headers, of which W3C's may have 8 KiB."""
MAX_STEPS: Final = 64
"""Of one event: arrival, mappings, store, and one egress for each subscriber."""
_TOKEN = "[A-Za-z0-9_-]{1,64}"  # noqa: S105  # of a subject, no secret
_STREAM_OF = (
    ("EVT", "evt.<pipeline>.<device>", re.compile(rf"evt(\.{_TOKEN}){{2}}")),
    ("ESC", "esc.<region>.<pipeline>.<device>.<event_id>", re.compile(rf"esc(\.{_TOKEN}){{4}}")),
    (
        "RES",
        "res.<region>.<pipeline>.<device>.<event_id>",
        re.compile(rf"(res|late)(\.{_TOKEN}){{4}}"),
    ),
    ("DEAD", "dead.<pipeline>.<device>", re.compile(rf"dead(\.{_TOKEN}){{2}}")),
)
_HOP_HEADER = "Nats-Trace-Hop"
_STEP_NS = 1_000
_ARRIVED, _STORED = "in", "js"
_ALREADY_STORED = "already_stored"


class _Server(WireModel):
    name: ShortText
    host: ShortText
    id: Annotated[str, StringConstraints(pattern=r"^N[A-Z2-7]{55}$")]
    """Its public key."""
    ver: ShortText


class _Request(WireModel):
    header: dict[str, list[str]] | None = None

    def value(self, name: str) -> str:
        """The one value of a header; empty when it has none or several."""
        values = (self.header or {}).get(name, [])
        return values[0] if len(values) == 1 else ""


class _Step(WireModel):
    type: ShortText
    ts: Annotated[str, StringConstraints(max_length=40)]
    kind: int | None = Field(default=None, ge=0, le=16)
    acc: ShortText | None = None
    subj: str | None = None
    stream: str | None = None
    error: str | None = None


class _TraceEvent(WireModel):
    server: _Server
    request: _Request
    events: tuple[_Step, ...] = Field(min_length=1, max_length=MAX_STEPS)

    def first(self, kind: str) -> _Step | None:
        """The first step of this kind."""
        return next((step for step in self.events if step.type == kind), None)


def spans_of(data: bytes, subject: str = HOPS) -> ResourceSpans | None:
    """The span of one server's hop; None for messages that are not ours, or not sampled.

    ``subject`` is where it was told. Raises TraceDataError for what is no trace event, or is of a
    message that the sender whom the subject names cannot have sent.
    """
    if len(data) > MAX_BYTES:
        raise TraceDataError(f"a trace event of {len(data)} bytes, over {MAX_BYTES}")
    try:
        return _spans_of(_TraceEvent.model_validate_json(data), subject)
    except (ValidationError, ValueError, OverflowError) as error:
        raise TraceDataError(f"no trace event of nats-server: {error!r}"[:200]) from error


def _spans_of(event: _TraceEvent, event_subject: str) -> ResourceSpans | None:
    context = parse_traceparent(event.request.value("traceparent"))
    arrived = event.first(_ARRIVED)
    if context is None or not context.sampled or arrived is None:
        return None
    subject = arrived.subj or ""
    place = next((row for row in _STREAM_OF if row[2].fullmatch(subject)), None)
    if place is None:
        return None
    if not hop_fits(event_subject, subject):
        raise ValueError("it is of another sender's message")
    stream, template, _ = place
    return ResourceSpans(
        _resource(event.server), [_span(event, context, arrived, stream, template)]
    )


def _span(
    event: _TraceEvent, context: TraceContext, arrived: _Step, stream: str, template: str
) -> Span:
    if arrived.acc is None or arrived.kind is None:
        raise ValueError("it arrived from nobody")
    stored = event.first(_STORED)
    if stored is not None and stored.stream != stream:
        raise ValueError(f"{stream} is not where it was stored")
    problem = _problem(stored.error) if stored is not None else None
    operation = "store" if stored is not None else "route"
    attributes: dict[str, Value] = {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.destination.template": template,
        "setsuden.nats.hop": _hop(event.request.value(_HOP_HEADER)),
    }
    if stored is not None:
        attributes["messaging.nats.stream"] = stream
    if problem is not None:
        attributes["error.type"] = problem
    start = _ns(arrived.ts)
    end = max([start + _STEP_NS, *(_ns(step.ts) for step in event.events)])
    trace_id, parent, links = _place(event, context, arrived, problem)
    return Span(
        trace_id,
        derived_span_id(trace_id, f"hop/{context.span_id}/{_identity(event, arrived)}"),
        parent,
        spans.hop(stored is not None, stream),
        SpanKind.INTERNAL,
        start,
        end,
        attributes,
        links=links,
    )


def _place(
    event: _TraceEvent, context: TraceContext, arrived: _Step, problem: str | None
) -> tuple[str, str | None, tuple[SpanLink, ...]]:
    """Trace, parent and links. Whoever waited for a result waits no longer when it is the second.

    So a store that lost the compare-and-set is shown in a trace of its own.
    """
    if problem != _ALREADY_STORED:
        return context.trace_id, context.span_id, ()
    waited = SpanLink(context.trace_id, context.span_id)
    return derived_trace_id(f"hop/{context.trace_id}/{_identity(event, arrived)}"), None, (waited,)


def _identity(event: _TraceEvent, arrived: _Step) -> str:
    named = f"{event.server.id}/{arrived.subj}/{arrived.ts}"
    return hashlib.blake2b(named.encode(), digest_size=8).hexdigest()


def _problem(error: str | None) -> str | None:
    if not error or "duplicate" in error:
        return None  # a repeated message that was recognised is as well as stored
    return _ALREADY_STORED if "last sequence" in error else "not_stored"


def _hop(path: str) -> int:
    """0 at the server the message came in at; its number is a path like ``1.2`` further on."""
    return len(path.split(".")) if path else 0


def _resource(server: _Server) -> dict[str, Value]:
    return {
        "service.name": spans.SERVICE_NATS,
        "service.version": server.ver,
        "service.instance.id": server.id,
        "host.id": f"nats/{server.name}",
        "host.name": server.host,
        "server.name": server.name,
    }


def _ns(stamp: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 stamp with up to nine digits of a second."""
    whole, _, rest = stamp.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int(rest[:9].ljust(9, "0") or 0)
