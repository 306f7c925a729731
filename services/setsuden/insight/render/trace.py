"""Pages of traces: ``trace.html`` and the data it is rendered from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from setsuden.insight.render.charts import Stretch
from setsuden.insight.render.environment import render
from setsuden.insight.traces import figures
from setsuden.insight.traces.critical_path import Section, critical_path
from setsuden.insight.traces.figures import BATCH_TOTAL, TraceJoules, TraceSummary
from setsuden.insight.traces.found import FoundSpan
from setsuden.insight.traces.tree import Trace, TreeRow
from setsuden.insight.traces.units import UNKNOWN, between, clean, duration, energy, moment
from setsuden.schemas import spans as names
from setsuden.telemetry.span import SpanLink

MAX_TRACES = 50
"""Traces drawn in full on one page; the rest is counted in the index."""
MAX_SPANS = 500
"""Spans of one trace that are drawn and listed; the rest is counted."""
_TICKS = 4
_MAX_INDENT = 8
_QUEUE_MS = "messaging.nats.queue_ms"
_SERVICES = frozenset({"edge-agent", "nats", "worker"})


class Context(NamedTuple):
    """What a trace's own part of the page may know of the other traces."""

    traces: Mapping[str, Trace]
    """Every trace of the source."""
    drawn: frozenset[str] = frozenset()
    """Those with a place on this page."""
    base: str | None = None
    """Where pages of other traces are served, e.g. ``/trace/``."""

    def address(self, trace_id: str) -> str:
        """Where a trace is shown; empty when it is nowhere."""
        if trace_id in self.drawn:
            return f"#t-{trace_id}"
        return "" if self.base is None else f"{self.base}{trace_id}"


def page(
    traces: Mapping[str, Trace], trace_id: str | None = None, *, base: str | None = None
) -> str:
    """One trace, or an index of all with the escalated ones first.

    With ``trace_id`` the other traces only lend what they know: its batch's total, and what a
    teacher's run cost elsewhere. ``base`` is where pages of other traces are served.
    """
    listed = [traces[trace_id]] if trace_id is not None else in_order(traces)
    drawn = listed[:MAX_TRACES]
    context = Context(traces, frozenset(trace.trace_id for trace in drawn), base)
    number = f"{len(listed)} trace{'' if len(listed) == 1 else 's'}"
    return render(
        "trace.html",
        title=f"trace {trace_id[:8]}" if trace_id is not None else number,
        number=number,
        listed=listed,
        drawn=context.drawn,
        articles=[_article(trace, context) for trace in drawn],
        max_spans=MAX_SPANS,
        address=context.address,
        verdict_of=figures.verdict,
        energy_of=energy_of,
        colour=colour,
        moment=moment,
    )


def notice(title: str, text: str) -> str:
    """A page that says one thing."""
    return render("notice.html", title=title, text=text)


def in_order(traces: Mapping[str, Trace]) -> list[Trace]:
    """Escalated events first, then other events, then the rest, each in the order of time."""
    return sorted(traces.values(), key=_rank)


def _rank(trace: Trace) -> tuple[int, int]:
    is_event = trace.entry.span.name == names.EVENT
    first = 0 if figures.verdict(trace).escalated else 1 if is_event else 2
    return first, trace.entry.span.start_ns


def colour(service: str) -> str:
    """The class that gives a service its colour."""
    return service if service in _SERVICES else "other"


def energy_of(verdict: TraceSummary, unknown: str = UNKNOWN, least: str = "at least ") -> str:
    """The total of a trace; a lower bound where a part is unknown."""
    if verdict.joules is None:
        return unknown
    return f"{'' if verdict.complete else least}{energy(verdict.joules.value)}"


