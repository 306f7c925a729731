"""Whether the cascade pays: teachers that change no answer, escalations that save nothing."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from setsuden.insight.report.amounts import added, scaled
from setsuden.insight.report.model import Amount, Finding, Part, Report, Severity, Verdict
from setsuden.insight.report.run import Run
from setsuden.insight.traces.units import between, energy

CHANGED_SHARE = 0.05
"""Of the teacher's answers. Below it more than 19 of 20 escalations bring back what the student had
said (a judgement)."""
LEAST_EVENTS = 100
"""Inferences before the cascade is compared with anything."""
Z_95 = 1.96


def upper_share(of: int, among: int) -> float:
    """Upper end of Wilson's 95 % interval of a binomial share (Wilson 1927); 1 among none."""
    if among <= 0:
        return 1.0
    share, z2 = of / among, Z_95**2
    middle = share + z2 / (2 * among)
    spread = Z_95 * sqrt(share * (1 - share) / among + z2 / (4 * among**2))
    return min(1.0, (middle + spread) / (1 + z2 / among))


def teacher_never_pays(report: Report, run: Run) -> Iterator[Finding]:
    """Escalations that hardly ever bring another answer, by a bound and not by a few events."""
    answers = report.events.cloud
    changed = min(run.total("changed"), answers)
    upper = upper_share(changed, answers)
    if upper >= CHANGED_SHARE:
        return
    evidence: dict[str, float | int | str] = {
        "answers": answers,
        "changed": changed,
        "changed_share_upper": upper,
    }
    spent = _beyond_the_device(report)
    if spent.joules is not None:
        evidence["joules_beyond_the_device"] = spent.joules
    if changed and spent.joules is not None:
        evidence["joules_per_changed_answer"] = spent.joules / changed
    yield Finding(
        code="teacher_never_pays",
        severity=Severity.WARNING,
        words=f"the teacher's answer differed from the student's in {changed:,} of {answers:,} "
        f"escalations (95 %: below {upper:.2%}){_price(spent, changed)}",
        advice="escalate less: a smaller gate.escalate or a lower gate.threshold of the pipeline; "
        "if answers must not be missed, compare both on labelled data first",
        evidence=evidence,
    )


def _beyond_the_device(report: Report) -> Amount:
    return added(c.whole.total for c in report.components if c.component is not Part.EDGE)


def _price(spent: Amount, changed: int) -> str:
    if spent.joules is None:
        return ""
    if not changed:
        return f"; all of them cost {energy(spent.joules)} beyond the device"
    each = scaled(spent, 1 / changed)
    least = "" if each.complete else "at least "
    bounds = between(each.low, each.high)
    return f"; each that did cost {least}{energy(each.joules)} ({bounds}) beyond the device"


def escalation_costs(report: Report, _: Run) -> Iterator[Finding]:
    """A cascade that uses more than the cloud alone would, by the whole interval."""
    found = report.all_cloud
    difference = found.difference
    if found.verdict is not Verdict.COSTS or difference is None:
        return
    if report.inferences < LEAST_EVENTS or difference.joules is None:
        return
    evidence: dict[str, float | int | str] = {
        "joules_more_per_1000": -difference.joules,
        "escalation_rate": report.escalation_rate or 0.0,
    }
    if difference.high is not None:
        evidence["joules_more_per_1000_at_least"] = -difference.high
    yield Finding(
        code="escalation_costs",
        severity=Severity.WARNING,
        words=f"the cascade uses {energy(-difference.joules)} more per 1,000 inferences than the "
        f"cloud alone would, with {report.escalation_rate or 0:.0%} escalated",
        advice="escalate less (gate.escalate, gate.threshold of the pipeline), a cheaper student, "
        "or no student at all: gate.threshold = 1 asks the teacher every time",
        evidence=evidence,
    )
