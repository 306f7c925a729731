"""Log lines of a service on standard error: JSON, or columns where a person reads along.

Every record comes out the same way, third parties' too: ``{"at", "level", "event", …}``.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from setsuden.schemas.redact import masked


def configure(level: str, **facts: str) -> None:
    """Send this process's log to standard error; every line carries ``facts``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(terminal=sys.stderr.isatty(), **facts))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def formatter(*, terminal: bool = False, **facts: str) -> logging.Formatter:
    """Renders a record with its key-values, the context's and ``facts``; secrets are masked."""
    # Plain tracebacks: the pretty ones print local variables, and those hold payloads.
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            timestamp_key="at", exception_formatter=structlog.dev.plain_traceback
        )
        if terminal
        else structlog.processors.JSONRenderer(default=str)
    )

    def add_facts(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
        # Other formatters leave the first two on a record, Ray a time with an underscore.
        own = {k: v for k, v in line.items() if k not in {"message", "asctime"} and k[0] != "_"}
        return {**facts, **own}

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
            structlog.contextvars.merge_contextvars,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.TimeStamper(fmt="iso", key="at"),
            structlog.processors.format_exc_info,
            add_facts,
            _mask_secrets,
            renderer,
        ],
    )


def _mask_secrets(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """The same line without any address's secrets, the keys that every line has first."""
    return {name: line[name] for name in ("at", "level", "event")} | {
        name: _masked(value) for name, value in line.items()
    }


def _masked(value: object) -> object:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {name: _masked(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(part) for part in value]
    return value
