"""The run's joules by component, machine, meter and model; which are measured, which unknown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import fsum

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
from setsuden.insight.report.rows.sums import MeterSums, ModelKey, WorkSums
from setsuden.insight.report.totals.amounts import NOTHING, UNKNOWN, added, cell, ratio, scaled
from setsuden.insight.report.totals.meters import WITHOUT_RATE, shares_of
from setsuden.insight.report.totals.run import MeterTotals, RunTotals, seconds_of
from setsuden.schemas.energy import Source

MEASURED = frozenset({Source.MEASURED, Source.DERIVED, Source.RELAYED})
MODELLED = frozenset({Source.CALIBRATED_MODEL, Source.TABLE_MODEL})
_CLOCK_SECONDS = 0.05
"""Gaps up to this are skew between wall and monotonic clock, not missing rows."""
_ROUNDING = 1e-9


def components_of(run: RunTotals) -> tuple[ComponentReport, ...]:
    """All four, also those without rows."""
    return tuple(_network(run) if part is Part.NETWORK else _component(run, part) for part in Part)


def _component(run: RunTotals, part: Part) -> ComponentReport:
    meters = run.of(part)
    if not meters:
        return _absent(run, part)

    def of(name: str) -> Cell:
        return cell(added(getattr(meter.joules, name) for meter in meters), run.inferences)

    process = fsum(meter.sums.process_cpu.value for meter in meters)
    return ComponentReport(
        component=part,
        whole=of("whole"),
        dynamic=of("dynamic"),
        idle=of("idle"),
        overhead=of("overhead"),
        idle_unused=added(meter.joules.idle_unused for meter in meters),
        other=added(meter.joules.other for meter in meters),
        cpu_seconds=process,
        inference_cpu_seconds=fsum(meter.sums.run_cpu.value for meter in meters),
        cpu_seconds_per_1000=ratio(process * 1000, run.inferences),
        utilisation=_utilisation(meters),
        meters=len(meters),
        seconds=seconds_of(meters),
        unknown_seconds=fsum(meter.sums.unknown_seconds for meter in meters),
        note=_note(meters),
    )


def _note(meters: Sequence[MeterTotals]) -> str:
    silent = sorted({meter.row.name for meter in meters if meter.joules.whole.joules is None})
    if len(silent) == len({meter.row.name for meter in meters}):
        return "no joules could be read: `setsuden energy doctor` says why"
    return f"no joules from {', '.join(silent)}" if silent else ""


def _absent(run: RunTotals, part: Part) -> ComponentReport:
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


def _network(run: RunTotals) -> ComponentReport:
    whole = cell(added(meter.network for meter in run.meters), run.inferences)
    note = _network_note(run) if run.wire_bytes else "no bytes counted"
    return _bare(Part.NETWORK, whole, note, dynamic=whole)


def _network_note(run: RunTotals) -> str:
    """What is left out; empty when nothing is."""
    without = [m for m in run.meters if m.sums.wire_bytes and m.network.joules is None]
    notes = []
    near = sorted({m.row.access for m in without if m.row.access in WITHOUT_RATE})
    if near:
        notes.append(f"{' and '.join(near)}: no figure exists, left out")
    if any(not meter.network.complete for meter in without):
        notes.append("access undeclared: unknown; [energy] access declares it")
    return "; ".join(notes)


def _utilisation(meters: Sequence[MeterTotals]) -> Utilisation:
    """Each machine's CPU time once, however many of our processes run on it."""
    hosts = [meter for same in _by_host(meters).values() for meter in _widest(same)]
    whole = fsum(meter.sums.seconds.value * meter.row.cores for meter in hosts)

    def part(name: str, of: Iterable[MeterTotals]) -> float | None:
        return ratio(fsum(getattr(meter.sums, name).value for meter in of), whole)

    return Utilisation(
        machine=part("busy_cpu", hosts),
        ours=part("process_cpu", meters),
        inference=part("run_cpu", meters),
        steal=part("steal_cpu", hosts),
    )


