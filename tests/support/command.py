"""The `setsuden` command run inside the test, with its exit code and both outputs."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from typing import Any

import click
import pytest

from setsuden.cli.main import run


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


class Command:
    """Runs command lines as a terminal would, without a process for each."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Ended:
        """Run one command line."""
        self._capsys.readouterr()
        held_back = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            code = run([str(argument) for argument in arguments])
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 0
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
        told = self._capsys.readouterr()
        return Ended(code, told.out, told.err)


@click.command()
def interrupted() -> None:
    """Get a Ctrl-C."""
    signal.raise_signal(signal.SIGINT)
