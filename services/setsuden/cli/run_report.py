"""``setsuden report``: joules, euros and grams of a run, from its rows."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .failure import FAILED
from .lazy import needs, quiet_logs

if TYPE_CHECKING:
    from setsuden.insight.carbon.series import IntensitySeries
    from setsuden.insight.report.assumptions import Declarations
    from setsuden.insight.report.model import Report
    from setsuden.insight.report.recompute import RecomputeResult
    from setsuden.insight.report.rows.read import TimeRange
    from setsuden.insight.report.totals.run import RunTotals

EXPORTS = ("impact",)
COMPONENTS = ("edge", "broker", "cloud")
_AGO = re.compile(r"^(\d+(?:\.\d+)?)\s*([smhd])$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class MomentType(click.ParamType[int]):
    """A UTC time, or how long ago; as nanoseconds."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Nanoseconds since 1970."""
        if isinstance(value, int):
            return value
        ago = _AGO.match(str(value))
        if ago is not None:
            moment = datetime.now(UTC) - timedelta(seconds=float(ago[1]) * _SECONDS[ago[2]])
            return round(moment.timestamp() * 1e9)
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time: write 2026-11-24T10:00 or 2h", param, ctx)
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1e9)


@click.command(short_help="Joules, euros and grams of a run.")
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    metavar="RUN...",
    type=click.Path(path_type=Path, file_okay=False),
)
@click.option("--json", "as_json", is_flag=True, help="The whole report as one JSON document.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one page.")
@click.option(
    "--export", type=click.Choice(EXPORTS), help="Write it as an Impact Framework manifest."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="File of the export; - or nothing for standard output.",
)
@click.option(
    "--recompute",
    "again",
    is_flag=True,
    help="Derive every figure of the kept report again from the rows; exit 1 on the first that "
    "differs. Writes nothing.",
)
@click.option("--since", type=MomentType(), help="UTC, as 2026-11-24T10:00, or 2h for 2 hours ago.")
@click.option("--until", type=MomentType(), help="The same; windows that start later are left out.")
@click.option("--per", default=1000, show_default=True, type=click.IntRange(1, 10**9))
@click.option(
    "--assumptions",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with sites, embodied carbon, prices, rents and devices.",
)
@click.option(
    "--grid",
    "grids",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Hourly intensities, as `setsuden energy intensity --save` keeps them: for the hours "
    "they have, instead of the year's.",
)
@click.option("--site-of", multiple=True, metavar="COMPONENT=SITE", help="Where it stands.")
@click.option("--tariff", type=click.FloatRange(0, 100), help="EUR per kWh, at sites without one.")
@click.option("--price", "rents", multiple=True, metavar="COMPONENT=EUR", help="Rent an hour.")
def report(  # noqa: PLR0917  # click hands over each option
    runs: tuple[Path, ...],
    as_json: bool,
    html: Path | None,
    export: str | None,
    out: Path | None,
    again: bool,
    since: int | None,
    until: int | None,
    per: int,
    assumptions: Path | None,
    grids: tuple[Path, ...],
    site_of: tuple[str, ...],
    tariff: float | None,
    rents: tuple[str, ...],
) -> None:
    """Say what the run in folder RUN used: per 1,000 inferences, by component and part.

    RUN holds the rows that agents, workers and brokers wrote, in files *.rows.jsonl at any depth.
    Several RUNs are one: give the folders of all tiers together. What is assumed (grids, prices)
    and the report itself are kept in the first, as assumptions.json and report.json.
    """
    quiet_logs()
    declared_now = (assumptions, *grids, *site_of, tariff, *rents)
    if again:
        if any(value is not None for value in (*declared_now, since, until, html, export, out)):
            raise click.UsageError("--recompute takes what the kept report was made with")
        _recompute(runs, as_json=as_json)
        return
    _check(export, out, as_json=as_json)
    declarations = _declarations(assumptions, site_of, tariff, rents)
    made = _report(runs, declarations, _time_range(since, until), grids)
    _write(made, html, export, out)
    if as_json:
        click.echo(made.model_dump_json())
    elif export is None or out not in {None, Path("-")}:
        from setsuden.insight.report.render.terminal import text  # noqa: PLC0415

        click.echo(text(made, per))


def _check(export: str | None, out: Path | None, *, as_json: bool) -> None:
    if out is not None and export is None:
        raise click.UsageError(f"--out needs --export {'|'.join(EXPORTS)}")
    if as_json and export is not None and out in {None, Path("-")}:
        raise click.UsageError("--json and the export cannot both go to standard output")


def _time_range(since: int | None, until: int | None) -> TimeRange:
    from setsuden.insight.report.rows.read import TimeRange  # noqa: PLC0415  # pydantic and more

    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until")
    return TimeRange(since, until)


