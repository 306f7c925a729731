"""The agent as a process: wiring, signals, exit code."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from setsuden.energy import Meter
from setsuden.energy.open import Identity, fingerprint, open_meter, resolved
from setsuden.link import JetStream, Link
from setsuden.link.tasks import end
from setsuden.pipelines.models.apart import RestartPolicy
from setsuden.pipelines.models.run_record import RunRecord
from setsuden.pipelines.models.runner import ModelTier
from setsuden.pipelines.models.watchdog import Watchdog
from setsuden.pipelines.registry import Opener, PipelineReload, Registry
from setsuden.process import logs
from setsuden.process.reload import OUTCOME_FILE, PreparedChange, Reloader
from setsuden.process.service import notifying, stop_signal
from setsuden.schemas import spans, subjects
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.log import get_logger
from setsuden.schemas.result import Tier
from setsuden.schemas.streams import StreamBounds
from setsuden.schemas.windows import Component
from setsuden.telemetry import Recorder, SpanClock
from setsuden.telemetry.metrics_ship import MetricsShipper
from setsuden.telemetry.resource import host_id
from setsuden.telemetry.ship import Shipper
from setsuden.telemetry.supervise import Supervisor

from .arrival import FinalResults
from .clock import CloudClock
from .config import AgentConfig
from .core import AgentCore, Policy
from .durable import DurableCore, now
from .ingress.guard import read_token
from .ingress.http import HttpIngress
from .ingress.nats import NatsIngress
from .ingress.seam import Ingress
from .ingress.server import STOP_SECONDS, HttpServer
from .ingress.source import EventSource
from .lease import Lease
from .metrics import Metrics
from .outbox import Outbox, OutboxTroubleError, prepare_folder
from .runtime import Runtime
from .sender import Sender
from .status import AgentStatus
from .tracer import EventTracer

log = get_logger(__name__)
Made = TypeVar("Made")
LANE_SECONDS = 2.0
"""How long a stopping agent waits for students that take their time."""
DISK_PAUSE_SECONDS = 2.0
"""Between two looks at a disk that does not let the outbox be opened."""
MODEL_TIER = ModelTier(
    quick_seconds=0.002, restarts=RestartPolicy(20, seconds_each=1.0, waits=False)
)
"""Two milliseconds keep no other pipeline waiting that one would notice. A student whose process
dies more often than this rests, so that a hundredth of a core goes into new ones."""
START_SECONDS = 2.0
"""How long all trials together may keep an agent from starting; they go on beside it."""
DEFAULT_RESULTS_AGE_SECONDS = StreamBounds().results_max_age_seconds
FAREWELL_SECONDS = 2.0
"""How long a stopping agent sends spans; the next life sends the rest."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent's parts, wired and not yet running."""

    runtime: Runtime
    sender: Sender
    ingress: Ingress
    nats: NatsIngress
    link: Link
    status: AgentStatus
    http: HttpIngress
    clock: CloudClock
    lease: Lease
    recorder: Recorder
    telemetry: Supervisor
    shipper: Shipper
    metrics_shipper: MetricsShipper
    pipelines: PipelineReload

    async def renew_lease(self) -> None:
        """Keep the device's name, until cancelled."""
        await self.lease.run(lambda: self.runtime.durable.core.next_sequence)

    async def reload_pipelines(self, config: AgentConfig) -> PreparedChange:
        """Open what has changed of them; raises SetsudenError when it cannot be used."""
        return await self.pipelines.prepare(config.pipelines)


