"""A finished span as data, and the ids of spans and traces."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from enum import IntEnum
from random import Random
from typing import NamedTuple

from setsuden.schemas.energy import EnergyReading, Method

Value = str | bool | int | float
Later = Callable[[], "Mapping[str, Value] | None"]
"""Attributes that are known some time after a span has ended; None until then."""


class SpanKind(IntEnum):
    """Span kinds with their OTLP numbers."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class SpanEvent(NamedTuple):
    """Something that happened at one moment of a span."""

    name: str
    at_ns: int
    attributes: Mapping[str, Value]


class SpanLink(NamedTuple):
    """A span of this or another trace that this one is about."""

    trace_id: str
    span_id: str


class Span(NamedTuple):
    """One finished span. Times are wall-clock nanoseconds since 1970, UTC."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: SpanKind
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    error: str | None = None
    later: Later | None = None
    """Asked before the span is sealed: settled joules instead of provisional ones."""


class ResourceSpans(NamedTuple):
    """Spans of one process, with what is said of that process."""

    resource: Mapping[str, Value]
    spans: list[Span]


def energy_attributes(
    reading: EnergyReading | None, allocation: str | None = None
) -> dict[str, Value]:
    """The span attributes of one reading; an unknown one says source ``none``.

    Without ``allocation`` the reading is this span's own: alone, or its share of a batch.
    """
    if reading is None:
        return {"setsuden.energy.source": "none"}
    attributes: dict[str, Value] = {
        "setsuden.cpu.seconds": reading.cpu_seconds,
        "setsuden.energy.source": reading.source.value,
    }
    optional = {
        "joules": reading.joules,
        "joules_low": reading.joules_low,
        "joules_high": reading.joules_high,
        "dynamic_joules": reading.dynamic_joules,
        "idle_joules": reading.idle_joules,
        "boundary": reading.boundary and reading.boundary.value,
        "method": reading.method and reading.method.value,
        "quality": reading.quality.value,
        "allocation": None if reading.joules is None else allocation or _allocation(reading),
    }
    return attributes | {
        f"setsuden.energy.{name}": value for name, value in optional.items() if value is not None
    }


def _allocation(reading: EnergyReading) -> str:
    return "batch_share" if reading.method is Method.BATCH_WEIGHTED else "exclusive"


def new_trace_id(random: Random) -> str:
    """32 hex digits, never all zero."""
    return f"{random.getrandbits(128) or 1:032x}"


def derived_trace_id(name: str) -> str:
    """32 hex digits that ``name`` always has."""
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def derived_span_id(trace_id: str, name: str) -> str:
    """16 hex digits that ``name`` always has in this trace: replays are identical."""
    return hashlib.blake2b(f"{trace_id}/{name}".encode(), digest_size=8).hexdigest()
