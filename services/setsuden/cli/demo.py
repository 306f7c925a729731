"""``setsuden demo``: real events through real parts, and what they cost."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .lazy import needs

if TYPE_CHECKING:
    from setsuden.services.demo.report_model import DemoReport

BAR_WIDTH = 30
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m)?$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Duration(click.ParamType[float]):
    """``10s``, ``500ms``, ``2m`` or plain seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = _DURATION.match(str(value))
        if found is None:
            self.fail(f"{value!r} is no duration: write 10s, 500ms or 2m", param, ctx)
        return float(found[1]) * _SECONDS[found[2] or "s"]


@click.command(short_help="Run real events through a real cascade on this machine.")
@click.option("--events", default=500, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option("--rate", default=100.0, show_default=True, help="Events per second.")
@click.option(
    "--escalate", type=click.FloatRange(0, 1), help="Share to escalate; default: the bundle's."
)
@click.option(
    "--outage", type=Duration(), default=0.0, help="Kill nats-server in the middle for so long."
)
@click.option("--plain", is_flag=True, help="A plain worker instead of Ray Serve.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for traces and report; default: setsuden-demo/<time>.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def demo(  # noqa: PLR0917  # one argument for each option
    events: int,
    rate: float,
    escalate: float | None,
    outage: float,
    plain: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Start a real nats-server, the teacher's cloud and one edge agent, and stream real images.

    Exits 0 only if every accepted event got exactly one final result. Everything that was started
    is stopped at the end, also on Ctrl-C.
    """
    with needs("demo"):
        from setsuden.services.demo.run import DemoOptions, run_demo  # noqa: PLC0415  # numpy
        from setsuden.services.demo.terminal import text  # noqa: PLC0415

    folder = out or Path("setsuden-demo") / time.strftime("%Y%m%d-%H%M%S")
    options = DemoOptions(
        folder.resolve(),
        events=events,
        rate=rate,
        plain=plain,
        escalate=escalate,
        outage_s=outage,
    )
    meter = ProgressLine()
    report = run_demo(options, meter.say, meter.progress)
    meter.end()
    click.echo(json.dumps(report.model_dump(mode="json")) if as_json else text(report))
    if not _whole(report):
        sys.exit(1)


def _whole(report: DemoReport) -> bool:
    return report.lost == 0 and report.doubled == 0 and report.final == report.events


class ProgressLine:
    """Words and a bar on standard error; the bar only where somebody watches."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._open = False
        self._shown = 0

    def say(self, words: str) -> None:
        """One line."""
        self.end()
        click.echo(words, err=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """The state of long work: a bar, or every tenth where nobody watches."""
        if self._watched:
            filled = BAR_WIDTH * done // total
            bar = "█" * filled + "·" * (BAR_WIDTH - filled)
            click.echo(f"\r{what:<9} {bar} {done}/{total}", err=True, nl=False)
            self._open = True
        elif done * 10 // total > self._shown or done == total:
            self._shown = done * 10 // total
            click.echo(f"{what} {done}/{total}", err=True)

    def end(self) -> None:
        """Leave the bar's line."""
        if self._open:
            click.echo(err=True)
            self._open = False