def _report(
    runs: Sequence[Path], declarations: Declarations, time_range: TimeRange, grids: Sequence[Path]
) -> Report:
    from setsuden.insight.report.build import keep, read_run, report_of  # noqa: PLC0415

    series = _series(grids)
    run = read_run(runs, declarations, time_range)
    if series is not None:
        run = _hourly(run, series)
    made = report_of(run)
    try:
        keep(runs[0], run, made)
    except OSError as error:
        click.echo(
            f"not kept for --recompute: {runs[0]} cannot be written ({error.strerror})", err=True
        )
    return made


def _series(grids: Sequence[Path]) -> IntensitySeries | None:
    from setsuden.insight.report.assumptions import averages  # noqa: PLC0415

    return averages(grids) if grids else None


def _hourly(run: RunTotals, series: IntensitySeries) -> RunTotals:
    from setsuden.insight.report.figures.timeline import with_hourly_grid  # noqa: PLC0415

    hourly, missing = with_hourly_grid(run, series)
    for zone in missing:
        click.echo(f"--grid has no hour of the run for {zone}: nothing changes there", err=True)
    return hourly


# -- what is declared -------------------------------------------------------------------------


def _declarations(
    path: Path | None, site_of: Sequence[str], tariff: float | None, rents: Sequence[str]
) -> Declarations:
    from setsuden.insight.carbon.sites import Price  # noqa: PLC0415
    from setsuden.insight.report.assumptions import Declarations, read_declared  # noqa: PLC0415
    from setsuden.schemas.windows import Component  # noqa: PLC0415

    declared = Declarations() if path is None else read_declared(path)
    today = datetime.now(UTC).date()
    sites = {Component(key): _token(value) for key, value in _pairs("--site-of", site_of)}
    hours = {Component(key): _rent(value, today) for key, value in _pairs("--price", rents)}
    changes: dict[str, Any] = {
        "site_of": {**declared.site_of, **sites},
        "rents": {**declared.rents, **hours},
    }
    if tariff is not None:
        changes["tariff"] = Price(euros_per_kwh=tariff, source="--tariff", retrieved=today)
    return declared.model_copy(update=changes)


def _pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in COMPONENTS or not value:
            raise click.BadParameter(
                f"{text!r}: write one of {', '.join(COMPONENTS)}, then =", param_hint=option
            )
        pairs.append((key, value))
    return pairs


def _token(value: str) -> str:
    from setsuden.schemas.base import TOKEN_PATTERN  # noqa: PLC0415

    if re.fullmatch(TOKEN_PATTERN, value) is None:
        raise click.BadParameter(f"{value!r} is not a site name", param_hint="--site-of")
    return value


def _rent(value: str, today: date) -> Any:
    from setsuden.insight.carbon.sites import Price  # noqa: PLC0415

    try:
        euros = float(value)
    except ValueError:
        euros = -1.0
    if not 0 <= euros <= 10_000:
        raise click.BadParameter(f"{value!r} is not a price in EUR an hour", param_hint="--price")
    return Price(euros_per_hour=euros, source="--price", retrieved=today)


# -- what is written --------------------------------------------------------------------------


def _write(made: Report, html: Path | None, export: str | None, out: Path | None) -> None:
    if html is not None:
        with needs("html"):
            from setsuden.insight.render.report import page  # noqa: PLC0415

        _put(html, page(made))
    if export is not None:
        from setsuden.insight.report.render import impact  # noqa: PLC0415

        _put(out or Path("-"), impact.text(made))


def _put(path: Path, text: str) -> None:
    if str(path) == "-":
        click.echo(text, nl=False)
        return
    with click.open_file(str(path), "w", encoding="utf-8", atomic=True) as file:
        file.write(text)
    click.echo(f"written to {path}", err=True)


def _recompute(runs: Sequence[Path], *, as_json: bool) -> None:
    from setsuden.insight.report.recompute import recompute  # noqa: PLC0415

    checked = recompute(runs)
    click.echo(_as_json(checked) if as_json else _summary(checked))
    if checked.differs is not None:
        sys.exit(FAILED)


def _as_json(checked: RecomputeResult) -> str:
    differs = checked.differs._asdict() if checked.differs is not None else None
    return json.dumps({**checked._asdict(), "differs": differs})


def _summary(checked: RecomputeResult) -> str:
    if checked.differs is not None:
        path, saved, fresh = checked.differs
        return f"differs: {path}\n  kept       {saved}\n  recomputed {fresh}"
    rows = f"{checked.windows:,} windows agree with their own readings"
    if not checked.figures:
        return f"{rows}; no report is kept here to compare: make one first"
    return f"{rows}, {checked.figures:,} figures of the report with the rows"
