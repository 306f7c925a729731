"""Records of the results stream: read within bounds, and believed only where they fit."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from setsuden.link import Incoming
from setsuden.schemas.result import Answer, Result, Status, Tier

MAX_RECORD_BYTES = 1 << 20
MAX_DIGEST = 128
MAX_MS = 1e12
"""32 years, as for deadlines."""
_OF_RESULT = {Tier.CLOUD: {Status.FINAL, Status.DEAD}}
_OF_LATE = {Tier.CLOUD: {Status.SUPERSEDED}}


def readable(message: Incoming) -> Result | None:
    """The result in a message, or None for what is none."""
    if len(message.data) > MAX_RECORD_BYTES:
        return None
    try:
        return Result.model_validate_json(message.data)
    except ValidationError:
        return None


def doubt(record: Result, stored_as: str) -> str | None:
    """Why a record cannot be what its subject says; None when it can.

    Whoever may write there is not thereby right: another event's id, a status that no worker
    gives, an answer that is missing.
    """
    if stored_as not in {record.place.result, record.place.late}:
        return "it is stored under another event's name"
    late = stored_as == record.place.late
    if record.tier is Tier.CLOUD:
        if record.status not in (_OF_LATE if late else _OF_RESULT)[Tier.CLOUD]:
            return f"no worker gives the status {record.status}"
    elif record.status is Status.PROVISIONAL or record.status is Status.SUPERSEDED:
        return f"no device stores the status {record.status}"
    if record.tier is Tier.CLOUD and (record.answer is None) != (record.status is Status.DEAD):
        return "it has an answer where it should have none, or none"
    if record.status is Status.DEAD and record.error is None:
        return "it is dead for no reason"
    return _doubt_of_facts(record)


def _doubt_of_facts(record: Result) -> str | None:
    """What is passed on to applications and spans as it stands must at least be possible."""
    if record.at.tzinfo is None:
        return "its time has no zone"
    if record.model is not None and len(record.model.digest) > MAX_DIGEST:
        return "its model's digest is none"
    theirs = (record.timing.queue_ms, record.timing.cloud_infer_ms)  # the others stay ours
    if any(span is not None and not 0 <= span <= MAX_MS for span in theirs):
        return "its times are no durations"
    return None


def doubt_of_answer(answer: Answer | None, classes: Sequence[str]) -> str | None:
    """Why an answer cannot be the model's; None when it can, or where there is none."""
    if answer is None:
        return None
    if answer.index >= len(classes) or classes[answer.index] != answer.label:
        return "its class is not one of the bundle's"
    if len(answer.scores) not in {0, len(classes)}:
        return "its scores are not one for each class"
    if any(not 0.0 <= score <= 1.0 for score in answer.scores):
        return "its scores are not probabilities"
    return None
