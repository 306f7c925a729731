"""``log = get_logger(__name__)``: an event's name and key-values, through the standard library.

The loggers carry their own processors, because :func:`structlog.configure` belongs to the
application that imports us: where it configures no logging it hears nothing, and where it
does, our key-values arrive as attributes of ordinary log records.
"""

from __future__ import annotations

import logging
import time

import structlog

_LINES, _SECONDS = 10, 10.0
"""Lines of one kind in so many seconds; the next one says how many were left out."""
_PROCESSORS = (
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.render_to_log_kwargs,
)

# Errors are raised to the application; it need not read them a second time on its standard error.
logging.getLogger("setsuden").addHandler(logging.NullHandler())


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one module; lines carry what ``structlog.contextvars`` holds."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=_PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return logger


class Throttle:
    """Lets a few lines through, so that a flood of causes is no flood of lines."""

    def __init__(self) -> None:
        self._until = 0.0
        self._left = 0
        self._suppressed = 0

    def due(self) -> int | None:
        """How many were suppressed since the last line, or None when this one is as well."""
        now = time.monotonic()
        if now >= self._until:
            self._until, self._left = now + _SECONDS, _LINES
        if self._left == 0:
            self._suppressed += 1
            return None
        self._left -= 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
