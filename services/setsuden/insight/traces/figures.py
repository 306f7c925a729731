"""What a trace says of itself: who answered, how long it took, what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import fsum
from typing import NamedTuple

from setsuden.schemas import spans as table
from setsuden.telemetry.span import Value

from .found import FoundSpan
from .tree import Trace

COUNTED = frozenset({"exclusive", "batch_share"})
"""Allocations that add up to a trace's total."""
BATCH_TOTAL = "batch_total"
"""The allocation of an executed batch: its members bear it, so it is nobody's part twice."""
ESTIMATED = "table_model"
_JOULES = "setsuden.energy.joules"
_TOTAL = "setsuden.energy.trace_joules"


class TraceJoules(NamedTuple):
    """An amount of energy with its bounds, J."""

    value: float
    low: float | None
    high: float | None
    source: str
    allocation: str = ""

    @property
    def counted(self) -> bool:
        """True when it is part of its trace's total."""
        return self.allocation in COUNTED

    @property
    def estimated(self) -> bool:
        """True when no sensor stands behind it."""
        return ESTIMATED in self.source


class TraceSummary(NamedTuple):
    """A trace in one line."""

    words: str
    """Who answered."""
    ms: float
    joules: TraceJoules | None
    complete: bool
    """False when the joules are a lower bound."""
    escalated: bool
    status: str
    energy_class: str


def joules_of(found: FoundSpan) -> TraceJoules | None:
    """The energy of this span alone; None when it states none."""
    value = found.number(_JOULES)
    if value is None:
        return None
    return TraceJoules(
        value,
        found.number(f"{_JOULES}_low"),
        found.number(f"{_JOULES}_high"),
        found.text("setsuden.energy.source") or "",
        found.text("setsuden.energy.allocation") or "",
    )


def counted(spans: Iterable[FoundSpan]) -> Iterator[TraceJoules]:
    """Every figure that is part of a trace's total."""
    for found in spans:
        joules = joules_of(found)
        if joules is not None and joules.counted:
            yield joules


def added(parts: Iterable[TraceJoules]) -> TraceJoules | None:
    """Their sum, bounds added linearly as one model's errors are; None without any."""
    parts = list(parts)
    if not parts:
        return None
    low, high = [part.low for part in parts], [part.high for part in parts]
    return TraceJoules(
        fsum(part.value for part in parts),
        None if None in low else fsum(one for one in low if one is not None),
        None if None in high else fsum(one for one in high if one is not None),
        " and ".join(sorted({part.source for part in parts if part.source})),
        "exclusive",
    )


def total(trace: Trace) -> TraceJoules | None:
    """The trace's total as its root states it, else the sum of its parts."""
    entry = trace.entry
    own = joules_of(entry)
    if own is not None and own.allocation == BATCH_TOTAL:
        return own
    parts = added(counted(trace.spans))
    value = entry.number(_TOTAL)
    if value is None:
        return own if parts is None else parts
    source = entry.text("setsuden.energy.source") or (parts.source if parts else "")
    return TraceJoules(value, entry.number(f"{_TOTAL}_low"), entry.number(f"{_TOTAL}_high"), source)


def complete(trace: Trace) -> bool:
    """False when the root says that a tier's part is unknown."""
    return trace.entry.flag("setsuden.energy.complete") is not False


def verdict(trace: Trace) -> TraceSummary:
    """Who answered, in how long and for how much."""
    entry = trace.entry
    return TraceSummary(
        _who(trace),
        entry.ms,
        total(trace),
        complete(trace),
        entry.flag("setsuden.escalated") is True or bool(trace.named(table.ESCALATE)),
        entry.text("setsuden.status") or "",
        entry.text("setsuden.energy.class") or "",
    )


def _who(trace: Trace) -> str:
    entry = trace.entry
    if entry.span.name == table.BATCH:
        size = entry.text("setsuden.batch.size") or str(len(entry.span.links))
        return f"One batch of {size} ran"
    if entry.flag("setsuden.escalation.late"):
        return "Late work: the deadline had passed"
    words = {
        "expired": "The deadline passed, the device's answer stands",
        "dead": "Nobody answered, a dead letter",
        "superseded": "The cloud answered too late, the device's answer stands",
    }
    status = entry.text("setsuden.status") or ""
    tiers = {"edge": "The device answered", "cloud": "The cloud answered"}
    return words.get(status) or tiers.get(entry.text("setsuden.tier") or "", "Unknown who answered")


