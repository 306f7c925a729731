"""`setsuden report --recompute`: every figure again from the rows, and the first that differs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import rows as make
from tests.support.command import Command

from setsuden.energy.metering.ledger import RunLedger, WorkKey
from setsuden.energy.metering.settle import ClosedWindow, MeterFacts, settle
from setsuden.insight.report.assumptions import Declarations
from setsuden.insight.report.build import keep, read_run, report_of
from setsuden.insight.report.recompute import BUCKETS, RecomputeResult, near, recompute
from setsuden.insight.report.rows.read import TimeRange
from setsuden.insight.report.rows.sums import buckets_of
from setsuden.schemas.energy import Method, Quality
from setsuden.schemas.windows import Counts, WindowRow

Path_ = tuple[str | int, ...]


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def kept(folder: Path, span: TimeRange = TimeRange()) -> Path:  # noqa: B008  # frozen
    """A run with its report beside it."""
    make.cascade(seconds=4).write(folder)
    run = read_run([folder], Declarations(), span)
    keep(folder, run, report_of(run))
    return folder


def differs(folder: Path) -> str:
    mismatch = recompute([folder]).differs
    assert mismatch is not None
    return mismatch.path


def rewrite(path: Path, line: int, **changes: Any) -> None:
    """One row of a file with other values."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[line - 1] = json.dumps({**json.loads(lines[line - 1]), **changes})
    path.write_text("".join(f"{text}\n" for text in lines), encoding="utf-8")


def rows_of(folder: Path, component: str) -> Path:
    return min((folder / component).rglob("*.rows.jsonl"))


# -- the whole agrees -------------------------------------------------------------------------


def test_every_figure_of_a_report_follows_from_its_rows(tmp_path: Path) -> None:
    checked = recompute([kept(tmp_path)])
    assert checked.differs is None
    assert checked.windows == 16
    assert checked.figures > 500


def test_a_run_that_was_copied_under_another_name_still_agrees(tmp_path: Path) -> None:
    kept(tmp_path / "run").rename(tmp_path / "evidence")
    assert recompute([tmp_path / "evidence"]).differs is None


def test_a_report_of_a_part_of_the_time_is_recomputed_for_that_part(tmp_path: Path) -> None:
    kept(tmp_path, TimeRange(make.START_NS + make.SECOND, None))
    assert recompute([tmp_path]).differs is None


def test_without_a_kept_report_the_rows_are_checked_alone(tmp_path: Path) -> None:
    make.cascade(seconds=4).write(tmp_path)
    assert recompute([tmp_path]) == RecomputeResult(16, 0, None)


