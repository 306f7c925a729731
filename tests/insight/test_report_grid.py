"""Hourly grid intensities in a report: each hour's joules with its own, averages alone."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import fsum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import rows as make
from tests.support.command import Command, Ended

from setsuden.insight.carbon.intensity import RateMethod, intensity
from setsuden.insight.carbon.series import HourRow, IntensitySeries
from setsuden.insight.render.report import page
from setsuden.insight.report.assumptions import Assumptions, Declarations, averages, load
from setsuden.insight.report.build import keep, read_run, report_of
from setsuden.insight.report.figures.footprint import mean
from setsuden.insight.report.figures.timeline import with_hourly_grid
from setsuden.insight.report.model import CarbonRow, Part, Report
from setsuden.insight.report.recompute import recompute
from setsuden.insight.report.render.terminal import text
from setsuden.insight.report.rows.read import RowsError, TimeRange
from setsuden.schemas.windows import Access, Component, Counts, MeterRow, WindowRow

SOURCE = "a test's grid operator"
HOUR = 3600
BEGIN = make.START_NS // make.SECOND
YEARLY = intensity("FR", 2025)


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def hour_at(place: int) -> datetime:
    """The ``place``-th hour of a run."""
    return datetime.fromtimestamp(BEGIN + place * HOUR, UTC)


def name_of(place: int) -> str:
    return f"{hour_at(place):%Y-%m-%dT%H:00Z}"


def row(place: int, rate: float, zone: str = "FR", **changes: Any) -> HourRow:
    return HourRow(
        hour=hour_at(place),
        zone=zone,
        g_per_kwh=rate,
        **{
            "method": RateMethod.AVERAGE,
            "estimated": False,
            "source": SOURCE,
            "fetched": hour_at(place),
            **changes,
        },
    )


def series(path: Path, rates: Mapping[int, float], zone: str = "FR", **changes: Any) -> Path:
    """A file of hourly intensities, as `setsuden energy intensity --save` keeps it."""
    IntensitySeries(row(place, rate, zone, **changes) for place, rate in rates.items()).write(path)
    return path


def over_hours(folder: Path, joules: Sequence[float] = (10.0, 30.0, 20.0)) -> Path:
    """A device with a window in each of these hours; all its joules are its own."""
    device = make.meter()
    counts = Counts(local=90, cloud=10, escalated=10, bytes_up=100_000, packets=100)
    windows = [
        make.window(
            device, place * HOUR, make.work(100, 0.4), joules=measured, busy=0.8, counts=counts
        )
        for place, measured in enumerate(joules)
    ]
    make.write(folder, device, windows)
    return folder


def reported(folder: Path, *grids: Path, span: TimeRange = TimeRange()) -> Report:  # noqa: B008  # frozen
    run = read_run([folder], Declarations(), span)
    return report_of(with_hourly_grid(run, averages(grids))[0] if grids else run)


def edge(report: Report) -> CarbonRow:
    return next(one for one in report.carbon.rows if one.component is Part.EDGE)


def yearly() -> float:
    assert YEARLY is not None
    return YEARLY.g_per_kwh


# -- arithmetic -------------------------------------------------------------------------------


def test_each_hours_joules_meet_that_hours_grid(tmp_path: Path) -> None:
    grid = series(tmp_path / "fr.jsonl", {0: 10.0, 1: 100.0, 2: 50.0})
    row = edge(reported(over_hours(tmp_path / "run"), grid))
    assert row.intensity_g_per_kwh == pytest.approx((10 * 10 + 30 * 100 + 20 * 50) / 60)
    assert row.kwh is not None
    assert row.operational_g == pytest.approx(row.kwh * (row.intensity_g_per_kwh or 0.0))
    assert (row.zone, row.year) == ("FR", 2025)
    assert row.intensity_method == "average, hourly: 3 of 3 hours"
    assert row.intensity_source == SOURCE


def test_an_hour_the_series_lacks_takes_the_years_figure_and_that_is_stated(tmp_path: Path) -> None:
    grid = series(tmp_path / "fr.jsonl", {0: 10.0, 2: 50.0})
    report = reported(over_hours(tmp_path / "run"), grid)
    row = edge(report)
    assert row.intensity_g_per_kwh == pytest.approx((10 * 10 + 30 * yearly() + 20 * 50) / 60)
    assert row.intensity_method == "average, hourly: 2 of 3 hours; the rest yearly 2025"
    assert YEARLY is not None
    expected = f"2 of 3 hours from {SOURCE}; the rest yearly 2025 from {YEARLY.source}"
    assert row.intensity_source == expected
    assert row.complete
    hours = [hour for hour in report.hours if hour.component is Part.EDGE]
    rates = [
        (hour.operational_g or 0.0) / (hour.joules or 0.0) * 3.6e6 / (row.pue or 1)
        for hour in hours
    ]
    assert rates == pytest.approx([10.0, yearly(), 50.0])


def test_a_year_is_stated_only_when_all_figures_are_of_it(tmp_path: Path) -> None:
    new_year = (datetime(2026, 1, 1, tzinfo=UTC).timestamp() - BEGIN) // HOUR
    device = make.meter()
    first = int(new_year) * HOUR - HOUR
    windows = [make.window(device, first + n * HOUR, make.work(9, 0.4)) for n in range(2)]
    make.write(tmp_path / "run", device, windows)
    grid = series(tmp_path / "fr.jsonl", {int(new_year) - 1: 10.0, int(new_year): 30.0})
    row = edge(reported(tmp_path / "run", grid))
    assert row.intensity_g_per_kwh == pytest.approx(20.0)
    assert row.year is None


def test_a_window_over_the_border_of_two_hours_is_cut_there(tmp_path: Path) -> None:
    device = make.meter()
    window = make.window(device, HOUR - 30, make.work(9, 10.0), joules=40.0, seconds=40.0)
    make.write(tmp_path / "run", device, [window])
    grid = series(tmp_path / "fr.jsonl", {0: 10.0, 1: 110.0})
    assert edge(reported(tmp_path / "run", grid)).intensity_g_per_kwh == pytest.approx(35.0)


def test_estimated_hours_are_counted_in_words(tmp_path: Path) -> None:
    path = tmp_path / "fr.jsonl"
    IntensitySeries([row(0, 10.0), row(1, 20.0, estimated=True), row(2, 30.0)]).write(path)
    report = reported(over_hours(tmp_path / "run"), path)
    expected = "average, hourly: 3 of 3 hours, 1 of them estimated"
    assert edge(report).intensity_method == expected
    assert any("10 to 30 g/kWh, average, 1 of them estimated" in w for w in report.assumptions)


weights = st.lists(
    st.tuples(st.none() | st.floats(0, 1e9), st.floats(0, 3000)), min_size=1, max_size=30
)


@given(weights)
def test_a_mean_lies_between_its_values_and_gives_the_sum_again(
    pairs: list[tuple[float | None, float]],
) -> None:
    average = mean(pairs)
    values = [value for weight, value in pairs if weight] or [value for _, value in pairs]
    assert min(values) * (1 - 1e-9) - 1e-300 <= average <= max(values) * (1 + 1e-9)
    whole = fsum(weight or 0.0 for weight, _ in pairs)
    parts = fsum((weight or 0.0) * value for weight, value in pairs)
    assert average * whole == pytest.approx(parts, rel=1e-9, abs=1e-290)


windows = st.lists(
    st.tuples(
        st.integers(1, 1800),  # seconds
        st.none() | st.floats(0, 1e5),  # joules
        st.floats(0, 30),  # idle watts
        st.floats(0, 900),  # CPU-seconds of the process
        st.integers(0, 10**7),  # bytes
    ),
    min_size=1,
    max_size=8,
)
hourly = st.dictionaries(st.integers(0, 3), st.floats(0, 1500), max_size=4)


def drawn_windows(of: MeterRow, drawn: Sequence[tuple[Any, ...]]) -> list[WindowRow]:
    return [
        make.window(
            of,
            place * 1800 + 900,
            make.work(5, process / 2),
            seconds=float(seconds),
            joules=joules,
            idle_watts=idle,
            process=process,
            busy=process * 1.5,
            counts=Counts(local=5, bytes_up=sent),
        )
        for place, (seconds, joules, idle, process, sent) in enumerate(drawn)
    ]


@given(windows, windows, windows, hourly, st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_grams_of_the_hours_add_up_to_those_of_the_rows(
    first: list[tuple[Any, ...]],
    second: list[tuple[Any, ...]],
    cloud: list[tuple[Any, ...]],
    rates: dict[int, float],
    has_yearly: bool,
) -> None:
    meters = {
        make.meter(): first,
        make.meter(name="dev-2", factor=2.0, access=Access.MOBILE): second,
        make.meter(Component.CLOUD, "w", site="nl-ams-1"): cloud,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for of, drawn in meters.items():
            make.write(folder / "run", of, drawn_windows(of, drawn))
        run = read_run([folder / "run"], Declarations(), TimeRange())
        if rates:
            grid = series(folder / "fr.jsonl", rates)
            run, _ = with_hourly_grid(run, averages([grid]))
        if not has_yearly:
            site = run.assumptions.sites["fr-par-2"].model_copy(update={"intensity": None})
            sites = {**run.assumptions.sites, "fr-par-2": site}
            run = replace(run, assumptions=run.assumptions.model_copy(update={"sites": sites}))
        agree(report_of(run))


def agree(report: Report) -> None:
    """Hours and rows say the same grams, PUE included."""
    sums: defaultdict[tuple[Part, str], list[float]] = defaultdict(list)
    unknown = set()
    for hour in report.hours:
        if hour.operational_g is not None:
            sums[hour.component, hour.site].append(hour.operational_g)
        elif hour.joules is not None:
            unknown.add((hour.component, hour.site))
    for one in report.carbon.rows:
        place = one.component, one.site
        whole = fsum(sums.get(place, ()))
        assert (one.operational_g or 0.0) == pytest.approx(whole, rel=1e-9, abs=1e-300)
        if one.operational_g is None:
            assert not sums.get(place)
            continue
        assert one.operational_low is not None
        assert one.operational_high is not None
        assert one.operational_low <= one.operational_g * (1 + 1e-9)
        assert one.operational_g <= one.operational_high * (1 + 1e-9)
        if place in unknown:
            assert not one.complete
        else:
            product = (one.kwh or 0.0) * (one.intensity_g_per_kwh or 0.0)
            assert one.operational_g == pytest.approx(product, rel=1e-9, abs=1e-300)


def test_a_bound_weighs_the_hours_with_its_own_joules(tmp_path: Path) -> None:
    sure, vague = make.meter(factor=1.0001), make.meter(name="dev-2", factor=4.0)
    same: dict[str, Any] = {"joules": 10.0, "busy": 0.8, "idle_watts": 0.0}
    make.write(tmp_path / "run", sure, [make.window(sure, 0, **same)])
    make.write(tmp_path / "run", vague, [make.window(vague, HOUR, **same)])
    grid = series(tmp_path / "fr.jsonl", {0: 0.0, 1: 100.0})
    row = edge(reported(tmp_path / "run", grid))
    assert row.operational_g is not None
    assert row.operational_high == pytest.approx(row.operational_g * 4.0, rel=1e-3)
    assert row.operational_low == pytest.approx(row.operational_g / 4.0, rel=1e-3)


# -- what is unknown --------------------------------------------------------------------------

LAB = """
[profiles.lab]
zone = "US-CAL-CISO"
pue = 1.0
source = "the meter room"
retrieved = 2025-11-23
"""


def test_without_a_yearly_figure_hours_that_lack_make_the_grams_a_lower_bound(
    setsuden: Command, tmp_path: Path
) -> None:
    """No such zone is in the yearly table."""
    toml = tmp_path / "lab.toml"
    toml.write_text(f'{LAB}[site_of]\nedge = "lab"\n', encoding="utf-8")
    grid = series(tmp_path / "us.jsonl", {0: 100.0, 1: 200.0}, "US-CAL-CISO")
    run = over_hours(tmp_path / "run")
    report = Report.model_validate_json(
        setsuden("report", run, "--json", "--assumptions", toml, "--grid", grid).out
    )
    row = edge(report)
    assert row.operational_g == pytest.approx((10 * 100 + 30 * 200) / 3.6e6)
    assert row.intensity_g_per_kwh == pytest.approx((10 * 100 + 30 * 200) / 40)
    assert row.intensity_method == "average, hourly: 2 of 3 hours; the rest unknown"
    assert not row.complete
    assert not report.carbon.complete
    assert "grid intensity of edge at site lab in 1 of 3 hours" in report.carbon.undeclared
    assert recompute([run]).differs is None


def test_unknown_joules_have_no_grams_and_their_grid_is_known(tmp_path: Path) -> None:
    device = make.silent(access=Access.UNDECLARED)
    counts = Counts(local=1, bytes_up=9)
    silent = [make.window(device, 0, joules=None, idle_watts=None, counts=counts)]
    make.write(tmp_path / "run", device, silent)
    report = reported(tmp_path / "run", series(tmp_path / "fr.jsonl", {0: 10.0}))
    for row in report.carbon.rows:
        assert (row.operational_g, row.intensity_g_per_kwh) == (None, 10.0)
    assert {one.component for one in report.carbon.rows} == {Part.EDGE, Part.NETWORK}


# -- averages alone ---------------------------------------------------------------------------


def report_with(setsuden: Command, folder: Path, *grids: Path) -> Ended:
    options = [word for grid in grids for word in ("--grid", grid)]
    return setsuden("report", over_hours(folder / "run"), *options)


def test_a_marginal_series_is_refused_before_anything_is_kept(
    setsuden: Command, tmp_path: Path
) -> None:
    grid = series(tmp_path / "fr.jsonl", {0: 10.0}, method=RateMethod.MARGINAL)
    ended = report_with(setsuden, tmp_path, grid)
    assert (ended.code, ended.out) == (1, "")
    assert "holds marginal intensities, and a report counts averages" in ended.err
    assert not list((tmp_path / "run").glob("*.json"))


def test_a_marginal_hour_among_the_assumptions_is_refused(
    setsuden: Command, tmp_path: Path
) -> None:
    report_with(setsuden, tmp_path, series(tmp_path / "fr.jsonl", {0: 10.0}))
    edit(tmp_path / "run", lambda hours: hours[name_of(0)].update(method="marginal"))
    with pytest.raises(RowsError, match="marginal"):
        load(tmp_path / "run")


def test_hours_of_another_grid_or_source_among_the_assumptions_are_refused(
    setsuden: Command, tmp_path: Path
) -> None:
    report_with(setsuden, tmp_path, series(tmp_path / "fr.jsonl", {0: 10.0, 1: 20.0}))
    edit(tmp_path / "run", lambda hours: hours[name_of(0)].update(source="another"))
    with pytest.raises(RowsError, match="several sources"):
        load(tmp_path / "run")
    edit(tmp_path / "run", lambda hours: hours[name_of(0)].update(source=SOURCE, zone="NL"))
    with pytest.raises(RowsError, match="several zones"):
        load(tmp_path / "run")


def edit(folder: Path, change: Any) -> None:
    """Change the hours that the run's site assumes."""
    path = folder / "assumptions.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document["sites"]["fr-par-2"]["hours"])
    path.write_text(json.dumps(document), encoding="utf-8")


