"""One closed window into joules of its runs and one row: who used what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from setsuden.energy.attribution.attribute import (
    Attribution,
    Attributor,
    HostWindow,
    ProcessUse,
    RunUse,
    attribute,
    open_seconds,
)
from setsuden.energy.attribution.intervals import dynamic_factor, idle_part_factor
from setsuden.energy.metering.ledger import MeteredRun, RunLedger, WorkKey
from setsuden.schemas.base import trusted
from setsuden.schemas.energy import (
    WORST_LAST,
    Boundary,
    EnergyReading,
    Method,
    Quality,
    Source,
)
from setsuden.schemas.windows import Counts, WindowRow, WorkRow


class ClosedWindow(NamedTuple):
    """What was seen of one window, before its runs are known."""

    start_ns: int
    """On the monotonic clock, like ``end_ns``."""
    end_ns: int
    wall_ns: int
    """Of its start, UTC."""
    joules: float | None
    idle_watts: float | None
    quality: Quality
    busy_seconds: float
    steal_seconds: float
    process_seconds: float
    counts: Counts

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def idle_joules(self) -> float:
        """The part of its joules that the idle machine would have used."""
        return min(self.joules or 0.0, (self.idle_watts or 0.0) * self.seconds)


@dataclass(frozen=True, slots=True)
class MeterFacts:
    """What is the same for all windows of one meter."""

    meter: str
    source: Source
    boundary: Boundary | None
    factor: float
    """95 % factor of a window's joules."""
    idle_factor: float
    """95 % factor of the idle baseline."""
    reserved_share: float
    exponent: float = 1.0
    """Bend of the machine's dynamic power, where it is calibrated."""
    amortised: WorkKey | None = None
    """Set for a process whose whole CPU time is one work, by messages: a broker."""
    attribute: Attributor = attribute
    """How its windows are split; `setsuden energy verify` also tries wrong ways."""

    def factors(self, closed: ClosedWindow, method: Method) -> tuple[float, float]:
        """95 % factors of a run's dynamic and idle joules in this window."""
        idle = closed.idle_joules
        dynamic = (closed.joules or 0.0) - idle
        return (
            dynamic_factor(self.factor, self.idle_factor, idle, dynamic, method),
            idle_part_factor(self.factor, self.idle_factor),
        )


def settle(closed: ClosedWindow, ledger: RunLedger, facts: MeterFacts) -> WindowRow:
    """Give the window's joules to the runs that lie in it; those it ends are settled."""
    pieces = ledger.closed_in(closed.start_ns, closed.end_ns)
    for late in ledger.late_in(closed.end_ns):
        late.late = True
    uses = [_use(run, share, closed.start_ns, closed.end_ns) for run, share in pieces]
    host = HostWindow(
        closed.seconds,
        closed.joules,
        closed.idle_watts or 0.0,
        closed.busy_seconds,
        facts.exponent,
    )
    process = ProcessUse(closed.process_seconds, facts.reserved_share)
    found = facts.attribute(host, process, uses)
    if found is None:
        for run, _ in pieces:
            run.unknown = True
    else:
        _give([run for run, _ in pieces], found, closed, facts)
    settled_by = partial(_reading, facts, closed.quality)
    for run in ledger.forget_before(closed.end_ns):
        run.settled_by = settled_by
    idle = open_seconds(uses) if found is None else found.idle_seconds
    work = _work(pieces, uses, idle)
    if facts.amortised is not None:
        work = [_amortised(facts.amortised, closed)]
        found = facts.attribute(host, process, [RunUse(closed.process_seconds, 0.0, 0.0)])
    return _row(closed, facts, found, work)


def _use(run: MeteredRun, share: float, start_ns: int, end_ns: int) -> RunUse:
    if share == 1.0:
        return RunUse(
            run.cpu_seconds, (run.start_ns - start_ns) / 1e9, (run.end_ns - start_ns) / 1e9
        )
    opened = (max(run.start_ns, start_ns) - start_ns) / 1e9
    return RunUse(run.cpu_seconds * share, opened, (min(run.end_ns, end_ns) - start_ns) / 1e9)


