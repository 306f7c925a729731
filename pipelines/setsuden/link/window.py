"""Stores in flight: each one ends in exactly one call of its ``done``.

No library futures here: nats-py's ``publish_async`` leaves futures of a lost link pending for
ever and leaks their slots.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, NamedTuple

from setsuden.schemas.errors import (
    AlreadyStoredError,
    LinkError,
    MessageTooLargeError,
    StreamFullError,
    UnavailableError,
)

from .faults import Faults
from .messages import Done, Outcome, Stored
from .untrusted import json_object, printable

WRONG_LAST_SEQUENCE = 10071
_FULL = frozenset({10002, 10023, 10028, 10047})
"""The account's limit, the server's resources, its memory, its storage (server/errors.json)."""
_SILENT = "read the server's log: one whose disk is full needs room there, and a restart"
_NOT_STORED = 10077
"""The store refused it, and only the description says why: full, too large, closed."""
_TOO_LARGE = frozenset({10054, 10097})
"""Over the stream's max_msg_size; headers over 64 KiB."""
MAX_ACK_BYTES = 16_384
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_PLAIN = re.compile(rb'\{"stream":"([A-Za-z0-9_-]{1,255})", ?"seq":([1-9][0-9]{0,17})\}')
"""Nearly every acknowledgement; a third of the time that JSON takes."""


class _Waiting(NamedTuple):
    done: Done
    deadline: float
    subject: str


class AckWindow:
    """Tokens of unanswered stores, oldest first."""

    def __init__(self, timeout_seconds: float, faults: Faults | None = None) -> None:
        self._timeout = timeout_seconds
        self._faults = faults or Faults()
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
        if waiting is None:
            return
        try:
            waiting.done(outcome)
        except Exception as error:
            self._faults.raised("done", error)

    def expire(self, now: float) -> None:
        """Fail every store whose acknowledgement is overdue."""
        while self._waiting:
            token, waiting = next(iter(self._waiting.items()))
            if waiting.deadline > now:
                return
            self.settle(
                token, UnavailableError("the broker did not acknowledge in time", remedy=_SILENT)
            )

    def refuse(self, subject: str, error: LinkError) -> None:
        """The broker does not allow this subject, told in lower case; it sends no other answer."""
        for token, waiting in list(self._waiting.items()):
            if waiting.subject.lower() == subject:
                self.settle(token, error)

    def fail_all(self, error: LinkError) -> None:
        """The link is gone: nothing in flight will be answered."""
        for token in list(self._waiting):
            self.settle(token, error)


def parse_ack(data: bytes, status: str) -> Outcome:
    """A JetStream publish acknowledgement as an outcome; never raises.

    10071 means a record is there already; 10164 (another write to the subject in flight), 10167
    (too many requests) and all else unknown mean: try again.
    """
    if status == "503":
        return UnavailableError(
            "no stream takes this subject", remedy="run `setsuden cloud streams`"
        )
    plain = _PLAIN.fullmatch(data)
    if plain is not None:
        return Stored(plain[1].decode(), int(plain[2]), False)
    try:
        return _outcome(json_object(data, MAX_ACK_BYTES))
    except ValueError:
        return UnavailableError("the acknowledgement cannot be read")


def _outcome(body: dict[str, Any]) -> Outcome:
    error = body.get("error")
    if error is not None:
        code = error.get("err_code") if isinstance(error, dict) else None
        if type(code) is not int:
            raise ValueError("an error without its code")
        return _refusal(code, printable(str(error.get("description", ""))))
    stream, sequence = body.get("stream"), body.get("seq")
    if not isinstance(stream, str) or _NAME.fullmatch(stream) is None:
        raise ValueError("no stream's name")
    if type(sequence) is not int or not 0 < sequence < 1 << 63:
        raise ValueError("no sequence")
    return Stored(stream, sequence, body.get("duplicate") is True)


def _refusal(code: int, description: str) -> LinkError:
    if code == WRONG_LAST_SEQUENCE or "per subject" in description:
        # A stream with one message per subject refuses the second with the code of a full one.
        return AlreadyStoredError("a record is already stored for this subject")
    if code in _TOO_LARGE or (code == _NOT_STORED and "too large" in description):
        return MessageTooLargeError(
            f"the stream takes no message of this size ({code}: {description})",
            remedy="raise max_msg_size of the stream, or lower limits.max_body_bytes",
        )
    if code in _FULL or (code == _NOT_STORED and "closed" not in description):
        return StreamFullError(f"stream full ({code}: {description})")
    return UnavailableError(f"JetStream refused ({code}: {description})")