def test_it_writes_nothing(tmp_path: Path) -> None:
    kept(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    recompute([tmp_path])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_tables_of_today_do_not_change_a_report_of_then(tmp_path: Path) -> None:
    kept(tmp_path)
    path = tmp_path / "assumptions.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["sites"]["fr-par-2"]["intensity"]["g_per_kwh"] = 99.0  # a table of another year
    path.write_text(json.dumps(document), encoding="utf-8")
    run = read_run([tmp_path], Declarations(), TimeRange())
    keep(tmp_path, run, report_of(run))
    assert recompute([tmp_path]).differs is None
    assert run.assumptions.sites["fr-par-2"].intensity is not None
    assert run.assumptions.sites["fr-par-2"].intensity.g_per_kwh == 99.0


# -- rows as a meter writes them --------------------------------------------------------------

runs = st.tuples(
    st.floats(0, 1.9),  # begins
    st.floats(0, 0.8),  # takes
    st.floats(0, 0.5),  # CPU-seconds
    st.sampled_from(["a/student", "b/student"]),
    st.sampled_from([Method.EXCLUSIVE, Method.THREAD]),
)


def ledger_of(drawn: list[tuple[float, float, float, str, Method]]) -> RunLedger:
    """A ledger after these runs."""
    now = 0.0
    ledger = RunLedger(lambda: round(now * make.SECOND))
    for begins, takes, cpu, model, method in drawn:
        now = begins
        run = ledger.begin(WorkKey("p", model, "d"))
        now = begins + takes
        ledger.finish(run, 2, cpu, method)
    return ledger


@given(
    st.lists(runs, max_size=8),
    st.floats(0.3, 1.0),
    st.floats(0, 1),
    st.floats(0, 50),
    st.floats(0, 3),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_rows_of_a_meter_give_their_own_buckets_again(
    drawn: list[tuple[float, float, float, str, Method]],
    exponent: float,
    reserved: float,
    joules: float,
    busy: float,
    amortised: bool,
) -> None:
    of = make.meter(exponent=exponent, reserved_share=reserved)
    key = WorkKey("*", "nats-server", "") if amortised else None
    labels = MeterFacts(of.meter, of.source, of.boundary, 1.1, 1.05, reserved, exponent, key)
    ledger = ledger_of(drawn)
    for place in range(3):
        start = place * make.SECOND
        closed = ClosedWindow(
            start,
            start + make.SECOND,
            make.START_NS + start,
            joules,
            4.0,
            Quality.OK,
            busy,
            0.0,
            busy / 2,
            Counts(messages=5),
        )
        written = settle(closed, ledger, labels).model_dump_json(exclude_defaults=True)
        row = WindowRow.model_validate_json(written)
        split = buckets_of(of, row)
        assert split is not None
        for name, fresh in zip(BUCKETS, split, strict=True):
            assert near(getattr(row, name), fresh, joules), name


# -- a changed figure -------------------------------------------------------------------------


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, (*path, key))
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from leaves(below, (*path, place))
    elif path != ("name",):
        yield path


def changed(value: Any) -> Any:
    """Another value that the model still takes."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * (1 + 1e-6) + 1e-9
    return None


def put(document: Any, path: Path_, value: Any) -> None:
    *above, last = path
    for step in above:
        document = document[step]
    document[last] = value


def at(document: Any, path: Path_) -> Any:
    for step in path:
        document = document[step]
    return document


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_a_changed_number_anywhere_in_the_report_is_found_by_its_path(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = kept(Path(name))
        path = folder / "report.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        numbers = [leaf for leaf in leaves(document) if changed(at(document, leaf)) is not None]
        leaf = data.draw(st.sampled_from([leaf for leaf in numbers if leaf != ("version",)]))
        put(document, leaf, changed(at(document, leaf)))
        path.write_text(json.dumps(document), encoding="utf-8")
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in leaf)
        if leaf[0] in {"since_ns", "until_ns"}:
            return
        assert differs(folder) == where.removeprefix(".")


def test_a_rounding_error_is_not_a_difference(tmp_path: Path) -> None:
    kept(tmp_path)
    path = tmp_path / "report.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["whole"]["total"]["joules"] *= 1 + 1e-12
    path.write_text(json.dumps(document), encoding="utf-8")
    assert recompute([tmp_path]).differs is None


def test_a_figure_that_was_removed_is_found(tmp_path: Path) -> None:
    kept(tmp_path)
    path = tmp_path / "report.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["meters"].pop()
    path.write_text(json.dumps(document), encoding="utf-8")
    assert differs(tmp_path) == "meters[3]"


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_changed_bucket_of_a_row_is_found_with_file_and_line(tmp_path: Path, bucket: str) -> None:
    path = rows_of(kept(tmp_path), "cloud")
    row = json.loads(path.read_text(encoding="utf-8").splitlines()[2])
    rewrite(path, 3, **{bucket: row[bucket] + 1e-6})
    assert differs(tmp_path) == f"{path}:3 {bucket}"


@pytest.mark.parametrize(
    "changes",
    [
        {"joules": 61.0},
        {"idle_watts": 21.0},
        {"busy_cpu_seconds": 2.1},
        {"process_cpu_seconds": 1.7},
        {"request_idle": None},
    ],
)
def test_a_changed_reading_no_longer_gives_the_rows_buckets(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = rows_of(kept(tmp_path), "cloud")
    rewrite(path, 3, **changes)
    assert differs(tmp_path).startswith(f"{path}:3 ")


@pytest.mark.parametrize(
    ("changes", "figure"),
    [
        ({"counts": {"answered": 21}}, "events.answered"),
        ({"steal_cpu_seconds": 0.5}, "components[3].utilisation.steal"),
        ({"quality": "degraded"}, "whole.total.quality"),
    ],
)
def test_a_changed_count_of_a_row_is_found_in_the_report(
    tmp_path: Path, changes: dict[str, Any], figure: str
) -> None:
    rewrite(rows_of(kept(tmp_path), "cloud"), 3, **changes)
    assert differs(tmp_path) == figure


def test_a_change_that_moves_no_figure_is_found_by_the_digest(tmp_path: Path) -> None:
    path = rows_of(kept(tmp_path), "cloud")
    rewrite(path, 1, window_seconds=2.0)
    assert differs(tmp_path) == "rows.sha256"


def test_a_row_that_was_removed_is_found(tmp_path: Path) -> None:
    path = rows_of(kept(tmp_path), "cloud")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:3] + lines[4:]), encoding="utf-8")
    assert differs(tmp_path) == "events.answered"


def test_a_changed_assumption_is_found(tmp_path: Path) -> None:
    kept(tmp_path)
    path = tmp_path / "assumptions.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["sites"]["fr-par-2"]["profile"]["pue"] = 1.0
    path.write_text(json.dumps(document), encoding="utf-8")
    assert differs(tmp_path) == "carbon.rows[0].kwh"


# -- the command ------------------------------------------------------------------------------


def test_the_command_exits_0_when_all_agrees(setsuden: Command, tmp_path: Path) -> None:
    ended = setsuden("report", kept(tmp_path), "--recompute")
    assert ended.code == 0
    assert ended.out.startswith("16 windows agree with their own readings, ")


def test_the_command_exits_1_and_tells_both_values(setsuden: Command, tmp_path: Path) -> None:
    kept(tmp_path)
    path = tmp_path / "report.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["inferences"] = 4000
    path.write_text(json.dumps(document), encoding="utf-8")
    ended = setsuden("report", tmp_path, "--recompute")
    assert ended.code == 1
    assert ended.out.splitlines() == [
        "differs: inferences",
        "  kept       4000",
        "  recomputed 800",
    ]
    ended = setsuden("report", tmp_path, "--recompute", "--json")
    assert ended.code == 1
    assert ended.json["differs"] == {"path": "inferences", "saved": 4000, "recomputed": 800}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("report.json", "{", "report.json"),
        ("report.json", '{"version": 1}', "Field required"),
        ("assumptions.json", '{"sites": 3}', "assumptions.json: sites"),
        ("assumptions.json", None, "assumptions.json is missing"),
    ],
)
def test_a_damaged_file_beside_the_rows_is_reported(
    setsuden: Command, tmp_path: Path, name: str, content: str | None, expected: str
) -> None:
    path = kept(tmp_path) / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")
    ended = setsuden("report", tmp_path, "--recompute")
    assert ended.code == 1
    assert expected in ended.err
