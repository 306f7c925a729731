"""The energy of a page: joules per hop with error bars, the path not taken, the batch."""

from __future__ import annotations

from html import escape
from statistics import median
from typing import NamedTuple

from setsuden.schemas import spans as table
from setsuden.telemetry.span import Link

from . import figures
from .figures import BATCH_TOTAL, Joules
from .found import FoundSpan
from .html_parts import Around, colour_class, place, safe, section
from .tree import Trace
from .units import UNKNOWN, between, duration, energy


def hops(trace: Trace) -> str:
    """Joules of every span that states some, low to high beside each."""
    parts = [
        (row.found, joules)
        for row in trace.walk()
        if (joules := figures.joules_of(row.found)) is not None
    ]
    if not parts:
        return section("Joules per hop", "No span of this trace states any energy.", "")
    whole = figures.total(trace)
    highest = max(joules.high or joules.value for _, joules in parts) or 1.0
    drawn = "".join(_bar(found, joules, highest, whole) for found, joules in parts)
    return section(
        "Joules per hop",
        "Each bar is what this span alone used, with low and high. " + _addition(trace, whole),
        f'<div class="jl">{drawn}</div>',
    )


def _addition(trace: Trace, whole: Joules | None) -> str:
    if whole is None or whole.allocation == BATCH_TOTAL:
        return "The members of the batch bear it." if whole is not None else ""
    least = "" if figures.complete(trace) else "at least "
    outside = [j for j in map(figures.joules_of, trace.spans) if j is not None and not j.counted]
    hollow = " Hollow bars do not count towards it." if outside else ""
    return f"Together they make {least}{energy(whole.value)}.{hollow}"


def _bar(found: FoundSpan, joules: Joules, highest: float, whole: Joules | None) -> str:
    hollow = "" if joules.counted or joules.allocation == BATCH_TOTAL else " hollow"
    bounds = between(joules.low, joules.high)
    label = safe(f"{found.span.name}: {energy(joules.value)}{f', {bounds}' if bounds else ''}")
    return (
        f'<div class="jr {colour_class(found.service)}"><span class="n"><b>'
        f"{safe(found.span.name, 40)}</b><i>{safe(found.service, 40)}</i></span>"
        f'<span class="jt" role="img" aria-label="{label}" title="{label}">'
        f'<span class="jb{hollow}" style="{place(0, joules.value / highest)}"></span>'
        f'{_whisker(joules, highest)}</span><span class="ja">{escape(_amount(joules, whole))}'
        f"<small>{escape(bounds)}</small></span></div>"
    )


def _whisker(joules: Joules, highest: float) -> str:
    if joules.low is None or joules.high is None:
        return ""
    return f'<span class="jw" style="{place(joules.low / highest, joules.high / highest)}"></span>'


def _amount(joules: Joules, whole: Joules | None) -> str:
    if not joules.counted:
        said = (joules.allocation or "not counted").replace("_", " ")
        return f"{energy(joules.value)}, {said}"
    part = f", {joules.value / whole.value:.0%}" if whole is not None and whole.value > 0 else ""
    return f"{energy(joules.value)}{part}"


class _Way(NamedTuple):
    """One way this event could have gone."""

    title: str
    amount: str
    said: tuple[str, ...]
    took: bool


def path_not_taken(trace: Trace, around: Around) -> str:
    """The event as it went, and as it would have gone on the device or in the cloud alone."""
    if trace.entry.span.name != table.EVENT:
        return ""
    ways = (_as_it_went(trace), _edge_only(trace), _cloud_only(trace, around))
    body = "".join(
        f'<div class="col{" took" if way.took else ""}"><h3>{escape(way.title)}</h3>'
        f'<b class="big">{escape(way.amount)}</b>'
        + "".join(f'<p class="note">{safe(line)}</p>' for line in way.said)
        + "</div>"
        for way in ways
    )
    return section(
        "The path not taken",
        "The same event, answered otherwise. Both alternatives leave out network and broker; "
        "cloud only leaves out the device as well.",
        f'<div class="cols">{body}</div>',
    )


def _as_it_went(trace: Trace) -> _Way:
    found = figures.verdict(trace)
    joules = found.joules
    least = "" if found.complete else "at least "
    amount = UNKNOWN if joules is None else least + energy(joules.value)
    bounds = between(joules.low, joules.high) if joules is not None else ""
    return _Way("As it went", amount, (*filter(None, (bounds,)), duration(found.ms)), took=True)


