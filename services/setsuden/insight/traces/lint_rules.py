"""What each rule of ``setsuden trace lint`` finds. Every rule is a pure function of one trace.

The rules are Jaeger's (what its UI, its storage and its clock adjuster make of a trace) and those
of our own table: bounded names, known attributes, energy that adds up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from math import fsum, isclose, isfinite
from typing import NamedTuple

from setsuden.schemas import spans as table
from setsuden.schemas.energy import Quality
from setsuden.telemetry.span import SpanKind, SpanLink, Value

from . import figures
from .critical_path import end_us, start_us
from .found import WARNINGS, FoundSpan
from .tree import Trace

TOLERANCE = 1e-9
"""Sums of doubles may differ by so much of themselves."""
OUR_SERVICES = frozenset({table.SERVICE_EDGE, table.SERVICE_NATS, table.SERVICE_WORKER})
OUR_PREFIX = "setsuden."
_FIRST_HOPS = frozenset({table.hop(stored, "EVT") for stored in (True, False)})
_ENTRIES = _FIRST_HOPS | {table.EVENT}
"""Spans of ours that may hang under a caller's own span, which we never see."""

Traces = Mapping[str, Trace]


class Fault(NamedTuple):
    """A span and what is wrong with it."""

    found: FoundSpan
    detail: str


Faults = Iterator[Fault]


def orphan(trace: Trace, _: Traces) -> Faults:
    """A parent is missing, and it is not the one caller's span above an event."""
    missing = {found.span.parent_id for found in trace.orphans}
    if not trace.roots and len(missing) == 1 and all(map(_may_enter, trace.orphans)):
        return
    for found in trace.orphans:
        yield Fault(found, f"its parent {found.span.parent_id} is not in the trace")


def _may_enter(found: FoundSpan) -> bool:
    return found.service not in OUR_SERVICES or found.span.name in _ENTRIES


def roots(trace: Trace, _: Traces) -> Faults:
    """More than one span without a parent."""
    for found in trace.roots[1:]:
        first = trace.roots[0]
        yield Fault(found, f"a second root beside {first.span.name!r} {first.span.span_id}")


def producer_consumer(trace: Trace, _: Traces) -> Faults:
    """A CONSUMER under a PRODUCER although something above waits for it."""
    for found in trace.spans:
        parent = trace.parent(found)
        if parent is None or (parent.span.kind, found.span.kind) != (
            SpanKind.PRODUCER,
            SpanKind.CONSUMER,
        ):
            continue
        waiting = [a for a in trace.ancestors(parent) if a.span.end_ns >= found.span.end_ns]
        if waiting:
            yield Fault(
                found,
                f"CONSUMER under the PRODUCER {parent.span.name!r} while {waiting[0].span.name!r} "
                "waits for it: the critical path leaves it out with all below it",
            )


def host_id(trace: Trace, _: Traces) -> Faults:
    """A resource without ``host.id``; told once for each service."""
    told: set[str] = set()
    for found in trace.spans:
        if not found.resource.get("host.id") and found.service not in told:
            told.add(found.service)
            yield Fault(found, f"the resource of {found.service!r} has no host.id")


def equal_microsecond(trace: Trace, _: Traces) -> Faults:
    """A span ends in the microsecond in which the next of its service begins."""
    for siblings in (*trace.children.values(), trace.roots):
        ends: dict[tuple[str, int], FoundSpan] = {}
        for found in siblings:
            before = ends.get((found.service, start_us(found.span)))
            if before is not None:
                yield Fault(
                    before,
                    f"ends in the microsecond in which its sibling {found.span.name!r} "
                    f"{found.span.span_id} begins: the critical path leaves it out",
                )
            if found.span.end_ns > found.span.start_ns:
                ends[found.service, end_us(found.span)] = found


def link_only(trace: Trace, _: Traces) -> Faults:
    """A span without a parent that is tied to its own trace by a link alone."""
    for found in trace.roots:
        inner = [link for link in found.span.links if link.trace_id == trace.trace_id]
        if inner and len(trace.spans) > 1:
            yield Fault(
                found, f"has no parent, so Jaeger takes its link to {inner[0].span_id} as one"
            )


def name(trace: Trace, _: Traces) -> Faults:
    """A name of ours that is not in the table."""
    for found in trace.spans:
        if found.service in OUR_SERVICES and found.span.name not in table.NAMES:
            yield Fault(found, f"no span of {found.service!r} has this name")


def attribute(trace: Trace, _: Traces) -> Faults:
    """A ``setsuden.`` attribute that is not in the table."""
    for found in trace.spans:
        places = [found.span.attributes, *(event.attributes for event in found.span.events)]
        keys = {key for place in places for key in place if key.startswith(OUR_PREFIX)}
        for key in sorted(keys - table.ATTRIBUTES.keys()):
            yield Fault(found, f"attribute {key!r} is not in the table")


