"""Joules and CPU time that buy nothing: idle machines, busy waiting, threads and batches.

A machine here is every meter of one component on one host together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import fsum
from typing import NamedTuple

from setsuden.insight.report.model import Finding, Part, Report, Severity
from setsuden.insight.report.rows.sums import MeterSums, ModelKey, WorkSums
from setsuden.insight.report.totals.run import MACHINE_PARTS, MeterTotals, RunTotals
from setsuden.insight.traces.units import clean
from setsuden.schemas.energy import Method

LEAST_SECONDS = 60.0
"""Under meters, before a machine's power or load is judged; MLPerf Power requires as much."""
_SHOWN = 3
IDLE_WARNING_SHARE = 0.8
"""Of a machine's joules, four times its dynamic part. Published Arm servers idle at 0.29 to 0.59 of
full power, so they pass it below about a tenth to a third of their load (a judgement)."""
OVERHEAD_CORES = 0.15
"""Busy outside runs. An agent idles at 0.00 and Ray at 0.10 cores; onnxruntime's spinning took 0.4
to 0.9 at 20 inferences a second."""
OVERHEAD_TIMES = 3.0
"""The CPU time of the runs. Everything else that a traced escalation costs is 1 to 3 times a small
student's run (measured); spinning was 40 times."""
BUSY_WAIT_MS = 5.0
"""CPU outside runs for each item. A fully traced escalation takes below 1 ms; spinning took 17 to
40 ms."""
STEAL_SHARE = 0.05
"""Of a machine's CPU time. CPU time of one inference moved by up to 40 % under contention
(measured); a twentieth is where waiting shows (a judgement)."""
TWICE_SHARE = 1.05
"""Reserved parts of one machine together, above their rounding."""
BATCH_ITEMS = 1.1
"""Items of a run, at most, for batching not to happen."""
BATCH_BUSY_CORES = 0.5
"""Of the worker: with random arrivals half of them then find it at work, and wait."""
BATCH_SHORT_MS = 1.0
"""CPU of a run. Batching gained 3.7 times as many events a second for a run of 0.03 ms, nothing
worthwhile for one of 3 ms (measured)."""
BATCH_RUNS = 1000
"""The fewest runs whose mean is used."""
RAY = "ray"
"""What the meter of Ray around its replicas is called (``setsuden.services.platform_meter``)."""
LEAST_THREADS = 2
"""Of a model whose CPU time is not its calling thread's alone."""

# -- machines -------------------------------------------------------------------------------------


class MachineUse(NamedTuple):
    """Every meter of one component on one host."""

    part: Part
    meters: tuple[MeterTotals, ...]

    @property
    def name(self) -> str:
        """The names of its meters."""
        return listed(meter.row.name for meter in self.meters)

    @property
    def seconds(self) -> float:
        """Time under meters: lives of one follow each other, different meters run side by side."""
        lives: defaultdict[str, list[float]] = defaultdict(list)
        for meter in self.meters:
            lives[meter.row.name].append(meter.sums.seconds.value)
        return max(fsum(values) for values in lives.values())

    @property
    def outside_cpu(self) -> float:
        """CPU-seconds of our processes outside their runs."""
        return fsum(outside_of(meter) for meter in self.meters)

    @property
    def run_cpu(self) -> float:
        """CPU-seconds of runs."""
        return fsum(meter.sums.run_cpu.value for meter in self.meters)

    @property
    def items(self) -> float:
        """Observations in them, of a broker messages."""
        return fsum(work.items.value for meter in self.meters for work in meter.sums.work.values())

    @property
    def known(self) -> bool:
        """True when any of its joules are."""
        return any(meter.joules.whole.joules is not None for meter in self.meters)

    def joules(self, name: str) -> float:
        """One part of its known joules; meaningless when none are known."""
        return fsum(getattr(meter.joules, name).joules or 0.0 for meter in self.meters)


def outside_of(meter: MeterTotals) -> float:
    """CPU-seconds of one meter's process outside its runs."""
    return max(0.0, meter.sums.process_cpu.value - meter.sums.run_cpu.value)


