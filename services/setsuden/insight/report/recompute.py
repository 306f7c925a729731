"""Derives every figure again from the rows alone and reports the first that differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from setsuden.insight.report import assumptions as assuming
from setsuden.insight.report.build import FILE, report_of, reread_run
from setsuden.insight.report.model import REPORT_VERSION, Report
from setsuden.insight.report.rows.read import RowsError, RowsReader, TimeRange, WindowAt
from setsuden.insight.report.rows.sums import buckets_of

TOLERANCE = 1e-9
"""Relative; of a bucket, relative to its window's joules."""
MAX_BYTES = 256 << 20
BUCKETS = ("request_dynamic", "request_idle", "overhead", "idle_unused", "other")


class Mismatch(NamedTuple):
    """A figure that differs when it is derived again."""

    path: str
    """``file:line bucket`` of a row, or the path of a figure in the report."""
    saved: Any
    recomputed: Any


class RecomputeResult(NamedTuple):
    """How much was compared, and the first mismatch."""

    windows: int
    figures: int
    differs: Mismatch | None


def recompute(folders: Sequence[Path]) -> RecomputeResult:
    """Compare every row's buckets, then every figure of the saved report; raises RowsError."""
    windows, wrong = check_rows(folders)
    saved = load_report(folders[0])
    if wrong is not None or saved is None:
        return RecomputeResult(windows, 0, wrong)
    kept = assuming.load(folders[0])
    if kept is None:
        raise RowsError(
            f"{folders[0] / assuming.FILE} is missing: the report's grids and prices are unknown",
            remedy="make the report again without --recompute",
        )
    time_range = TimeRange(saved.report.since_ns, saved.report.until_ns)
    # The folder may have been renamed since, and its name is not a figure.
    run = reread_run(saved.report.name, folders, kept, time_range)
    pairs = list(_pairs("", saved.document, report_of(run).model_dump(mode="json")))
    return RecomputeResult(windows, len(pairs), next((p for p in pairs if not _same(p)), None))


def check_rows(folders: Sequence[Path]) -> tuple[int, Mismatch | None]:
    """Windows read, and the first bucket that its row's own readings do not give."""
    count = 0
    for window_at in RowsReader().read(folders):
        count += 1
        wrong = _bucket(window_at)
        if wrong is not None:
            return count, wrong
    return count, None


def _bucket(window_at: WindowAt) -> Mismatch | None:
    meter, window, where = window_at
    split = buckets_of(meter, window)
    for place, name in enumerate(BUCKETS):
        stored = getattr(window, name)
        fresh = split[place] if split is not None else None
        if not near(stored, fresh, window.joules or 0.0):
            return Mismatch(f"{where} {name}", stored, fresh)
    return None


def near(stored: float | None, fresh: float | None, whole: float) -> bool:
    """True when both are unknown, or differ by no more than rounding of ``whole``."""
    if stored is None or fresh is None:
        return stored is fresh
    return isclose(stored, fresh, rel_tol=TOLERANCE, abs_tol=TOLERANCE * whole)


class KeptReport(NamedTuple):
    """A report that was kept."""

    document: dict[str, Any]
    """As it stands in the file."""
    report: Report


def load_report(folder: Path) -> KeptReport | None:
    """The report that is kept beside the rows, None without one; raises RowsError."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        report = Report.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RowsError(f"{path}: {where}: {first['msg']}", remedy="make it again") from error
    if report.version != REPORT_VERSION:
        raise RowsError(
            f"{path} is not a report of version {REPORT_VERSION}", remedy="make it again"
        )
    return KeptReport(json.loads(text), report)


def _pairs(path: str, saved: Any, fresh: Any) -> Iterator[Mismatch]:
    """Every leaf of both, by its path."""
    if isinstance(saved, dict) and isinstance(fresh, dict):
        for key in dict.fromkeys((*fresh, *saved)):
            below = f"{path}.{key}" if path else key
            yield from _pairs(below, saved.get(key, MISSING), fresh.get(key, MISSING))
    elif isinstance(saved, list) and isinstance(fresh, list):
        for place in range(max(len(saved), len(fresh))):
            yield from _pairs(f"{path}[{place}]", _at(saved, place), _at(fresh, place))
    else:
        yield Mismatch(path, saved, fresh)


MISSING = "missing"


def _at(values: list[Any], place: int) -> Any:
    return values[place] if place < len(values) else MISSING


def _same(pair: Mismatch) -> bool:
    saved, fresh = pair.saved, pair.recomputed
    if isinstance(saved, float) or isinstance(fresh, float):
        if isinstance(saved, bool) or isinstance(fresh, bool):
            return False
        if isinstance(saved, int | float) and isinstance(fresh, int | float):
            return isclose(saved, fresh, rel_tol=TOLERANCE, abs_tol=1e-15)
    return type(saved) is type(fresh) and bool(saved == fresh)