def test_a_missing_or_empty_file_is_reported(setsuden: Command, tmp_path: Path) -> None:
    ended = report_with(setsuden, tmp_path, tmp_path / "gone.jsonl")
    assert (ended.code, ended.out) == (1, "")
    assert "gone.jsonl is missing or holds no hours" in ended.err


def test_a_damaged_line_is_reported_with_its_place(setsuden: Command, tmp_path: Path) -> None:
    grid = series(tmp_path / "fr.jsonl", {0: 10.0})
    grid.write_text(grid.read_text(encoding="utf-8") + "{}\n", encoding="utf-8")
    ended = report_with(setsuden, tmp_path, grid)
    assert ended.code == 1
    assert "fr.jsonl:2: " in ended.err


def test_two_sources_of_one_zone_are_refused_by_the_file_that_brings_the_second(
    setsuden: Command, tmp_path: Path
) -> None:
    one = series(tmp_path / "a.jsonl", {0: 10.0})
    two = series(tmp_path / "b.jsonl", {1: 10.0}, source="another")
    ended = report_with(setsuden, tmp_path, one, two)
    assert ended.code == 1
    assert "b.jsonl: the series has FR from" in ended.err
    assert "one source for each zone" in ended.err


# -- kept with the rows -----------------------------------------------------------------------


