"""The report as one self-contained HTML page: no script, nothing fetched from anywhere."""

from __future__ import annotations

from html import escape

from setsuden.services.report.model import Report
from setsuden.services.report.page import basics as html_basics
from setsuden.services.report.page import carbon as html_carbon
from setsuden.services.report.page import energy as html_energy
from setsuden.services.report.page import head as html_head
from setsuden.services.report.page import reading as html_reading
from setsuden.services.report.page import tables as html_tables
from setsuden.services.report.page.basis import basis_of
from setsuden.services.report.page.style import STYLE
from setsuden.services.traces.html import CONTENT_SECURITY_POLICY
from setsuden.services.traces.units import clean


def page(report: Report) -> str:
    """The whole page, for a screen of any width, light or dark, and for paper."""
    basis = basis_of(report)
    body = (
        html_energy.components(report, basis),
        html_energy.ways(report, basis),
        html_energy.time(report),
        html_basics.basis(report),
        html_carbon.carbon(report),
        html_tables.findings(report),
        html_tables.appendix(report),
        html_reading.reading(report),
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
        '<link rel="icon" href="data:,">'
        f"<title>Setsuden · {escape(clean(report.name, 80))} · energy</title>"
        f"<style>{STYLE}</style></head><body>"
        f"<main>{html_head.head(report, basis)}{''.join(body)}</main></body></html>\n"
    )
