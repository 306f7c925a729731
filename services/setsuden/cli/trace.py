"""``setsuden trace``: read, check, draw and hand on the spans of events."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .failure import FAILED
from .lazy import needs, quiet_logs

if TYPE_CHECKING:
    from setsuden.insight.traces.lint import LintFinding
    from setsuden.insight.traces.read import Damage
    from setsuden.insight.traces.tree import Trace

JAEGER = "http://127.0.0.1:16686"
ENVIRONMENT = "SETSUDEN_TRACE_SOURCE"
SERVE_PORT = 8788
BESIDE_BAR = 82
"""Columns of a waterfall's line that are no bar, with room for one mark."""
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def from_option(function: Decorated) -> Decorated:
    """``--from``: where spans are read."""
    return click.option(
        "--from",
        "sources",
        multiple=True,
        metavar="SOURCE",
        help="A .jsonl file, a spool folder or segment, - for standard input, or the address of "
        f"a Jaeger. Repeatable. Default: {ENVIRONMENT}, else {JAEGER}.",
    )(function)


def sources_or_default(sources: Sequence[str]) -> list[str]:
    """The sources named, else the environment's, else a Jaeger on this machine."""
    return list(sources) or [os.environ.get(ENVIRONMENT) or JAEGER]


@click.group()
def trace() -> None:
    """Read the traces of events: where the milliseconds and the joules went."""


@trace.command()
@click.argument("trace_id", metavar="ID")
@from_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def show(trace_id: str, sources: Sequence[str], as_json: bool) -> None:
    """Draw one trace: milliseconds, joules and the critical path.

    Of a trace in a file the first 6 digits of its ID are enough.
    """
    from setsuden.insight.traces import lookup, read, waterfall  # noqa: PLC0415
    from setsuden.insight.traces.document import document  # noqa: PLC0415

    quiet_logs()
    damage = read.Damage()
    traces, found = lookup.gather(sources_or_default(sources), trace_id, damage=damage)
    _warn(damage)
    if as_json:
        click.echo(json.dumps(document(traces[found])))
        return
    for line in waterfall.lines(traces[found], bar_width=_bar_width(), styled=True):
        click.echo(line)


def _bar_width() -> int:
    """What the terminal leaves beside names and numbers; a file gets the usual width."""
    columns = shutil.get_terminal_size((0, 0)).columns if sys.stdout.isatty() else 0
    return min(max(columns - BESIDE_BAR, 20), 90) if columns else 34


@trace.command("open")
@click.argument("trace_id", metavar="ID")
@click.option("--jaeger", metavar="URL", help=f"The Jaeger. Default: {ENVIRONMENT}, else {JAEGER}.")
@click.option("--browser/--no-browser", default=True, help="Only print the address.")
def open_(trace_id: str, jaeger: str | None, browser: bool) -> None:
    """Open one trace in Jaeger and print its address."""
    from setsuden.insight.traces import lookup, read  # noqa: PLC0415

    url = jaeger or sources_or_default(())[0]
    if not read.is_url(url):
        raise click.UsageError(f"{url!r} is no address of a Jaeger: give --jaeger http://…")
    found = lookup.checked(trace_id)
    if len(found) < lookup.WHOLE:
        raise click.UsageError(f"Jaeger needs all {lookup.WHOLE} digits of the ID")
    from setsuden.insight.traces.jaeger import JaegerQuery  # noqa: PLC0415

    link = JaegerQuery(url).trace_link(found)
    click.echo(link)
    if browser:
        click.launch(link)


@trace.command(short_help="Check traces by Jaeger's rules; exit code 1 on findings.")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def lint(sources: Sequence[str], as_json: bool) -> None:
    """Check that Jaeger will read these traces rightly; exit code 1 when a rule is broken.

    A SOURCE is what --from takes elsewhere. Give the files of all tiers together.
    """
    from setsuden.insight.traces.lint import lint as check  # noqa: PLC0415
    from setsuden.insight.traces.read import Damage, load  # noqa: PLC0415
    from setsuden.insight.traces.tree import traces_of  # noqa: PLC0415

    quiet_logs()
    damage = Damage()
    spans = load(sources_or_default(sources), damage=damage)
    _warn(damage)
    traces = traces_of(spans)
    findings = list(check(traces))
    if as_json:
        counts = {"spans": len(spans), "traces": len(traces), "damaged": damage.count}
        told = [finding._asdict() for finding in findings]
        click.echo(json.dumps({**counts, "findings": told}))
    else:
        _tell(findings)
    click.echo(f"{len(spans)} spans of {len(traces)} traces checked", err=True)
    if findings:
        sys.exit(FAILED)