def _article(trace: Trace, context: Context) -> dict[str, object]:
    verdict, rows = figures.verdict(trace), list(trace.walk())
    name, links = trace.entry.span.name, trace.entry.span.links
    axis, sources = TimeAxis.of(trace), _sources(trace)
    others = [link.trace_id for link in links if link.trace_id != trace.trace_id]
    return {
        "trace": trace,
        "verdict": verdict,
        "about": _about(trace),
        "late_for": [] if name == names.BATCH else others[:4],
        "cards": _cards(trace, verdict),
        "rows": rows,
        "waterfall": _waterfall(rows[:MAX_SPANS], trace, axis),
        "axis": axis.labels,
        "addition": _addition(trace),
        "hops": _hops(trace),
        "ways": _ways(trace, verdict, context) if name == names.EVENT else [],
        "members": [_member(link, context) for link in links[:1000]],
        "is_batch": name == names.BATCH,
        "batches": [_batch(one, context) for one in figures.memberships(trace)],
        "clock": figures.clock(trace),
        "estimated": figures.ESTIMATED in sources,
        "sources": ", ".join(sources) or "none",
        "source_meaning": names.ATTRIBUTES["setsuden.energy.source"],
    }


# -- the head ---------------------------------------------------------------------------------


def _about(trace: Trace) -> str:
    entry = trace.entry
    pipeline, event = entry.text("setsuden.pipeline"), entry.text("setsuden.event_id")
    parts = (
        pipeline and f"pipeline {pipeline}",
        event and f"event {event}",
        moment(entry.span.start_ns),
    )
    return ", ".join(filter(None, parts))


def _cards(trace: Trace, verdict: TraceSummary) -> list[tuple[str, str, str]]:
    is_batch = trace.entry.span.name == names.BATCH
    third = _size_card(trace) if is_batch else _gate_card(trace)
    cards = (_time_card(trace), _energy_card(verdict), third, _split_card(trace))
    return [(value, text, "") for value, text in cards]


def _time_card(trace: Trace) -> tuple[str, str]:
    waits = trace.named(names.ESCALATE)
    waited = f", {duration(sum(wait.ms for wait in waits))} of it for the cloud" if waits else ""
    return duration(trace.entry.ms), f"start to end{waited}"


def _energy_card(verdict: TraceSummary) -> tuple[str, str]:
    joules = verdict.joules
    if joules is None:
        return UNKNOWN, "no span states any energy"
    bounds = between(joules.low, joules.high) or "bounds unknown"
    label = "estimated" if joules.estimated else joules.source
    return energy_of(verdict), f"{bounds}, {label}" if label else bounds


def _size_card(trace: Trace) -> tuple[str, str]:
    members = len(trace.entry.span.links)
    size = trace.entry.text("setsuden.batch.size") or str(members)
    return clean(size, 20), f"events in it, {members} of them traced"


def _gate_card(trace: Trace) -> tuple[str, str]:
    gate = figures.gate(trace)
    confidence, reason = gate.get("confidence"), gate.get("reason")
    if not isinstance(confidence, float | int):
        return "-", f"no confidence is known{f', {reason}' if reason else ''}"
    threshold = gate.get("threshold")
    asked = f", {threshold:.0%} asked for" if isinstance(threshold, float | int) else ""
    why = f": {str(reason).replace('_', ' ')}" if reason else ""
    return f"{confidence:.0%}", f"the student's confidence{asked}{why}"


def _split_card(trace: Trace) -> tuple[str, str]:
    entry = trace.entry
    edge = entry.number("setsuden.energy.edge_joules")
    cloud = entry.number("setsuden.energy.cloud_joules")
    if edge is None or cloud is None or edge + cloud <= 0:
        return str(len(trace.spans)), "spans in this trace"
    return (
        f"{cloud / (edge + cloud):.0%}",
        f"of it in the cloud: edge {energy(edge)}, cloud {energy(cloud)}",
    )


# -- the waterfall ----------------------------------------------------------------------------


class TimeAxis(NamedTuple):
    """From nanoseconds to fractions of the drawn time."""

    start_ns: int
    whole_ns: int

    @classmethod
    def of(cls, trace: Trace) -> TimeAxis:
        """From the first start to the last end."""
        start_ns = min(found.span.start_ns for found in trace.spans)
        end_ns = max(found.span.end_ns for found in trace.spans)
        return cls(start_ns, max(end_ns - start_ns, 1))

    def at(self, ns: float) -> float:
        """0 at the first start, 1 at the last end."""
        return (ns - self.start_ns) / self.whole_ns

    def stretch(self, start_ns: float, end_ns: float) -> Stretch:
        """What is drawn of a time."""
        return Stretch.between(self.at(start_ns), self.at(end_ns))

    @property
    def labels(self) -> list[str]:
        """Milliseconds at the ticks."""
        return axis_labels(self.whole_ns / 1e6)


