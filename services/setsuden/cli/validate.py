"""``setsuden validate``: every problem of configuration files and bundles at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .failure import BAD_CONFIG, UNAVAILABLE
from .lazy import quiet_logs

if TYPE_CHECKING:
    from setsuden.process.config import ConfigProblem

    from .inspection import Inspection


@click.command()
@click.argument(
    "paths",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@click.option("--load/--no-load", default=None, help="Run each model once; default: if possible.")
@click.option("--connect", is_flag=True, help="Also try the broker.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def validate(paths: Sequence[Path], load: bool | None, connect: bool, as_json: bool) -> None:
    """Check agent.toml, cloud.toml and bundle folders, and name every problem.

    Environment variables (SETSUDEN_*) count as they would in a run. Exit code 78 when something
    is wrong, 69 when only the broker could not be reached.
    """
    from .inspection import inspect  # noqa: PLC0415  # pydantic and more

    quiet_logs()
    reports = [inspect(path, load=load, connect=connect) for path in paths]
    if as_json:
        click.echo(json.dumps(_document(reports), indent=2))
    else:
        click.echo("\n".join(_words(report) for report in reports))
    if any(report.problems for report in reports):
        sys.exit(BAD_CONFIG)
    if not all(report.ok for report in reports):
        sys.exit(UNAVAILABLE)


def _document(reports: list[Inspection]) -> dict[str, Any]:
    return {
        "ok": all(report.ok for report in reports),
        "files": [
            {
                "file": str(report.path),
                "kind": report.kind,
                "ok": report.ok,
                "checked": report.checked,
                "problems": [_problem(problem) for problem in report.problems],
                "unreachable": [_problem(problem) for problem in report.unreachable],
            }
            for report in reports
        ],
    }


def _problem(problem: ConfigProblem) -> dict[str, Any]:
    from setsuden.schemas.redact import masked  # noqa: PLC0415

    line, column = problem.place or (None, None)
    return {
        "where": problem.where,
        "line": line,
        "column": column,
        "key": problem.key,
        "message": masked(problem.message),
        "did_you_mean": problem.near,
        "remedy": problem.remedy,
    }


def _words(report: Inspection) -> str:
    found = sorted(report.problems + report.unreachable, key=_order)
    if not found:
        checked = f" ({', '.join(report.checked)})" if report.checked else ""
        return f"{click.style('ok', fg='green')}     {report.path}: {report.kind}{checked}"
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    word = "wrong" if report.problems else "away "
    head = f"{click.style(word, fg='red')}  {report.path}: {report.kind}, {count}"
    return "\n".join([head, *(_shown(report, problem) for problem in found)])


def _order(problem: ConfigProblem) -> int:
    return problem.place.line if problem.place else 0


def _shown(report: Inspection, problem: ConfigProblem) -> str:
    """The problem, the line it stands on, a caret under it, and what to do."""
    lines = [f"  {problem}"]
    own = problem.where.startswith(f"{report.file}:")
    source = report.text.split("\n")
    if own and problem.place and problem.place.line <= len(source):
        lines += _caret(_safe(source[problem.place.line - 1], problem), *problem.place)
    if problem.remedy:
        lines.append(f"    {click.style('remedy:', bold=True)} {problem.remedy}")
    return "\n".join(lines)


def _safe(source: str, problem: ConfigProblem) -> str:
    """The line without a secret in it: a password may stand where none belongs."""
    from setsuden.schemas.redact import MASK, is_secret, masked  # noqa: PLC0415

    key, equals, _ = source.partition("=")
    secret = is_secret(problem.key.rpartition(".")[2]) or is_secret(key.strip())
    return f"{key}{equals} {MASK}" if equals and secret else masked(source)


def _caret(source: str, line: int, column: int) -> list[str]:
    number = f"{line:>6}"
    blanks = "".join("\t" if char == "\t" else " " for char in source[: column - 1])
    mark = click.style("^", fg="red", bold=True)
    return [f"{number} | {source}", f"{' ' * len(number)} | {blanks}{mark}"]
