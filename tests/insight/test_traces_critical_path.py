"""The critical path by the Jaeger UI's rule: whom a trace waited for, to the microsecond."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import traces as make

from setsuden.insight.traces.critical_path import critical_path, end_us, sections, start_us
from setsuden.insight.traces.found import FoundSpan
from setsuden.insight.traces.tree import Trace, trace_of
from setsuden.schemas import spans as table
from setsuden.telemetry.span import Span, SpanKind

TRACE = "c" * 32


def span(
    number: int, parent: int | None, start: int, end: int, kind: SpanKind = SpanKind.INTERNAL
) -> FoundSpan:
    """A span between two microseconds, named by its number."""
    made = Span(
        TRACE,
        f"{number:016x}",
        None if parent is None else f"{parent:016x}",
        str(number),
        kind,
        start * 1000,
        end * 1000,
        {},
    )
    return FoundSpan({"service.name": "s"}, made)


def path(*spans: FoundSpan) -> list[tuple[str, int, int]]:
    """Name, start and end of every section."""
    return [(s.found.span.name, s.start_us, s.end_us) for s in critical_path(trace_of(spans))]


def test_a_span_alone_is_its_own_path() -> None:
    assert path(span(1, None, 10, 20)) == [("1", 10, 20)]


def test_the_child_that_ended_last_is_followed_then_the_one_before_it() -> None:
    assert path(span(1, None, 0, 100), span(2, 1, 10, 40), span(3, 1, 50, 80)) == [
        ("1", 0, 10),
        ("2", 10, 40),
        ("1", 40, 50),
        ("3", 50, 80),
        ("1", 80, 100),
    ]


def test_of_two_at_once_the_one_that_ended_later_is_followed() -> None:
    assert path(span(1, None, 0, 100), span(2, 1, 10, 90), span(3, 1, 20, 60)) == [
        ("1", 0, 10),
        ("2", 10, 90),
        ("1", 90, 100),
    ]


def test_a_sibling_that_ends_in_the_microsecond_of_the_next_start_is_left_off() -> None:
    """As seen in the real UI: `infer` ended at 15.000 ms, `escalate` began at 15.000 ms."""
    equal = path(span(1, None, 0, 100), span(2, 1, 0, 15), span(3, 1, 15, 90))
    assert "2" not in {name for name, _, _ in equal}
    apart = path(span(1, None, 0, 100), span(2, 1, 0, 14), span(3, 1, 15, 90))
    assert "2" in {name for name, _, _ in apart}


def test_a_consumer_below_a_producer_is_left_out_with_all_below_it() -> None:
    found = path(
        span(1, None, 0, 100),
        span(2, 1, 10, 95, SpanKind.PRODUCER),
        span(3, 2, 20, 80, SpanKind.CONSUMER),
        span(4, 3, 30, 70),
    )
    assert {name for name, _, _ in found} == {"1", "2"}


def test_a_consumer_below_a_client_is_followed() -> None:
    found = path(
        span(1, None, 0, 100),
        span(2, 1, 10, 95, SpanKind.CLIENT),
        span(3, 2, 20, 80, SpanKind.CONSUMER),
    )
    assert ("3", 20, 80) in found


def test_a_child_outside_its_parent_is_dropped_and_one_across_its_end_is_cut() -> None:
    assert path(span(1, None, 0, 50), span(2, 1, 50, 80)) == [("1", 0, 50)]
    assert path(span(1, None, 10, 50), span(2, 1, 0, 10)) == [("1", 10, 50)]
    assert path(span(1, None, 0, 50), span(2, 1, 30, 80)) == [("1", 0, 30), ("2", 30, 50)]
    assert path(span(1, None, 10, 50), span(2, 1, 0, 80)) == [("2", 10, 50)]


def test_the_path_of_an_escalated_event_holds_the_teachers_run_and_the_way_back() -> None:
    found = critical_path(trace_of(make.escalated()))
    walked = [(section.found.service, section.found.span.name) for section in found]
    assert (table.SERVICE_WORKER, table.INFER) in walked
    assert (table.SERVICE_NATS, table.hop(True, "RES")) in walked
    assert (table.SERVICE_EDGE, table.INFER) in walked


def test_many_siblings_are_walked_in_one_go() -> None:
    spans = [span(1, None, 0, 40_000)]
    spans += [span(n + 2, 1, 4 * n, 4 * n + 2) for n in range(9_000)]
    assert len({name for name, _, _ in path(*spans)}) == 9_001


@st.composite
def trees(draw: st.DrawFn) -> Trace:
    """One root and spans anywhere, below any span before them."""
    end = draw(st.integers(0, 60))
    spans = [span(1, None, 20, 20 + end)]
    for number in range(2, draw(st.integers(2, 12))):
        start = draw(st.integers(0, 90))
        length = draw(st.integers(0, 60))
        parent = draw(st.integers(1, number - 1))
        spans.append(
            span(number, parent, start, start + length, draw(st.sampled_from(list(SpanKind))))
        )
    return trace_of(spans)


@given(trees())
@settings(deadline=None)
def test_sections_are_disjoint_inside_the_root_and_no_longer_than_it(trace: Trace) -> None:
    root = trace.roots[0]
    found = sorted(sections(trace, root), key=lambda section: section.start_us)
    low, high = start_us(root.span), end_us(root.span)
    assert all(low <= one.start_us < one.end_us <= high for one in found)
    assert all(one.end_us <= two.start_us for one, two in pairwise(found))
    assert sum(one.end_us - one.start_us for one in found) <= high - low


@given(trees())
@settings(deadline=None)
def test_the_sections_cover_the_whole_root(trace: Trace) -> None:
    """The root is to blame where nobody else is, so nothing is left between."""
    root = trace.roots[0]
    found = list(sections(trace, root))
    whole = end_us(root.span) - start_us(root.span)
    assert sum(one.end_us - one.start_us for one in found) == whole
