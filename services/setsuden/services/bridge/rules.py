"""What a message of spans or metrics may claim: decided from its bytes and its subject alone.

The broker lets a device publish to its own subject and to no other's, so the subject is what is
known of a sender; all that the message says of itself must agree with it. What does not is taken
out and counted by reason, never passed on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from math import isfinite
from typing import Any, Final, NamedTuple

from setsuden.schemas import metrics as metric_names
from setsuden.schemas import spans as span_names
from setsuden.schemas import subjects
from setsuden.schemas.errors import InvalidEventError
from setsuden.schemas.result import Tier
from setsuden.schemas.subjects import TelemetrySource
from setsuden.telemetry import SpanKind, metrics_protobuf, protobuf
from setsuden.telemetry.otlp import SCOPE

EARLIEST_NS: Final = 946_684_800 * 1_000_000_000
"""2000-01-01: a clock before it was never set, and its spans are found by no search."""
FUTURE_NS: Final = 86_400 * 1_000_000_000
"""Past the moment at which the broker stored the message: local time taken for UTC is 14 hours."""
LONGEST_NS: Final = 366 * 86_400 * 1_000_000_000
"""Of one span: a device may wait for the cloud for as long as its outbox has room."""
MAX_SPANS: Final = 2048
MAX_POINTS: Final = 2048
"""Of one message; ours have some 500 spans, and fewer points."""
MAX_ATTRIBUTES: Final = 128
MAX_EVENTS: Final = 128
"""OpenTelemetry's own default limits."""
MAX_LINKS: Final[dict[str, int]] = {Tier.EDGE: 8, Tier.CLOUD: 4096}
"""A batch is linked to each of its members; ``worker.max_batch`` is 4096 at most."""
MAX_KEY: Final = 128
MAX_TEXT: Final = 1024
MAX_AMOUNT: Final = 1e9
"""Joules of one span, seconds of CPU time: 1 GJ is the electricity of a household in a month."""
MAX_TOTAL: Final = 1e15
"""Of a counter over the life of a process."""


class RefusalReason(StrEnum):
    """Why something was not passed on."""

    SENDER = "sender"
    """It claims to be another's than its subject's."""
    TOO_MANY = "too_many"
    """Spans or points in one message, attributes, events or links of one span."""
    ID = "id"
    NAME = "name"
    """No name of this service's spans, or no metric of ours in its unit and kind."""
    TIME = "time"
    """Before 2000, in the future, or of an absurd length."""
    ATTRIBUTE = "attribute"
    """No scalar, no finite number, or too long."""
    AMOUNT = "amount"
    """Joules, seconds or counts that are negative, absurd or no double."""


class BridgeVerdict(NamedTuple):
    """What of a message may be passed on."""

    data: bytes
    items: int
    """Spans or points in it."""
    refused: Counter[RefusalReason]
    """Spans or points that are not."""


_SERVICES: Final[dict[str, str]] = {
    Tier.EDGE: span_names.SERVICE_EDGE,
    Tier.CLOUD: span_names.SERVICE_WORKER,
}
_NAMES: Final[dict[str, frozenset[str]]] = {
    tier: span_names.names_of(service) for tier, service in _SERVICES.items()
}
_KINDS: Final = frozenset(map(int, SpanKind))
_AMOUNTS: Final = frozenset({"setsuden.cpu.seconds", "setsuden.sampling.adjusted_count"})
_EVENT_ID: Final = "setsuden.event_id"
_DEVICE: Final = "device.id"
_NAMING: Final = frozenset({"service.name", "server.name", _DEVICE})
_SCALARS: Final = frozenset({"bool_value", "int_value"})
_METRICS: Final = {row.name: row for row in metric_names.METRICS}
_TIER: Final = metric_names.TIER


class _RefusedError(Exception):
    def __init__(self, reason: RefusalReason) -> None:
        super().__init__(reason)
        self.reason = reason


def spans(data: bytes, sender: TelemetrySource, stored_ns: int) -> BridgeVerdict:
    """What may be passed on of a serialised ``TracesData``; raises TraceDataError.

    ``stored_ns`` is when the broker stored it, nanoseconds since 1970.
    """
    message = protobuf.parse(data)
    scopes = [scope for group in message.resource_spans for scope in group.scope_spans]
    items = sum(len(scope.spans) for scope in scopes)
    check = partial(_check_span, sender=sender, latest_ns=stored_ns + FUTURE_NS)
    try:
        _require(items <= MAX_SPANS, RefusalReason.TOO_MANY)
        _check_senders(message.resource_spans, scopes, sender)
    except _RefusedError as error:
        return BridgeVerdict(b"", 0, Counter({error.reason: max(items, 1)}))
    refused = Counter[RefusalReason]()
    for scope in scopes:
        refused += _take_out(scope.spans, check)
    return _verdict(message, data, items, refused)


