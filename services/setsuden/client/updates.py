"""Words of the agent and records of the results stream, as results and typed errors."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from setsuden.link.faults import Throttle
from setsuden.schemas.errors import SetsudenError
from setsuden.schemas.refusal import Refusal
from setsuden.schemas.result import Result, Status, Tier

log = logging.getLogger(__name__)
_LINES = Throttle()
"""Whoever may publish an update may publish many that nobody can read."""
MAX_UPDATE_BYTES = 1 << 20


def read(data: bytes) -> Result | SetsudenError | None:
    """A result, a refusal as its error, or None for what cannot be read."""
    if len(data) > MAX_UPDATE_BYTES:
        _complain("update_oversized", len(data))
        return None
    try:
        return Result.model_validate_json(data)
    except ValidationError:
        return _refusal(data)


def _refusal(data: bytes) -> SetsudenError | None:
    try:
        return Refusal.model_validate_json(data).exception()
    except ValidationError:
        _complain("update_unreadable", len(data))
        return None


def _complain(event: str, size: int) -> None:
    suppressed = _LINES.due()
    if suppressed is not None:
        log.warning(event, extra={"bytes": size, "suppressed": suppressed})


def completed(record: Result, provisional: Result | None) -> Result:
    """A cloud record with what the device alone knew, as the agent would have told it."""
    if provisional is None or record.tier is Tier.EDGE:
        return record
    return provisional.merged_with(record)


def record(data: bytes | None) -> Result | None:
    """A record of the results stream; None when there is none that can be read."""
    found = None if data is None else read(data)
    return found if isinstance(found, Result) else None


def in_order(final: Result | None, late: Result | None) -> list[Result]:
    """Both records of one event in the order in which the agent would have told them.

    When the cloud stored its answer first and the deadline passed on the device before it came,
    the device's ``expired`` stands for the application, although it lies in the second place.
    """
    records = [found for found in (final, late) if found is not None]
    if final is not None and late is not None and late.status is Status.EXPIRED:
        return [late, final.model_copy(update={"status": Status.SUPERSEDED})]
    return records