def test_rows_and_assumptions_are_all_a_later_report_needs(
    setsuden: Command, tmp_path: Path
) -> None:
    run = over_hours(tmp_path / "run")
    grid = series(tmp_path / "fr.jsonl", {-1: 5.0, 0: 10.0, 1: 100.0, 3: 7.0})
    first = setsuden("report", run, "--json", "--grid", grid)
    grid.unlink()
    assert setsuden("report", run, "--json").out == first.out
    assert setsuden("report", run, "--recompute").code == 0
    kept = load(run)
    assert kept is not None
    hours = kept.sites["fr-par-2"].hours
    assert set(hours) == {name_of(0), name_of(1)}, "no hour outside the run"
    assert hours[name_of(1)].g_per_kwh == 100.0


def test_a_kept_hour_that_was_changed_is_found_by_recompute(
    setsuden: Command, tmp_path: Path
) -> None:
    report_with(setsuden, tmp_path, series(tmp_path / "fr.jsonl", {0: 10.0}))
    edit(tmp_path / "run", lambda hours: hours[name_of(0)].update(g_per_kwh=11.0))
    differs = recompute([tmp_path / "run"]).differs
    assert differs is not None
    assert differs.path.startswith("carbon.rows[0].")


def test_later_hours_join_those_that_are_kept(setsuden: Command, tmp_path: Path) -> None:
    report_with(setsuden, tmp_path, series(tmp_path / "a.jsonl", {0: 10.0, 1: 20.0}))
    report_with(setsuden, tmp_path, series(tmp_path / "b.jsonl", {1: 21.0, 2: 30.0}))
    kept = load(tmp_path / "run")
    assert kept is not None
    rates = {name: grid.g_per_kwh for name, grid in kept.sites["fr-par-2"].hours.items()}
    assert rates == {name_of(0): 10.0, name_of(1): 21.0, name_of(2): 30.0}


