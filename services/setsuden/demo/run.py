"""The demo from start to end: start the fleet, stream events, measure, report, stop."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setsuden.insight.render import report as pages
from setsuden.insight.report import build
from setsuden.insight.report.assumptions import Declarations
from setsuden.insight.report.build import keep
from setsuden.insight.report.model import Report
from setsuden.insight.report.rows.read import TimeRange
from setsuden.pipelines import bundle as bundles
from setsuden.pipelines.gate import probabilities
from setsuden.pipelines.models import session
from setsuden.pipelines.workloads.digits import data
from setsuden.schemas.errors import UnavailableError
from setsuden.schemas.result import Result
from setsuden.schemas.streams import consumer_name
from setsuden.testing.jaeger import LocalJaeger

from . import figures, html, traced
from .drive import Outage, Progress, StreamedEvents, drive, read_results, wait_spans, wait_workers
from .fleet import PIPELINE, REGION, Fleet
from .report_model import Accuracy, DemoReport, Files, JaegerReport

READY_SECONDS = 120.0
SPANS_SECONDS = 15.0
"""How long the bridge may take for what is left when all is done."""
WINDOW_NS = 2_000_000_000
"""The longest window of the fleet's meters (1 s), and as much again for a busy machine."""
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
    otlp_url: str | None = None
    """Where spans go besides the trace file."""
    query_url: str | None = None
    """Where a person looks at them."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a run left to compute figures from."""

    run: StreamedEvents
    records: list[Result]
    metrics: dict[str, float]
    span: TimeRange
    """When the events were sent and answered: what the report of energy is about."""


class DemoRun(NamedTuple):
    """The report, its sample's trace as lines for a terminal, and the report of energy."""

    report: DemoReport
    waterfall: list[str]
    energy: Report


def run_demo(options: DemoOptions, say: Say, progress: Progress) -> DemoRun:
    """Run the whole demo; everything it started is stopped, whatever happens."""
    options.folder.mkdir(parents=True, exist_ok=True)
    images, labels = _events(options.events)
    with as_file(files("setsuden.pipelines.workloads") / "digits") as bundle:
        fleet = Fleet(
            options.folder,
            bundle,
            plain=options.plain,
            escalate=options.escalate,
            otlp_url=options.otlp_url,
        )
        try:
            _start(fleet, options, say)
            observed = _observe(fleet, options, images, progress)
            _tell_failures(observed.run, say)
            _drain(fleet, say)
        finally:
            say("stopping everything that was started")
            fleet.stop()
        return _report(fleet, options, observed, bundles.load(bundle), images, labels)


@contextmanager
def local_jaeger(folder: Path, binary: str, say: Say) -> Iterator[LocalJaeger]:
    """A Jaeger of this demo's own, stopped at the end."""
    with LocalJaeger(folder / "jaeger", binary) as jaeger:
        say(f"jaeger  ready, query on {jaeger.query_url}")
        yield jaeger


def _events(count: int) -> tuple[Array, list[str]]:
    """Real test images and their labels; the test split begins again past its end."""
    test = data.load_splits().test
    places = np.arange(count) % len(test.labels)
    return test.images[places], [str(label) for label in test.labels[places]]


def _start(fleet: Fleet, options: DemoOptions, say: Say) -> None:
    fleet.start_broker()
    say(f"broker  nats-server on {fleet.broker.url}, every acknowledged write synced")
    fleet.start_bridge()
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
    try:
        while not waiting.done():
            fleet.check()
            await asyncio.wait([waiting], timeout=0.5)
        await waiting
    except TimeoutError as error:
        raise UnavailableError(
            f"no teacher was ready within {READY_SECONDS:g} s",
            remedy=f"read {fleet.child('cloud').log}",
        ) from error
    finally:
        waiting.cancel()


