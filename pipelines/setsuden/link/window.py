"""Stores in flight: each one ends in exactly one call of its ``done``.

No library futures here: nats-py's ``publish_async`` leaves futures of a lost link pending for
ever and leaks their slots.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from typing import NamedTuple

from setsuden.schemas.errors import (
    AlreadyStoredError,
    LinkError,
    StreamFullError,
    UnavailableError,
)

from .messages import Done, Outcome, Stored

WRONG_LAST_SEQUENCE = 10071
_FULL = frozenset({10023, 10047, 10077, 10122})
"""Resources exceeded, storage exceeded, maximum bytes, maximum messages per subject."""
MAX_ACK_BYTES = 16_384
_PLAIN = re.compile(rb'\{"stream":"([A-Za-z0-9_-]+)", ?"seq":([0-9]{1,18})\}')
"""Nearly every acknowledgement; a third of the time that JSON takes."""


class _Waiting(NamedTuple):
    done: Done
    deadline: float
    subject: str


class Window:
    """Tokens of unanswered stores, oldest first."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        """Stores without an outcome yet."""
        return len(self._waiting)

    def open(self, done: Done, now: float, subject: str = "") -> str:
        """A fresh reply token whose outcome ``done`` will be told."""
        self._next += 1
        token = format(self._next, "x")
        self._waiting[token] = _Waiting(done, now + self._timeout, subject)
        return token

    def settle(self, token: str, outcome: Outcome) -> None:
        """Tell one store its outcome; an unknown or settled token is nothing."""
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            waiting.done(outcome)

    def expire(self, now: float) -> None:
        """Fail every store whose acknowledgement is overdue."""
        while self._waiting:
            token, waiting = next(iter(self._waiting.items()))
            if waiting.deadline > now:
                return
            self.settle(token, UnavailableError("the broker did not acknowledge in time"))

    def refuse(self, subject: str, error: LinkError) -> None:
        """The broker does not allow this subject, told in lower case; it sends no other answer."""
        for token, waiting in list(self._waiting.items()):
            if waiting.subject.lower() == subject:
                self.settle(token, error)

    def fail_all(self, error: LinkError) -> None:
        """The link is gone: nothing in flight will be answered."""
        for token in list(self._waiting):
            self.settle(token, error)


def parse_ack(data: bytes, status: str | None) -> Outcome:
    """A JetStream publish acknowledgement as an outcome.

    10071 means a record is there already; 10164 (another write to the subject in flight) and
    all else unknown mean: try again.
    """
    if status is not None:
        return UnavailableError(
            "no stream takes this subject", remedy="run `setsuden cloud streams`"
        )
    if len(data) > MAX_ACK_BYTES:
        return UnavailableError("the acknowledgement is oversized")
    plain = _PLAIN.fullmatch(data)
    if plain is not None:
        return Stored(plain[1].decode(), int(plain[2]), False)
    try:
        body = json.loads(data)
        error = body.get("error")
        if error is None:
            return Stored(body["stream"], body["seq"], bool(body.get("duplicate")))
        return _refusal(int(error.get("err_code", 0)), str(error.get("description", "")))
    except (ValueError, KeyError, AttributeError, TypeError):
        return UnavailableError("the acknowledgement cannot be read")


def _refusal(code: int, description: str) -> LinkError:
    if code == WRONG_LAST_SEQUENCE or "per subject" in description:
        # A stream with one message per subject refuses the second with the code of a full one.
        return AlreadyStoredError("a record is already stored for this subject")
    if code in _FULL:
        return StreamFullError(f"stream full ({code}: {description})")
    return UnavailableError(f"JetStream refused ({code}: {description})")
