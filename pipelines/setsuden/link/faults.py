"""Exceptions of callbacks: counted and logged, never passed on to the connection's reader."""

from __future__ import annotations

import logging
from traceback import extract_tb

from setsuden.schemas.log import Throttle, get_logger

log = get_logger(__name__)


class Faults:
    """What went wrong in the callbacks of one link and in what it was sent, over its whole life."""

    def __init__(self) -> None:
        self.handler_errors = 0
        """Exceptions that handlers, listeners and ``done`` callbacks raised."""
        self.unreadable = 0
        """Messages dropped because their header block cannot be read."""
        self._lines = {logging.WARNING: Throttle(), logging.ERROR: Throttle()}

    def raised(self, place: str, error: Exception) -> None:
        """Count an exception. Only its type and line are logged: its text may quote a payload."""
        self.handler_errors += 1
        frames = extract_tb(error.__traceback__)
        line = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self.log(
            logging.ERROR,
            "link_handler_failed",
            place=place,
            error=type(error).__name__,
            line=line,
        )

    def dropped(self) -> None:
        """Count a message that cannot be read."""
        self.unreadable += 1
        self.log(logging.WARNING, "link_message_unreadable")

    def log(self, level: int, event: str, **details: object) -> None:
        """A line, unless there were many of its level lately."""
        suppressed = self._lines[level].due()
        if suppressed is not None:
            log.log(level, event, **details, suppressed=suppressed)
