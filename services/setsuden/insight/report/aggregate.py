"""Meters into components, machines and models; what is measured and what is not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import fsum

from setsuden.insight.report.amounts import NOTHING, UNKNOWN, added, cell, ratio, scaled
from setsuden.insight.report.fold import MeterSums, WorkKey, WorkSums
from setsuden.insight.report.meters import shares_of
from setsuden.insight.report.model import (
    Amount,
    Cell,
    ComponentReport,
    Coverage,
    MachineReport,
    MeterReport,
    ModelReport,
    Part,
    Utilisation,
)
from setsuden.insight.report.network import note_of
from setsuden.insight.report.run import Metered, Run, seconds_of
from setsuden.schemas.energy import Source

MEASURED = frozenset({Source.MEASURED, Source.DERIVED, Source.RELAYED})
MODELLED = frozenset({Source.CALIBRATED_MODEL, Source.TABLE_MODEL})
_CLOCK_SECONDS = 0.05
"""A gap below this is the two clocks of a row, not a missing row."""
_HAIR = 1e-9


def components_of(run: Run) -> tuple[ComponentReport, ...]:
    """All four, those without rows too."""
    return tuple(_network(run) if part is Part.NETWORK else _component(run, part) for part in Part)


def _component(run: Run, part: Part) -> ComponentReport:
    meters = run.of(part)
    if not meters:
        return _absent(run, part)

    def of(name: str) -> Cell:
        return cell(added(getattr(one.joules, name) for one in meters), run.inferences)

    process = fsum(one.sums.process_cpu.value for one in meters)
    return ComponentReport(
        component=part,
        whole=of("whole"),
        dynamic=of("dynamic"),
        idle=of("idle"),
        overhead=of("overhead"),
        idle_unused=added(one.joules.idle_unused for one in meters),
        other=added(one.joules.other for one in meters),
        cpu_seconds=process,
        inference_cpu_seconds=fsum(one.sums.run_cpu.value for one in meters),
        cpu_seconds_per_1000=ratio(process * 1000, run.inferences),
        utilisation=_utilisation(meters),
        meters=len(meters),
        seconds=seconds_of(meters),
        unknown_seconds=fsum(one.sums.unknown_seconds for one in meters),
        note=_note(meters),
    )


def _note(meters: Sequence[Metered]) -> str:
    silent = sorted({one.sums.meter.name for one in meters if one.joules.whole.joules is None})
    if len(silent) == len({one.sums.meter.name for one in meters}):
        return "no joules could be read: `setsuden energy doctor` says why"
    return f"no joules from {', '.join(silent)}" if silent else ""


def _absent(run: Run, part: Part) -> ComponentReport:
    needed = part is Part.EDGE or run.events.escalated > 0
    none = cell(UNKNOWN if needed else NOTHING, run.inferences)
    why = "no rows in the run" if needed else "no rows in the run; nothing was escalated"
    return _bare(part, none, why)


def _bare(part: Part, whole: Cell, note: str, dynamic: Cell | None = None) -> ComponentReport:
    return ComponentReport(
        component=part,
        whole=whole,
        dynamic=dynamic,
        idle=None,
        overhead=None,
        idle_unused=None,
        other=None,
        cpu_seconds=0.0,
        inference_cpu_seconds=0.0,
        cpu_seconds_per_1000=None,
        utilisation=None,
        meters=0,
        seconds=0.0,
        unknown_seconds=0.0,
        note=note,
    )


def _network(run: Run) -> ComponentReport:
    whole = cell(added(one.network for one in run.meters), run.inferences)
    note = note_of([one.sums for one in run.meters], run.assumptions)
    if not run.wire_bytes:
        note = "no bytes counted"
    return _bare(Part.NETWORK, whole, note, dynamic=whole)


def _utilisation(meters: Sequence[Metered]) -> Utilisation:
    """Each machine's CPU time once, however many of our processes run on it."""
    hosts = [_widest(found) for found in _by_host(meters).values()]
    whole = fsum(one.sums.seconds.value * one.sums.meter.cores for host in hosts for one in host)

    def part(name: str, of: Iterable[Metered]) -> float | None:
        return ratio(fsum(getattr(one.sums, name).value for one in of), whole)

    return Utilisation(
        machine=part("busy_cpu", (one for host in hosts for one in host)),
        ours=part("process_cpu", meters),
        inference=part("run_cpu", meters),
        steal=part("steal_cpu", (one for host in hosts for one in host)),
    )


def _by_host(meters: Iterable[Metered]) -> dict[str, list[Metered]]:
    found: defaultdict[str, list[Metered]] = defaultdict(list)
    for one in meters:
        found[one.sums.meter.host_id].append(one)
    return found


def _widest(meters: Sequence[Metered]) -> list[Metered]:
    """Lives of the one meter that saw most of the machine: the others saw the same."""
    lives: defaultdict[tuple[Part, str], list[Metered]] = defaultdict(list)
    for one in meters:
        lives[one.part, one.sums.meter.name].append(one)
    return max(lives.values(), key=seconds_of)


# -- what the joules stand on -----------------------------------------------------------------


