"""What the agent says of itself. An offline device is healthy, and says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from setsuden.energy import Meter
from setsuden.energy.metering.instruments import instruments
from setsuden.link import Link, LinkState
from setsuden.pipelines.pipeline import Pipeline
from setsuden.telemetry import Recorder
from setsuden.telemetry.supervise import Supervisor

from .clock import CloudClock
from .config import AgentConfig
from .durable import DurableCore
from .ingress.nats import NatsIngress
from .lease import DeviceTakenError
from .metrics import Gauges, Metrics, exposition
from .sender import Sender


class AgentStatus:
    """Readiness and metrics of one agent."""

    def __init__(
        self,
        config: AgentConfig,
        students: Mapping[str, Pipeline],
        durable: DurableCore,
        *,
        metrics: Metrics,
        sender: Sender,
        nats: NatsIngress,
        link: Link,
        clock: CloudClock,
        recorder: Recorder,
        telemetry: Supervisor,
        meter: Meter,
    ) -> None:
        self._config, self._students, self._metrics = config, students, metrics
        self._core, self._outbox = durable.core, durable.outbox
        self._sender, self._nats = sender, nats
        self._link, self._clock = link, clock
        self._recorder, self._telemetry, self._meter = recorder, telemetry, meter
        self.stopping = False

    def report(self) -> dict[str, Any]:
        """Ready while events can be accepted; what else is wrong degrades, and is named."""
        outbox = self._outbox_check()
        checks = {
            "models": self._models(),
            "outbox": outbox,
            "link": {
                "ok": self._link.state is LinkState.UP,
                "state": self._link.state.value,
                "problem": str(self._link.problem) if self._link.problem is not None else None,
            },
            "broker": self._broker(),
            "cloud": {"ok": not self._unserved(), "unserved": self._unserved()},
            "clock": {
                "ok": not self._core.unverified_deadlines,
                "known": self._clock.offset() is not None,
                "unverified_deadlines": self._core.unverified_deadlines,
            },
        }
        taken = isinstance(self._link.problem, DeviceTakenError)
        ready = outbox["accepts"] and not self.stopping and not taken
        whole = all(check["ok"] for check in checks.values())
        status = ("ok" if whole else "degraded") if ready else "not_ready"
        return {"ready": ready, "status": status, "checks": checks}

    def _models(self) -> dict[str, Any]:
        students = self._students
        unusable = {name: each.problem for name, each in students.items() if each.problem}
        return {"ok": not unusable, "pipelines": sorted(students), "without_student": unusable}

    def line(self) -> str:
        """One line for a service manager: ``link up, 3 events wait for the cloud``."""
        state, waiting = self._link.state.value, self._core.pending_events
        return f"link {state}, {waiting} events wait for the cloud"

    def _outbox_check(self) -> dict[str, Any]:
        core, outbox = self._core, self._outbox
        set_aside, unwritable = outbox.set_aside, outbox.unwritable
        return {
            "ok": core.has_room and unwritable is None and not set_aside,
            "accepts": core.has_room and unwritable is None,
            "pending_events": core.pending_events,
            "pending_by_pipeline": self._of_each(core.waiting_events),
            "pending_bytes": core.pending_bytes,
            "quota_bytes": self._config.outbox.max_bytes,
            "problem": None if unwritable is None else str(unwritable),
            "set_aside": set_aside,
            "rows_damaged": self._metrics.rows_damaged,
        }

    def _broker(self) -> dict[str, Any]:
        refused, unread = self._sender.refused, self._nats.problem
        return {"ok": not refused and unread is None, "refuses": refused, "unread": unread}

    def _unserved(self) -> list[str]:
        info = self._clock.info
        return [] if info is None else sorted(set(info.unserved) & set(self._students))

    def _of_each(self, counts: Mapping[str, int]) -> dict[str, int]:
        """With the pipelines for which nothing was counted yet."""
        return dict.fromkeys(self._students, 0) | dict(counts)

    def metrics(self) -> bytes:
        """The Prometheus text format."""
        core, link = self._core, self._link
        gauges = Gauges(
            link_up=link.state is LinkState.UP,
            link_connections=link.connections,
            link_handler_errors=link.handler_errors,
            link_unreadable=link.unreadable_messages,
            pending_events=self._of_each(core.waiting_events),
            pending_bytes=self._of_each(core.waiting_bytes),
            quota_bytes=self._config.outbox.max_bytes,
            waiting_to_send=core.waiting_to_send,
            spans_recorded=self._recorder.recorded,
            spans_lost=self._recorder.lost,
            telemetry_failures=self._telemetry.failures,
            spool_bytes=self._recorder.spool.size_bytes,
            outbox_set_aside=len(self._outbox.set_aside),
            outbox_unwritable=self._outbox.unwritable is not None,
            deadlines_unverified=core.unverified_deadlines,
            broker_refuses=bool(self._sender.refused),
            pipelines_unserved=len(self._unserved()),
        )
        return exposition(self._metrics, gauges, instruments(self._meter))
