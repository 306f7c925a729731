"""The report's page: it says what the report says, nothing else, and fetches nothing."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import chromium
from tests.support import report_fixture as made
from tests.support.page import Whole, drawings, words

from setsuden.insight.report.model import (
    Cell,
    Coverage,
    Difference,
    Finding,
    Part,
    Report,
    Severity,
    Verdict,
)
from setsuden.insight.report.page import html
from setsuden.insight.report.page import numbers as html_numbers
from setsuden.insight.report.page import series as html_series
from setsuden.insight.report.page.style import STYLE
from setsuden.insight.traces.units import clean
from setsuden.schemas.energy import Source

HOSTILE = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x1b[2J"
EVERY = {"realistic": made.realistic(), "edges": made.edges(), "bare": made.bare()}
SHORT = {"series": EVERY["bare"].series}
every_report = pytest.mark.parametrize("report", EVERY.values(), ids=EVERY.keys())
texts = st.text(st.sampled_from("<>&\"'/ab;\\`\x00\x1b\u202e"), max_size=30)


def said(report: Report) -> str:
    return words(html.page(report))


# -- a page that stands alone -------------------------------------------------------------------


@every_report
def test_the_page_opens_without_a_complaint_and_fetches_nothing(
    report: Report, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(html.page(report), encoding="utf-8")
    opened = chromium.open_page(file, tmp_path)
    assert "How to read this" in opened.dom
    assert opened.console == []
    assert [url for url in opened.fetched if url not in {file.as_uri(), "data:,"}] == []


def _beyond(page: str, width: int, folder: Path) -> str:
    """By how many pixels the page is wider than a window of this width, everything opened."""
    file = folder / "frame.html"
    opened = escape(page.replace("<details", "<details open"))
    file.write_text(
        '<p id="w"></p><script>function seen(f){let d=f.contentDocument,e=d.documentElement;'
        # An empty page may be loaded there first.
        'if(d.URL=="about:srcdoc")w.textContent="beyond "+(e.scrollWidth-e.clientWidth)}</script>'
        f'<iframe onload="seen(this)" style="height:900px;width:{width}px" srcdoc="{opened}">'
        "</iframe>",
        encoding="utf-8",
    )
    found = re.search(r"beyond (\d+)<", chromium.open_page(file, folder).dom)
    return found[1] if found is not None else "not measured"


@pytest.mark.parametrize("width", [360, 740, 1200])
@every_report
def test_the_page_never_scrolls_sideways(report: Report, width: int, tmp_path: Path) -> None:
    assert _beyond(html.page(report), width, tmp_path) == "0"


def test_a_page_that_does_scroll_sideways_would_be_caught(tmp_path: Path) -> None:
    assert _beyond('<!doctype html><p style="width:2000px">x</p>', 360, tmp_path) != "0"


@every_report
def test_the_page_is_whole_html_without_scripts_or_addresses(report: Report) -> None:
    text = html.page(report)
    whole = Whole(text)
    assert not {"script", "iframe", "img", "object", "form", "image", "use"} & set(whole.tags)
    assert not re.search(r"(?:src|href)=\"(?!#|data:,)", text)
    assert "url(" not in text
    assert "@import" not in text
    assert len(whole.ids) == len(set(whole.ids))


@every_report
def test_every_link_of_the_page_leads_to_a_place_on_it(report: Report) -> None:
    text = html.page(report)
    assert set(re.findall(r'href="#([\w-]+)"', text)) <= set(Whole(text).ids)


def test_a_report_of_hundreds_of_meters_stays_small_and_counts_what_it_leaves_out() -> None:
    report = made.realistic(edge_meters=900, many_hours=2000)
    text = html.page(report)
    assert len(text.encode()) < 400_000
    assert "783 more rows are in" in words(text)
    assert "3,700 more rows are in" in words(text)


# -- drawings -----------------------------------------------------------------------------------


@every_report
def test_every_drawing_is_xml_with_a_title_and_a_description(report: Report) -> None:
    text = html.page(report)
    drawn = drawings(text)
    assert len(drawn) == text.count('role="img"')
    for title, element in drawn.items():
        description = element.find("desc")
        assert title
        assert description is not None
        assert description.text


@every_report
def test_a_table_follows_every_drawing_in_its_section(report: Report) -> None:
    for part in html.page(report).split("<section")[1:]:
        if "<figure" in part:
            assert "<table" in part.split("<figure", maxsplit=1)[1]


@every_report
def test_nothing_is_drawn_as_a_bar_of_no_length(report: Report) -> None:
    for element in drawings(html.page(report)).values():
        assert all(float(rect.get("width", "0%")[:-1]) > 0 for rect in element.iter("rect"))


def test_the_whole_bar_is_as_long_as_its_parts_and_has_its_interval() -> None:
    drawn = drawings(html.page(made.realistic()))[
        "Joules by component and part, per 1,000 inferences"
    ]
    bars = [rect for rect in drawn.iter("rect") if rect.get("y") == "24"]
    assert len(bars) == 10
    scale = 100 / (440.78 * 1.29)
    length = sum(float(rect.get("width", "")[:-1]) for rect in bars)
    assert length == pytest.approx(440.78 * scale, abs=0.1)
    ends = {line.get("x1") for line in drawn.iter("line") if line.get("class") == "whisker"}
    assert {f"{440.78 / 1.29 * scale:.2f}%", "100.00%"} <= ends


def test_a_component_without_joules_is_called_none_and_has_no_bar() -> None:
    drawn = drawings(html.page(made.edges()))["Joules by component and part, per 1,000 inferences"]
    assert [text.text for text in drawn.iter("text") if text.get("class") == "none"] == ["none"] * 3
    assert {rect.get("y") for rect in drawn.iter("rect")} == {"24", "86"}


def test_a_missing_bound_is_an_arrow_and_not_a_cap() -> None:
    title = "Joules per 1,000 inferences that the other ways would use more or less"
    drawn = drawings(html.page(made.edges()))[title]
    assert len([path for path in drawn.iter("path") if path.get("class") == "whisker open"]) == 1
    assert "no lower bound" in (drawn.findtext("desc") or "")


def test_a_gap_in_a_curve_stays_a_gap() -> None:
    drawn = drawings(html.page(made.realistic()))[
        "Watts of each component and inferences per second over the run"
    ]
    holes = [rect for rect in drawn.iter("rect") if rect.get("class") == "hole"]
    assert [(hole.get("x"), hole.get("width")) for hole in holes] == [("57.00%", "7.00%")]
    broken = [path.get("d", "").count("M") for path in drawn.iter("path")]
    assert sorted(broken)[-2:] == [2, 2]


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=20))
def test_runs_of_a_curve_cover_every_point_once(values: list[float | None]) -> None:
    covered = [
        (place, known)
        for start, end, known in html_series.runs(values)
        for place in range(start, end)
    ]
    assert covered == [(place, value is not None) for place, value in enumerate(values)]


# -- text from outside --------------------------------------------------------------------------


@given(texts)
def test_no_text_of_a_report_is_markup(name: str) -> None:
    text = html.page(_named(name))
    assert len(Whole(text).tags) == _tags(bool(name))
    assert f'<p class="report-name">{escape(clean(name))}</p>' in text


@functools.cache
def _tags(named: bool) -> int:
    """How many tags a page has whose texts are plain words, or are empty."""
    return len(Whole(html.page(_named("plain" if named else ""))).tags)


def test_a_hostile_name_is_shown_and_does_nothing() -> None:
    text = html.page(_named(HOSTILE))
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert text.count("</style>") == 1
    assert "<script>alert(1)</script>" in unescape(text)


def _named(name: str) -> Report:
    """Every text of a report that comes from somewhere else."""
    report = made.realistic(SHORT, edge_meters=1, many_hours=1)
    texts = {"model": name, "pipeline": name, "digest": name}
    place = {"name": name, "site": name, "host_id": name, "sensor": name, "origin": name}
    more = {"software": name, "config_sha256": name, "idle_origin": name, "reserved_why": name}
    grid = {"site": name, "zone": name, "intensity_source": name, "embodied_source": name}
    finding = Finding(
        code=name, severity=Severity.ERROR, words=name, advice=name, evidence={name: name}
    )
    return report.model_copy(
        update={
            "name": name,
            "boundary": name,
            "components": tuple(one.model_copy(update={"note": name}) for one in report.components),
            "models": tuple(one.model_copy(update=texts) for one in report.models),
            "meters": tuple(one.model_copy(update={**place, **more}) for one in report.meters),
            "machines": tuple(one.model_copy(update={"host_id": name}) for one in report.machines),
            "hours": tuple(
                one.model_copy(update={"hour": name, "site": name}) for one in report.hours
            ),
            "coverage": report.coverage.model_copy(update={"unknown": (name,)}),
            "all_edge": made.unknown("all_edge").model_copy(update={"reason": name}),
            "all_cloud": report.all_cloud.model_copy(update={"assumptions": (name,)}),
            "carbon": report.carbon.model_copy(
                update={
                    "rows": tuple(one.model_copy(update=grid) for one in report.carbon.rows),
                    "undeclared": (name,),
                }
            ),
            "sci": report.sci.model_copy(update={"boundary": name, "functional_unit": name}),
            "cost": report.cost.model_copy(update={"undeclared": (name,)}),
            "assumptions": (name,),
            "findings": (finding,),
        }
    )


# -- numbers ------------------------------------------------------------------------------------

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_OF_THE_PAGE = {"1,000", "95", "0", "21031", "2024", "99.9"}
"""Per 1,000; the 95 % interval; 0 itself; ISO/IEC 21031:2024; more than 99.9 %."""
_SIZES = (1e12, 1e9, 1e6, 1e3, 1.0, 1e-3, 1e-6, 0.01, 60.0, 3600.0, 86_400.0)


@every_report
def test_every_number_on_the_page_is_one_of_the_report(report: Report) -> None:
    text = html.page(report)
    for drawn in re.findall(r'<text class="tick".*?</text>|<code.*?</code>', text):
        text = text.replace(drawn, "")
    allowed = _OF_THE_PAGE | set(_numbers(report.model_dump()))
    assert {found for found in _NUMBER.findall(words(text)) if found not in allowed} == set()


def _numbers(value: object) -> Iterator[str]:
    """Every way in which a report's value may be written, and how many there are of a list."""
    if isinstance(value, dict):
        for inner in (*value.keys(), *value.values()):
            yield from _numbers(inner)
    elif isinstance(value, list | tuple):
        yield html_numbers.count(len(value))
        yield from (html_numbers.count(number) for number in range(1, 3))
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, str):
        yield from _NUMBER.findall(clean(value, 600))
    elif isinstance(value, int | float):
        yield from _written(value)