def _warn(damage: Damage) -> None:
    """What was passed over is said where it does not spoil the data."""
    if damage.count:
        click.echo(f"{click.style('warning:', bold=True)} {damage}", err=True)


def _tell(findings: Sequence[LintFinding]) -> None:
    """Findings as data, then each broken rule's remedy once."""
    for finding in findings:
        click.echo(finding.words())
    for rule, remedy in {finding.rule: finding.remedy for finding in findings}.items():
        click.echo(f"  {click.style('remedy:', bold=True)} {rule}: {remedy}", err=True)


@trace.command()
@from_option
@click.option("--trace", "trace_id", metavar="ID", help="Only this one.")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, allow_dash=True), default="-", metavar="FILE"
)
def export(sources: Sequence[str], trace_id: str | None, output: str) -> None:
    """Write OTLP JSON Lines, which Jaeger's upload tab takes."""
    from setsuden.insight.traces import document as exporting  # noqa: PLC0415
    from setsuden.insight.traces import lookup, read  # noqa: PLC0415

    quiet_logs()
    named, damage = sources_or_default(sources), read.Damage()
    if trace_id is None:
        spans = read.load(named, damage=damage)
    else:
        traces, found = lookup.gather(named, trace_id, damage=damage)
        spans = list(traces[found].spans)
    _warn(damage)
    with click.open_file(output, "w", encoding="utf-8", atomic=output != "-") as file:
        for line in exporting.otlp_lines(spans):
            file.write(line)
    click.echo(f"{len(spans)} spans written", err=True)


@trace.command(short_help="Write one HTML page of one trace, or of all.")
@click.argument("trace_id", metavar="[ID]", required=False)
@from_option
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, allow_dash=True),
    required=True,
    metavar="FILE",
    help="The page; - for standard output.",
)
@click.option("--json", "as_json", is_flag=True, help="What was written, as JSON.")
def report(trace_id: str | None, sources: Sequence[str], output: str, as_json: bool) -> None:
    """Write one self-contained HTML page of one trace, or of all in the source."""
    with needs("html"):
        from setsuden.insight.render.trace import page  # noqa: PLC0415

    quiet_logs()
    if as_json and output == "-":
        raise click.UsageError("--json and the page cannot both go to standard output")
    traces, found = _wanted(sources_or_default(sources), trace_id)
    text = page(traces, found)
    with click.open_file(output, "w", encoding="utf-8", atomic=output != "-") as file:
        file.write(text)
    count = len(traces) if found is None else 1
    if as_json:
        told = {"file": str(Path(output).resolve()), "traces": count, "trace_id": found}
        click.echo(json.dumps(told))
    click.echo(f"{count} {'trace' if count == 1 else 'traces'} written to {output}", err=True)


def _wanted(sources: Sequence[str], trace_id: str | None) -> tuple[dict[str, Trace], str | None]:
    from setsuden.insight.traces import lookup, read, tree  # noqa: PLC0415
    from setsuden.schemas.errors import TraceDataError  # noqa: PLC0415

    damage = read.Damage()
    if trace_id is not None:
        gathered = lookup.gather(sources, trace_id, others=True, damage=damage)
        _warn(damage)
        return gathered
    traces = tree.traces_of(read.load(sources, damage=damage))
    _warn(damage)
    if not traces:
        raise TraceDataError(
            f"no spans in {', '.join(sources)}", remedy="name another source with --from"
        )
    return traces, None


@trace.command(short_help="Serve each trace's page at /trace/ID.")
@click.option(
    "--from",
    "source",
    metavar="SOURCE",
    help="The address of a Jaeger, a .jsonl file or a spool folder. "
    f"Default: {ENVIRONMENT}, else {JAEGER}.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=SERVE_PORT, show_default=True, type=click.IntRange(0, 65535))
def serve(source: str | None, host: str, port: int) -> None:
    """Serve each trace's page at /trace/ID: where links in Jaeger's UI lead.

    Prints its address on standard output once it answers.
    """
    with needs("edge"):
        import uvicorn  # noqa: F401, PLC0415  # told before anything is bound
    with needs("html"):
        from setsuden.insight.traces import serve as serving  # noqa: PLC0415

    quiet_logs()
    read_from = source or sources_or_default(())[0]
    if read_from == "-":
        raise click.UsageError("standard input can be read only once: name a file or a Jaeger")
    click.echo(serving.speaks_of(read_from), err=True)
    serving.serve(read_from, host, port, click.echo)
