"""Each rule: a whole trace holds it, a broken one turns it red."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support import traces as make

from setsuden.insight.traces.found import FoundSpan
from setsuden.insight.traces.lint import RULES, LintFinding, lint
from setsuden.insight.traces.tree import traces_of
from setsuden.schemas import spans as table
from setsuden.telemetry.span import SpanKind, SpanLink

Spans = list[FoundSpan]
WORKER_INFER = make.named(table.INFER, table.SERVICE_WORKER)
EVENT = make.named(table.EVENT)


def findings(spans: Spans) -> list[LintFinding]:
    return list(lint(traces_of(spans)))


def broken(spans: Spans) -> set[str]:
    return {finding.rule for finding in findings(spans)}


def without(name: str) -> Spans:
    fits = make.named(name)
    return [found for found in make.scene() if not fits(found)]


def scene_with(which: Callable[[FoundSpan], bool], **fields: object) -> Spans:
    return make.changed(make.scene(), which, **fields)


def hostless() -> Spans:
    resource = {key: value for key, value in make.NATS.items() if key != "host.id"}
    return [
        found._replace(resource=resource) if found.service == table.SERVICE_NATS else found
        for found in make.scene()
    ]


def naive() -> Spans:
    """The hop that everybody writes first: PRODUCER to CONSUMER while the event waits."""
    sent = make.named(table.SEND_ESCALATION)
    spans = scene_with(sent, kind=SpanKind.PRODUCER, end_ns=make.at(139))
    return make.changed(spans, make.named(table.PROCESS), parent_id=make.span_id(make.ESCALATED, 5))


def twice() -> Spans:
    other = [found for found in scene_with(RETURN, end_ns=make.at(123.5)) if RETURN(found)]
    return [*make.scene(), *other]


RETURN = make.named(table.hop(True, "RES"))
BREAKS: dict[str, Callable[[], Spans]] = {
    "orphan": lambda: without(table.ESCALATE),
    "roots": lambda: scene_with(make.named(table.PROCESS), parent_id=None, links=()),
    "producer-consumer": naive,
    "host-id": hostless,
    "equal-microsecond": lambda: scene_with(make.named(table.ESCALATE), start_ns=make.at(15)),
    "link-only": lambda: scene_with(make.named(table.PROCESS), parent_id=None),
    "name": lambda: scene_with(RETURN, name="store RES.meter-7"),
    "attribute": lambda: scene_with(EVENT, attributes={"setsuden.energy.watts": 3.0}),
    "energy-sum": lambda: scene_with(EVENT, attributes={"setsuden.energy.trace_joules": 0.2531}),
    "energy-sign": lambda: scene_with(
        WORKER_INFER, attributes={"setsuden.energy.joules_low": -1.0}
    ),
    "time": lambda: scene_with(RETURN, end_ns=make.at(121)),
    "inside-parent": lambda: scene_with(make.named(table.PROCESS), start_ns=make.at(14)),
    "batch-shares": lambda: scene_with(WORKER_INFER, attributes={"setsuden.batch.share": 0.6}),
    "duplicate": twice,
    "warnings": lambda: scene_with(EVENT, attributes={"@jaeger@warnings": "clock skew"}),
}


def test_whole_traces_break_no_rule() -> None:
    assert findings([*make.scene(), *make.late()]) == []


def test_every_rule_has_a_test_that_breaks_it() -> None:
    assert [rule.name for rule in RULES] == list(BREAKS)


@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_trace_turns_its_rule_red(rule: str) -> None:
    assert rule in broken(BREAKS[rule]())


@pytest.mark.parametrize(
    "rule", [rule for rule in BREAKS if rule not in {"orphan", "link-only", "duplicate"}]
)
def test_what_breaks_one_rule_breaks_no_other(rule: str) -> None:
    assert broken(BREAKS[rule]()) == {rule}


def test_a_finding_names_trace_span_rule_and_what_is_wrong() -> None:
    (found,) = findings(BREAKS["inside-parent"]())
    assert found.trace_id == make.ESCALATED
    assert found.span_name == table.PROCESS
    assert "starts 1.001 ms before its 'escalate'" in found.words()
    assert found.remedy


def test_every_rule_says_what_it_means_and_what_to_do() -> None:
    assert all(rule.meaning and rule.remedy for rule in RULES)


# -- what a rule must not be red about --------------------------------------------------------


def test_an_event_below_a_callers_own_span_is_no_orphan() -> None:
    assert broken(scene_with(EVENT, parent_id="c" * 16)) == set()


def test_a_second_missing_parent_is_an_orphan() -> None:
    spans = scene_with(EVENT, parent_id="c" * 16)
    spans = make.changed(spans, make.named(table.PREPROCESS), parent_id="d" * 16)
    assert broken(spans) == {"orphan"}


def test_the_workers_part_alone_is_an_orphan() -> None:
    spans = [found for found in make.escalated() if found.service == table.SERVICE_WORKER]
    assert "orphan" in broken(spans)


def test_a_consumer_that_nobody_waits_for_is_right_below_a_producer() -> None:
    made = make.TraceBuilder("c" * 32)
    root = made.add(make.EDGE, table.SEND_RESULT, 0, 1, kind=SpanKind.PRODUCER)
    made.add(
        {"service.name": "app", "host.id": "h"}, "use", 5, 9, parent=root, kind=SpanKind.CONSUMER
    )
    assert broken(made.found) == set()


def test_an_incomplete_total_is_a_lower_bound_and_may_be_below_the_sum() -> None:
    low = {"setsuden.energy.complete": False, "setsuden.energy.trace_joules": 0.003}
    assert broken(scene_with(EVENT, attributes=low)) == set()
    high = {"setsuden.energy.complete": False, "setsuden.energy.trace_joules": 0.3}
    assert broken(scene_with(EVENT, attributes=high)) == {"energy-sum"}


def test_overhead_is_outside_the_total() -> None:
    made = make.TraceBuilder(make.ESCALATED)
    made.found = make.escalated()
    wait = make.span_id(make.ESCALATED, 4)
    made.add(
        make.WORKER,
        table.PROCESS,
        30,
        40,
        parent=wait,
        kind=SpanKind.CONSUMER,
        attributes=make.energy(9.0, "overhead"),
        error="boom",
    )
    assert broken(made.found) == set()


def test_joules_that_are_no_double_are_found() -> None:
    for value in (1, "1", float("inf")):
        spans = scene_with(
            make.named(table.PREPROCESS), attributes={"setsuden.energy.joules": value}
        )
        assert broken(spans) == {"energy-sign"}


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (50, 140.5, "ends 0.5 ms after its 'escalate'"),
        (141, 200, "starts 1 ms after its 'escalate' ended"),
        (14, 200, "starts 1.001 ms before its 'escalate'"),
    ],
)
def test_a_span_outside_its_parent_is_found_also_when_it_says_late(
    start: float, end: float, words: str
) -> None:
    spans = make.changed(
        make.scene(),
        make.named(table.PROCESS),
        start_ns=make.at(start),
        end_ns=make.at(end),
        attributes={"setsuden.escalation.late": True},
    )
    details = [one.detail for one in findings(spans) if one.span_name == table.PROCESS]
    assert details == [words]


def test_a_span_as_long_as_its_parent_is_inside_it() -> None:
    spans = scene_with(make.named(table.PROCESS), start_ns=make.at(15.001), end_ns=make.at(140))
    assert broken(spans) == set()


def test_a_batch_of_which_a_part_is_sampled_is_not_summed() -> None:
    pair = [make.escalated(), make.escalated(make.SECOND)]
    root = make.named(table.BATCH, trace_id=make.BATCH)
    one = (SpanLink(make.ESCALATED, make.span_id(make.ESCALATED, 8)),)
    assert broken([*pair[0], *make.changed(make.batch(pair), root, links=one)]) == set()


def test_a_batch_whose_members_are_elsewhere_is_not_summed() -> None:
    pair = [make.escalated(), make.escalated(make.SECOND)]
    assert broken([*pair[0], *make.batch(pair)]) == set()


def test_links_of_a_batch_go_both_ways() -> None:
    assert broken(scene_with(WORKER_INFER, links=())) == {"batch-shares"}
    root = make.named(table.BATCH, trace_id=make.BATCH)
    one = (SpanLink(make.SECOND, make.span_id(make.SECOND, 8)),)
    details = [finding.detail for finding in findings(scene_with(root, links=one))]
    assert any("no link back" in detail for detail in details)


def test_names_of_other_services_are_theirs() -> None:
    made = make.TraceBuilder("c" * 32)
    made.add({"service.name": "shop", "host.id": "h"}, "GET /pay/17", 0, 1)
    assert broken(made.found) == set()
