"""One device name, several state folders: crashed, lost, restored, copied, two agents at once.

The broker's side is shared: the events stream, the queue of escalations with one copy of an event,
the results stream with one record for each event. Every event has a content and a trace id of its
own, and the cloud's answer says which content it saw.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from tests.support.agent_world import EASY, HARD, POLICY, World

from setsuden.edge_agent.core import (
    AgentCore,
    EdgeVerdict,
    Effects,
    Escalate,
    Insert,
    Row,
    StageTimes,
    Submission,
)
from setsuden.edge_agent.core.results import fits
from setsuden.schemas import subjects
from setsuden.schemas.errors import AlreadyStoredError, LinkError, UnavailableError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Answer, Result, Status, Tier

STREAM = subjects.stream_epoch("2026-11-28T00:00:00Z")


@dataclass
class Cloud:
    """What no folder holds."""

    stream: list[tuple[int, bool]] = field(default_factory=list)
    """Content and hardness of every event that came over the broker."""
    queue: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Event id → content and trace id; one copy at a time."""
    results: dict[str, Result] = field(default_factory=dict)
    late: dict[str, Result] = field(default_factory=dict)
    starts: int = 0
    contents: int = 0
    told: dict[int, list[Result]] = field(default_factory=dict)
    """Final results by the content of the event that the application sent."""

    def new_content(self) -> int:
        self.contents += 1
        return self.contents

    def work(self) -> None:
        """A worker answers the oldest escalation for what it saw."""
        if not self.queue:
            return
        event_id, (content, trace_id) = next(iter(self.queue.items()))
        answer = Answer(label=str(content), index=0, confidence=0.9)
        record = Result(
            event_id=event_id,
            pipeline="p",
            device="dev",
            status=Status.FINAL,
            tier=Tier.CLOUD,
            answer=answer,
            trace_id=trace_id,
            at=datetime.now(UTC),
        )
        self.results.setdefault(event_id, record)
        del self.queue[event_id]


class Home(World):
    """One state folder, and the agent that runs on it."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.cursor = self.earlier = 0
        self.backup: tuple[dict[int, Row], int] | None = None
        super().__init__(results=cloud.results, late=cloud.late)
        self.start()

    def start(self) -> None:
        """An agent starts on what the folder holds now."""
        self.sends.clear()
        self.link_up = False
        self.cloud.starts += 1
        policy = POLICY._replace(epoch=f"{self.cloud.starts:08x}", max_bytes=10**9)
        self.core = AgentCore(policy, max(self.disk, default=0) + 1, Random(0))
        self.core.restore(self.now, [r for r in self.disk.values() if not r.result.is_final])
        self.earlier = len(self.cloud.stream)

    # -- what becomes of the folder -----------------------------------------------------------

    def lose(self) -> None:
        self.disk, self.cursor = {}, 0
        self.start()

    def keep_backup(self) -> None:
        self.backup = deepcopy(self.disk), self.cursor

    def restore_backup(self) -> None:
        if self.backup is not None:
            self.disk, self.cursor = deepcopy(self.backup[0]), self.backup[1]
            self.start()

    def copy_of(self, other: Home) -> None:
        self.disk, self.cursor = deepcopy(other.disk), other.cursor
        self.start()

    # -- events --------------------------------------------------------------------------------

    def submit_local(self, hard: bool) -> None:
        """Over HTTP: the event has the id of this start."""
        self._admit(self.cloud.new_content(), hard, None)

    def read_one(self) -> None:
        """The next event of the stream; one from before this start may have its result already."""
        if not self.link_up or self.cursor >= len(self.cloud.stream):
            return
        sequence = self.cursor + 1
        event_id = subjects.event_id("dev", STREAM, sequence)
        content, hard = self.cloud.stream[self.cursor]
        known = self.cloud.results.get(event_id) if sequence <= self.earlier else None
        known = known or next(
            (r.result for r in self.disk.values() if r.event_id == event_id), None
        )
        if known is None:
            self._admit(content, hard, event_id)
        elif known.is_final and not any(r.event_id == event_id for r in self.disk.values()):
            out = Effects()
            self.core.adopt(Submission(self._event(content), True, self.now, event_id), known, out)
            self.apply(out)
            self._tell(content, known)
        self.cursor = sequence

    def _event(self, content: int) -> Event:
        return Event(
            id=str(content), source="s", pipeline="p", device="dev", data=str(content).encode()
        )

    def _admit(self, content: int, hard: bool, event_id: str | None) -> None:
        over_nats = event_id is not None
        submission = Submission(self._event(content), over_nats, self.now, event_id)
        judged = HARD if hard else EASY
        answer = Answer(label=str(content), index=0, confidence=0.5)
        judged = judged._replace(answer=answer)
        times = StageTimes(None, self.wall_ns, self.wall_ns, self.wall_ns, 1)
        # As the engine does: what is read again from the broker has the same trace again.
        trace_id = f"{0 if over_nats else self.cloud.starts:016x}{content:016x}"
        out = Effects()
        result = self.core.admit(
            self.now, submission, EdgeVerdict(judged, None, None, times, trace_id, None), out
        )
        self.apply(out)
        if result.is_final:
            self._tell(content, result)

    def _tell(self, content: int, result: Result) -> None:
        self.cloud.told.setdefault(content, []).append(result)

    def apply(self, out: Effects) -> None:
        finals = [write for write in out.writes if not isinstance(write, Insert)]
        super().apply(out)
        for write in finals:
            row = self.disk.get(getattr(write, "sequence", -1))
            if row is not None and row.result.is_final and hasattr(write, "encoded"):
                self._tell(int(row.event.data or b"0"), row.result)

    # -- the broker -----------------------------------------------------------------------------

    def _perform(self, send: object, arrives: bool, answered: bool) -> None:
        if not isinstance(send, Escalate):
            super()._perform(send, arrives, answered)  # type: ignore[arg-type]  # one of its own
            return
        pending = send.pending
        row = self.disk.get(pending.sequence)
        error: LinkError | None = UnavailableError("x")
        if arrives and row is not None:
            queued = self.cloud.queue.get(pending.event_id)
            seen = int(row.event.data), pending.provisional.trace_id
            self.cloud.queue.setdefault(pending.event_id, seen)
            error = AlreadyStoredError("x") if queued is not None else None
            error = error if answered else UnavailableError("x")
        stored = 7 if error is None else None
        self.apply(self.core.escalated(self.now, pending.sequence, stored, error))

    def look_up(self, event_id: str) -> None:
        """As the uplink does: a record that is not of this event is no answer, and ends it."""
        record = self.cloud.results.get(event_id)
        pending = self.core._pending.get(event_id)
        if record is not None and pending is not None and not fits(pending, record):
            self.apply(self.core.spoiled(self.now, event_id))
        else:
            super().look_up(event_id)

    def heal(self) -> None:
        """Everything works from now on: until nothing is left to do."""
        self.disconnect()
        self.connect()
        for _ in range(400):
            while self.cursor < len(self.cloud.stream):
                self.read_one()
            while self.sends:
                self.perform(arrives=True, answered=True)
                self.cloud.work()
            for event_id in list(self.results):
                self.push(event_id)
            if all(row.result.is_final and row.published for row in self.disk.values()):
                return
            self.republish()
            self.advance(5)
        raise AssertionError("some events never became final")