def axis_labels(whole_ms: float) -> list[str]:
    """Milliseconds at the ticks of an axis, the unit at the last."""
    digits = 0 if whole_ms >= 40 else 1 if whole_ms >= 4 else 2
    labels = [f"{whole_ms * n / _TICKS:,.{digits}f}" for n in range(_TICKS + 1)]
    return [*labels[:-1], f"{labels[-1]} ms"]


class SpanMoment(NamedTuple):
    """An event of a span."""

    at: float
    name: str


class WaterfallRow(NamedTuple):
    """One span with its bar; places are fractions of the drawn time."""

    name: str
    service: str
    colour: str
    depth: int
    label: str
    """For those who do not see the bar."""
    bar: Stretch
    took: str
    energy: str
    marks: Sequence[str] = ()
    failed: bool = False
    queue: Stretch | None = None
    """The time its message lay in the stream before the worker took it."""
    path: Sequence[Stretch] = ()
    """Its parts of the critical path."""
    events: Sequence[SpanMoment] = ()


def _waterfall(rows: Iterable[TreeRow], trace: Trace, axis: TimeAxis) -> list[WaterfallRow]:
    path: defaultdict[int, list[Section]] = defaultdict(list)
    for section in critical_path(trace):
        path[id(section.found)].append(section)
    return [_waterfall_row(row, path.get(id(row.found), ()), axis) for row in rows]


def _waterfall_row(row: TreeRow, path: Sequence[Section], axis: TimeAxis) -> WaterfallRow:
    found, span = row.found, row.found.span
    joules = figures.joules_of(found)
    queued = found.number(_QUEUE_MS) or 0.0
    return WaterfallRow(
        span.name,
        found.service,
        colour(found.service),
        min(row.depth, _MAX_INDENT),
        _label(found, path, axis),
        axis.stretch(span.start_ns, span.end_ns),
        duration(found.ms),
        energy(joules and joules.value),
        figures.marks(found),
        span.error is not None,
        axis.stretch(span.start_ns - queued * 1e6, span.start_ns) if queued > 0 else None,
        [axis.stretch(part.start_us * 1000, part.end_us * 1000) for part in path],
        [
            SpanMoment(min(max(axis.at(event.at_ns), 0), 0.998), event.name)
            for event in span.events[:50]
        ],
    )


def _label(found: FoundSpan, path: Sequence[Section], axis: TimeAxis) -> str:
    start = (found.span.start_ns - axis.start_ns) / 1e6
    on_path = sum(part.end_us - part.start_us for part in path) / 1e3
    share = f"{duration(on_path)} on the critical path" if path else "not on the critical path"
    return f"{found.span.name}: from {duration(start)} for {duration(found.ms)}, {share}"


# -- energy -----------------------------------------------------------------------------------


class HopBar(NamedTuple):
    """One bar with its figures; places are fractions of the greatest upper bound."""

    name: str
    service: str
    colour: str
    label: str
    bar: Stretch
    interval: Stretch | None
    amount: str
    bounds: str
    hollow: bool = False
    """It does not count towards the total."""


def _hops(trace: Trace) -> list[HopBar]:
    """Joules of every span that states some."""
    rows = [(row.found, figures.joules_of(row.found)) for row in trace.walk()]
    known = [(found, joules) for found, joules in rows if joules is not None]
    total = figures.total(trace)
    highest = max((joules.high or joules.value for _, joules in known), default=0.0) or 1.0
    return [_hop(found, joules, highest, total) for found, joules in known]


def _hop(
    found: FoundSpan, joules: TraceJoules, highest: float, total: TraceJoules | None
) -> HopBar:
    bounds = between(joules.low, joules.high)
    interval = None
    if joules.low is not None and joules.high is not None:
        interval = Stretch.between(joules.low / highest, joules.high / highest)
    return HopBar(
        found.span.name,
        found.service,
        colour(found.service),
        f"{found.span.name}: {energy(joules.value)}{f', {bounds}' if bounds else ''}",
        Stretch.between(0, joules.value / highest),
        interval,
        _share_of(joules, total),
        bounds,
        not joules.counted and joules.allocation != BATCH_TOTAL,
    )


