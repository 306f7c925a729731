"""What the agent says of itself. An offline device is healthy, and says so."""

from __future__ import annotations

from typing import Any

from setsuden.link import Link, LinkState
from setsuden.pipelines.energy import Meter
from setsuden.pipelines.energy.metering.instruments import instruments
from setsuden.pipelines.tracing import Recorder

from .engine import Engine
from .metrics import Gauges, exposition


class AgentStatus:
    """Readiness and metrics of one agent."""

    def __init__(self, engine: Engine, link: Link, recorder: Recorder, meter: Meter) -> None:
        self._engine = engine
        self._link = link
        self._recorder = recorder
        self._meter = meter
        self.stopping = False

    def report(self) -> dict[str, Any]:
        """Ready while events can be accepted; link and students degrade it, never fail it."""
        core, link = self._engine.core, self._link
        students = self._engine.students
        unusable = {name: each.problem for name, each in students.items() if each.problem}
        checks = {
            "models": {
                "ok": not unusable,
                "pipelines": sorted(students),
                "without_student": unusable,
            },
            "outbox": {
                "ok": core.has_room,
                "pending_events": core.pending_events,
                "pending_bytes": core.pending_bytes,
                "quota_bytes": self._engine.config.outbox.max_bytes,
            },
            "link": {
                "ok": link.state is LinkState.UP,
                "state": link.state.value,
                "problem": str(link.problem) if link.problem is not None else None,
            },
        }
        ready = core.has_room and not self.stopping
        degraded = ready and (link.state is not LinkState.UP or bool(unusable))
        status = "degraded" if degraded else "ok" if ready else "not_ready"
        return {"ready": ready, "status": status, "checks": checks}

    def metrics(self) -> bytes:
        """The Prometheus text format."""
        core, link = self._engine.core, self._link
        gauges = Gauges(
            link_up=link.state is LinkState.UP,
            link_connections=link.connections,
            pending_events=core.pending_events,
            pending_bytes=core.pending_bytes,
            quota_bytes=self._engine.config.outbox.max_bytes,
            waiting_to_send=core.waiting_to_send,
            spans_recorded=self._recorder.recorded,
            spans_lost=self._recorder.lost,
            spool_bytes=self._recorder.spool.size_bytes,
        )
        return exposition(self._engine.metrics, gauges, instruments(self._meter))
