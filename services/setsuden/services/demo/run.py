"""The demo from start to end: start the fleet, stream events, measure, report, stop."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from setsuden.pipelines import bundle as bundles
from setsuden.pipelines import energy, session
from setsuden.pipelines.gate import probabilities
from setsuden.pipelines.workloads.digits import data
from setsuden.schemas.result import Result
from setsuden.schemas.streams import consumer_name

from . import figures, html, waterfall
from .drive import Outage, Progress, Run, drive, read_results, wait_workers
from .fleet import PIPELINE, REGION, Fleet
from .report_model import Accuracy, DemoReport, Files, Hop, Sample

READY_SECONDS = 120.0
Say = Callable[[str], None]
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the person asked for."""

    folder: Path
    events: int = 500
    rate: float = 100.0
    plain: bool = False
    escalate: float | None = None
    outage_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Observed:
    """What a run left to compute figures from."""

    run: Run
    records: list[Result]
    cpu: dict[str, float]
    metrics: dict[str, float]


def run_demo(options: DemoOptions, say: Say, progress: Progress) -> DemoReport:
    """Run the whole demo; everything it started is stopped, whatever happens."""
    options.folder.mkdir(parents=True, exist_ok=True)
    images, labels = _events(options.events)
    with as_file(files("setsuden.pipelines.workloads") / "digits") as bundle:
        fleet = Fleet(options.folder, bundle, plain=options.plain, escalate=options.escalate)
        try:
            _start(fleet, options, say)
            observed = _observe(fleet, options, images, progress)
        finally:
            say("stopping everything that was started")
            fleet.stop()
        return _report(fleet, options, observed, bundles.load(bundle), images, labels)


def _events(count: int) -> tuple[Array, list[str]]:
    """Real test images and their labels; the test split begins again past its end."""
    test = data.load_splits().test
    places = np.arange(count) % len(test.labels)
    return test.images[places], [str(label) for label in test.labels[places]]


def _start(fleet: Fleet, options: DemoOptions, say: Say) -> None:
    fleet.start_broker()
    say(f"broker  nats-server on {fleet.broker.url}, every acknowledged write synced")
    say(f"cloud   starting {'a plain worker' if options.plain else 'Ray Serve (some seconds)'}")
    fleet.start_cloud()
    asyncio.run(_wait_cloud(fleet))
    say("cloud   a teacher replica is pulling")
    fleet.start_agent()
    fleet.wait_agent(READY_SECONDS)
    say("agent   ready, link up")


async def _wait_cloud(fleet: Fleet) -> None:
    waiting = asyncio.create_task(
        wait_workers(fleet.broker.options, consumer_name(REGION, PIPELINE), READY_SECONDS)
    )
    while not waiting.done():
        fleet.check()
        await asyncio.wait([waiting], timeout=0.5)
    await waiting


def _observe(fleet: Fleet, options: DemoOptions, images: Array, progress: Progress) -> Observed:
    before = fleet.cpu_seconds()
    outage = None
    if options.outage_s > 0:
        outage = Outage(options.outage_s, fleet.broker, fleet.bank_broker)
    run = asyncio.run(
        drive(fleet.broker, list(images), rate=options.rate, outage=outage, progress=progress)
    )
    after = fleet.cpu_seconds()
    metrics = fleet.agent_metrics()
    records = asyncio.run(read_results(fleet.broker.options))
    return Observed(run, records, {tier: after[tier] - before[tier] for tier in after}, metrics)


def _report(  # noqa: PLR0917  # all that a report is made of
    fleet: Fleet,
    options: DemoOptions,
    observed: Observed,
    bundle: bundles.Bundle,
    images: Array,
    labels: list[str],
) -> DemoReport:
    run, metrics = observed.run, observed.metrics
    finals = list(run.finals.values())
    accepted = int(_sum(metrics, "setsuden_accepted_events_total"))
    stored = {record.event_id for record in observed.records if record.is_final}
    model = energy.choose(energy.EnergyOptions())
    cpu = figures.per_1000(observed.cpu, max(accepted, 1))
    trace = _merge_traces(fleet, options.folder)
    cloud: Literal["ray-serve", "plain"] = "plain" if options.plain else "ray-serve"
    report = DemoReport(
        workload=PIPELINE,
        cloud=cloud,
        events=len(labels),
        accepted=accepted,
        final=len(stored),
        lost=accepted - len(stored),
        doubled=figures.doubled(observed.records),
        escalated=sum(r.decision is not None and r.decision.escalates for r in finals),
        expired=figures.expired(observed.records),
        outage_s=round(run.outage_s, 3),
        bytes_up=int(_sum(metrics, "setsuden_escalated_bytes_total")),
        accuracy=_accuracy(bundle, images, labels, run),
        latency_ms=figures.latency(finals),
        cpu_seconds_per_1000=cpu,
        joules_per_1000=figures.joules(cpu, model),
        sample=_sample(trace, finals),
        files=Files(trace=str(trace), report=str(options.folder / "report.html")),
    )
    (options.folder / "report.html").write_text(html.page(report), encoding="utf-8")
    (options.folder / "report.json").write_text(report.model_dump_json(indent=2), encoding="utf-8")
    shutil.rmtree(fleet.broker.folder / "store", ignore_errors=True)
    return report


def _sum(metrics: dict[str, float], name: str) -> float:
    return sum(value for key, value in metrics.items() if key.split("{", 1)[0] == name)


def _accuracy(bundle: bundles.Bundle, images: Array, labels: list[str], run: Run) -> Accuracy:
    cascade = {i: r.answer.label for i, r in run.finals.items() if r.answer is not None}
    return Accuracy(
        student=figures.accuracy(_alone(bundle, "student", images), labels),
        teacher=figures.accuracy(_alone(bundle, "teacher", images), labels),
        cascade=figures.accuracy(cascade, labels),
    )


def _alone(bundle: bundles.Bundle, model: str, images: Array) -> dict[int, str]:
    """What one model answers to every event by itself."""
    loaded = session.load(bundle, model)
    answers: dict[int, str] = {}
    for start in range(0, len(images), 32):
        output = loaded.run(loaded.prepare(list(images[start : start + 32]))).output
        best = probabilities(output, loaded.spec.kind).argmax(axis=1)
        answers |= {start + i: bundle.manifest.classes[k] for i, k in enumerate(best.tolist())}
    return answers


def _merge_traces(fleet: Fleet, folder: Path) -> Path:
    merged = folder / "traces.jsonl"
    with merged.open("wb") as target:
        for path in fleet.trace_files():
            with path.open("rb") as source:
                shutil.copyfileobj(source, target)
    return merged


def _sample(trace: Path, finals: list[Result]) -> Sample | None:
    """The escalated event of median latency whose trace is whole."""
    hard = [r for r in finals if r.decision is not None and r.decision.escalates]
    hard.sort(key=lambda result: result.timing.total_ms or 0.0)
    by_trace: dict[str, list[waterfall.FoundSpan]] = {}
    for span in waterfall.read([trace]):
        by_trace.setdefault(span.trace_id, []).append(span)
    middle = len(hard) // 2
    for result in hard[middle:] + hard[:middle]:
        hops: list[Hop] = waterfall.hops(by_trace.get(result.trace_id, []))
        if {"edge-agent", "worker"} <= {hop.service for hop in hops}:
            return Sample(event_id=result.event_id, trace_id=result.trace_id, hops=tuple(hops))
    return None