def _share_of(joules: TraceJoules, total: TraceJoules | None) -> str:
    if not joules.counted:
        return f"{energy(joules.value)}, {(joules.allocation or 'not counted').replace('_', ' ')}"
    part = f", {joules.value / total.value:.0%}" if total is not None and total.value > 0 else ""
    return f"{energy(joules.value)}{part}"


def _addition(trace: Trace) -> str:
    total = figures.total(trace)
    if total is None:
        return ""
    if total.allocation == BATCH_TOTAL:
        return "The members of the batch bear it."
    least = "" if figures.complete(trace) else "at least "
    amounts = map(figures.joules_of, trace.spans)
    uncounted = any(joules is not None and not joules.counted for joules in amounts)
    hollow = " Hollow bars do not count towards it." if uncounted else ""
    return f"Together they make {least}{energy(total.value)}.{hollow}"


class Way(NamedTuple):
    """One way in which the event could have been answered."""

    title: str
    amount: str
    notes: Sequence[str]
    taken: bool = False


def _ways(trace: Trace, verdict: TraceSummary, context: Context) -> list[Way]:
    """The event as it went, and as it would have gone on the device or in the cloud alone."""
    joules = verdict.joules
    bounds = between(joules.low, joules.high) if joules is not None else ""
    notes = [*filter(None, (bounds,)), duration(verdict.ms)]
    return [
        Way("As it went", energy_of(verdict), notes, taken=True),
        _edge_only(trace),
        _cloud_only(trace, context),
    ]


def _edge_only(trace: Trace) -> Way:
    run, gate, notes = figures.student(trace), figures.gate(trace), []
    joules = figures.joules_of(run) if run is not None else None
    if run is not None:
        ms = (run.span.end_ns - trace.entry.span.start_ns) / 1e6
        notes.append(f"the student's answer after {duration(ms)}")
    confidence, threshold = gate.get("confidence"), gate.get("threshold")
    if isinstance(confidence, float | int):
        asked = isinstance(threshold, float | int)
        against = f", the gate asks for {threshold:.0%}" if asked else ""
        notes.append(f"its confidence {confidence:.0%}{against}")
    return Way("Edge only", UNKNOWN if joules is None else energy(joules.value), notes)


def _cloud_only(trace: Trace, context: Context) -> Way:
    own = figures.added(figures.counted(figures.teachers(trace)))
    if own is not None:
        return Way("Cloud only", energy(own.value), ["the teacher's run of this event"])
    others = [
        joules.value
        for other in context.traces.values()
        for joules in figures.counted(figures.teachers(other))
    ]
    if not others:
        return Way("Cloud only", UNKNOWN, ["no teacher's run in this source to go by"])
    note = f"median of {len(others)} runs of the teacher for other events"
    return Way("Cloud only", energy(median(others)), [note])


def _batch(member: figures.Membership, context: Context) -> dict[str, object]:
    """An executed batch that a run was part of."""
    batch = context.traces.get(member.trace_id)
    total = figures.joules_of(batch.entry) if batch is not None else None
    own = figures.joules_of(member.found)
    whole = f", {energy(total.value)} for the whole batch" if total is not None else ""
    part = f"; this event's part {energy(own.value)}" if own is not None else ""
    share = member.share if member.share is not None and 0 < member.share <= 1 else None
    return {
        "trace_id": member.trace_id,
        "summary": f"{member.words()}{whole}{part}.",
        "share": share,
        "others": max(min((member.size or 1) - 1, 64), 0),
    }


def _member(link: SpanLink, context: Context) -> dict[str, object]:
    """A member of this batch."""
    trace = context.traces.get(link.trace_id)
    found = trace.by_id.get(link.span_id) if trace is not None else None
    share = found.number("setsuden.batch.share") if found is not None else None
    wait = found.number("setsuden.batch.wait_ms") if found is not None else None
    joules = figures.joules_of(found) if found is not None else None
    return {
        "trace_id": link.trace_id,
        "share": "-" if share is None else f"{share:.4g}",
        "waited": "-" if wait is None else duration(wait),
        "energy": energy(joules and joules.value),
    }


def _sources(trace: Trace) -> list[str]:
    """The energy sources that occur."""
    sources = {found.text("setsuden.energy.source") for found in trace.spans}
    return sorted(filter(None, sources - {"none"}))