def test_another_source_replaces_the_kept_hours_and_does_not_mix_with_them(
    setsuden: Command, tmp_path: Path
) -> None:
    report_with(setsuden, tmp_path, series(tmp_path / "a.jsonl", {0: 10.0, 1: 20.0}))
    report_with(setsuden, tmp_path, series(tmp_path / "b.jsonl", {2: 30.0}, source="another"))
    kept = load(tmp_path / "run")
    assert kept is not None
    assert set(kept.sites["fr-par-2"].hours) == {name_of(2)}


def test_a_site_that_moves_to_another_grid_loses_its_hours(
    setsuden: Command, tmp_path: Path
) -> None:
    report_with(setsuden, tmp_path, series(tmp_path / "fr.jsonl", {0: 10.0}))
    toml = tmp_path / "moved.toml"
    for zone, hours in (("FR", 1), ("NL", 0)):
        profile = LAB.replace("lab", "fr-par-2").replace("US-CAL-CISO", zone)
        toml.write_text(profile, encoding="utf-8")
        assert setsuden("report", tmp_path / "run", "--assumptions", toml).code == 0
        kept = load(tmp_path / "run")
        assert kept is not None
        assert len(kept.sites["fr-par-2"].hours) == hours


def test_a_report_of_a_part_of_the_time_copies_the_hours_of_that_part(
    setsuden: Command, tmp_path: Path
) -> None:
    run = over_hours(tmp_path / "run")
    grid = series(tmp_path / "fr.jsonl", {0: 10.0, 1: 100.0, 2: 50.0})
    since = f"{hour_at(1):%Y-%m-%dT%H:%M}"
    setsuden("report", run, "--since", since, "--grid", grid)
    kept = load(run)
    assert kept is not None
    assert set(kept.sites["fr-par-2"].hours) == {name_of(1), name_of(2)}
    assert recompute([run]).differs is None


