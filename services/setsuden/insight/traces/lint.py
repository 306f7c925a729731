"""The table of rules that a trace must hold to be read rightly in Jaeger, and their findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from . import lint_rules as rules
from .lint_rules import Faults, Traces
from .tree import Trace
from .units import clean


class Rule(NamedTuple):
    """One rule."""

    name: str
    meaning: str
    remedy: str
    check: Callable[[Trace, Traces], Faults]


class LintFinding(NamedTuple):
    """One broken rule at one span."""

    rule: str
    trace_id: str
    span_id: str
    span_name: str
    service: str
    place: str
    """File and line, or address."""
    detail: str
    remedy: str

    def words(self) -> str:
        """One line."""
        where = f"{clean(self.place)}: " if self.place else ""
        return (
            f"{where}{self.rule}: trace {self.trace_id} span {self.span_id} "
            f"{clean(self.span_name)!r}: {clean(self.detail, 400)}"
        )


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "orphan",
        "every span's parent is in the trace, but for one caller's span above an event",
        "read all tiers' files together; look for dropped spans in the spools' counters",
        rules.orphan,
    ),
    Rule("roots", "a trace has one root", "give the span its parent's id", rules.roots),
    Rule(
        "producer-consumer",
        "what is waited for is no CONSUMER under a PRODUCER",
        "hang it under a CLIENT span that stays open until the answer",
        rules.producer_consumer,
    ),
    Rule(
        "host-id",
        "every resource has host.id",
        "set host.id: without it Jaeger's clock adjuster takes every span for another host",
        rules.host_id,
    ),
    Rule(
        "equal-microsecond",
        "consecutive siblings are a microsecond apart",
        "start the next span 1 µs after the end of the one before",
        rules.equal_microsecond,
    ),
    Rule(
        "link-only",
        "no span is tied to its own trace by a link alone",
        "give the span a parent",
        rules.link_only,
    ),
    Rule(
        "name",
        "our spans have names from the table",
        "name the span as schemas/spans.py does; ids belong into attributes",
        rules.name,
    ),
    Rule(
        "attribute",
        "our attributes are in the table",
        "add the key to schemas/spans.py, or correct it",
        rules.attribute,
    ),
    Rule(
        "energy-sum",
        "the exclusive and batch_share joules of the spans make the root's total",
        "read all tiers' files together; an incomplete total needs setsuden.energy.complete=false",
        rules.energy_sum,
    ),
    Rule(
        "energy-sign",
        "joules are doubles, finite and not negative",
        "write joules as a double; an unknown figure is left out",
        rules.energy_sign,
    ),
    Rule("time", "no span ends before it starts", "time spans by one monotonic clock", rules.time),
    Rule(
        "inside-parent",
        "a span begins and ends while its parent is open",
        "correct the clock, or let what goes on afterwards begin a trace of its own with a link",
        rules.inside_parent,
    ),
    Rule(
        "batch-shares",
        "shares of a batch sum to 1, with links both ways to all that are sampled",
        "link every member and its batch to each other, each member with its share",
        rules.batch_shares,
    ),
    Rule(
        "duplicate",
        "spans with the same ids are the same",
        "derive ids from what does not change, and replay the same bytes",
        rules.duplicate,
    ),
    Rule(
        "warnings",
        "Jaeger adds no warning",
        "read the warning; most are clocks or missing parents",
        rules.warnings,
    ),
)
"""In the order in which findings of one trace are told."""


def lint(traces: Traces) -> Iterator[LintFinding]:
    """Every broken rule of every trace, in their order."""
    for trace in traces.values():
        for rule in RULES:
            for fault in rule.check(trace, traces):
                span = fault.found.span
                yield LintFinding(
                    rule.name,
                    span.trace_id,
                    span.span_id,
                    span.name,
                    fault.found.service,
                    fault.found.place,
                    fault.detail,
                    rule.remedy,
                )
