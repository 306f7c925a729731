"""``setsuden demo``: real events through real parts, and what they cost."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from .failure import unwinding
from .lazy import needs

if TYPE_CHECKING:
    from setsuden.demo.report_model import DemoReport
    from setsuden.demo.run import DemoOptions

BAR_WIDTH = 30
OTLP_PORT, QUERY_PORT = 4318, 16686
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
@click.option(
    "--jaeger",
    metavar="URL",
    help="Send spans to this Jaeger's OTLP/HTTP, e.g. http://127.0.0.1:4318; "
    "without it a Jaeger of the demo's own is started where `make jaeger` built one.",
)
@click.option("--keep", is_flag=True, help="Leave the demo's own Jaeger up until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def demo(  # noqa: PLR0917  # one argument for each option
    events: int,
    rate: float,
    escalate: float | None,
    outage: float,
    plain: bool,
    out: Path | None,
    jaeger: str | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Start a real nats-server, the teacher's cloud and one edge agent, and stream real images.

    Exits 0 only if every accepted event got exactly one final result. Everything that was started
    is stopped at the end, also on Ctrl-C, SIGTERM and SIGHUP, and killed when this is killed.
    """
    with needs("demo"):
        from setsuden.demo.run import DemoOptions  # noqa: PLC0415  # numpy
    from setsuden.services.guard import GuardedSession  # noqa: PLC0415  # subprocess

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
    with unwinding(), GuardedSession(), _jaeger(options, jaeger, meter) as seen:
        report = _run(seen, meter, as_json=as_json)
        if keep and jaeger is None and seen.query_url is not None:
            _wait(seen.query_url)
    if not _whole(report):
        sys.exit(1)


def _run(options: DemoOptions, meter: ProgressLine, *, as_json: bool) -> DemoReport:
    from setsuden.demo.run import run_demo  # noqa: PLC0415
    from setsuden.demo.terminal import text  # noqa: PLC0415

    run = run_demo(options, meter.say, meter.progress)
    meter.end()
    document = json.dumps(run.report.model_dump(mode="json")) if as_json else None
    click.echo(document or text(run.report, run.waterfall, run.energy))
    return run.report


@contextmanager
def _jaeger(options: DemoOptions, url: str | None, meter: ProgressLine) -> Iterator[DemoOptions]:
    """The options with the Jaeger that was named, or one of our own, or none."""
    from setsuden.demo.run import local_jaeger  # noqa: PLC0415
    from setsuden.testing.jaeger import JAEGER_REMEDY, find_jaeger  # noqa: PLC0415

    if url is not None:
        otlp, query = addresses(url)
        yield replace(options, otlp_url=otlp, query_url=query)
        return
    binary = find_jaeger()
    if binary is None:
        meter.say(f"jaeger  none found: {JAEGER_REMEDY}; spans go to the trace file")
        yield options
        return
    with local_jaeger(options.folder, binary, meter.say) as own:
        yield replace(options, otlp_url=own.otlp_url, query_url=own.query_url)


def addresses(url: str) -> tuple[str, str]:
    """(OTLP/HTTP, query) of a Jaeger named by either, the other on its usual port."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise click.BadParameter(
            f"{url!r} is no address: write http://127.0.0.1:4318", param_hint="--jaeger"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {port: f"{parts.scheme}://{host}:{port}" for port in (OTLP_PORT, QUERY_PORT)}
    if parts.port == QUERY_PORT:
        return usual[OTLP_PORT], url.rstrip("/")
    return url.rstrip("/"), usual[QUERY_PORT]


def _wait(url: str) -> None:
    click.echo(f"Jaeger stays up on {url} until Ctrl-C", err=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


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