def test_assumptions_from_before_there_were_hours_load_and_keep_their_sum(tmp_path: Path) -> None:
    folder = over_hours(tmp_path / "run")
    run = read_run([folder], Declarations(), TimeRange())
    keep(folder, run, report_of(run))
    written = (folder / "assumptions.json").read_text(encoding="utf-8")
    assert "hours" not in json.loads(written)["sites"]["fr-par-2"]
    assert Assumptions.model_validate_json(written).text == written
    assert recompute([folder]).differs is None


def test_recompute_takes_no_grid(setsuden: Command, tmp_path: Path) -> None:
    grid = series(tmp_path / "fr.jsonl", {0: 10.0})
    ended = setsuden("report", over_hours(tmp_path / "run"), "--recompute", "--grid", grid)
    assert ended.code == 2


# -- text ------------------------------------------------------------------------------------


def test_a_zone_without_an_hour_in_the_series_is_reported_and_keeps_its_year(
    setsuden: Command, tmp_path: Path
) -> None:
    grid = series(tmp_path / "a.jsonl", {0: 10.0}, "GB")
    ended = report_with(setsuden, tmp_path, grid)
    assert ended.code == 0
    assert "--grid has no hour of the run for FR" in ended.err
    assert f"FR 2025, {yearly():.4g} g/kWh" in ended.out
    assert "(average)" in ended.out