def _written(value: float) -> Iterator[str]:
    yield html_numbers.count(value)
    for size in _SIZES:
        yield from _NUMBER.findall(html_numbers.digits(value / size))
    if value > 1e15:
        points = [value + place * 72e9 for place in range(300)]
        yield from _NUMBER.findall(" ".join(map(_times, points)))


def _times(ns: float) -> str:
    return f"{html_numbers.moment(int(ns))} {html_numbers.clock(int(ns), 1.0)}".replace("-", " - ")


@given(st.floats(1e-30, 1e30))
def test_three_digits_are_right_to_half_a_percent(value: float) -> None:
    shown = html_numbers.digits(value)
    mantissa, _, power = shown.replace(",", "").partition(f" {html_numbers.TIMES} 10")
    exponent = int(power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")) or "0")
    assert float(mantissa) * 10.0**exponent == pytest.approx(value, rel=5.001e-3)
    assert len(re.sub(r"[^\d]", "", mantissa).strip("0")) <= 3
    assert html_numbers.digits(-value) == html_numbers.MINUS + shown


@pytest.mark.parametrize(
    ("joules", "shown"),
    [
        (None, "none"),
        (0.0, "0 J"),
        (0.000042, "42.0 µJ"),
        (0.0412, "41.2 mJ"),
        (0.412, "0.412 J"),
        (440.78, "441 J"),
        (999.6, "1,000 J"),
        (1240.0, "1.24 kJ"),
        (3.2e9, "3.20 GJ"),
        (4e18, "4,000,000 TJ"),
    ],
)
def test_a_quantity_has_three_digits_and_the_unit_that_fits(
    joules: float | None, shown: str
) -> None:
    assert html_numbers.quantity(joules, "J") == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (None, "none"),
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.99999, "more than 99.9 %"),
        (0.0132, "1.32 %"),
    ],
)
def test_a_share_that_is_not_all_is_never_called_all(share: float | None, shown: str) -> None:
    assert html_numbers.percent(share) == shown


