"""What a run's figures suggest changing: waste, and joules that are less certain than they look.

Pure: from the run alone, so ``--recompute`` finds the same ones again. A finding needs enough data;
a run that is short, or in which nothing is wrong, has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from math import fsum, sqrt

from setsuden.energy.metering.baseline import OBSERVED_FACTOR
from setsuden.insight.report.figures.waste import (
    batches_of_one,
    idle_above_dynamic,
    idle_claimed_twice,
    listed,
    overhead_above_requests,
    steal,
    threads_over_cores,
)
from setsuden.insight.report.model import (
    Amount,
    ComponentReport,
    Finding,
    MeterReport,
    Part,
    Report,
    Severity,
    Verdict,
)
from setsuden.insight.report.totals.amounts import added, scaled
from setsuden.insight.report.totals.breakdown import MEASURED
from setsuden.insight.report.totals.run import MACHINE_PARTS, MeterTotals, RunTotals
from setsuden.insight.traces.units import between, energy
from setsuden.schemas.energy import Source
from setsuden.schemas.windows import Access

CHANGED_SHARE = 0.05
"""Of the teacher's answers. Below it more than 19 of 20 escalations bring back what the student had
said (a judgement)."""
LEAST_EVENTS = 100
"""Inferences before the cascade is compared with anything."""
Z_95 = 1.96
UNKNOWN_SHARE = 0.01
"""Of a component's time: below it the totals are lower bounds by less than their own intervals."""
DEGRADED_SHARE = 0.05
"""Of a meter's windows. A window now and then is late on any machine (a judgement)."""
DEGRADED_WINDOWS = 20
"""The fewest windows of which a share is judged."""
LOST_SHARE = 0.01
"""Of a meter's time: as for unknown joules."""
LOST_SECONDS = 1.0
_GUESSED = frozenset({Source.TABLE_MODEL, Source.DECLARED})

# -- whether the cascade pays ---------------------------------------------------------------------


def upper_share(of: int, among: int) -> float:
    """Upper end of Wilson's 95 % interval of a binomial share (Wilson 1927); 1 among none."""
    if among <= 0:
        return 1.0
    share, z2 = of / among, Z_95**2
    middle = share + z2 / (2 * among)
    spread = Z_95 * sqrt(share * (1 - share) / among + z2 / (4 * among**2))
    return min(1.0, (middle + spread) / (1 + z2 / among))


def teacher_never_pays(report: Report, run: RunTotals) -> Iterator[Finding]:
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


def escalation_costs(report: Report, _: RunTotals) -> Iterator[Finding]:
    """A cascade that uses more than the cloud alone would, by the whole interval."""
    difference = report.all_cloud.difference
    if report.all_cloud.verdict is not Verdict.COSTS or difference is None:
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


# -- what the joules are worth --------------------------------------------------------------------


def unknown_joules(report: Report, _: RunTotals) -> Iterator[Finding]:
    """Components of which the headline holds nothing, or not all."""
    for component in report.components:
        if component.component is not Part.NETWORK and not component.whole.total.complete:
            yield from _unknown(component)


def _unknown(component: ComponentReport) -> Iterator[Finding]:
    share = component.unknown_seconds / component.seconds if component.seconds > 0 else 1.0
    if share < UNKNOWN_SHARE:
        return
    part = component.component
    if component.meters:
        text = f"{part}: joules are unknown for {share:.0%} of the time"
        advice = "`setsuden energy doctor` on that machine says why, and what to do"
    else:
        text = f"{part}: {component.note or 'no rows in the run'}"
        advice = f"give `setsuden report` the {part}'s folder of rows too"
    yield Finding(
        code="unknown_joules",
        severity=Severity.WARNING,
        words=f"{text}. The headline is at least what it says",
        advice=advice,
        evidence={"unknown_share": share, "seconds": component.seconds},
    )


def uncalibrated(_: Report, run: RunTotals) -> Iterator[Finding]:
    """Machines whose idle power or power curve was never measured."""
    guessed = [meter for meter in run.meters if meter.row.source in _GUESSED]
    if guessed:
        yield _uncalibrated(guessed, Severity.INFO, "joules are from a model")
    watched = [meter for meter in run.meters if _least_seen(meter)]
    if watched:
        yield _uncalibrated(watched, Severity.WARNING, "idle power is the least seen so far")


def _least_seen(meter: MeterTotals) -> bool:
    row = meter.row
    return row.source in MEASURED and (row.idle_factor or 1.0) >= OBSERVED_FACTOR


def _uncalibrated(meters: list[MeterTotals], severity: Severity, text: str) -> Finding:
    factor = max(max(meter.row.factor or 1, meter.row.idle_factor or 1) for meter in meters)
    return Finding(
        code="uncalibrated",
        severity=severity,
        words=f"{', '.join(_parts(meters))}: {text}, within a factor of {factor:.3g}: "
        f"{_names(meters)}",
        advice="`setsuden energy calibrate` takes three minutes; with --meter human a plug that "
        "you read will do",
        evidence={"factor": factor, "machines": len({meter.row.name for meter in meters})},
    )