def metrics(data: bytes, sender: TelemetrySource, stored_ns: int) -> BridgeVerdict:
    """As :func:`spans`, of a serialised ``MetricsData``."""
    message = metrics_protobuf.parse(data)
    scopes = [scope for group in message.resource_metrics for scope in group.scope_metrics]
    items = sum(_points(metric) for scope in scopes for metric in scope.metrics)
    check = partial(_check_metric, sender=sender, latest_ns=stored_ns + FUTURE_NS)
    try:
        _require(items <= MAX_POINTS, RefusalReason.TOO_MANY)
        _check_senders(message.resource_metrics, scopes, sender)
    except _RefusedError as error:
        return BridgeVerdict(b"", 0, Counter({error.reason: max(items, 1)}))
    refused = Counter[RefusalReason]()
    for scope in scopes:
        refused += _take_out(scope.metrics, check, _points)
    return _verdict(message, data, items, refused)


def hop_is_timely(start_ns: int, end_ns: int, stored_ns: int) -> bool:
    """True for a hop told of when it happened: the server does so at once."""
    return max(abs(start_ns - stored_ns), abs(end_ns - stored_ns)) <= FUTURE_NS


def _verdict(
    message: Any, data: bytes, items: int, refused: Counter[RefusalReason]
) -> BridgeVerdict:
    if refused:
        data = message.SerializeToString(deterministic=True)
    return BridgeVerdict(data, items - refused.total(), refused)


def _take_out(
    held: Any, check: Callable[[Any], None], weight: Callable[[Any], int] = lambda _: 1
) -> Counter[RefusalReason]:
    """Take out of a repeated field what fails the check; what that was."""
    refused = Counter[RefusalReason]()
    faults = [_fault(check, one) for one in held]
    for place in reversed(range(len(faults))):
        fault = faults[place]
        if fault is not None:
            refused[fault] += weight(held[place])
            del held[place]
    return refused


def _fault(check: Callable[[Any], None], one: Any) -> RefusalReason | None:
    try:
        check(one)
    except _RefusedError as error:
        return error.reason
    return None


def _require(holds: bool, reason: RefusalReason) -> None:
    if not holds:
        raise _RefusedError(reason)


# -- a message as a whole ---------------------------------------------------------------------


def _check_senders(groups: Any, scopes: Any, sender: TelemetrySource) -> None:
    """Jaeger and Prometheus know a process by its resource's names alone."""
    for scope in scopes:
        plain = scope.scope.name == SCOPE and not scope.schema_url
        _require(plain and not len(scope.scope.attributes), RefusalReason.ATTRIBUTE)
    for group in groups:
        resource = group.resource
        _require(not group.schema_url and not len(resource.entity_refs), RefusalReason.ATTRIBUTE)
        _require(len(resource.attributes) <= MAX_ATTRIBUTES, RefusalReason.TOO_MANY)
        _check_attributes(resource.attributes)
        named = [
            (pair.key, pair.value.string_value)
            for pair in resource.attributes
            if pair.key in _NAMING
        ]
        _require(sorted(named) == sorted(_names_of(sender)), RefusalReason.SENDER)


def _names_of(sender: TelemetrySource) -> list[tuple[str, str]]:
    device = [(_DEVICE, sender.name)] if sender.tier == Tier.EDGE else []
    return [("service.name", _SERVICES[sender.tier]), *device]


# -- one span ---------------------------------------------------------------------------------


