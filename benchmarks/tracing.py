"""What tracing costs: one event's spans, their bytes, and the share of an agent's CPU.

Each comparison is of runs in one go, in turns; ratios hold between machines, microseconds do not.
One JSON line for each finding. ``python benchmarks/tracing.py``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Tracer

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.agent import feed
from benchmarks.lines import emit
from benchmarks.site import drive, start

from setsuden.edge_agent.config import AgentConfig, HttpOptions
from setsuden.edge_agent.process import build
from setsuden.schemas.pipeline import GateOverride, PipelineSpec
from setsuden.telemetry import (
    Recorder,
    Span,
    SpanEvent,
    SpanKind,
    TraceOptions,
    derived_span_id,
    otlp,
    protobuf,
)

EVENTS, ROUNDS = 2000, 7
INTAKE_EVENTS, SITE_EVENTS, SITE_RATE = 10_000, 3000, 300.0
SPANS = "setsuden_spans_recorded_total"
ATTRIBUTES: dict[str, str | bool | int | float] = {
    "setsuden.event_id": "device-0000abcd-1",
    "setsuden.pipeline": "digits",
    "setsuden.status": "final",
    "setsuden.escalated": False,
    "setsuden.energy.joules": 0.000307,
    "setsuden.batch.size": 3,
}
NAMES = ("event", "preprocess", "infer")


class Nowhere(SpanExporter):
    """Takes everything, keeps nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
        """Done."""
        return SpanExportResult.SUCCESS


def made(index: int) -> list[Span]:
    """One event: three spans of six attributes, and one span event."""
    trace_id = f"{index + 1:032x}"
    start_ns = 1_763_930_000_000_000_000 + index
    ids = [derived_span_id(trace_id, name) for name in NAMES]
    gate = (SpanEvent("gate.decision", start_ns, {"setsuden.gate.reason": "confident"}),)
    return [
        Span(
            trace_id, ids[place], ids[0] if place else None, name, SpanKind.INTERNAL, start_ns,
            start_ns + 1000, ATTRIBUTES, events=gate if name == "infer" else (),
        )
        for place, name in enumerate(NAMES)
    ]  # fmt: skip


def sdk(tracer: Tracer) -> None:
    """The same event through the SDK's tracer."""
    with tracer.start_as_current_span("event", attributes=ATTRIBUTES):
        with tracer.start_as_current_span("preprocess", attributes=ATTRIBUTES):
            pass
        with tracer.start_as_current_span("infer", attributes=ATTRIBUTES) as infer:
            infer.add_event("gate.decision", {"setsuden.gate.reason": "confident"})


def ours(folder: Path) -> None:
    """Built, queued, encoded, packed and written to the spool."""
    recorder = Recorder(TraceOptions(), folder, "edge-agent", {})
    for index in range(EVENTS):
        recorder.add(made(index))
    recorder.close()


def cpu_us(run: Callable[[], None]) -> float:
    """CPU time of the whole process for each event, threads included."""
    before = time.process_time()
    run()
    return (time.process_time() - before) / EVENTS * 1e6


def through_sdk(provider: TracerProvider) -> float:
    """Until the processor has handed all over."""
    tracer = provider.get_tracer("benchmark")

    def run() -> None:
        for _ in range(EVENTS):
            sdk(tracer)
        provider.force_flush()

    return cpu_us(run)


def span_cost() -> None:
    """One event's spans by the SDK and by us, in turns."""
    off = TracerProvider(sampler=ALWAYS_OFF)
    on = TracerProvider()
    on.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=4 * EVENTS))
    rows: dict[str, list[float]] = {"sdk_off": [], "sdk_null_exporter": [], "ours_to_disk": []}
    for _ in range(ROUNDS):
        rows["sdk_off"].append(through_sdk(off))
        rows["sdk_null_exporter"].append(through_sdk(on))
        with tempfile.TemporaryDirectory() as folder:
            rows["ours_to_disk"].append(cpu_us(partial(ours, Path(folder))))
    best = {name: min(values) for name, values in rows.items()}
    emit(
        "tracing_event_of_3_spans",
        **{f"{name}_us": round(value, 1) for name, value in best.items()},
        ours_of_sdk=best["ours_to_disk"] / best["sdk_null_exporter"],
    )


def sizes() -> None:
    """Bytes of a span in each form."""
    spans = [span for index in range(EVENTS) for span in made(index)]
    data = protobuf.encode({}, spans)
    emit(
        "tracing_bytes_per_span",
        protobuf=len(data) / len(spans),
        packed=len(protobuf.compress(data)) / len(spans),
        json=len(otlp.line({}, spans)) / len(spans),
    )


def sealed(recorder: Recorder) -> None:
    """Return after the first seal: it loads the encoder, once in a life."""
    while not recorder.recorded:
        time.sleep(0.1)


async def intake(folder: Path, *, enabled: bool) -> float:
    """CPU of an easy event in an agent without transport, microseconds."""
    bundle = str(files("setsuden.pipelines.workloads") / "digits")
    spec = PipelineSpec(name="digits", bundle=bundle, gate=GateOverride(threshold=0.0))
    config = AgentConfig(
        device="bench",
        pipelines=(spec,),
        http=HttpOptions(port=0),
        publish_results="none",
        traces=TraceOptions(enabled=enabled),
    )
    async with build(config, folder) as agent:
        running = [asyncio.create_task(part.run()) for part in (agent.runtime, agent.sender)]
        await feed(agent, 1000)
        if enabled:
            await asyncio.to_thread(sealed, agent.recorder)
        cpu = time.process_time()
        await feed(agent, INTAKE_EVENTS)
        agent.recorder.close()
        used = time.process_time() - cpu
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return used / INTAKE_EVENTS * 1e6


def site_cpu(folder: Path, *, enabled: bool) -> float:
    """CPU of an agent process for each event over NATS, a fifth of them escalated."""
    os.environ["SETSUDEN_TRACES__ENABLED"] = "true" if enabled else "false"
    os.environ["SETSUDEN_TRACES__EASY_SHARE"] = "0.01"
    fleet, _ = start(folder, escalate=0.2)
    try:
        asyncio.run(drive(fleet, 200, rate=SITE_RATE))
        while enabled and not fleet.agent_metrics().get(SPANS):
            time.sleep(0.1)  # the first seal loads the encoder, once in a life
        before = fleet.cpu_seconds()["edge"]
        asyncio.run(drive(fleet, SITE_EVENTS, rate=SITE_RATE))
        return (fleet.cpu_seconds()["edge"] - before) / SITE_EVENTS * 1e6
    finally:
        fleet.stop()


def share(name: str, measure: Callable[[Path, bool], float], rounds: int) -> None:
    """Telemetry's share of the CPU: with spans against without, in turns."""
    seen: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for enabled in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                seen[enabled].append(measure(Path(folder), enabled))
    on, off = min(seen[True]), min(seen[False])  # other work on the machine only ever adds
    emit(name, with_us=round(on, 1), without_us=round(off, 1), share=1 - off / on, target=0.10)


def main() -> None:
    """Print every finding."""
    span_cost()
    sizes()
    share(
        "tracing_share_easy",
        lambda folder, enabled: asyncio.run(intake(folder, enabled=enabled)),
        3 * ROUNDS,
    )
    share("tracing_share_site", lambda folder, enabled: site_cpu(folder, enabled=enabled), ROUNDS)


if __name__ == "__main__":
    main()
