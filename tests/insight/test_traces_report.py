"""The page of a trace: what it shows, no text of it is markup, and it fetches nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import chromium
from tests.support import traces as make
from tests.support.page import Whole, words

from setsuden.insight.render import trace as trace_page
from setsuden.insight.traces import waterfall
from setsuden.insight.traces.found import FoundSpan
from setsuden.insight.traces.tree import traces_of
from setsuden.insight.traces.units import clean, duration, energy
from setsuden.schemas import spans as table

HOSTILE = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[2J"


def page(trace_id: str | None = make.ESCALATED, spans: list[FoundSpan] | None = None) -> str:
    return trace_page.page(traces_of(make.scene() if spans is None else spans), trace_id)


# -- the page ---------------------------------------------------------------------------------


def test_page_opens_without_console_errors_and_fetches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(None, [*make.scene(), *make.late()]), encoding="utf-8")
    opened = chromium.open_page(file, tmp_path)
    assert "The cloud answered" in opened.dom
    assert opened.console == []
    assert [url for url in opened.fetched if url not in {file.as_uri(), "data:,"}] == []


def test_chromium_reports_fetches_and_console_errors(tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text(
        '<img src="http://127.0.0.1:9/x.png"><script>console.error("boo")</script>',
        encoding="utf-8",
    )
    opened = chromium.open_page(file, tmp_path)
    assert any("boo" in line for line in opened.console)
    assert "http://127.0.0.1:9/x.png" in opened.fetched


@pytest.mark.parametrize("trace_id", [make.ESCALATED, make.EASY, make.BATCH, None])
def test_the_page_is_whole_html_without_scripts_or_addresses(trace_id: str | None) -> None:
    text = page(trace_id)
    assert set(Whole(text).tags) & {"script", "iframe", "img", "object", "form"} == set()
    assert not re.search(r"(?:src|href)=\"(?!#|data:,)", text)
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("trace_id", [make.ESCALATED, None])
def test_page_never_scrolls_sideways_on_a_phone(trace_id: str | None, tmp_path: Path) -> None:
    assert chromium.overflow(page(trace_id), 360, tmp_path) == "0"


def test_verdict_has_answerer_duration_and_energy() -> None:
    text = words(page())
    assert "The cloud answered: 142.0 ms, 253 mJ" in text
    assert "126 mJ to 506 mJ, estimated" in text
    assert "energy class high" in text


def test_clock_batch_and_both_alternatives_are_on_the_page() -> None:
    text = words(page())
    assert "device clock was 400 ms ahead, corrected, ±0.3 ms" in text
    assert "batch of 2, share 0.5, waited 8.00 ms, 500 mJ for the whole batch" in text
    assert "Edge only 3 mJ" in text
    assert "its confidence 41%, the gate asks for 90%" in text
    assert "Cloud only 250 mJ the teacher's run of this event" in text
    assert "leave out network and broker" in text


def test_cloud_only_is_the_median_of_other_runs_or_unknown() -> None:
    assert "Cloud only 250 mJ median of 2 runs" in words(page(make.EASY))
    assert "Cloud only unknown" in words(page(make.EASY, make.easy()))


def test_incomplete_total_is_a_lower_bound() -> None:
    attributes = {"setsuden.energy.complete": False}
    spans = make.changed(make.escalated(), make.named(table.EVENT), attributes=attributes)
    assert "142.0 ms, at least 253 mJ" in words(page(make.ESCALATED, spans))


def test_overhead_is_drawn_but_not_counted() -> None:
    run = make.named(table.PREPROCESS)
    spans = make.changed(make.escalated(), run, attributes=make.energy(0.1, "overhead"))
    text = page(make.ESCALATED, spans)
    assert "jb hollow" in text
    assert "Hollow bars do not count" in text


def test_the_critical_path_and_the_queue_are_drawn() -> None:
    text = page()
    assert text.count('class="cp"') >= 11
    assert text.count('class="q" style="left') == 1
    assert "68.00 ms on the critical path" in text


def test_an_index_lists_the_escalated_traces_first_and_counts_what_it_does_not_draw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace_page, "MAX_TRACES", 1)
    text = page(None)
    listed = re.findall(r'<tr role="row"><th .*?<code>([0-9a-f]{12})</code>', text)
    assert listed[:2] == [make.ESCALATED[:12], make.SECOND[:12]]
    assert text.count("<article") == 1
    assert "3 of them are listed but not drawn" in text


def test_trace_of_another_application_is_drawn() -> None:
    trace = make.TraceBuilder("c" * 32)
    root = trace.add({}, "GET /", 0, 1)
    trace.add({}, "query", -5, 3, parent=root, error="")
    text = page("c" * 32, trace.found)
    Whole(text)
    assert "energy unknown" in words(text)
    assert waterfall.lines(trace.found)


def test_text_of_a_trace_is_neither_markup_nor_terminal_control() -> None:
    spans = make.changed(
        make.escalated(),
        lambda found: True,
        name=HOSTILE,
        error=HOSTILE,
        attributes={"setsuden.pipeline": HOSTILE, HOSTILE: HOSTILE, "error.type": HOSTILE},
    )
    resource = {"service.name": HOSTILE, HOSTILE: HOSTILE}
    spans = [found._replace(resource=resource) for found in spans]
    for trace_id in (make.ESCALATED, None):
        assert set(Whole(page(trace_id, spans)).tags) & {"script", "img"} == set()
    lines = waterfall.lines(spans, styled=False)
    assert not any("\x1b" in line for line in lines)


# -- the waterfall ----------------------------------------------------------------------------


def test_the_waterfall_marks_path_queue_batch_and_clock() -> None:
    lines = waterfall.lines(make.escalated())
    text = "\n".join(lines)
    assert "The cloud answered: 142.0 ms, 253 mJ (126 mJ to 506 mJ, estimated), class high" in text
    infer = next(line for line in lines if "infer" in line and "worker" in line)
    assert infer.startswith("▌")
    assert "68.00 ms" in infer
    assert infer.endswith("250 mJ")
    assert "queued 31.00 ms" in text
    assert f"batch of 2, share 0.5, waited 8.00 ms, batch trace {make.BATCH}" in text
    assert "device clock was 400 ms ahead, corrected, ±0.3 ms" in text


def test_late_failed_expired_and_repeated_work_is_marked() -> None:
    assert any("delivery 2, late" in line for line in waterfall.lines(make.late()))
    expired = {"setsuden.status": "expired", "error.type": "deadline"}
    spans = make.changed(
        make.escalated(), make.named(table.EVENT), error="too late", attributes=expired
    )
    assert any("expired, error: deadline" in line for line in waterfall.lines(spans))


def test_a_plain_line_has_no_colour_and_a_styled_one_has() -> None:
    assert not any("\x1b" in line for line in waterfall.lines(make.escalated()))
    assert any("\x1b[" in line for line in waterfall.lines(make.escalated(), styled=True))


def test_units_fit_the_amount() -> None:
    amounts = [None, 0.0, 4.2e-10, 4.2e-6, 0.0042, 4.2]
    assert [energy(one) for one in amounts] == ["-", "0 J", "0.42 nJ", "4.2 µJ", "4.2 mJ", "4.2 J"]
    times = [duration(ms) for ms in (0.5, 142, 15_000, 360_000)]
    assert times == ["0.50 ms", "142.0 ms", "15.0 s", "6.0 min"]
    assert clean("a\x1b[2Jb" + "c" * 300, 8) == "a\N{REPLACEMENT CHARACTER}[2Jbc…"


def test_without_jinja2_a_page_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    file = make.write(tmp_path / "spans.jsonl", make.escalated())
    program = "import sys; sys.modules['jinja2'] = None; from setsuden.cli.main import main; main()"
    command = [sys.executable, "-c", program, "trace", "report", "--from", str(file), "-o", "-"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "pip install 'setsuden[html]'" in ended.stderr
