"""Answers to one request, bounded, with an end that does not depend on the broker."""

from __future__ import annotations

import asyncio

from .headers import NO_HEADERS
from .messages import Incoming

ENDED = "ended"
"""Status of the message by which the link itself ends a conversation; a server's has digits."""
MAX_ANSWERS = 2048
"""Twice what a server sends for one direct get."""
MAX_BYTES = 16 << 20
"""A read of 4 MiB and the message that goes beyond it."""


class AnswerQueue(asyncio.Queue[Incoming]):
    """The answers to a request to ``subject``, those already taken counted as well."""

    def __init__(self, subject: str = "") -> None:
        super().__init__()
        self.subject = subject
        self._messages_left = MAX_ANSWERS
        self._bytes_left = MAX_BYTES

    def put_nowait(self, item: Incoming) -> None:
        """Take one more, or an end in its place when there are too many."""
        if self._messages_left <= 0:
            return
        self._messages_left -= 1
        self._bytes_left -= len(item.data)
        if self._messages_left == 0 or self._bytes_left < 0:
            self.end(item.subject, "the answer is larger than any request asks for")
            return
        super().put_nowait(item)

    def end(self, token: str, reason: str) -> None:
        """No more answers are taken; whoever waits is told why."""
        self._messages_left = 0
        super().put_nowait(Incoming(token, "", NO_HEADERS, b"", ENDED, reason))