def test_compared_figures_share_one_unit() -> None:
    unit = html_numbers.fit([41_200.0, 12.0, None], "J")
    assert html_numbers.figure(41_200.0, unit) == "41.2 kJ"
    assert html_numbers.figure(12.0, unit) == "0.0120 kJ"
    assert html_numbers.bounds(12.0, 41_200.0, unit) == "0.0120 to 41.2 kJ"
    assert html_numbers.bounds(None, 41_200.0, unit) == ""


@given(st.integers(-(2**70), 2**70))
def test_any_time_can_be_written(ns: int) -> None:
    assert html_numbers.moment(ns)
    assert html_numbers.period(ns, ns)
    assert html_numbers.clock(ns, 1.0)


amounts = st.floats(0, 1e30) | st.sampled_from([0.0, 5e-324, 1e-12])


@given(amounts, amounts, st.floats(-1e30, 1e30))
def test_joules_of_any_size_make_a_whole_page(edge: float, cloud: float, apart: float) -> None:
    report = made.realistic(SHORT, edge_meters=1, many_hours=1)
    cells = {Part.EDGE: made.cell(edge), Part.CLOUD: made.cell(cloud)}
    components = tuple(
        one.model_copy(update={"whole": cells.get(one.component, made.NONE), "dynamic": made.NONE})
        for one in report.components
    )
    far = report.all_cloud.model_copy(
        update={"difference": Difference(joules=apart, low=None, high=apart)}
    )
    changed = {"whole": made.cell(edge), "components": components, "all_cloud": far}
    text = html.page(report.model_copy(update=changed))
    Whole(text)
    assert drawings(text)
    assert "nan" not in text
    assert "inf%" not in text


