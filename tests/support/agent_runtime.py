"""A runtime of real parts on an outbox in memory, with students that are quick as they please."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from tests.support.agent import digits
from tests.support.agent_world import EASY, HARD, POLICY, cloud_answer

from setsuden.edge_agent.arrival import FinalResults
from setsuden.edge_agent.config import AgentConfig, HttpOptions, IntakeOptions
from setsuden.edge_agent.core import AgentCore, Cursor, Finish, Insert, Notify, Row, Write
from setsuden.edge_agent.durable import DurableCore, now
from setsuden.edge_agent.ingress.seam import Ingress
from setsuden.edge_agent.metrics import Metrics
from setsuden.edge_agent.outbox import Known, Outbox, OutboxUnwritableError
from setsuden.edge_agent.runtime import Runtime
from setsuden.edge_agent.tracer import EventTracer
from setsuden.pipelines import bundle
from setsuden.pipelines.gate import unusable
from setsuden.pipelines.pipeline import JudgedBatch, Pipeline
from setsuden.schemas.decision import Reason
from setsuden.schemas.pipeline import PipelineSpec
from setsuden.telemetry import Recorder, SpanClock


class MemoryOutbox:
    """As the outbox: durable later, in order, all or nothing; a full disk refuses acceptances."""

    def __init__(self, random: Random, refuses: float) -> None:
        self.rows: dict[int, Row] = {}
        self.damaged: tuple[()] = ()
        self._random, self._refuses = random, refuses
        self._cursor: Cursor | None = None
        self._jobs: deque[tuple[Any, ...]] = deque()
        self._refused_reading = -1

    def submit(
        self,
        writes: Sequence[Write],
        cursor: Cursor | None = None,
        *,
        refusable: bool = False,
        reading: int = 0,
    ) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._jobs.append((writes, cursor, refusable, reading, done))
        loop.call_soon(self._commit)
        return done

    def _commit(self) -> None:
        writes, cursor, refusable, reading, done = self._jobs.popleft()
        refused = cursor is not None and reading <= self._refused_reading
        if refusable and (refused or self._random.random() < self._refuses):
            if cursor is not None:
                self._refused_reading = max(self._refused_reading, reading)
            done.set_exception(OutboxUnwritableError("the disk is full"))
            return
        for write in writes:
            if isinstance(write, Insert):
                self.rows[write.row.sequence] = write.row
            elif isinstance(write, Finish):
                row = self.rows[write.sequence]
                self.rows[write.sequence] = row._replace(encoded=write.encoded)
        self._cursor = cursor or self._cursor
        done.set_result(None)

    def cursor(self) -> Cursor | None:
        return self._cursor

    def known(self, keys: Sequence[str]) -> dict[str, Known]:
        rows = {row.event.key: row for row in self.rows.values()}
        return {key: _known(rows[key]) for key in keys if key in rows}

    def result(self, event_id: str) -> Known | None:
        rows = [row for row in self.rows.values() if row.event_id == event_id]
        return _known(rows[0]) if rows else None


def _known(row: Row) -> Known:
    return Known(row.event_id, row.event.reply, row.result)


class MoodyStudent:
    """Quick or not as it pleases, sure or not as it pleases; takes its time in a lane."""

    model = None
    patience_seconds = 60.0
    max_batch = 2
    manifest = bundle.load(digits()).manifest

    def __init__(self, name: str, random: Random, *, quick: float, sure: float) -> None:
        self.spec = PipelineSpec(name=name, bundle=str(digits()))
        self._random, self._quick, self._sure = random, quick, sure

    def quick(self, items: int) -> bool:
        return self._random.random() < self._quick

    def judge_now(self, observations: Sequence[Any]) -> JudgedBatch | None:
        return self._run(observations) if self._random.random() <= self._quick else None

    async def judge(self, observations: Sequence[Any]) -> JudgedBatch:
        for _ in range(self._random.randrange(6)):
            await asyncio.sleep(0)
        return self._run(observations)

    def unjudged(self, reason: Reason, items: int) -> JudgedBatch:
        return JudgedBatch([unusable(reason)] * items, None, 0, 0, 0)

    def _run(self, observations: Sequence[Any]) -> JudgedBatch:
        judged = [EASY if self._random.random() < self._sure else HARD for _ in observations]
        return JudgedBatch(judged, None, 0, 0, 0)


class SmallAgent:
    """Runtime, ingress and outbox; no link and no sender."""

    def __init__(
        self,
        folder: Path,
        random: Random,
        pipelines: Sequence[str] = ("digits",),
        *,
        quick: float = 1.0,
        sure: float = 1.0,
        refuses: float = 0.0,
    ) -> None:
        students = {name: MoodyStudent(name, random, quick=quick, sure=sure) for name in pipelines}
        config = AgentConfig(
            device="dev",
            pipelines=tuple(student.spec for student in students.values()),
            intake=IntakeOptions(batch=5, queue_max_events=16),
            http=HttpOptions(max_waiting=12),
        )
        self.outbox = MemoryOutbox(random, refuses)
        core = AgentCore(POLICY, 1, random)
        self.durable = DurableCore(core, cast(Outbox, self.outbox))
        recorder = SimpleNamespace(enabled=False, easy_share=0.0, slow_ms=1.0)
        clock, metrics = SpanClock(folder), Metrics()
        self.finals = FinalResults()
        self.runtime = Runtime(
            config,
            cast(dict[str, Pipeline], students),
            self.durable,
            metrics=metrics,
            tracer=EventTracer(cast(Recorder, recorder), clock, metrics),
            clock=clock,
            disk_retry_seconds=0.001,
        )
        self.ingress = Ingress(self.runtime, self.finals)

    async def announce_finals(self) -> None:
        """As the sender does."""
        while True:
            for send in await self.durable.sends():
                if isinstance(send, Notify) and send.result.is_final:
                    self.finals.announce(send.result)

    def answer_all(self) -> None:
        """The cloud answers everything that waits for it."""
        for row in list(self.outbox.rows.values()):
            if not row.result.is_final:
                answer = cloud_answer(row.event_id, now().wall_ns)
                self.durable.apply(self.durable.core.cloud_result(now(), answer))