def energy_sum(trace: Trace, _: Traces) -> Faults:
    """The parts of the spans do not make the root's total.

    A provisional total was stated before the cloud's windows closed: its interval must hold.
    """
    for root in trace.spans:
        stated = root.number("setsuden.energy.trace_joules")
        if stated is None or root.span.name == table.BATCH:
            continue
        found = fsum(part.value for part in figures.counted(trace.spans))
        if root.flag("setsuden.energy.complete") is False:
            if found < stated * (1 - TOLERANCE):
                yield Fault(
                    root, f"its spans add up to {found!r} J, less than its total {stated!r} J"
                )
        elif root.span.attributes.get("setsuden.energy.quality") == Quality.PROVISIONAL:
            low = root.number("setsuden.energy.trace_joules_low") or 0.0
            high = root.number("setsuden.energy.trace_joules_high") or stated
            if not low * (1 - TOLERANCE) <= found <= high * (1 + TOLERANCE):
                yield Fault(root, f"its spans add up to {found!r} J, outside {low!r} to {high!r} J")
        elif not isclose(found, stated, rel_tol=TOLERANCE):
            yield Fault(root, f"its spans add up to {found!r} J, its total says {stated!r} J")


def energy_sign(trace: Trace, _: Traces) -> Faults:
    """Joules that are negative, not finite, or no double."""
    for found in trace.spans:
        for key, value in found.span.attributes.items():
            if not key.startswith("setsuden.energy.") or "joules" not in key:
                continue
            if not isinstance(value, float):
                yield Fault(found, f"{key} is a {type(value).__name__}, not a double")
            elif value < 0 or not isfinite(value):
                yield Fault(found, f"{key} is {value!r}")


def time(trace: Trace, _: Traces) -> Faults:
    """An end before its start."""
    for found in trace.spans:
        if found.span.end_ns < found.span.start_ns:
            yield Fault(found, f"ends {-found.ms:.6g} ms before it starts")


def inside_parent(trace: Trace, _: Traces) -> Faults:
    """A span outside the one it hangs under: Jaeger takes it for a wrong clock, and says so."""
    for found in trace.spans:
        parent = trace.parent(found)
        if parent is None or found.service not in OUR_SERVICES:
            continue
        ours, theirs = found.span, parent.span
        where = f"its {theirs.name!r}"
        if ours.start_ns < theirs.start_ns:
            yield Fault(found, f"starts {_ms(theirs.start_ns - ours.start_ns)} before {where}")
        elif ours.start_ns > theirs.end_ns:
            yield Fault(found, f"starts {_ms(ours.start_ns - theirs.end_ns)} after {where} ended")
        elif ours.end_ns > theirs.end_ns:
            yield Fault(found, f"ends {_ms(ours.end_ns - theirs.end_ns)} after {where}")


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.6g} ms"


def batch_shares(trace: Trace, traces: Traces) -> Faults:
    """A batch and its members do not agree."""
    for member in figures.memberships(trace):
        yield from _member(member, traces)
    if trace.entry.span.name == table.BATCH:
        yield from _batch(trace, traces)


def _member(member: figures.Membership, traces: Traces) -> Faults:
    if all(link.trace_id != member.trace_id for link in member.found.span.links):
        yield Fault(member.found, f"has no link to its batch {member.trace_id}")
    batch = traces.get(member.trace_id)
    back = SpanLink(*member.found.key)
    if batch is not None and back not in batch.entry.span.links:
        yield Fault(member.found, f"its batch {member.trace_id} has no link back to it")


def _batch(trace: Trace, traces: Traces) -> Faults:
    entry = trace.entry
    here = [_linked(link, traces) for link in entry.span.links]
    members = [found for found in here if found is not None]
    for found in members:
        if found.text("setsuden.batch.trace_id") != trace.trace_id:
            yield Fault(entry, f"its member {found.span.span_id} names another batch or none")
    shares = [found.number("setsuden.batch.share") for found in members]
    if not shares or None in shares:
        yield from (Fault(f, "has no share of its batch") for f in members if _shareless(f))
        return
    summed = fsum(share for share in shares if share is not None)
    # Members of unsampled traces have no span to link to.
    whole = len(members) == len(here) == (entry.number("setsuden.batch.size") or len(here))
    if summed > 1 + TOLERANCE or (whole and summed < 1 - TOLERANCE):
        yield Fault(entry, f"the shares of its {len(members)} members sum to {summed!r}, not to 1")


def _shareless(found: FoundSpan) -> bool:
    return found.number("setsuden.batch.share") is None


def _linked(link: SpanLink, traces: Traces) -> FoundSpan | None:
    trace = traces.get(link.trace_id)
    return None if trace is None else trace.by_id.get(link.span_id)


def duplicate(trace: Trace, _: Traces) -> Faults:
    """Two spans with the same ids and different content."""
    by_key: dict[str, list[FoundSpan]] = {}
    for found in trace.spans:
        by_key.setdefault(found.span.span_id, []).append(found)
    for copies in by_key.values():
        for first, second in combinations(copies[:2], 2):
            where = f" in {first.place}" if first.place else ""
            yield Fault(
                second, f"same ids as a span{where} that differs in {_difference(first, second)}"
            )


def _difference(first: FoundSpan, second: FoundSpan) -> str:
    ours: dict[str, Value | object] = first.span._asdict()
    theirs = second.span._asdict()
    fields = [field for field in ours if ours[field] != theirs[field]]
    return ", ".join(fields) or "its resource"


def warnings(trace: Trace, _: Traces) -> Faults:
    """Jaeger itself had something to say."""
    for found in trace.spans:
        if found.warned:
            yield Fault(found, f"Jaeger warns: {_warning(found.text(WARNINGS) or '')}")


def _warning(text: str) -> str:
    """Its words, each once: Jaeger gives a list, and repeats itself."""
    try:
        values = json.loads(text)["values"]
        return "; ".join(dict.fromkeys(str(value["stringValue"]) for value in values))
    except (ValueError, KeyError, TypeError):
        return text
