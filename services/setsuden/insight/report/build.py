"""A run's report, from its rows and its assumptions and nothing else; both kept beside the rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from setsuden.insight.report import assumptions as assuming
from setsuden.insight.report.assumptions import Assumptions, Declarations
from setsuden.insight.report.figures.cost import cost_of
from setsuden.insight.report.figures.counterfactual import all_cloud, all_edge
from setsuden.insight.report.figures.findings import findings
from setsuden.insight.report.figures.footprint import carbon_of, sci_of
from setsuden.insight.report.figures.statements import assumptions_of, boundary_of
from setsuden.insight.report.figures.timeline import hours_of, series_of
from setsuden.insight.report.model import Part, Report, RowsRead
from setsuden.insight.report.rows.read import RowsReader, TimeRange
from setsuden.insight.report.rows.sums import fold
from setsuden.insight.report.totals.amounts import added, cell, ratio
from setsuden.insight.report.totals.breakdown import (
    components_of,
    coverage_of,
    machines_of,
    meter_reports,
    models_of,
)
from setsuden.insight.report.totals.run import RunTotals, totals_of

FILE = "report.json"


def read_run(
    folders: Sequence[Path], declarations: Declarations, time_range: TimeRange
) -> RunTotals:
    """The rows of these folders; the first holds the assumptions. Raises RowsError."""
    reader = RowsReader(time_range)
    meters = fold(reader.read(folders))
    last_ns = max(max(sums.timeline.start_ns) for sums in meters)
    year = datetime.fromtimestamp(last_ns / 1e9, UTC).year
    rows = [sums.row for sums in meters]
    resolved = assuming.resolve(assuming.load(folders[0]), declarations, rows, year)
    return totals_of(folders[0].resolve().name, reader, meters, resolved)


def reread_run(
    name: str, folders: Sequence[Path], assumptions: Assumptions, time_range: TimeRange
) -> RunTotals:
    """The same with kept assumptions, of which none is looked up again. Raises RowsError."""
    reader = RowsReader(time_range)
    return totals_of(name, reader, fold(reader.read(folders)), assumptions)


def report_of(run: RunTotals) -> Report:
    """Every figure."""
    components = components_of(run)
    whole = added(component.whole.total for component in components)
    boundary = boundary_of(run, components)
    edge, cloud = all_edge(run, components), all_cloud(run, components)
    carbon = carbon_of(run, complete=whole.complete)
    report = Report(
        name=run.name,
        start_ns=run.start_ns,
        end_ns=run.end_ns,
        since_ns=run.reader.time_range.since_ns,
        until_ns=run.reader.time_range.until_ns,
        devices=len({meter.row.name for meter in run.of(Part.EDGE)}),
        inferences=run.inferences,
        escalation_rate=ratio(run.events.escalated, run.inferences),
        events=run.events,
        whole=cell(whole, run.inferences),
        boundary=boundary,
        components=components,
        coverage=coverage_of(run, components),
        all_edge=edge,
        all_cloud=cloud,
        carbon=carbon,
        sci=sci_of(run, carbon, boundary),
        cost=cost_of(run, components, edge, cloud),
        models=models_of(run),
        machines=machines_of(run),
        meters=meter_reports(run),
        hours=hours_of(run),
        series=series_of(run),
        assumptions=assumptions_of(run),
        rows=_rows(run),
    )
    return report.model_copy(update={"findings": findings(report, run)})


def _rows(run: RunTotals) -> RowsRead:
    return RowsRead(
        meters=len(run.meters),
        windows=sum(meter.sums.windows for meter in run.meters),
        torn=run.reader.torn,
        duplicates=run.reader.duplicates,
        sha256=run.reader.sha256,
        assumptions_sha256=run.assumptions.sha256,
    )


def keep(folder: Path, run: RunTotals, report: Report) -> None:
    """Write both files, each in one step; raises OSError where the folder cannot be written."""
    _replace(folder / assuming.FILE, run.assumptions.text)
    _replace(folder / FILE, report.model_dump_json(indent=1) + "\n")


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, 0o644)  # mkstemp's 0600 would hide it from the auditor
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