def _parts(meters: Iterable[MeterTotals]) -> list[Part]:
    parts = {meter.part for meter in meters}
    return [part for part in MACHINE_PARTS if part in parts]


def undeclared_access(report: Report, run: RunTotals) -> Iterator[Finding]:
    """Bytes sent over an undeclared access."""
    meters = [
        meter
        for meter in run.meters
        if meter.row.access is Access.UNDECLARED and not meter.network.complete
    ]
    if meters:
        yield Finding(
            code="undeclared_access",
            severity=Severity.WARNING,
            words=f"network: the way to the broker is undeclared, so its joules are unknown: "
            f"{_names(meters)}",
            advice=f"[energy] access: one of {', '.join(list(Access)[1:])}",
            evidence={
                "bytes": sum(meter.sums.wire_bytes for meter in meters),
                "escalated": report.events.escalated,
            },
        )


def undeclared_site(_: Report, run: RunTotals) -> Iterator[Finding]:
    """Joules without grams, because the machine's site is undeclared."""
    sites: defaultdict[str, list[MeterTotals]] = defaultdict(list)
    for meter in run.meters:
        if meter.joules.whole.joules and run.assumptions.site(meter.row).profile is None:
            sites[run.assumptions.site_name(meter.row)].append(meter)
    if sites:
        meters = [meter for same in sites.values() for meter in same]
        yield Finding(
            code="undeclared_site",
            severity=Severity.INFO,
            words=f"no grid is known for site {listed(sites)}, so no grams: {_names(meters)}",
            advice="[energy] site = 'fr-par-2', or `setsuden report --site-of cloud=fr-par-2`; a "
            "site of your own: `setsuden report --assumptions FILE`",
            evidence={
                "joules": fsum(meter.joules.whole.joules or 0.0 for meter in meters),
                "machines": len({meter.row.name for meter in meters}),
            },
        )


def degraded_windows(report: Report, _: RunTotals) -> Iterator[Finding]:
    """Meters whose sensor was read late, wrapped, or gave impossible values."""
    degraded = [meter for meter in report.meters if _degraded(meter)]
    if degraded:
        worst = max(_bad(meter) / meter.windows for meter in degraded)
        yield Finding(
            code="degraded_windows",
            severity=Severity.WARNING,
            words=f"up to {worst:.0%} of the windows are degraded or quarantined: "
            f"{listed(meter.name for meter in degraded)}",
            advice="`setsuden energy doctor` tells what a reading costs; a longer "
            "energy.window_seconds or a larger energy.max_core_share reads a slow sensor in time",
            evidence={
                "degraded": sum(meter.degraded_windows for meter in degraded),
                "quarantined": sum(meter.quarantined_windows for meter in degraded),
                "windows": sum(meter.windows for meter in degraded),
            },
        )


def _bad(meter: MeterReport) -> int:
    return meter.degraded_windows + meter.quarantined_windows


def _degraded(meter: MeterReport) -> bool:
    enough = meter.windows >= DEGRADED_WINDOWS
    return enough and _bad(meter) >= DEGRADED_SHARE * meter.windows


def lost_rows(report: Report, _: RunTotals) -> Iterator[Finding]:
    """Time of a meter's life without rows."""
    lossy = [meter for meter in report.meters if _gaps(meter)]
    if lossy:
        yield Finding(
            code="lost_rows",
            severity=Severity.WARNING,
            words=f"{fsum(meter.gap_seconds for meter in lossy):,.0f} s have no rows, and no "
            f"joules in the headline: {listed(meter.name for meter in lossy)}",
            advice="a larger energy.rows_max_bytes keeps older rows; a clock that is set while the "
            "run goes on leaves a gap too",
            evidence={
                "gap_seconds": fsum(meter.gap_seconds for meter in lossy),
                "seconds": fsum(meter.seconds for meter in lossy),
            },
        )


def _gaps(meter: MeterReport) -> bool:
    least = max(LOST_SECONDS, LOST_SHARE * (meter.seconds + meter.gap_seconds))
    return meter.gap_seconds >= least


def _names(meters: Iterable[MeterTotals]) -> str:
    return listed(meter.row.name for meter in meters)


# -- all of them ----------------------------------------------------------------------------------


Rule = Callable[[Report, RunTotals], Iterator[Finding]]
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
_WORST_FIRST = tuple(reversed(Severity))


def findings(report: Report, run: RunTotals) -> tuple[Finding, ...]:
    """Everything that a person may want to act on, the worst first."""
    all_findings = (finding for rule in RULES for finding in rule(report, run))
    return tuple(sorted(all_findings, key=lambda finding: _WORST_FIRST.index(finding.severity)))