def coverage_of(run: Run, components: Sequence[ComponentReport]) -> Coverage:
    """Shares of the headline by source, and what is missing from it."""
    found: defaultdict[Source, list[float]] = defaultdict(list)
    for one in run.meters:
        for amount in (one.joules.whole, one.network):
            if amount.joules is not None:
                found[amount.source].append(amount.joules)
    sums = {source: fsum(values) for source, values in sorted(found.items())}
    whole = fsum(sums.values())
    shares = {source: value / whole for source, value in sums.items()} if whole > 0 else {}

    def share(sources: frozenset[Source]) -> float | None:
        return (
            fsum(value for source, value in shares.items() if source in sources) if shares else None
        )

    return Coverage(
        measured=share(MEASURED),
        modelled=share(MODELLED),
        declared=share(frozenset({Source.DECLARED})),
        by_source=shares,
        unknown=tuple(words for one in components if (words := _unknown(one))),
        unknown_seconds_share=ratio(
            fsum(one.sums.unknown_seconds for one in run.meters), seconds_of(run.meters)
        )
        or 0.0,
    )


def _unknown(component: ComponentReport) -> str:
    if component.whole.total.complete:
        return ""
    if component.note:
        return f"{component.component}: {component.note}"
    seconds = component.unknown_seconds
    return f"{component.component}: {seconds:.0f} of {component.seconds:.0f} s without joules"


# -- machines, meters, models -----------------------------------------------------------------


def machines_of(run: Run) -> tuple[MachineReport, ...]:
    """Every machine once, whoever of ours ran on it."""
    hosts = _by_host(run.meters)
    return tuple(_machine(host, meters) for host, meters in sorted(hosts.items()))


def _machine(host: str, meters: Sequence[Metered]) -> MachineReport:
    lives: defaultdict[tuple[Part, str], list[float]] = defaultdict(list)
    for one in meters:
        if one.joules.whole.joules is not None:
            lives[one.part, one.sums.meter.name].append(one.sums.joules.value)
    # Meters of one machine see the same joules; lives of one meter follow each other.
    joules = max((fsum(values) for values in lives.values()), default=None)
    ours = added(one.joules.whole for one in meters).joules
    known = joules is not None and ours is not None and ours <= joules * (1 + _HAIR)
    return MachineReport(
        host_id=host,
        components=tuple(sorted({one.part for one in meters})),
        joules=joules,
        ours=ours,
        other=max(0.0, (joules or 0.0) - (ours or 0.0)) if known else None,
    )


def meter_reports(run: Run) -> tuple[MeterReport, ...]:
    """Every meter's life."""
    return tuple(_meter(one) for one in run.meters)


def _meter(one: Metered) -> MeterReport:
    sums, row = one.sums, one.sums.meter
    known = sums.unknown < sums.windows
    seconds = sums.known_seconds.value
    joules = sums.joules.value if known else None
    same = row.model_dump(include=set(MeterReport.model_fields) & set(type(row).model_fields))
    return MeterReport(
        **same | {"component": one.part},
        idle_watts=ratio(sums.idle_watt_seconds.value, seconds),
        windows=sums.windows,
        unknown_windows=sums.unknown,
        degraded_windows=sums.degraded,
        quarantined_windows=sums.quarantined,
        gap_seconds=_gaps(sums),
        seconds=sums.seconds.value,
        joules=joules,
        watts=ratio(joules, seconds) if joules is not None else None,
    )


def _gaps(sums: MeterSums) -> float:
    line, end, found = sums.timeline, 0, []
    for place in line.order():
        start = line.start_ns[place]
        if end and (start - end) / 1e9 > _CLOCK_SECONDS:
            found.append((start - end) / 1e9)
        end = max(end, start + round(line.seconds[place] * 1e9))
    return fsum(found)


def models_of(run: Run) -> tuple[ModelReport, ...]:
    """Every model in every pipeline, over all machines of its component."""
    found: defaultdict[tuple[Part, WorkKey], list[tuple[MeterSums, WorkSums]]] = defaultdict(list)
    for one in run.meters:
        for key, work in one.sums.work.items():
            found[one.part, key].append((one.sums, work))
    return tuple(_model(*place, found[place]) for place in sorted(found))


def _model(part: Part, key: WorkKey, works: Sequence[tuple[MeterSums, WorkSums]]) -> ModelReport:
    pairs = [shares_of(s, w.dynamic.value, w.idle.value, key.method) for s, w in works]
    dynamic, idle = (added(column) for column in zip(*pairs, strict=True))
    items = fsum(work.items.value for _, work in works)
    known = fsum(work.known_items.value for _, work in works)
    cpu = fsum(work.cpu.value for _, work in works)
    return ModelReport(
        component=part,
        **key._asdict(),
        runs=fsum(work.runs.value for _, work in works),
        items=items,
        cpu_seconds=cpu,
        cpu_ms_per_item=ratio(cpu * 1000, items),
        dynamic=dynamic,
        idle=idle,
        joules_per_1000_items=_per_1000(added((dynamic, idle)), known),
    )


def _per_1000(whole: Amount, items: float) -> Amount | None:
    """Of items in windows with joules, so it is no lower bound even where some have none."""
    if items <= 0 or whole.joules is None:
        return None
    return scaled(whole, 1000 / items).model_copy(update={"complete": True})
