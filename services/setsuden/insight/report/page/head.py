"""The first screen: one number, what it stands on, and what it means beside the other ways."""

from __future__ import annotations

from collections import Counter
from html import escape

from setsuden.insight.report.model import Amount, Counterfactual, Report
from setsuden.insight.report.page.basis import Basis
from setsuden.insight.report.page.numbers import count, moment, period
from setsuden.insight.report.page.parts import text
from setsuden.insight.report.page.words import SEVERITIES, VERDICTS, comparison, provenance

_SECTIONS = (
    ("components", "Components"),
    ("ways", "The other ways"),
    ("time", "Over the run"),
    ("basis", "What it stands on"),
    ("carbon", "Carbon and cost"),
    ("findings", "Findings"),
    ("appendix", "Appendix"),
    ("reading", "How to read this"),
)


def head(report: Report, basis: Basis) -> str:
    """Everything above the first section."""
    return (
        '<a class="skip" href="#components">Skip to the report</a><header>'
        '<p class="eyebrow">Setsuden energy report</p>'
        f'<p class="report-name">{text(report.name)}</p>'
        f'<p class="meta">{escape(_about(report))}</p>'
        f"{_headline(report, basis)}{_verdicts(report, basis)}{_alert(report)}"
        f"{_contents(report)}</header>"
    )


def _about(report: Report) -> str:
    devices = f"{count(report.devices)} device{'' if report.devices == 1 else 's'}"
    return (
        f"{period(report.start_ns, report.end_ns)}, {devices}, "
        f"{count(report.inferences)} inferences{_asked(report)}"
    )


def _asked(report: Report) -> str:
    since, until = report.since_ns, report.until_ns
    if since is None and until is None:
        return ""
    first = f" from {moment(since)}" if since is not None else ""
    last = f" until {moment(until)}" if until is not None else ""
    return f"; asked for: rows{first}{last}"


def _headline(report: Report, basis: Basis) -> str:
    known = basis.of(report.whole) or Amount()
    unknown = report.coverage.unknown
    left_out = f" Not known: {'; '.join(unknown)}." if unknown else ""
    return (
        f'<h1 class="headline">{_number(known, basis)}{_interval(known, basis)}</h1>'
        f'<p class="stands">{text(provenance(report, known) + left_out)}</p>'
    )


def _number(known: Amount, basis: Basis) -> str:
    if known.joules is None:
        return '<b class="unknown">none</b>'
    least = "" if known.complete else "<small>at least </small>"
    value, unit = basis.mid(known).removeprefix("at least ").rsplit(" ", maxsplit=1)
    return f"<b>{least}{escape(value)}<small>&#8201;{escape(unit)}</small></b>"


def _interval(known: Amount, basis: Basis) -> str:
    between = basis.between(known).replace(" to ", " and ")
    if not between:
        return f"No joules are known {basis.words}"
    what = "" if known.complete else "what is known of it "
    return f"{basis.words}, {what}between {escape(between)} (95&nbsp;% interval)"


def _verdicts(report: Report, basis: Basis) -> str:
    ways = (
        (report.all_cloud, "Against all in the cloud"),
        (report.all_edge, "Against all on the devices"),
    )
    made = "".join(_verdict(other, against, basis) for other, against in ways)
    return f'<div class="verdicts">{made}</div>'


def _verdict(other: Counterfactual, against: str, basis: Basis) -> str:
    return (
        f'<div><p class="against">{escape(against)}</p><p class="word">'
        f"{escape(VERDICTS[other.verdict])}</p><p>{text(comparison(other, basis.unit))}</p></div>"
    )


def _alert(report: Report) -> str:
    """How many findings want something done, before the reader believes the number."""
    tally = Counter(finding.severity for finding in report.findings)
    said = [
        f"{tally[kind]} {kind.value}{'' if tally[kind] == 1 else 's'}"
        for kind in SEVERITIES[:2]
        if tally[kind]
    ]
    if not said:
        return ""
    return f'<p class="alert">Read first: <a href="#findings">{" and ".join(said)}</a></p>'


def _contents(report: Report) -> str:
    made = "".join(
        f'<li><a href="#{anchor}">{name}</a></li>'
        for anchor, name in _SECTIONS
        if anchor != "findings" or report.findings
    )
    return f'<nav aria-label="Contents"><ul>{made}</ul></nav>'