def _by_host(meters: Iterable[MeterTotals]) -> dict[str, list[MeterTotals]]:
    hosts: defaultdict[str, list[MeterTotals]] = defaultdict(list)
    for meter in meters:
        hosts[meter.row.host_id].append(meter)
    return hosts


def _widest(meters: Sequence[MeterTotals]) -> list[MeterTotals]:
    """All lives of the one meter that saw most of the machine: the others saw the same."""
    lives: defaultdict[tuple[Part, str], list[MeterTotals]] = defaultdict(list)
    for meter in meters:
        lives[meter.part, meter.row.name].append(meter)
    return max(lives.values(), key=seconds_of)


# -- where the joules come from ---------------------------------------------------------------


def coverage_of(run: RunTotals, components: Sequence[ComponentReport]) -> Coverage:
    """Shares of the headline by source, and what is missing from it."""
    joules: defaultdict[Source, list[float]] = defaultdict(list)
    for meter in run.meters:
        for amount in (meter.joules.whole, meter.network):
            if amount.joules is not None:
                joules[amount.source].append(amount.joules)
    sums = {source: fsum(values) for source, values in sorted(joules.items())}
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
        unknown=tuple(text for component in components if (text := _unknown(component))),
        unknown_seconds_share=ratio(
            fsum(meter.sums.unknown_seconds for meter in run.meters), seconds_of(run.meters)
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


def machines_of(run: RunTotals) -> tuple[MachineReport, ...]:
    """Every machine once, whichever of our components ran on it."""
    hosts = _by_host(run.meters)
    return tuple(_machine(host, meters) for host, meters in sorted(hosts.items()))


def _machine(host: str, meters: Sequence[MeterTotals]) -> MachineReport:
    lives: defaultdict[tuple[Part, str], list[float]] = defaultdict(list)
    for meter in meters:
        if meter.joules.whole.joules is not None:
            lives[meter.part, meter.row.name].append(meter.sums.joules.value)
    # Meters of one machine see the same joules; lives of one meter follow each other.
    joules = max((fsum(values) for values in lives.values()), default=None)
    ours = added(meter.joules.whole for meter in meters).joules
    known = joules is not None and ours is not None and ours <= joules * (1 + _ROUNDING)
    return MachineReport(
        host_id=host,
        components=tuple(sorted({meter.part for meter in meters})),
        joules=joules,
        ours=ours,
        other=max(0.0, (joules or 0.0) - (ours or 0.0)) if known else None,
    )


def meter_reports(run: RunTotals) -> tuple[MeterReport, ...]:
    """Every meter's life."""
    return tuple(_meter(meter) for meter in run.meters)


def _meter(meter: MeterTotals) -> MeterReport:
    sums, row = meter.sums, meter.row
    known = sums.unknown < sums.windows
    seconds = sums.known_seconds.value
    joules = sums.joules.value if known else None
    same = row.model_dump(include=set(MeterReport.model_fields) & set(type(row).model_fields))
    return MeterReport(
        **same | {"component": meter.part},
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
    windows, end, gaps = sums.timeline, 0, []
    for place in windows.order():
        start = windows.start_ns[place]
        if end and (start - end) / 1e9 > _CLOCK_SECONDS:
            gaps.append((start - end) / 1e9)
        end = max(end, start + round(windows.seconds[place] * 1e9))
    return fsum(gaps)


def models_of(run: RunTotals) -> tuple[ModelReport, ...]:
    """Every model in every pipeline, over all machines of its component."""
    works: defaultdict[tuple[Part, ModelKey], list[tuple[MeterSums, WorkSums]]] = defaultdict(list)
    for meter in run.meters:
        for key, work in meter.sums.work.items():
            works[meter.part, key].append((meter.sums, work))
    return tuple(_model(*place, works[place]) for place in sorted(works))


def _model(part: Part, key: ModelKey, works: Sequence[tuple[MeterSums, WorkSums]]) -> ModelReport:
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
    """Counts only items in windows with joules, so it is complete even where some have none."""
    if items <= 0 or whole.joules is None:
        return None
    return scaled(whole, 1000 / items).model_copy(update={"complete": True})