# -- what it says -------------------------------------------------------------------------------


def test_the_headline_has_its_interval_its_source_and_both_verdicts() -> None:
    text = said(made.realistic())
    assert "441 J per 1,000 inferences, between 342 and 569 J (95 % interval)" in text
    assert "Partly measured: 49.6 % of the joules were read from power sensors" in text
    assert (
        "The cascade saves All events in the cloud would use 752 J more (318 to 1,290 J more)."
        in text
    )
    assert (
        "The cascade costs All events on the devices would use 231 J less (158 to 342 J less)."
        in text
    )
    assert "On the devices the student is alone: that it is as accurate is not claimed." in text


def _standing_on(source: Source, measured: float | None) -> Report:
    whole = made.cell(441.0, 2.0, source)
    coverage = Coverage(
        measured=measured,
        modelled=None if measured is None else 1 - measured,
        declared=0.0,
        by_source={},
        unknown=(),
        unknown_seconds_share=0.0,
    )
    return made.realistic({"whole": whole, "coverage": coverage})


@pytest.mark.parametrize(
    ("source", "measured", "sentence"),
    [
        (Source.MEASURED, 1.0, "Measured: every known joule was read from a power sensor."),
        (Source.RELAYED, 1.0, "Measured: every known joule was read from a power sensor."),
        (Source.TABLE_MODEL, 0.0, "Estimated by a table: no power sensor was read."),
        (Source.DECLARED, 0.0, "Declared: no power sensor was read."),
        (Source.CALIBRATED_MODEL, 0.0, "Estimated by a model calibrated on the machine"),
        (Source.CALIBRATED_MODEL, 0.25, "Partly measured: 25.0 % of the joules"),
    ],
)
def test_the_source_of_the_headline_is_said_in_plain_words(
    source: Source, measured: float, sentence: str
) -> None:
    assert sentence in said(_standing_on(source, measured))


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (-40.0, 300.0, "would use 130 J more: between 40.0 J less and 300 J more."),
        (None, 300.0, "would use 130 J more: up to 300 J more, no lower bound is known."),
        (20.0, None, "would use 130 J more: from 20.0 J more, no upper bound is known."),
        (None, None, "would use 130 J more: no bounds are known."),
    ],
)
def test_what_cannot_be_told_is_said_with_the_bounds_there_are(
    low: float | None, high: float | None, sentence: str
) -> None:
    other = made.realistic().all_cloud.model_copy(
        update={
            "difference": Difference(joules=130.0, low=low, high=high),
            "verdict": Verdict.CANNOT_TELL,
        }
    )
    text = said(made.realistic({"all_cloud": other}))
    assert f"Cannot tell All events in the cloud {sentence}" in text


def test_a_way_without_coefficients_gives_its_reason() -> None:
    assert (
        "Cannot tell What all events on the devices would use is not known: no event was"
        in said(made.edges())
    )


def test_an_incomplete_headline_is_a_lower_bound_and_names_what_is_missing() -> None:
    text = said(made.edges())
    assert "at least 13.4" in text
    assert "what is known of it between 4.47 and 40.2 kJ" in text
    assert "Not known: the broker; the cloud." in text
    assert "whole host, quarantined" in text


def test_a_run_without_joules_says_none_and_never_0() -> None:
    text = said(made.bare())
    assert "none No joules are known in the whole run" in text
    assert "No joules are known, so there is nothing to draw." in text
    assert not re.search(r"\b0 [kmµ]?J\b", text)
    assert not re.search(r"€0\b", text)
    assert not re.search(r"\b0 g\b", text)


