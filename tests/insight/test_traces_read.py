"""From files, spools and streams to spans, within bounds; and from spans to trees."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from tests.support import traces as make

from setsuden.insight.traces import document, lookup, read
from setsuden.insight.traces.found import FoundSpan
from setsuden.insight.traces.tree import trace_of, traces_of
from setsuden.schemas import spans as table
from setsuden.schemas.errors import TraceDataError
from setsuden.telemetry import otlp, protobuf

SHORT_IDS = {
    "traceId": "00",
    "spanId": "1",
    "name": "x",
    "startTimeUnixNano": "1",
    "endTimeUnixNano": "2",
}


def segment(path: Path, spans: list[FoundSpan]) -> Path:
    """A spool segment of one process's spans."""
    data = protobuf.encode(spans[0].resource, [found.span for found in spans])
    path.write_bytes(protobuf.compress(data))
    return path


def plain(spans: list[FoundSpan]) -> list[tuple[dict[str, object], object]]:
    """Spans without their places, comparable."""
    ordered = sorted(spans, key=lambda found: found.key)
    return [(dict(found.resource), found.span) for found in ordered]


# -- sources ----------------------------------------------------------------------------------


def test_a_lines_file_gives_back_the_spans_that_were_written(tmp_path: Path) -> None:
    path = make.write(tmp_path / "t.jsonl", make.scene())
    assert plain(read.load([str(path)])) == plain(make.scene())


def test_a_spool_segment_gives_back_the_spans_that_were_sealed(tmp_path: Path) -> None:
    path = segment(tmp_path / "000000000001-keep-3-done.pb.gz", make.easy())
    assert plain(read.load([str(path)])) == plain(make.easy())


def test_a_folder_is_its_segments_and_lines_files_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "edge" / "spool").mkdir(parents=True)
    segment(tmp_path / "edge" / "spool" / "000000000001-plain-3-done.pb.gz", make.easy())
    make.write(tmp_path / "worker.jsonl", make.escalated())
    (tmp_path / "counters.json").write_text("{}", encoding="utf-8")
    assert plain(read.load([str(tmp_path)])) == plain([*make.easy(), *make.escalated()])


def test_standard_input_is_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = make.write(tmp_path / "t.jsonl", make.easy()).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert plain(read.load(["-"])) == plain(make.easy())


def test_what_jaeger_answers_is_read_too(tmp_path: Path) -> None:
    line = otlp.line(make.EDGE, [found.span for found in make.easy()])
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"result": json.loads(line)}) + "\n\n", encoding="utf-8")
    assert plain(read.load([str(path)])) == plain(make.easy())


def test_identical_copies_are_one_span_wherever_they_are(tmp_path: Path) -> None:
    first = make.write(tmp_path / "a.jsonl", make.easy() * 2)
    second = make.write(tmp_path / "b.jsonl", make.easy())
    assert len(read.load([str(first), str(second)])) == len(make.easy())


def test_a_copy_to_which_jaeger_added_a_warning_stays_and_is_one_span(tmp_path: Path) -> None:
    warned = make.changed(make.easy(), lambda _: True, attributes={"@jaeger@warnings": "skew"})
    for order in ([*make.easy(), *warned], [*warned, *make.easy()]):
        found = read.load([str(make.write(tmp_path / "a.jsonl", order))])
        assert plain(found) == plain(warned)


def test_copies_that_differ_are_both_kept(tmp_path: Path) -> None:
    other = make.changed(
        make.easy(), make.named(table.INFER, trace_id=make.EASY), end_ns=make.at(3.5)
    )
    path = make.write(tmp_path / "a.jsonl", [*make.easy(), *other])
    assert len(read.load([str(path)])) == len(make.easy()) + 1


# -- what is wrong is told with its place -----------------------------------------------------


BROKEN = [
    "not json",
    "[1]",
    json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [SHORT_IDS]}]}]}),
    '{"resourceSpans":' + "[" * 200_000,
    otlp.line(make.EDGE, [found.span for found in make.easy()])[:-20],
    otlp.line(make.EDGE, [make.easy()[0].span])[:-20] + otlp.line(make.EDGE, [make.easy()[0].span]),
]
"""The last two: torn by a full disk, and grown together after one."""


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("text", BROKEN)
def test_a_damaged_line_is_passed_over_counted_and_named(
    tmp_path: Path, text: str, place: int
) -> None:
    path = make.write(tmp_path / "t.jsonl", make.easy())
    lines = path.read_text().splitlines()
    lines.insert(place, text.rstrip())
    path.write_text("\n".join(lines))  # and no end of the last line
    damage = read.Damage()
    assert plain(read.load([str(path)], damage=damage)) == plain(make.easy())
    assert damage.count == 1
    assert f"t.jsonl:{place + 1}: " in str(damage)


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_without_one_whole_line_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.jsonl").write_text(f"{text.rstrip()}\n{text.rstrip()}\n")
    with pytest.raises(TraceDataError, match=r"t\.jsonl:1: "):
        read.load([str(tmp_path / "t.jsonl")])


