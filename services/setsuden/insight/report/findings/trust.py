"""What makes the joules worth less than they could be: unknown, uncalibrated, undeclared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from math import fsum

from setsuden.energy.metering.baseline import OBSERVED_FACTOR
from setsuden.insight.report.findings.machines import listed
from setsuden.insight.report.model import (
    ComponentReport,
    Finding,
    MeterReport,
    Part,
    Report,
    Severity,
)
from setsuden.insight.report.run import PARTS, Metered, Run
from setsuden.schemas.energy import Source
from setsuden.schemas.windows import Access

UNKNOWN_SHARE = 0.01
"""Of a component's time: below it the totals are lower bounds by less than their own intervals."""
DEGRADED_SHARE = 0.05
"""Of a meter's windows. A window now and then is late on any machine (a judgement)."""
DEGRADED_WINDOWS = 20
"""Before a share of windows means something."""
LOST_SHARE = 0.01
"""Of a meter's time: as for unknown joules."""
LOST_SECONDS = 1.0
_GUESSED = frozenset({Source.TABLE_MODEL, Source.DECLARED})
_READ = frozenset({Source.MEASURED, Source.DERIVED, Source.RELAYED})


def unknown_joules(report: Report, _: Run) -> Iterator[Finding]:
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
        words = f"{part}: joules are unknown for {share:.0%} of the time"
        advice = "`setsuden energy doctor` on that machine says why, and what to do"
    else:
        words = f"{part}: {component.note or 'no rows in the run'}"
        advice = f"give `setsuden report` the {part}'s folder of rows too"
    yield Finding(
        code="unknown_joules",
        severity=Severity.WARNING,
        words=f"{words}. The headline is at least what it says",
        advice=advice,
        evidence={"unknown_share": share, "seconds": component.seconds},
    )


def uncalibrated(_: Report, run: Run) -> Iterator[Finding]:
    """Machines whose idle power or whole curve nobody has measured."""
    guessed = [one for one in run.meters if one.sums.meter.source in _GUESSED]
    if guessed:
        yield _uncalibrated(guessed, Severity.INFO, "joules are from a model")
    watched = [one for one in run.meters if _least_seen(one)]
    if watched:
        yield _uncalibrated(watched, Severity.WARNING, "idle power is the least seen so far")


def _least_seen(one: Metered) -> bool:
    row = one.sums.meter
    return row.source in _READ and (row.idle_factor or 1.0) >= OBSERVED_FACTOR


def _uncalibrated(meters: list[Metered], severity: Severity, words: str) -> Finding:
    factor = max(max(one.sums.meter.factor or 1, one.sums.meter.idle_factor or 1) for one in meters)
    return Finding(
        code="uncalibrated",
        severity=severity,
        words=f"{', '.join(_parts(meters))}: {words}, within a factor of {factor:.3g}: "
        f"{_names(meters)}",
        advice="`setsuden energy calibrate` takes three minutes; with --meter human a plug that "
        "you read will do",
        evidence={"factor": factor, "machines": len({one.sums.meter.name for one in meters})},
    )


def _parts(meters: Iterable[Metered]) -> list[Part]:
    found = {one.part for one in meters}
    return [part for part in PARTS if part in found]


def undeclared_access(report: Report, run: Run) -> Iterator[Finding]:
    """Bytes that went some way that nobody has named."""
    meters = [
        one
        for one in run.meters
        if one.sums.meter.access is Access.UNDECLARED and not one.network.complete
    ]
    if meters:
        yield Finding(
            code="undeclared_access",
            severity=Severity.WARNING,
            words=f"network: the way to the broker is undeclared, so its joules are unknown: "
            f"{_names(meters)}",
            advice=f"[energy] access: one of {', '.join(list(Access)[1:])}",
            evidence={
                "bytes": sum(one.sums.wire_bytes for one in meters),
                "escalated": report.events.escalated,
            },
        )


def undeclared_site(_: Report, run: Run) -> Iterator[Finding]:
    """Joules that become no grams, as nobody said where the machine stands."""
    sites: defaultdict[str, list[Metered]] = defaultdict(list)
    for one in run.meters:
        meter = one.sums.meter
        if one.joules.whole.joules and run.assumptions.site(meter).profile is None:
            sites[run.assumptions.site_name(meter)].append(one)
    if sites:
        meters = [one for found in sites.values() for one in found]
        yield Finding(
            code="undeclared_site",
            severity=Severity.INFO,
            words=f"no grid is known for site {listed(sites)}, so no grams: {_names(meters)}",
            advice="[energy] site = 'fr-par-2', or `setsuden report --site-of cloud=fr-par-2`; a "
            "site of your own: `setsuden report --assumptions FILE`",
            evidence={
                "joules": fsum(one.joules.whole.joules or 0.0 for one in meters),
                "machines": len({one.sums.meter.name for one in meters}),
            },
        )


def degraded_windows(report: Report, _: Run) -> Iterator[Finding]:
    """Meters whose sensor was read late, wrapped, or said what cannot be."""
    found = [meter for meter in report.meters if _degraded(meter)]
    if found:
        worst = max(_bad(meter) / meter.windows for meter in found)
        yield Finding(
            code="degraded_windows",
            severity=Severity.WARNING,
            words=f"up to {worst:.0%} of the windows are degraded or quarantined: "
            f"{listed(meter.name for meter in found)}",
            advice="`setsuden energy doctor` tells what a reading costs; a longer "
            "energy.window_seconds or a larger energy.max_core_share reads a slow sensor in time",
            evidence={
                "degraded": sum(meter.degraded_windows for meter in found),
                "quarantined": sum(meter.quarantined_windows for meter in found),
                "windows": sum(meter.windows for meter in found),
            },
        )


def _bad(meter: MeterReport) -> int:
    return meter.degraded_windows + meter.quarantined_windows


def _degraded(meter: MeterReport) -> bool:
    enough = meter.windows >= DEGRADED_WINDOWS
    return enough and _bad(meter) >= DEGRADED_SHARE * meter.windows


def lost_rows(report: Report, _: Run) -> Iterator[Finding]:
    """Time of a meter's life that no row tells of."""
    found = [meter for meter in report.meters if _gaps(meter)]
    if found:
        yield Finding(
            code="lost_rows",
            severity=Severity.WARNING,
            words=f"{fsum(meter.gap_seconds for meter in found):,.0f} s have no rows, and no "
            f"joules in the headline: {listed(meter.name for meter in found)}",
            advice="a larger energy.rows_max_bytes keeps older rows; a clock that is set while the "
            "run goes on leaves a gap too",
            evidence={
                "gap_seconds": fsum(meter.gap_seconds for meter in found),
                "seconds": fsum(meter.seconds for meter in found),
            },
        )


def _gaps(meter: MeterReport) -> bool:
    least = max(LOST_SECONDS, LOST_SHARE * (meter.seconds + meter.gap_seconds))
    return meter.gap_seconds >= least


def _names(meters: Iterable[Metered]) -> str:
    return listed(one.sums.meter.name for one in meters)
