"""The one place where an error becomes words on standard error and an exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import click

from setsuden.schemas.errors import (
    ConfigError,
    NotDurableError,
    SetsudenError,
    UnavailableError,
)
from setsuden.schemas.redact import masked

OK, FAILED, USAGE, UNAVAILABLE, BAD_CONFIG, INTERRUPTED = 0, 1, 2, 69, 78, 130
_CODES: tuple[tuple[type[SetsudenError], int], ...] = (
    (UnavailableError, UNAVAILABLE),
    (ConfigError, BAD_CONFIG),
    (NotDurableError, BAD_CONFIG),
)
_FILE_REMEDIES = {
    errno.EACCES: "run it as a user that may, or change the file's owner or mode",
    errno.EPERM: "run it as a user that may, or change the file's owner or mode",
    errno.ENOENT: "name a file that is there",
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in this user's quota",
    errno.EROFS: "name a place that can be written",
}
_INDENT = " " * len("error: ")


class TerminatedError(KeyboardInterrupt):
    """SIGTERM or SIGHUP, on its way through the ``finally`` blocks as Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def unwinding() -> Iterator[None]:
    """Inside, the first SIGTERM or SIGHUP raises TerminatedError; the next ones change nothing."""

    def unwind(number: int, frame: object) -> None:  # noqa: ARG001  # signal's signature
        for other in handled:
            signal.signal(other, signal.SIG_IGN)
        raise TerminatedError(number)

    handled = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, unwind) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class CommandFailure:
    """An error as it is told, as text or as JSON."""

    code: str
    message: str
    exit_code: int
    remedy: str = ""
    trace_id: str | None = None


def failure_of(error: BaseException) -> CommandFailure:
    """How this error is told."""
    if isinstance(error, SetsudenError):
        number = next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)
        return CommandFailure(error.code, error.message, number, error.remedy, error.trace_id)
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "setsuden"
        return CommandFailure("usage", error.format_message(), USAGE, f"{path} --help")
    if isinstance(error, click.ClickException):
        return CommandFailure("failed", error.format_message(), error.exit_code)
    ended = error.__cause__ if isinstance(error, click.Abort) else error
    if isinstance(ended, TerminatedError):
        return CommandFailure("terminated", f"ended by {ended}", 128 + ended.number)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return CommandFailure("interrupted", "interrupted", INTERRUPTED)
    return _file_failure(error) or CommandFailure(
        "internal", f"{type(error).__name__}: {error}", FAILED, "setsuden --debug … shows where"
    )


def _file_failure(error: BaseException) -> CommandFailure | None:
    """An error that the system gave for one file, with what to do about it."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    words = os.strerror(error.errno)
    if isinstance(error.filename, str | bytes):
        words = f"{os.fsdecode(error.filename)}: {words}"
    elif error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return None
    return CommandFailure("file", words, FAILED, _FILE_REMEDIES.get(error.errno, ""))


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Tell the error on standard error; its exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    failure = _without_secrets(failure_of(error))
    if debug:
        click.echo(masked("".join(traceback.format_exception(error))), err=True, nl=False)
    if as_json:
        told = {name: value for name, value in asdict(failure).items() if value not in {None, ""}}
        click.echo(json.dumps({"error": told}), err=True)
    else:
        click.echo(_words(failure), err=True, color=colour())
    return failure.exit_code


def _without_secrets(failure: CommandFailure) -> CommandFailure:
    return replace(failure, message=masked(failure.message), remedy=masked(failure.remedy))


def _words(failure: CommandFailure) -> str:
    first, *rest = failure.message.splitlines() or [""]
    lines = [f"{click.style('error:', fg='red', bold=True)} {first}"]
    lines += [_INDENT + line for line in rest]
    if failure.remedy:
        lines.append(f"  {click.style('remedy:', bold=True)} {failure.remedy}")
    return "\n".join(lines)


def colour() -> bool | None:
    """False when ``NO_COLOR`` asks for none (no-color.org), else click's own choice."""
    return False if os.environ.get("NO_COLOR") else None
