"""What a run's figures say should be changed: waste, and joules that are worth less than they seem.

Pure: from the run alone, so ``--recompute`` finds the same ones again. A finding needs enough data
to stand on; a run that is short, or in which nothing is wrong, has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from setsuden.insight.report.findings.cascade import escalation_costs, teacher_never_pays
from setsuden.insight.report.findings.trust import (
    degraded_windows,
    lost_rows,
    uncalibrated,
    undeclared_access,
    undeclared_site,
    unknown_joules,
)
from setsuden.insight.report.findings.waste import (
    batches_of_one,
    idle_above_dynamic,
    idle_claimed_twice,
    overhead_above_requests,
    steal,
    threads_over_cores,
)
from setsuden.insight.report.model import Finding, Report, Severity
from setsuden.insight.report.run import Run

Rule = Callable[[Report, Run], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    unknown_joules,
    idle_claimed_twice,
    teacher_never_pays,
    escalation_costs,
    idle_above_dynamic,
    overhead_above_requests,
    threads_over_cores,
    batches_of_one,
    steal,
    degraded_windows,
    lost_rows,
    uncalibrated,
    undeclared_access,
    undeclared_site,
)
"""What makes the headline wrong first, then what saves most, then what makes it better known."""
_WORST_FIRST = (Severity.ERROR, Severity.WARNING, Severity.INFO)


def findings(report: Report, run: Run) -> tuple[Finding, ...]:
    """Everything that a person may want to act on, the worst first."""
    found = [finding for rule in RULES for finding in rule(report, run)]
    return tuple(sorted(found, key=lambda one: _WORST_FIRST.index(one.severity)))
