"""Results and dead letters as bytes.

Assembled as text: every part is ours or was checked against a grammar without quotes, and a
pydantic model per event costs as much as the network (tests hold the text to the schema).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from setsuden.schemas import escalation
from setsuden.schemas.result import ModelRef, Problem, Status, Tier

from .work import Work

CAS = {escalation.EXPECTED_SUBJECT_SEQUENCE: "0"}
"""Stored only where nothing is stored yet."""
MAX_ERROR = 1024


class Writer:
    """Records of one pipeline answered by one model."""

    def __init__(self, region: str, pipeline: str, model: ModelRef, classes: Sequence[str]) -> None:
        self._region, self._pipeline = region, pipeline
        self._model = model
        self._labels = [json.dumps(label) for label in classes]
        self._stamped = (-1, "")
        self._tail = f',"tier":"{Tier.CLOUD}","model":{model.model_dump_json()}'

    def answer(self, index: int, confidence: float, scores: list[float]) -> str:
        """The JSON of an answer."""
        return (
            f'{{"label":{self._labels[index]},"index":{index},"confidence":{confidence!r},'
            f'"scores":{scores}}}'
        )

    def result(self, work: Work, status: Status, answer: str) -> bytes:
        """A teacher's answer."""
        ran = work.ran
        energy = f',"energy":{{"cloud":{ran.energy_json}}}' if ran else ""
        return f'{self._head(work, status)},"answer":{answer}{self._tail}{energy}}}'.encode()

    def dead(self, work: Work, problem: Problem) -> bytes:
        """The final result of an event that no teacher can answer."""
        error = problem.model_dump_json()
        return f'{self._head(work, Status.DEAD)},"error":{error}{self._tail}}}'.encode()

    def letter(self, work: Work, problem: Problem) -> bytes:
        """The dead letter: why, and never the observation."""
        return json.dumps(
            {
                "event_id": work.event_id,
                "pipeline": self._pipeline,
                "device": work.device,
                "error": {"code": problem.code, "message": problem.message},
                "trace_id": work.trace_id,
                "model": self._model.model_dump(mode="json"),
                "failed_runs": len(work.failures),
                "deliveries": work.delivery.attempt,
                "stream_sequence": work.delivery.stream_sequence,
                "at": self._at(work.taken_ns),
            }
        ).encode()

    def letter_headers(self, work: Work) -> dict[str, str]:
        """The message id makes a repeated dead letter a duplicate."""
        name = work.event_id or f"ESC-{work.delivery.stream_sequence}"
        return {
            escalation.MSG_ID_HEADER: f"dead-{name}",
            "content-type": "application/json",
        }

    def _head(self, work: Work, status: Status) -> str:
        queue_ms = max(0, work.taken_ns - work.delivery.stored_at_ns) / 1e6
        infer = "" if work.ran is None else f',"cloud_infer_ms":{work.ran.infer_ms}'
        return (
            f'{{"event_id":"{work.event_id}","pipeline":"{self._pipeline}",'
            f'"device":"{work.device}","region":"{self._region}","status":"{status}",'
            f'"trace_id":"{work.trace_id}",'
            f'"at":"{self._at(work.taken_ns)}","timing":{{"queue_ms":{queue_ms}{infer}}}'
        )

    def _at(self, at_ns: int) -> str:
        """The stamp of this moment; a batch has one moment."""
        if self._stamped[0] != at_ns:
            self._stamped = (at_ns, _stamp(at_ns))
        return self._stamped[1]


def problem(code: str, message: str) -> Problem:
    """A bounded problem."""
    return Problem(code=code, message=message[:MAX_ERROR])


def _stamp(at_ns: int) -> str:
    seconds, rest = divmod(at_ns, 1_000_000_000)
    moment = time.gmtime(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{rest // 1000:06d}Z"