def test_joules_of_a_run_without_inferences_are_of_the_whole_run() -> None:
    whole = Cell(total=made.amount(52_000.0), per_1000=None)
    assert "52.0 kJ in the whole run, between 26.0 and 104 kJ" in said(made.bare_with(whole))


def test_a_part_that_a_component_has_not_is_told_from_an_unknown_one() -> None:
    row = "Network 11.9 J 3.50 to 40.5 J 11.9 J 3.50 to 40.5 J no such part no such part table"
    assert row in said(made.realistic())
    assert "Edge at least 13.4 kJ 4.47 to 40.2 kJ 0 kJ 0 to 0 kJ at least 13.4 kJ" in said(
        made.edges()
    )


def test_carbon_has_its_boundary_year_and_source_and_says_what_is_undeclared() -> None:
    text = said(made.realistic())
    assert "at least 13.2 mg CO₂e per 1,000 inferences, 11.6 to 15.4 mg" in text
    assert "41.9 g/kWh FR 2025 average" in text
    assert "FR 2025: Ember and Energy Institute" in text
    assert "undeclared no embodied emissions declared" in text
    assert "ISO/IEC 21031:2024" in text
    assert "Boundary operation of edge, broker, network and cloud; training left out" in text
    assert "would have to be declared: the rent or tariff of the broker's machine" in text
    assert "Embodied, M undeclared" in said(made.bare())


def test_findings_come_before_the_appendix_the_worst_first_and_are_counted_at_the_top() -> None:
    text = said(made.realistic())
    assert "Read first: 1 error and 1 warning" in text
    places = [text.index(word) for word in ("Error, cascade", "Warning, missing", "Info, quiet")]
    assert places == sorted(places)
    assert text.index("Info, quiet") < text.index("Models Runs of models alone")
    assert "meter cloud-2, seconds 1,510, windows 1,512" in text
    assert "Findings" not in said(made.bare())


def test_the_appendix_names_models_meters_machines_assumptions_and_rows() -> None:
    report = made.realistic()
    text = said(report)
    assert "bearing-teacher/fp32 cloud, bearing-wear" in text
    assert "press-00 edge, site plant-lyon, fixed" in text
    assert "INA3221 rail VDD_IN, factor 1.1 (judgement)" in text
    assert "4 degraded 20.0 s of gaps" in text
    assert "dynamic power grows with utilisation to the power of 0.600" in text
    assert report.machines[0].host_id in text
    assert all(line in text for line in report.assumptions)
    assert f"SHA-256 of the rows {report.rows.sha256}" in text
    assert "27 meters, 582,660 windows, 1 torn last lines left out" in text
    assert "setsuden report bearing-wear-2026-11-27 --recompute" in text


def test_the_command_to_recompute_is_safe_to_paste() -> None:
    assert "setsuden report 'my run; rm -rf x' --recompute" in said(
        made.realistic({"name": "my run; rm -rf x"})
    )


@pytest.mark.parametrize(
    "word", ["Dynamic", "Idle", "Overhead", "Interval", "Boundary of the headline"]
)
def test_the_words_of_the_page_are_explained(word: str) -> None:
    assert word in said(made.realistic()).split("How to read this")[-1]


# -- for every eye ------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
def test_letters_and_marks_stand_out_from_the_page(dark: bool) -> None:
    """WCAG 2.2: 4.5 to 1 for letters, 3 to 1 for what a plot is read by."""
    colours = _colours(dark)
    page = colours["page"]
    letters = {name: _contrast(colours[name], page) for name in ("ink", "soft", "accent", "bad")}
    marks = {name: _contrast(colours[name], page) for name in ("accent", "mid", "other-way")}
    assert min(letters.values()) >= 4.5, letters
    assert min(marks.values()) >= 3, marks


def _colours(dark: bool) -> dict[str, str]:
    """The page's colours as the cascade leaves them."""
    found: dict[str, str] = {}
    night = "@media(prefers-color-scheme:dark){:root{"
    assert STYLE.count(night) == 2
    for block in re.finditer(r"(@media[^{]*\{)?:root\{([^}]*)\}", STYLE):
        if block[1] is None or (dark and block[0].startswith(night)):
            found |= dict(re.findall(r"--([\w-]+):(#\w+)", block[2]))
    return found


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    """Relative, after WCAG 2.2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