def test_a_cut_segment_is_passed_over_among_others_and_refused_alone(tmp_path: Path) -> None:
    path = segment(tmp_path / "1.pb.gz", make.easy())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TraceDataError, match=r"1\.pb\.gz: "):
        read.load([str(path)])
    segment(tmp_path / "2.pb.gz", make.escalated()[:3])
    damage = read.Damage()
    assert plain(read.load([str(tmp_path)], damage=damage)) == plain(make.escalated()[:3])
    assert "1.pb.gz: " in str(damage)


def test_a_segment_that_was_sent_while_the_spool_is_read_is_no_damage(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        segment(tmp_path / f"{number}.pb.gz", make.easy(f"{number:032x}"))
    damage = read.Damage()
    found = []
    for one in read.spans(str(tmp_path), damage=damage):
        found.append(one.span.trace_id)
        (tmp_path / "2.pb.gz").unlink(missing_ok=True)
    assert set(found) == {f"{number:032x}" for number in (1, 3)}
    assert damage.count == 0


def test_a_missing_file_and_an_empty_folder_say_what_to_name(tmp_path: Path) -> None:
    for source in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(TraceDataError) as caught:
            read.load([str(source)])
        assert "spool folder" in caught.value.remedy


def test_a_line_past_its_bound_is_passed_over_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "MAX_LINE_BYTES", 4000)
    path = make.write(tmp_path / "t.jsonl", make.easy())
    path.write_text("x" * 40_000 + "\n" + path.read_text() + "y" * 9_000)
    damage = read.Damage()
    assert plain(read.load([str(path)], damage=damage)) == plain(make.easy())
    assert damage.count == 2
    assert "over 4000 bytes" in str(damage)


def test_more_spans_than_fit_are_an_error_and_not_a_shorter_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "MAX_SPANS", 2)
    with pytest.raises(TraceDataError, match="over 2 spans"):
        read.load([str(make.write(tmp_path / "t.jsonl", make.easy()))])


# -- one trace --------------------------------------------------------------------------------


def test_the_beginning_of_an_id_is_enough_when_it_is_one_traces(tmp_path: Path) -> None:
    source = str(make.write(tmp_path / "t.jsonl", make.scene()))
    assert lookup.gather([source], "AAAAAA")[1] == make.ESCALATED


def test_an_ambiguous_short_or_unknown_id_says_what_to_do(tmp_path: Path) -> None:
    twins = ["a" * 31 + "1", "a" * 31 + "2"]
    spans = [found for trace_id in twins for found in make.easy(trace_id)]
    source = str(make.write(tmp_path / "t.jsonl", spans))
    for wanted, remedy in (("aaaaaaa", "more digits"), ("aaaa", "6 or more"), ("f" * 32, "--from")):
        with pytest.raises(TraceDataError) as caught:
            lookup.gather([source], wanted)
        assert remedy in caught.value.remedy


# -- trees ------------------------------------------------------------------------------------


def test_a_tree_is_walked_depth_first_with_children_by_start() -> None:
    trace = trace_of(reversed(make.escalated()))
    walked = [(row.depth, row.found.span.name) for row in trace.walk()]
    assert walked == [
        (0, "event"),
        (1, "preprocess"),
        (1, "infer"),
        (1, "escalate"),
        (2, "send ESC"),
        (2, "store ESC"),
        (2, "process ESC"),
        (3, "infer"),
        (2, "store RES"),
    ]


def test_orphans_and_circles_do_not_vanish() -> None:
    spans = make.escalated()
    wait = make.span_id(make.ESCALATED, 4)
    orphaned = [found for found in spans if found.span.span_id != wait]
    assert len(list(trace_of(orphaned).walk())) == len(spans) - 1
    circle = make.changed(
        spans, make.named(table.ESCALATE), parent_id=make.span_id(make.ESCALATED, 7)
    )
    assert len(list(trace_of(circle).walk())) == len(spans)


def test_the_event_speaks_for_its_trace_also_below_a_callers_span() -> None:
    spans = make.changed(
        make.easy(), make.named(table.EVENT, trace_id=make.EASY), parent_id="c" * 16
    )
    assert trace_of(spans).entry.span.name == table.EVENT


# -- export -----------------------------------------------------------------------------------


def test_an_exported_line_is_one_process_of_one_trace_and_reads_back() -> None:
    lines = list(document.otlp_lines(make.scene()))
    documents = [otlp.read(line) for line in lines]
    assert [len(groups) for groups in documents] == [1] * len(lines)
    spans = [FoundSpan(g.resource, s) for groups in documents for g in groups for s in g.spans]
    assert plain(spans) == plain(make.scene())
    assert len(traces_of(spans)) == 4