def test_files_of_several_zones_meet_each_its_sites(setsuden: Command, tmp_path: Path) -> None:
    run = over_hours(tmp_path / "run")
    worker = make.meter(Component.CLOUD, "w", site="nl-ams-1", access=Access.LAN)
    make.write(run, worker, make.worker(worker, seconds=2))
    grids = (
        series(tmp_path / "fr.jsonl", {0: 10.0, 1: 10.0, 2: 10.0}),
        series(tmp_path / "nl.jsonl", {0: 300.0}, "NL", source="another"),
    )
    report = reported(run, *grids)
    intensities = {one.site: one.intensity_g_per_kwh for one in report.carbon.rows}
    assert intensities == pytest.approx({"fr-par-2": 10.0, "nl-ams-1": 300.0})


def test_wherever_an_intensity_is_shown_its_year_or_its_hours_are(tmp_path: Path) -> None:
    grid = series(tmp_path / "fr.jsonl", {0: 10.0, 2: 50.0})
    report = reported(over_hours(tmp_path / "run"), grid)
    method = "average, hourly: 2 of 3 hours; the rest yearly 2025"
    row = edge(report)
    expected = f"FR 2025, {row.intensity_g_per_kwh:.4g} g/kWh, PUE {row.pue:g} ({method})"
    assert expected in text(report)
    assert method in page(report)
    (hours,) = (line for line in report.assumptions if "hourly" in line)
    assert hours == (
        f"site fr-par-2: grid FR hourly, 2 from {name_of(0)} to {name_of(2)}: "
        f"10 to 50 g/kWh, average ({SOURCE})"
    )
    assert any("grid FR 2025, for hours without a figure: " in w for w in report.assumptions)