def _edge_only(trace: Trace) -> _Way:
    run = figures.student(trace)
    joules = figures.joules_of(run) if run is not None else None
    said = []
    if run is not None:
        ms = (run.span.end_ns - trace.entry.span.start_ns) / 1e6
        said.append(f"the student's answer after {duration(ms)}")
    confidence = figures.gate(trace).get("confidence")
    if isinstance(confidence, float | int):
        said.append(f"its confidence {confidence:.0%}{_against(trace)}")
    return _Way(
        "Edge only", UNKNOWN if joules is None else energy(joules.value), tuple(said), False
    )


def _against(trace: Trace) -> str:
    threshold = figures.gate(trace).get("threshold")
    return f", the gate asks for {threshold:.0%}" if isinstance(threshold, float | int) else ""


def _cloud_only(trace: Trace, around: Around) -> _Way:
    own = figures.added(figures.counted(figures.teachers(trace)))
    if own is not None:
        return _Way("Cloud only", energy(own.value), ("the teacher's run of this event",), False)
    others = [
        joules.value
        for other in around.traces.values()
        for joules in figures.counted(figures.teachers(other))
    ]
    if not others:
        said = "no teacher's run in this source to go by"
        return _Way("Cloud only", UNKNOWN, (said,), False)
    said = f"median of {len(others)} runs of the teacher for other events"
    return _Way("Cloud only", energy(median(others)), (said,), False)


def batches(trace: Trace, around: Around) -> str:
    """The executed batches its runs were part of, or the members of this one."""
    if trace.entry.span.name == table.BATCH:
        return _members(trace, around)
    found = figures.memberships(trace)
    body = "".join(_membership(member, around) for member in found)
    note = "The teacher runs what is queued in one go; each event bears its share."
    return section("Batch", note, body) if found else ""


def _membership(member: figures.Membership, around: Around) -> str:
    batch = around.traces.get(member.trace_id)
    whole = figures.joules_of(batch.entry) if batch is not None else None
    total = f", {energy(whole.value)} for the whole batch" if whole is not None else ""
    mine = figures.joules_of(member.found)
    bore = f"; this event's part {energy(mine.value)}" if mine is not None else ""
    return (
        f"<p>{safe(member.words())}{escape(total)}{escape(bore)}.</p>{_share(member)}"
        f'<p class="note">batch trace {around.link(member.trace_id)}</p>'
    )


def _share(member: figures.Membership) -> str:
    """The batch as one bar: this event's share solid, what others bore pale."""
    if member.share is None or not 0 < member.share <= 1:
        return ""
    mine = 100 * member.share
    others = max(min((member.size or 1) - 1, 64), 0)
    pale = f'<i style="width:{(100 - mine) / max(others, 1):.3f}%"></i>' * others
    label = f"{member.share:.1%} of the batch"
    return (
        f'<div class="share" role="img" aria-label="{label}" title="{label}">'
        f'<i class="me" style="width:{mine:.3f}%"></i>{pale}</div>'
    )


def _members(trace: Trace, around: Around) -> str:
    rows = "".join(_member_row(link, around) for link in trace.entry.span.links[:1000])
    return section(
        "Members of this batch",
        "Each member's share of the batch; the shares sum to 1.",
        '<table><thead><tr><th scope="col">trace</th><th scope="col" class="r">share</th>'
        '<th scope="col" class="r">waited</th><th scope="col" class="r">joules</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>",
    )


def _member_row(link: Link, around: Around) -> str:
    trace = around.traces.get(link.trace_id)
    found = trace.by_id.get(link.span_id) if trace is not None else None
    share = found.number("setsuden.batch.share") if found is not None else None
    wait = found.number("setsuden.batch.wait_ms") if found is not None else None
    joules = figures.joules_of(found) if found is not None else None
    cells = (
        "-" if share is None else f"{share:.4g}",
        "-" if wait is None else duration(wait),
        energy(joules and joules.value),
    )
    row = "".join(f'<td class="r">{escape(cell)}</td>' for cell in cells)
    return f"<tr><td>{around.link(link.trace_id)}</td>{row}</tr>"