def student(trace: Trace) -> FoundSpan | None:
    """The student's run."""
    return next(iter(trace.named(table.INFER, table.SERVICE_EDGE)), None)


def teachers(trace: Trace) -> list[FoundSpan]:
    """The teacher's runs that gave a result."""
    runs = trace.named(table.INFER, table.SERVICE_WORKER)
    return [run for run in runs if (found := joules_of(run)) is not None and found.counted]


def gate(trace: Trace) -> dict[str, Value]:
    """What the gate decided and why: `action`, `reason`, `confidence`, `threshold`."""
    prefix = "setsuden.gate."
    run = student(trace)
    places = [trace.entry.span.attributes]
    if run is not None:
        places += [run.span.attributes, *(event.attributes for event in run.span.events)]
    return {
        key.removeprefix(prefix): value
        for place in places
        for key, value in place.items()
        if key.startswith(prefix)
    }


class DeviceClock(NamedTuple):
    """How the device's clock stood to the cloud's."""

    offset_ms: float | None
    """Cloud minus device."""
    error_ms: float | None
    corrected: bool

    def words(self) -> str:
        """One sentence."""
        if self.offset_ms is None:
            return "device clock was never compared with the cloud's"
        side = "ahead" if self.offset_ms < 0 else "behind"
        known = "" if self.error_ms is None else f", ±{self.error_ms:.3g} ms"
        done = "corrected" if self.corrected else "not corrected"
        return f"device clock was {abs(self.offset_ms):.4g} ms {side}, {done}{known}"


def clock(trace: Trace) -> DeviceClock | None:
    """What the root says of the device's clock; None when it says nothing."""
    entry = trace.entry
    corrected = entry.flag("setsuden.clock.corrected")
    offset = entry.number("setsuden.clock.offset_ms")
    if corrected is None and offset is None:
        return None
    return DeviceClock(offset, entry.number("setsuden.clock.offset_error_ms"), corrected is True)


class Membership(NamedTuple):
    """A span's place in an executed batch."""

    found: FoundSpan
    trace_id: str
    size: int | None
    share: float | None
    wait_ms: float | None

    def words(self) -> str:
        """One line without the batch's trace id."""
        said = [f"batch of {self.size}" if self.size is not None else "batch"]
        said += [f"share {self.share:.4g}"] if self.share is not None else []
        said += [f"waited {self.wait_ms:.2f} ms"] if self.wait_ms is not None else []
        return ", ".join(said)


def memberships(trace: Trace) -> list[Membership]:
    """Which executed batches its spans were part of."""
    found = [(one, one.text("setsuden.batch.trace_id")) for one in trace.spans]
    return [
        Membership(
            one,
            batch_id,
            None if (size := one.number("setsuden.batch.size")) is None else int(size),
            one.number("setsuden.batch.share"),
            one.number("setsuden.batch.wait_ms"),
        )
        for one, batch_id in found
        if batch_id is not None
    ]


def marks(found: FoundSpan) -> list[str]:
    """What is unusual about this span, in words."""
    said = []
    queued = found.number("messaging.nats.queue_ms")
    if queued is not None:
        said.append(f"queued {queued:.2f} ms")
    deliveries = found.number("messaging.nats.delivery_count")
    if deliveries is not None and deliveries > 1:
        said.append(f"delivery {deliveries:.0f}")
    if found.flag("setsuden.escalation.late"):
        said.append("late")
    if found.text("setsuden.energy.allocation") == "overhead":
        said.append("overhead")
    if found.text("setsuden.status") in {"expired", "dead", "superseded"}:
        said.append(str(found.text("setsuden.status")))
    if found.span.error is not None:
        said.append(f"error: {found.text('error.type') or found.span.error or 'unnamed'}")
    return said