def machine_uses(run: RunTotals) -> list[MachineUse]:
    """Every machine of every component that has some, in the order of components."""
    meters: defaultdict[tuple[Part, str], list[MeterTotals]] = defaultdict(list)
    for meter in run.meters:
        meters[meter.part, meter.row.host_id].append(meter)
    order = list(Part)
    places = sorted(meters, key=lambda place: (order.index(place[0]), place[1]))
    return [MachineUse(part, tuple(meters[part, host])) for part, host in places]


def by_part(machines: Iterable[MachineUse]) -> Iterator[tuple[Part, list[MachineUse]]]:
    """The machines of each component that has some."""
    known = list(machines)
    for part in MACHINE_PARTS:
        same = [machine for machine in known if machine.part is part]
        if same:
            yield part, same


def of_machines(machines: Sequence[MachineUse], among: int) -> str:
    """``worker-0`` or ``dev-1, dev-2 and 5 more (7 of 24 machines)``."""
    names = listed(meter.row.name for machine in machines for meter in machine.meters)
    return names if among == 1 else f"{names} ({len(machines)} of {among} machines)"


def listed(names: Iterable[str]) -> str:
    """A few names, the rest as a number."""
    shown = sorted({clean(name, 64) for name in names})
    if len(shown) <= _SHOWN:
        return ", ".join(shown)
    return f"{', '.join(shown[: _SHOWN - 1])} and {len(shown) - _SHOWN + 1} more"


# -- idle power ---------------------------------------------------------------------------------


def idle_above_dynamic(_: Report, run: RunTotals) -> Iterator[Finding]:
    """A machine whose idle power outweighs all that is done on it."""
    for part, machines in by_part(machine_uses(run)):
        idle = [machine for machine in machines if _surely_idle(machine)]
        if idle:
            yield _idle_finding(part, idle, len(machines))


def _surely_idle(machine: MachineUse) -> bool:
    """True even if the baseline is as much too high as its 95 % factor allows."""
    factor = max(meter.row.idle_factor or 1.0 for meter in machine.meters)
    idle = machine.joules("idle")
    above = machine.joules("dynamic") + machine.joules("overhead")
    # What a lower baseline would free is dynamic joules, at worst all ours.
    return machine.seconds >= LEAST_SECONDS and idle * (2 / factor - 1) > above


def _idle_finding(part: Part, machines: Sequence[MachineUse], among: int) -> Finding:
    idle = fsum(machine.joules("idle") for machine in machines)
    unused = fsum(machine.joules("idle_unused") for machine in machines)
    above = fsum(machine.joules(name) for machine in machines for name in ("dynamic", "overhead"))
    share = idle / (idle + above)
    return Finding(
        code="idle_above_dynamic",
        severity=Severity.WARNING if share >= IDLE_WARNING_SHARE else Severity.INFO,
        words=f"{part}: {share:.0%} of the joules are idle power on {of_machines(machines, among)}",
        advice=_IDLE_ADVICE[part],
        evidence={
            "idle_joules": idle,
            "idle_unused_joules": unused,
            "dynamic_and_overhead_joules": above,
            "idle_share": share,
            "seconds": fsum(machine.seconds for machine in machines),
        },
    )


_IDLE_ADVICE = {
    Part.EDGE: "more pipelines or other work on the same machine, or one that idles lower; "
    "[energy] reserved_share, if the agent does not have it to itself",
    Part.BROKER: "put nats-server on a machine that does other work too, and declare its part with "
    "[energy] reserved_share",
    Part.CLOUD: "fewer replicas for this load: a larger serve.target_lag, serve.min_replicas = 0, "
    "a shorter serve.downscale_delay_seconds; a smaller reservation: serve.num_cpus; or several "
    "pipelines on one node",
}


