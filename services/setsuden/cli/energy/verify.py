"""``setsuden energy verify``: the method's own errors, where the truth is known."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from setsuden.cli.failure import FAILED
from setsuden.cli.lazy import quiet_logs

if TYPE_CHECKING:
    from setsuden.energy.simulator.verify import Verification, VerifiedFigure

_MARKS = {True: ("ok", "green"), False: ("missed", "red"), None: ("told", None)}
_WIDTH = 98


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option("--seed", default=0, show_default=True, help="Draws other machines.")
@click.option(
    "--seconds",
    default=20.0,
    show_default=True,
    type=click.FloatRange(1.0, 600.0),
    help="Simulated time of each machine.",
)
def verify(as_json: bool, seed: int, seconds: float) -> None:
    """Measure the method's own errors on simulated machines; exit code 1 when a target is missed.

    Each machine's power, neighbours and requests are drawn; its sensor files are read as a real
    machine's are, attributed, and compared with the joules each request truly used.
    """
    from setsuden.energy.simulator.verify import verify as measure  # noqa: PLC0415

    quiet_logs()
    found = measure(seed, seconds, progress=_progress)
    if as_json:
        click.echo(json.dumps(document(found), indent=2))
    else:
        for line in table(found):
            click.echo(line)
    click.echo(
        f"{found.spans} requests in {found.windows} windows of {found.machines} simulated machines",
        err=True,
    )
    if not found.ok:
        sys.exit(FAILED)


def _progress(done: int, of: int) -> None:
    """One line that rewrites itself, where a person watches."""
    if sys.stderr.isatty():
        click.echo(
            f"\r\033[K{f'machine {done + 1} of {of}' if done < of else ''}", nl=False, err=True
        )


def document(found: Verification) -> dict[str, object]:
    """The figures as JSON tells them; a figure that could not be measured is null."""
    return {
        "ok": found.ok,
        "seed": found.seed,
        "seconds": found.seconds,
        "machines": found.machines,
        "spans": found.spans,
        "windows": found.windows,
        "figures": [{**figure._asdict(), "holds": figure.holds} for figure in found.figures],
    }


def table(found: Verification) -> list[str]:
    """One line for each figure, and below it what it is a figure of."""
    width = max(len(figure.name) for figure in found.figures)
    lines: list[str] = []
    for figure in found.figures:
        word, colour = _MARKS[figure.holds]
        mark = click.style(f"{word:<6}", fg=colour, bold=colour is not None)
        value = "none" if figure.value is None else f"{figure.value:.3g}"
        lines.append(f"{mark}  {figure.name:<{width}}  {value:>9}  {_target(figure)}".rstrip())
        indent = " " * 8
        lines += textwrap.wrap(figure.of, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    return lines


def _target(figure: VerifiedFigure) -> str:
    if figure.target is None:
        return ""
    return f"{'>=' if figure.at_least else '<='} {figure.target:g}"
