"""A run's report, from its rows and its assumptions and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from setsuden.insight.report import assumptions as assuming
from setsuden.insight.report.aggregate import (
    components_of,
    coverage_of,
    machines_of,
    meter_reports,
    models_of,
)
from setsuden.insight.report.amounts import added, cell, ratio
from setsuden.insight.report.assumptions import Assumptions, Declared
from setsuden.insight.report.cost import cost_of
from setsuden.insight.report.counterfactual import all_cloud, all_edge
from setsuden.insight.report.findings.collect import findings
from setsuden.insight.report.model import Part, Report, RowsRead
from setsuden.insight.report.read import Span
from setsuden.insight.report.run import Run, folded, run_of
from setsuden.insight.report.sci import carbon_of, sci_of
from setsuden.insight.report.timeline import hours_of, series_of
from setsuden.insight.report.words import assumptions_of, boundary_of

FILE = "report.json"


def read_run(folders: Sequence[Path], declared: Declared, span: Span) -> Run:
    """The rows of these folders; the first holds what is assumed. Raises RowsError."""
    reader, meters = folded(folders, span)
    year = datetime.fromtimestamp(max(max(m.timeline.start_ns) for m in meters) / 1e9, UTC).year
    rows = [sums.meter for sums in meters]
    resolved = assuming.resolve(assuming.load(folders[0]), declared, rows, year)
    return run_of(folders[0].resolve().name, reader, meters, resolved)


def saved_run(name: str, folders: Sequence[Path], assumptions: Assumptions, span: Span) -> Run:
    """The same with assumptions that are not looked up again. Raises RowsError."""
    return run_of(name, *folded(folders, span), assumptions)


def report_of(run: Run) -> Report:
    """Every figure."""
    components = components_of(run)
    whole = added(component.whole.total for component in components)
    boundary = boundary_of(run, components)
    edge, cloud = all_edge(run, components), all_cloud(run, components)
    carbon = carbon_of(run, complete=whole.complete)
    found = Report(
        name=run.name,
        start_ns=run.start_ns,
        end_ns=run.end_ns,
        since_ns=run.reader.span.since_ns,
        until_ns=run.reader.span.until_ns,
        devices=len({one.sums.meter.name for one in run.of(Part.EDGE)}),
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
    return found.model_copy(update={"findings": findings(found, run)})


def _rows(run: Run) -> RowsRead:
    return RowsRead(
        meters=len(run.meters),
        windows=sum(one.sums.windows for one in run.meters),
        torn=run.reader.torn,
        duplicates=run.reader.duplicates,
        sha256=run.reader.sha256,
        assumptions_sha256=run.assumptions.sha256,
    )