def _give(
    runs: Sequence[MeteredRun], found: Attribution, closed: ClosedWindow, facts: MeterFacts
) -> None:
    factors = {method: facts.factors(closed, method) for method in {run.method for run in runs}}
    quality = closed.quality
    for run, (dynamic, idle) in zip(runs, found.shares, strict=True):
        by_dynamic, by_idle = factors[run.method]
        run.dynamic += dynamic
        run.idle += idle
        run.low += dynamic / by_dynamic + idle / by_idle
        run.high += dynamic * by_dynamic + idle * by_idle
        if run.quality is not quality:
            run.quality = _worse(run.quality, quality)


def _worse(known: Quality | None, new: Quality) -> Quality:
    return new if known is None else max(known, new, key=WORST_LAST.index)


def _reading(facts: MeterFacts, quality: Quality, run: MeteredRun, items: int) -> EnergyReading:
    """Of one of ``items`` equal parts of the run."""
    items = max(items, 1)
    method = Method.BATCH_WEIGHTED if items > 1 else run.method
    cpu = run.cpu_seconds / items
    if run.unknown or run.quality is None:
        return EnergyReading(cpu_seconds=cpu, method=method, quality=quality)
    return trusted(
        EnergyReading,
        joules=(run.dynamic + run.idle) / items,
        joules_low=run.low / items,
        joules_high=run.high / items,
        dynamic_joules=run.dynamic / items,
        idle_joules=run.idle / items,
        cpu_seconds=cpu,
        source=facts.source,
        boundary=facts.boundary,
        method=method,
        quality=Quality.DEGRADED if run.late else run.quality,
    )


def _work(
    pieces: Sequence[tuple[MeteredRun, float]], uses: Sequence[RunUse], idle: Sequence[float]
) -> list[WorkRow]:
    found: dict[tuple[WorkKey, Method], list[float]] = {}
    for (run, share), use, seconds in zip(pieces, uses, idle, strict=True):
        sums = found.setdefault((run.key, run.method), [0.0, 0.0, 0.0, 0.0])
        sums[0] += share
        sums[1] += run.items * share
        sums[2] += use.cpu_seconds
        sums[3] += seconds
    return [_work_row(key, method, sums) for (key, method), sums in found.items()]


def _work_row(key: WorkKey, method: Method, sums: Sequence[float]) -> WorkRow:
    runs, items, cpu, idle = sums
    return WorkRow(
        pipeline=key.pipeline,
        model=key.model,
        digest=key.digest,
        method=method,
        runs=runs,
        items=items,
        cpu_seconds=cpu,
        idle_seconds=idle,
    )


def _amortised(key: WorkKey, closed: ClosedWindow) -> WorkRow:
    """The whole process, spread over its messages: power does not follow their rate."""
    messages = float(closed.counts.messages)
    return _work_row(key, Method.AMORTISED, (messages, messages, closed.process_seconds, 0.0))


def _row(
    closed: ClosedWindow, facts: MeterFacts, found: Attribution | None, work: Sequence[WorkRow]
) -> WindowRow:
    parts = found.buckets if found is not None else None
    return WindowRow(
        meter=facts.meter,
        start_ns=closed.wall_ns,
        seconds=closed.seconds,
        joules=closed.joules,
        idle_watts=closed.idle_watts,
        quality=closed.quality,
        busy_cpu_seconds=closed.busy_seconds,
        steal_cpu_seconds=closed.steal_seconds,
        process_cpu_seconds=closed.process_seconds,
        work=tuple(work),
        request_dynamic=parts and parts.request_dynamic,
        request_idle=parts and parts.request_idle,
        overhead=parts and parts.overhead,
        idle_unused=parts and parts.idle_unused,
        other=parts and parts.other,
        counts=closed.counts,
    )
