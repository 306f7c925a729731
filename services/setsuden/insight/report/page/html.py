"""The report as one self-contained HTML page: no script, nothing fetched from anywhere."""

from __future__ import annotations

from setsuden.insight.pages import document
from setsuden.insight.report.model import Report
from setsuden.insight.report.page import basics, carbon, energy, reading, tables
from setsuden.insight.report.page import head as heading
from setsuden.insight.report.page.basis import basis_of
from setsuden.insight.report.page.style import STYLE
from setsuden.insight.traces.units import clean


def page(report: Report) -> str:
    """The whole page, for a screen of any width, light or dark, and for paper."""
    basis = basis_of(report)
    body = (
        energy.components(report, basis),
        energy.ways(report, basis),
        energy.time(report),
        basics.basis(report),
        carbon.carbon(report),
        tables.findings(report),
        tables.appendix(report),
        reading.reading(report),
    )
    head = heading.head(report, basis)
    return document(f"{clean(report.name, 80)} · energy", STYLE, f"{head}{''.join(body)}")