def run_agent(
    config: AgentConfig, base: Path, load: Callable[[], AgentConfig] | None = None
) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop, 1 when the outbox broke.

    ``load`` reads the configuration again at SIGHUP.
    Raises SetsudenError for what makes a start impossible: configuration, bundle, locked outbox.
    """
    logs.configure(config.log_level, device=config.device)
    _bury_the_last_lifes_children()
    return asyncio.run(_main(config, base, load))


async def _main(config: AgentConfig, base: Path, load: Callable[[], AgentConfig] | None) -> int:
    state = base / config.state
    await _when_writable(partial(prepare_folder, state))
    watchdog = Watchdog(RunRecord(state), partial(_start_again, dict(os.environ)))
    async with (
        build(config, base, watchdog) as agent,
        notifying(agent.status.line, agent.link) as manager,
    ):
        stop = stop_signal()
        refused = agent.runtime.metrics.http_refused
        Reloader(
            config,
            load,
            agent.link,
            manager,
            pipelines=agent.reload_pipelines,
            outcome_file=state / OUTCOME_FILE,
        ).install()
        server = HttpServer(agent.http, config.http, base / config.state, refused)
        serving = asyncio.create_task(server.serve(), name="http")
        tasks = [
            serving,
            asyncio.create_task(agent.runtime.run(), name="runtime"),
            asyncio.create_task(agent.sender.run(), name="sender"),
            asyncio.create_task(agent.nats.run(), name="nats"),
            asyncio.create_task(agent.clock.run(), name="clock"),
            asyncio.create_task(agent.renew_lease(), name="lease"),
        ]
        if config.traces.ship:
            agent.telemetry.start("spans", agent.shipper.run)
            agent.telemetry.start("metrics", agent.metrics_shipper.run)
        agent.link.start()
        await server.listening.wait()
        log.info("agent_ready", device=config.device, http_port=server.port)
        manager.ready()
        ended: list[asyncio.Future[Any]] = [*tasks, agent.runtime.durable.broken, stop]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        agent.status.stopping = True
        manager.stopping()
        server.stop()
        await asyncio.wait([serving], timeout=LANE_SECONDS)
        agent.runtime.refuse_lanes()
        await asyncio.wait([serving], timeout=STOP_SECONDS)
        agent.runtime.refuse_queued()
        outcomes = [await _ended(task) for task in tasks]
    return _verdict(agent.runtime.durable.broken, outcomes)


async def _ended(task: asyncio.Task[None]) -> BaseException | None:
    """What the task died of, once it is over; None for an ordinary end."""
    await end(task)
    return None if task.cancelled() else task.exception()


def _verdict(broken: asyncio.Future[SetsudenError], outcomes: list[BaseException | None]) -> int:
    failures = [outcome for outcome in outcomes if outcome is not None]
    if broken.done():
        failures.append(broken.result())
    for failure in failures:
        log.error("agent_failed", detail=repr(failure), exc_info=failure)
    if not failures:
        log.info("agent_stopped")
    return 1 if failures else 0


@asynccontextmanager
async def build(
    config: AgentConfig, base: Path, watchdog: Watchdog | None = None
) -> AsyncIterator[Agent]:
    """Every part of an agent; outbox, link and traces are closed at the end."""
    state = base / config.state
    token = read_token(config.http, base)
    metrics = Metrics()
    link = Link(config.nats, config.device)
    meter = open_meter(
        resolved(config.energy, base, state),
        Identity(Component.EDGE, config.device, host_id(config.traces), fingerprint(config)),
        counts=lambda: metrics.counts(link.wire()),
    )
    watchdog = watchdog or Watchdog()
    opener = _opener(base, meter, watchdog)
    registry = Registry(opener.open(config.pipelines, START_SECONDS))
    outbox = await _outbox(config, state)
    jetstream = JetStream(link)
    spans_clock = SpanClock(state)
    source = EventSource(jetstream, config.device)
    clock = CloudClock(spans_clock, link, source, config.traces.clock_seconds)
    recorder = Recorder(
        config.traces, state, spans.SERVICE_EDGE, {"device.id": config.device}, clock.timeline
    )
    sender = subjects.TelemetrySource(Tier.EDGE, config.device)
    shipper = Shipper(link, recorder, sender, clock.timeline)
    seconds, telemetry = config.traces.metrics_seconds, Supervisor()
    metrics_shipper = MetricsShipper(link, meter, recorder.resource, sender, seconds)
    try:
        durable = _durable(config, outbox, clock, spans_clock.boot)
        metrics.rows_damaged += durable.restore()
        tracer = EventTracer(recorder, spans_clock, metrics)
        finals = FinalResults()
        runtime = Runtime(
            config, registry, durable, metrics=metrics, tracer=tracer, clock=spans_clock
        )
        ingress = Ingress(runtime, finals)
        await jetstream.start()
        sending = Sender(
            durable, link, jetstream, config=config, students=registry, finals=finals,
            metrics=metrics, tracer=tracer,
        )  # fmt: skip
        nats = NatsIngress(ingress, link, jetstream, source)
        await asyncio.gather(sending.start(), nats.start())
        lease = Lease(config.device, outbox, link, jetstream)
        lease.on_rolled_back = lambda: durable.core.rolled_back(_results_since(spans_clock, clock))
        link.admission = lease.acquire
        status = AgentStatus(
            config, registry, durable, metrics=metrics, sender=sending, nats=nats, link=link,
            clock=clock, recorder=recorder, telemetry=telemetry, meter=meter,
        )  # fmt: skip
        http = HttpIngress(ingress, status, config.http, token)
        meter.start()
        yield Agent(
            runtime, sending, ingress, nats, link, status, http, clock, lease, recorder, telemetry,
            shipper, metrics_shipper, PipelineReload(registry, opener, config.pipelines),
        )  # fmt: skip
    finally:
        meter.close()
        recorder.close()  # after the meter: the last spans get their settled joules
        await telemetry.stop()
        if config.traces.ship:
            await asyncio.gather(
                shipper.finish(FAREWELL_SECONDS), metrics_shipper.finish(FAREWELL_SECONDS)
            )
        await link.close()
        outbox.close()
        registry.close()
        watchdog.close()


def _durable(config: AgentConfig, outbox: Outbox, clock: CloudClock, boot: str) -> DurableCore:
    core = AgentCore(_policy(config, boot), outbox.next_sequence, random.SystemRandom())
    durable = DurableCore(core, outbox)
    clock.on_known = lambda ahead: durable.apply(core.cloud_clock(now(), ahead))
    return durable


def _opener(base: Path, meter: Meter, watchdog: Watchdog) -> Opener:
    return Opener(
        Tier.EDGE, MODEL_TIER, lambda spec: base / spec.bundle, meter=meter, watchdog=watchdog
    )


async def _outbox(config: AgentConfig, state: Path) -> Outbox:
    """The outbox; raises OutboxLockedError, and OutboxTroubleError for what does not pass."""
    options = config.outbox
    return await _when_writable(
        lambda: Outbox(state, keep_seconds=options.keep_seconds, keep_events=options.keep_events)
    )


async def _when_writable(make: Callable[[], Made]) -> Made:
    """What is made, once the disk lets it be."""
    said = ""
    while True:
        try:
            return make()
        except OutboxTroubleError as error:
            if not error.passes:
                raise
            if str(error) != said:
                said = str(error)
                log.error("outbox_waits_for_disk", detail=said)  # noqa: TRY400  # the message is sufficient
        await asyncio.sleep(DISK_PAUSE_SECONDS)


def _results_since(spans_clock: SpanClock, clock: CloudClock) -> int:
    """Since when the results stream keeps results, on the span timeline."""
    info = clock.info
    age = DEFAULT_RESULTS_AGE_SECONDS
    if info is not None and info.results_max_age_seconds is not None:
        age = info.results_max_age_seconds
    return spans_clock.now_ns() - int(age * 1e9)


def _policy(config: AgentConfig, boot: str) -> Policy:
    options = config.escalation
    return Policy(
        device=config.device,
        region=config.region,
        epoch=secrets.token_hex(4),
        boot=boot,
        window=options.window,
        live_share=options.live_share,
        lookup_ns=int(options.lookup_seconds * 1e9),
        redrive_ns=int(options.redrive_seconds * 1e9),
        max_bytes=config.outbox.max_bytes,
        max_events=config.outbox.max_events,
        publish_nats=config.publish_results in {"nats", "all"},
        publish_all=config.publish_results == "all",
    )


def _start_again(environment: dict[str, str], pipeline: str) -> None:
    """The watchdog's last resort: begin anew in place, with that student in a process of its own.

    What is accepted is on the disk. Not an exit: an agent that a person started has no supervisor.
    """
    log.critical("agent_starts_again", because_of=pipeline)
    os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606  # our own command line


def _bury_the_last_lifes_children() -> None:
    """Its models' processes, killed as it began anew in place, are still ours to wait for."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