def idle_claimed_twice(_: Report, run: RunTotals) -> Iterator[Finding]:
    """Processes of one machine that together answer for more than its idle power."""
    hosts: defaultdict[str, list[MeterSums]] = defaultdict(list)
    for meter in run.meters:
        if meter.joules.whole.joules is not None:
            hosts[meter.row.host_id].append(meter.sums)
    claimed = {host: _claimed(meters) for host, meters in sorted(hosts.items())}
    twice = {host: share for host, share in claimed.items() if share > TWICE_SHARE}
    if twice:
        names = listed(sums.row.name for host in twice for sums in hosts[host])
        yield Finding(
            code="idle_claimed_twice",
            severity=Severity.WARNING,
            words=f"processes on one machine answer for {max(twice.values()):.3g} times its idle "
            f"power: {names}. The headline is too high",
            advice="[energy] reserved_share of each, together at most 1; machines that only look "
            "like one: traces.host_id",
            evidence={"machines": len(twice), "reserved_share": max(twice.values())},
        )


def _claimed(meters: Sequence[MeterSums]) -> float:
    """The reserved part of the machine, over the time from its first to its last window."""
    starts = [start for sums in meters for start in sums.timeline.start_ns]
    ends = [
        start + seconds * 1e9
        for sums in meters
        for start, seconds in zip(sums.timeline.start_ns, sums.timeline.seconds, strict=True)
    ]
    whole = (max(ends) - min(starts)) / 1e9
    claimed = fsum(sums.row.reserved_share * sums.seconds.value for sums in meters)
    return claimed / whole if whole >= LEAST_SECONDS else 0.0


# -- CPU time outside runs ----------------------------------------------------------------------


def overhead_above_requests(_: Report, run: RunTotals) -> Iterator[Finding]:
    """Processes that are busy without inferring: what spinning looks like from outside."""
    for part, machines in by_part(machine_uses(run)):
        busy = [machine for machine in machines if _busy_outside(machine)]
        if busy:
            yield _overhead_finding(part, busy, len(machines))


def _busy_outside(machine: MachineUse) -> bool:
    outside, seconds = machine.outside_cpu, machine.seconds
    return (
        seconds >= LEAST_SECONDS
        and outside >= OVERHEAD_CORES * seconds
        and outside > OVERHEAD_TIMES * machine.run_cpu
    )


def _overhead_finding(part: Part, machines: Sequence[MachineUse], among: int) -> Finding:
    outside = fsum(machine.outside_cpu for machine in machines)
    runs = fsum(machine.run_cpu for machine in machines)
    seconds = fsum(machine.seconds for machine in machines)
    items = fsum(machine.items for machine in machines)
    times = f"{outside / runs:.3g} times their runs" if runs > 0 else "and ran nothing"
    evidence: dict[str, float | int | str] = {
        "outside_cpu_seconds": outside,
        "run_cpu_seconds": runs,
        "cores_busy_outside": outside / seconds,
    }
    if all(machine.known for machine in machines):
        evidence["overhead_joules"] = fsum(machine.joules("overhead") for machine in machines)
    if items > 0:
        evidence["outside_ms_per_item"] = outside * 1000 / items
    return Finding(
        code="overhead_above_requests",
        severity=Severity.WARNING,
        words=f"{part}: our processes used {outside:,.0f} CPU-seconds outside their runs, {times}, "
        f"on {of_machines(machines, among)}",
        advice=_overhead_advice(part, machines, outside, items),
        evidence=evidence,
    )


def _overhead_advice(
    part: Part, machines: Sequence[MachineUse], outside: float, items: float
) -> str:
    meters = [meter for machine in machines for meter in machine.meters]
    ray = fsum(outside_of(meter) for meter in meters if meter.row.name == RAY)
    if ray * 2 > outside:
        return "most of it is Ray itself: `setsuden worker run` serves a teacher without it"
    if items <= 0 or outside * 1000 / items >= BUSY_WAIT_MS:
        return (
            "it looks like threads that spin or poll: `python benchmarks/models.py BUNDLE` "
            "measures what spinning costs here; other libraries in the process have pools of their "
            "own (OMP_WAIT_POLICY=PASSIVE)"
        )
    if part is Part.EDGE:
        return "a smaller traces.easy_share, log_level = 'warning', or a lower gate threshold"
    return "traces.enabled = false shows what spans cost; a larger worker.max_batch"


# -- threads and batches ------------------------------------------------------------------------