def _check_span(span: Any, sender: TelemetrySource, latest_ns: int) -> None:
    start, end, parent = span.start_time_unix_nano, span.end_time_unix_nano, span.parent_span_id
    _require(_is_id(span.trace_id, 16) and _is_id(span.span_id, 8), RefusalReason.ID)
    _require(not parent or (_is_id(parent, 8) and parent != span.span_id), RefusalReason.ID)
    _require(span.name in _NAMES[sender.tier] and span.kind in _KINDS, RefusalReason.NAME)
    _require(EARLIEST_NS <= start <= end <= latest_ns, RefusalReason.TIME)
    _require(end - start <= LONGEST_NS, RefusalReason.TIME)
    _require(len(span.attributes) <= MAX_ATTRIBUTES, RefusalReason.TOO_MANY)
    _require(len(span.events) <= MAX_EVENTS, RefusalReason.TOO_MANY)
    _require(len(span.links) <= MAX_LINKS[sender.tier], RefusalReason.TOO_MANY)
    _require(len(span.status.message) <= MAX_TEXT, RefusalReason.ATTRIBUTE)
    _require(len(span.trace_state) <= MAX_TEXT, RefusalReason.ATTRIBUTE)
    for link in span.links:
        _require(_is_id(link.trace_id, 16) and _is_id(link.span_id, 8), RefusalReason.ID)
        _require(not len(link.attributes) and not link.trace_state, RefusalReason.ATTRIBUTE)
    for event in span.events:
        _require(EARLIEST_NS <= event.time_unix_nano <= latest_ns, RefusalReason.TIME)
        _require(len(event.attributes) <= MAX_ATTRIBUTES, RefusalReason.TOO_MANY)
        _require(len(event.name) <= MAX_KEY, RefusalReason.NAME)
        _check_attributes(event.attributes)
    _check_attributes(span.attributes)
    if sender.tier == Tier.EDGE:
        _check_events_device(span.attributes, sender.name)


def _is_id(identity: bytes, size: int) -> bool:
    return len(identity) == size and any(identity)


def _check_attributes(pairs: Any) -> None:
    """Scalars only: nobody here writes lists, maps or bytes."""
    for pair in pairs:
        key, value = pair.key, pair.value
        kind = value.WhichOneof("value")
        if key.startswith("setsuden.") and _is_amount(key):
            right = kind == "double_value" and 0 <= value.double_value <= MAX_AMOUNT
            _require(right, RefusalReason.AMOUNT)
        elif kind == "string_value":
            _require(len(value.string_value) <= MAX_TEXT, RefusalReason.ATTRIBUTE)
        elif kind == "double_value":
            _require(isfinite(value.double_value), RefusalReason.ATTRIBUTE)
        else:
            _require(kind in _SCALARS, RefusalReason.ATTRIBUTE)
        _require(len(key) <= MAX_KEY, RefusalReason.ATTRIBUTE)


def _is_amount(key: str) -> bool:
    return key in _AMOUNTS or (key.startswith("setsuden.energy.") and "joules" in key)


def _check_events_device(pairs: Any, device: str) -> None:
    """An event's id begins with its device."""
    for pair in pairs:
        if pair.key == _EVENT_ID:
            try:
                whose = subjects.device_of(pair.value.string_value)
            except InvalidEventError as error:
                raise _RefusedError(RefusalReason.SENDER) from error
            _require(whose == device, RefusalReason.SENDER)


# -- one metric -------------------------------------------------------------------------------


def _points(metric: Any) -> int:
    """Of any kind of metric; one that has none weighs one, for it is refused alone."""
    kind = metric.WhichOneof("data")
    return 1 if kind is None else len(getattr(metric, kind).data_points)


def _check_metric(metric: Any, sender: TelemetrySource, latest_ns: int) -> None:
    row = _METRICS.get(metric.name)
    if row is None:
        raise _RefusedError(RefusalReason.NAME)
    _require(metric.unit == row.unit and metric.WhichOneof("data") == "sum", RefusalReason.NAME)
    cumulative = metric.sum.aggregation_temporality == metrics_protobuf.CUMULATIVE
    _require(cumulative and metric.sum.is_monotonic, RefusalReason.NAME)
    _require(not metric.description and not len(metric.metadata), RefusalReason.ATTRIBUTE)
    for point in metric.sum.data_points:
        _check_point(point, frozenset(row.attributes), sender, latest_ns)


def _check_point(
    point: Any, allowed: frozenset[str], sender: TelemetrySource, latest_ns: int
) -> None:
    # No bound of its length: a counter goes on for as long as its process lives.
    start, at = point.start_time_unix_nano, point.time_unix_nano
    _require(EARLIEST_NS <= start <= at <= latest_ns, RefusalReason.TIME)
    _require(point.WhichOneof("value") == "as_double", RefusalReason.AMOUNT)
    _require(0 <= point.as_double <= MAX_TOTAL, RefusalReason.AMOUNT)
    labels = {pair.key: pair.value.string_value for pair in point.attributes}
    _require(
        len(labels) == len(point.attributes) and labels.keys() <= allowed, RefusalReason.ATTRIBUTE
    )
    _require(labels.get(_TIER, sender.tier) == sender.tier, RefusalReason.SENDER)
    _require(not len(point.exemplars), RefusalReason.ATTRIBUTE)
    _check_attributes(point.attributes)
