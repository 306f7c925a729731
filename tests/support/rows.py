"""Rows of energy that are consistent in themselves, as meters write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from setsuden.energy.attribution.attribute import HostWindow, ProcessUse, buckets
from setsuden.schemas.energy import Boundary, Method, Quality, Source
from setsuden.schemas.windows import (
    Access,
    Component,
    Counts,
    DomainRow,
    MeterRow,
    WindowRow,
    WorkRow,
)

START_NS = 1_764_000_000_000_000_000
"""2025-11-24 16:00 UTC."""
SECOND = 10**9
DIGEST = "sha256:" + "d" * 64


def meter(component: Component = Component.EDGE, name: str = "dev-1", **changes: Any) -> MeterRow:
    """A meter's row; a machine of its own with a package counter."""
    row = MeterRow(
        meter=f"{component.value}-{name}",
        component=component,
        name=name,
        host_id=f"host-{name}",
        site="fr-par-2",
        access=Access.FIXED,
        cores=4,
        reserved_share=1.0,
        reserved_why="the whole machine",
        sensor="rapl",
        origin="a test's counter",
        domains=(
            DomainRow(
                id="intel-rapl:0",
                name="package-0",
                hw_type="cpu",
                kind="counter",
                source=Source.MEASURED,
                boundary=Boundary.CPU_PACKAGE,
                factor=1.1,
                primary=True,
            ),
        ),
        source=Source.MEASURED,
        boundary=Boundary.CPU_PACKAGE,
        factor=1.1,
        idle_factor=1.05,
        idle_origin="calibrated",
        window_seconds=1.0,
        software="setsuden 0.1.0",
        config_sha256="c" * 64,
        started_ns=START_NS,
    )
    return row.model_copy(update=changes)


def silent(component: Component = Component.EDGE, name: str = "dev-1", **changes: Any) -> MeterRow:
    """A meter without any source of joules."""
    none = {"source": Source.NONE, "boundary": None, "factor": None, "idle_factor": None}
    return meter(component, name, **{"sensor": "none", "domains": ()} | none | changes)


def work(items: float, cpu_seconds: float, model: str = "meter/student", **changes: Any) -> WorkRow:
    """Runs of one model."""
    row = WorkRow(
        pipeline="meter",
        model=model,
        digest=DIGEST,
        method=Method.EXCLUSIVE,
        runs=items,
        items=items,
        cpu_seconds=cpu_seconds,
        idle_seconds=min(cpu_seconds, 0.9),
    )
    return row.model_copy(update=changes)


def window(
    of: MeterRow,
    place: int,
    *works: WorkRow,
    joules: float | None = 10.0,
    process: float = 0.8,
    busy: float = 1.0,
    idle_watts: float | None = 4.0,
    seconds: float = 1.0,
    counts: Counts = Counts(),  # noqa: B008  # frozen
    quality: Quality = Quality.OK,
) -> WindowRow:
    """The ``place``-th second of a meter, its buckets computed as the meter does."""
    found = buckets(
        HostWindow(seconds, joules, idle_watts or 0.0, busy, of.exponent),
        ProcessUse(process, of.reserved_share),
        sum(one.cpu_seconds for one in works),
        sum(one.idle_seconds for one in works),
    )
    return WindowRow(
        meter=of.meter,
        start_ns=START_NS + place * SECOND,
        seconds=seconds,
        joules=joules,
        idle_watts=idle_watts,
        quality=quality,
        busy_cpu_seconds=busy,
        steal_cpu_seconds=0.0,
        process_cpu_seconds=process,
        work=works,
        request_dynamic=found and found.request_dynamic,
        request_idle=found and found.request_idle,
        overhead=found and found.overhead,
        idle_unused=found and found.idle_unused,
        other=found and found.other,
        counts=counts,
    )


def text(of: MeterRow, windows: Iterable[WindowRow]) -> str:
    """A file of rows."""
    lines = [of.model_dump_json()]
    lines += [row.model_dump_json(exclude_defaults=True) for row in windows]
    return "".join(f"{line}\n" for line in lines)


def write(folder: Path, of: MeterRow, windows: Sequence[WindowRow], number: int = 0) -> Path:
    """The rows in a file of their meter's own folder."""
    path = folder / of.component / of.name / f"{of.meter}-{number:04d}.rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(of, windows), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Scene:
    """A run: meters and their windows."""

    meters: dict[MeterRow, list[WindowRow]] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """One file a meter; the folder."""
        for of, windows in self.meters.items():
            write(folder, of, windows)
        return folder

    def split(self, folder: Path, every: int) -> Path:
        """The same rows in many files, later ones first in the order of names."""
        for of, windows in self.meters.items():
            parts = [windows[place : place + every] for place in range(0, len(windows), every)]
            for number, part in enumerate(reversed(parts)):
                write(folder, of, part, number)
        return folder


def device(of: MeterRow, seconds: int = 10, **changes: Any) -> list[WindowRow]:
    """A device that answers 100 events a second and escalates 10 of them."""
    counts = Counts(
        local=88,
        cloud=10,
        expired=1,
        dead=1,
        escalated=10,
        bytes_up=100_000,
        bytes_down=8_000,
        packets=120,
    )
    return [window(of, place, work(100, 0.4), counts=counts, **changes) for place in range(seconds)]


def worker(of: MeterRow, seconds: int = 10, **changes: Any) -> list[WindowRow]:
    """A teacher that answers 20 escalations a second."""
    wanted = {"joules": 60.0, "idle_watts": 20.0, "process": 1.6, "busy": 2.0} | changes
    runs = work(20, 1.5, "meter/teacher", method=Method.BATCH_WEIGHTED, runs=5)
    return [
        window(of, place, runs, counts=Counts(answered=20), **wanted) for place in range(seconds)
    ]


def broker(of: MeterRow, seconds: int = 10, **changes: Any) -> list[WindowRow]:
    """A nats-server with 80 messages a second, all of whose work is its messages."""
    wanted = {"joules": 12.0, "idle_watts": 8.0, "process": 0.1, "busy": 0.2} | changes
    messages = work(
        80, wanted["process"], "nats-server", pipeline="*", digest="", method=Method.AMORTISED
    ).model_copy(update={"idle_seconds": 0.0})
    return [
        window(of, place, messages, counts=Counts(messages=80), **wanted)
        for place in range(seconds)
    ]


def cascade(seconds: int = 10, **changes: Any) -> Scene:
    """Two devices, a broker and a worker, each on a machine of its own."""
    devices = [meter(name=f"dev-{number}", **changes) for number in (1, 2)]
    server = meter(Component.BROKER, "nats", access=Access.LAN)
    teacher = meter(Component.CLOUD, "worker-0", access=Access.LAN)
    return Scene(
        {of: device(of, seconds) for of in devices}
        | {server: broker(server, seconds), teacher: worker(teacher, seconds)}
    )