def _observe(fleet: Fleet, options: DemoOptions, images: Array, progress: Progress) -> Observed:
    began = time.time_ns() - WINDOW_NS  # the first event may lie in a window that is open
    outage = None
    if options.outage_s > 0:
        outage = Outage(options.outage_s, fleet.broker)
    run = asyncio.run(
        drive(fleet.broker, list(images), rate=options.rate, outage=outage, progress=progress)
    )
    span = TimeRange(began, time.time_ns())
    metrics = fleet.agent_metrics()
    records = asyncio.run(read_results(fleet.broker.options))
    return Observed(run, records, metrics, span)


def _tell_failures(run: StreamedEvents, say: Say) -> None:
    if run.failures:
        first = next(iter(run.failures.values()))
        say(f"events  {len(run.failures)} without a result, the first: {first}")


def _drain(fleet: Fleet, say: Say) -> None:
    """Agent and cloud end first and send their last spans; then the bridge passes all on."""
    for name in ("agent", "cloud"):
        fleet.stop_one(name)
    if not asyncio.run(wait_spans(fleet.broker.options, SPANS_SECONDS)):
        say(f"spans   not all passed on: read {fleet.folder / 'bridge.log'}")
    fleet.stop_one("bridge")


def _report(  # noqa: PLR0917  # all that a report is made of
    fleet: Fleet,
    options: DemoOptions,
    observed: Observed,
    bundle: bundles.Bundle,
    images: Array,
    labels: list[str],
) -> DemoRun:
    run, metrics = observed.run, observed.metrics
    finals = list(run.finals.values())
    accepted = int(_sum(metrics, "setsuden_accepted_events_total"))
    stored = {record.event_id for record in observed.records if record.is_final}
    energy = energy_report(options.folder, observed.span)
    seen = traced.seen(fleet.trace, finals, options.folder / "trace.html")
    cloud: Literal["ray-serve", "plain"] = "plain" if options.plain else "ray-serve"
    report = DemoReport(
        workload=PIPELINE,
        cloud=cloud,
        events=len(labels),
        accepted=accepted,
        final=len(stored),
        lost=accepted - len(stored),
        doubled=figures.doubled(observed.records),
        escalated=sum(map(traced.is_hard, finals)),
        expired=figures.expired(observed.records),
        outage_s=round(run.outage_s, 3),
        bytes_up=int(_sum(metrics, "setsuden_escalated_bytes_total")),
        accuracy=_accuracy(bundle, images, labels, run),
        latency_ms=figures.latency(finals),
        cpu_seconds_per_1000=figures.cpu_seconds(energy),
        joules_per_1000=figures.joules(energy),
        sample=seen.sample,
        jaeger=JaegerReport(
            url=options.query_url,
            trace_ids=tuple(sorted({r.trace_id for r in finals if traced.is_hard(r)})),
            spans_dropped=fleet.spans_dropped(),
        ),
        files=Files(
            trace=str(fleet.trace),
            report=str(options.folder / "demo.html"),
            energy=str(options.folder / "report.html"),
            sample=None if seen.page is None else str(seen.page),
        ),
    )
    (options.folder / "demo.html").write_text(html.page(report), encoding="utf-8")
    (options.folder / "demo.json").write_text(report.model_dump_json(indent=2), encoding="utf-8")
    shutil.rmtree(fleet.broker.folder / "store", ignore_errors=True)
    return DemoRun(report, seen.lines, energy)


def energy_report(folder: Path, span: TimeRange) -> Report:
    """What the fleet's own rows say of this time; kept for ``setsuden report --recompute``."""
    run = build.read_run([folder], Declarations(), span)
    report = build.report_of(run)
    keep(folder, run, report)
    (folder / "report.html").write_text(pages.page(report), encoding="utf-8")
    return report


def _sum(metrics: dict[str, float], name: str) -> float:
    return sum(value for key, value in metrics.items() if key.split("{", 1)[0] == name)


def _accuracy(
    bundle: bundles.Bundle, images: Array, labels: list[str], run: StreamedEvents
) -> Accuracy:
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
