"""A world around the agent's core: disk, broker, cloud and time, all in memory and all unkind."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from setsuden.edge_agent.core import (
    AgentCore,
    EdgeVerdict,
    Effects,
    Escalate,
    Finish,
    Forward,
    Insert,
    Lookup,
    MarkPublished,
    Notify,
    Now,
    Policy,
    PublishFinal,
    Rebind,
    Row,
    Send,
    StageTimes,
    Submission,
)
from setsuden.pipelines.gate import Judged
from setsuden.schemas.decision import Action, Decision, Reason
from setsuden.schemas.errors import AlreadyStoredError, LinkError, UnavailableError
from setsuden.schemas.event import Event
from setsuden.schemas.result import Answer, Result, Status, Tier

SECOND = 1_000_000_000
POLICY = Policy(
    device="dev",
    region="local",
    epoch="00000000",
    boot="boot",
    window=4,
    live_share=0.2,
    lookup_ns=5 * SECOND,
    redrive_ns=60 * SECOND,
    max_bytes=1000,
    max_events=50,
    publish_nats=True,
    publish_all=False,
)
EASY = Judged(
    Answer(label="a", index=0, confidence=0.9),
    Decision(action=Action.ANSWER, reason=Reason.CONFIDENT, confidence=0.9, threshold=0.5),
)
HARD = Judged(
    Answer(label="b", index=1, confidence=0.4),
    Decision(action=Action.ESCALATE, reason=Reason.LOW_CONFIDENCE, confidence=0.4, threshold=0.5),
)


@dataclass
class World:
    """What survives a crash (disk, broker) and what does not (core, queued sends)."""

    policy: Policy = POLICY
    mono_ns: int = 1000 * SECOND
    wall_ns: int = 1_700_000_000 * SECOND
    link_up: bool = False
    disk: dict[int, Row] = field(default_factory=dict)
    escalations: dict[str, str] = field(default_factory=dict)
    """Message id → event id, in the stream's order."""
    results: dict[str, Result] = field(default_factory=dict)
    late: dict[str, Result] = field(default_factory=dict)
    sends: list[Send] = field(default_factory=list)
    told: dict[str, list[Result]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.core = AgentCore(self.policy, 1, Random(0))

    @property
    def now(self) -> Now:
        return Now(self.wall_ns, self.mono_ns)

    def apply(self, out: Effects) -> None:
        """Writes first; a second final result for one event is the bug we look for."""
        for write in out.writes:
            match write:
                case Insert(row):
                    assert row.sequence not in self.disk
                    self.disk[row.sequence] = row
                case Finish(sequence=sequence, encoded=encoded, published=published):
                    row = self.disk[sequence]
                    assert not row.result.is_final, "an event got a second final result"
                    self.disk[sequence] = row._replace(encoded=encoded, published=published)
                case MarkPublished(sequence):
                    self.disk[sequence] = self.disk[sequence]._replace(published=True)
                case Rebind():
                    pass
        self.sends += out.sends

    def submit(self, judged: Judged, deadline_s: int | None = None, size: int = 10) -> Result:
        event = Event(
            id="e",
            source="s",
            pipeline="p",
            device="dev",
            reply="reply.app.dev.c.t",
            data=b"x" * size,
            ttl_ms=None if deadline_s is None else deadline_s * 1000,
        )
        submission = Submission(event, over_nats=True, received=self.now)
        times = StageTimes(None, self.wall_ns, self.wall_ns, self.wall_ns, 1)
        verdict = EdgeVerdict(judged, None, None, times, "0" * 31 + "1", None)
        out = Effects()
        result = self.core.admit(self.now, submission, verdict, out)
        self.apply(out)
        return result

    def perform(self, *, arrives: bool, answered: bool) -> None:
        """Do the oldest send; the network may lose it on either way."""
        if self.sends:
            self._perform(self.sends.pop(0), arrives and self.link_up, answered and self.link_up)

    def _perform(self, send: Send, arrives: bool, answered: bool) -> None:
        match send:
            case Escalate(pending, message_id, _):
                if arrives:
                    self.escalations.setdefault(message_id, pending.event_id)
                stored, error = (7, None) if arrives and answered else (None, UnavailableError("x"))
                self.apply(self.core.escalated(self.now, pending.sequence, stored, error))
            case PublishFinal():
                self._publish(send, arrives, answered)
            case Lookup(place):
                if arrives and answered:
                    self.look_up(place.event_id)
            case Notify(event_id=event_id, result=result):
                if result.is_final:
                    self.told.setdefault(event_id, []).append(result)
            case Forward():
                pass

    def _publish(self, send: PublishFinal, arrives: bool, answered: bool) -> None:
        records = self.late if send.second else self.results
        taken = send.result.event_id in records
        if arrives and not taken:
            records[send.result.event_id] = send.result
        error: LinkError | None = AlreadyStoredError("x") if taken else None
        if not (arrives and answered):
            error = UnavailableError("x")
        self.apply(self.core.published(send, error))

    def look_up(self, event_id: str) -> None:
        record = self.results.get(event_id)
        if record is None:
            self.apply(self.core.not_found(self.now, event_id))
        else:
            self.apply(self.core.cloud_result(self.now, record))

    def work(self, *, dead: bool = False) -> None:
        """A worker answers the oldest escalation, by compare-and-set."""
        for message_id, event_id in self.escalations.items():
            if message_id not in self.taken:
                self.taken.add(message_id)
                self.results.setdefault(event_id, cloud_answer(event_id, self.wall_ns, dead=dead))
                return

    def push(self, event_id: str) -> None:
        """The broker pushes a stored record, perhaps again."""
        if self.link_up and self.results[event_id].tier is not Tier.EDGE:
            self.apply(self.core.cloud_result(self.now, self.results[event_id]))

    def push_any(self, random: Random) -> None:
        """One stored record, whichever."""
        if self.results:
            self.push(random.choice(sorted(self.results)))

    def connect(self) -> None:
        self.link_up = True
        self.apply(self.core.link_up(self.now))
        self.republish()

    def disconnect(self) -> None:
        self.link_up = False
        self.core.link_down()

    def republish(self) -> None:
        for row in self.disk.values():
            if row.result.is_final and not row.published:
                self.sends.append(PublishFinal(row.sequence, row.encoded))

    def advance(self, seconds: float) -> None:
        self.mono_ns += int(seconds * SECOND)
        self.wall_ns += int(seconds * SECOND)
        self.apply(self.core.tick(self.now))

    def crash(self) -> None:
        """Lose everything in memory; begin again from the disk."""
        self.sends.clear()
        self.link_up = False
        self.core = AgentCore(self.policy, max(self.disk, default=0) + 1, Random(0))
        self.core.restore(self.now, [r for r in self.disk.values() if not r.result.is_final])

    def heal(self) -> None:
        """Everything works from now on: until nothing is left to do."""
        self.disconnect()
        self.connect()
        for _ in range(400):
            while self.sends:
                self.perform(arrives=True, answered=True)
                self.work()
            for event_id in list(self.results):
                self.push(event_id)
            if all(row.result.is_final and row.published for row in self.disk.values()):
                return
            self.republish()
            self.advance(5)
        raise AssertionError("some events never became final")


def cloud_answer(event_id: str, wall_ns: int, *, dead: bool = False) -> Result:
    return Result(
        event_id=event_id,
        pipeline="p",
        device="dev",
        status=Status.DEAD if dead else Status.FINAL,
        tier=Tier.CLOUD,
        answer=None if dead else Answer(label="c", index=2, confidence=0.99),
        trace_id="0" * 31 + "1",
        at=datetime.fromtimestamp(wall_ns / 1e9, UTC),
    )