def threads_over_cores(_: Report, run: RunTotals) -> Iterator[Finding]:
    """Models with a pool of threads where one core is reserved: known, as their method says so."""
    pools = [
        (meter, key)
        for meter in run.meters
        for key, work in sorted(meter.sums.work.items())
        if _pool_on_one_core(meter, key, work)
    ]
    if pools:
        models = listed(key.model for _, key in pools)
        cores = min(_reserved_cores(meter) for meter, _ in pools)
        yield Finding(
            code="threads_over_cores",
            severity=Severity.WARNING,
            words=f"{models} runs with {LEAST_THREADS} or more threads where {cores:.3g} cores are "
            f"reserved, on {listed(meter.row.name for meter, _ in pools)}",
            advice="threads = 1 of the model in bundle.toml; or a larger serve.num_cpus or "
            "[energy] reserved_share, so that the idle power it keeps busy is counted",
            evidence={"reserved_cores": cores, "threads_at_least": LEAST_THREADS},
        )


def _reserved_cores(meter: MeterTotals) -> float:
    return meter.row.cores * meter.row.reserved_share


def _pool_on_one_core(meter: MeterTotals, key: ModelKey, work: WorkSums) -> bool:
    """A single-threaded model is timed by its thread's clock, any other by the process's."""
    pool = key.method is Method.EXCLUSIVE and work.runs.value > 0
    return pool and meter.part is not Part.BROKER and _reserved_cores(meter) < LEAST_THREADS * 0.75


def batches_of_one(_: Report, run: RunTotals) -> Iterator[Finding]:
    """A teacher that runs each item alone while others wait, and is short enough to gain."""
    alone = [
        (meter, key, work)
        for meter in run.of(Part.CLOUD)
        for key, work in sorted(meter.sums.work.items())
        if _alone(meter, work)
    ]
    if alone:
        runs = fsum(work.runs.value for _, _, work in alone)
        ms = fsum(work.cpu.value for _, _, work in alone) * 1000 / runs
        items = fsum(work.items.value for _, _, work in alone) / runs
        yield Finding(
            code="batches_of_one",
            severity=Severity.WARNING,
            words=f"{listed(key.model for _, key, _ in alone)} ran {items:.2f} items at a time, "
            f"{ms:.2g} ms each, though the worker was busy and others must have waited",
            advice="raise worker.max_batch, or max_batch of the model in bundle.toml: a worker "
            "takes together what is queued, and waits for nothing",
            evidence={
                "items_per_run": items,
                "runs": runs,
                "cpu_ms_per_run": ms,
                "cores_busy": min(_cores_busy(meter) for meter, _, _ in alone),
            },
        )


def _alone(meter: MeterTotals, work: WorkSums) -> bool:
    runs = work.runs.value
    return (
        runs >= BATCH_RUNS
        and meter.sums.seconds.value >= LEAST_SECONDS
        and work.items.value <= BATCH_ITEMS * runs
        and work.cpu.value * 1000 <= BATCH_SHORT_MS * runs
        and _cores_busy(meter) >= BATCH_BUSY_CORES
    )


def _cores_busy(meter: MeterTotals) -> float:
    return meter.sums.process_cpu.value / meter.sums.seconds.value


# -- the hypervisor -----------------------------------------------------------------------------


def steal(_: Report, run: RunTotals) -> Iterator[Finding]:
    """Guests whose host gave their CPU time to others."""
    for part, machines in by_part(machine_uses(run)):
        worse = [machine for machine in machines if _stolen(machine) >= STEAL_SHARE]
        if worse:
            most = max(map(_stolen, worse))
            yield Finding(
                code="steal",
                severity=Severity.WARNING,
                words=f"{part}: the hypervisor took up to {most:.1%} of the CPU time for others, "
                f"on {of_machines(worse, len(machines))}",
                advice="an instance with cores of its own, or another host; times and CPU-seconds "
                "of this run are those of a contended machine",
                evidence={"steal_share": most, "machines": len(worse)},
            )


def _stolen(machine: MachineUse) -> float:
    """By the meter that saw most of the machine: each sees the same steal."""
    sums = max((meter.sums for meter in machine.meters), key=lambda sums: sums.seconds.value)
    whole = sums.seconds.value * sums.row.cores
    return sums.steal_cpu.value / whole if sums.seconds.value >= LEAST_SECONDS else 0.0
