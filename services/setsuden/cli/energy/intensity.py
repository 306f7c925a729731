"""``setsuden energy intensity``: what a kWh of a grid emits, with its year and source."""

from __future__ import annotations

import difflib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from setsuden.insight.carbon.intensity import Intensity
    from setsuden.insight.carbon.live import Adaptor
    from setsuden.insight.carbon.series import HourRow

ELECTRICITY_MAPS, UK = "electricity-maps", "uk"


@click.command()
@click.argument("zone")
@click.option("--year", type=click.IntRange(1990, 2100), help="Not newer than this year.")
@click.option(
    "--live",
    type=click.Choice([ELECTRICITY_MAPS, UK]),
    help="Ask a service for the last day, hour by hour.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the token for electricity-maps.",
)
@click.option("--url", metavar="URL", help="Another address of the service, as of a relay.")
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep the hours in this series, and ask at most once an hour.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def intensity(  # noqa: PLR0917  # click hands over each option
    zone: str,
    year: int | None,
    live: str | None,
    token_file: Path | None,
    url: str | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Show the carbon intensity of ZONE, a country code such as FR."""
    zone = _checked(zone)
    if live is None:
        _refuse("--live", token_file=token_file, url=url, save=save)
        _show(_yearly(zone, year), as_json=as_json)
        return
    if year is not None:
        raise click.UsageError("--year is of the yearly table: leave it out with --live")
    rows = _hours(_adaptor(live, token_file, url), zone, save)
    _show_hours(rows, as_json=as_json)


def _refuse(needed: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} needs {needed}")


def _checked(zone: str) -> str:
    from setsuden.insight.carbon.intensity import ZONE_PATTERN  # noqa: PLC0415

    upper = zone.upper()
    if re.fullmatch(ZONE_PATTERN, upper) is None:
        raise click.BadParameter(f"{zone!r} is no zone: give a country code such as FR")
    return upper


def _yearly(zone: str, year: int | None) -> Intensity:
    from setsuden.insight.carbon.intensity import intensity as yearly  # noqa: PLC0415
    from setsuden.insight.carbon.intensity import zones  # noqa: PLC0415

    found = yearly(zone, year)
    if found is not None:
        return found
    if zone in zones():
        raise click.BadParameter(f"{zone} has no figure of {year} or before")
    near = difflib.get_close_matches(zone, zones(), n=3, cutoff=0.4)
    hint = f", only for example {', '.join(near)}" if near else ""
    raise click.BadParameter(f"the yearly table does not have {zone!r}{hint}")


def _adaptor(live: str, token_file: Path | None, url: str | None) -> Adaptor:
    from setsuden.insight.carbon import live as services  # noqa: PLC0415

    if live == UK:
        _refuse(f"--live {ELECTRICITY_MAPS}", token_file=token_file)
        return services.UkCarbonIntensity(url or services.UK_URL)
    if token_file is None:
        raise click.UsageError(f"--live {ELECTRICITY_MAPS} needs --token-file")
    token = services.token_of(token_file)
    return services.ElectricityMaps(token, url or services.ELECTRICITY_MAPS_URL)


def _hours(adaptor: Adaptor, zone: str, save: Path | None) -> list[HourRow]:
    from setsuden.insight.carbon.live import fetch, refresh  # noqa: PLC0415

    now = datetime.now(UTC)
    series = fetch(adaptor, zone, now) if save is None else refresh(adaptor, zone, save, now)
    return [row for row in series if row.zone == zone]


def _show(found: Intensity, *, as_json: bool) -> None:
    click.echo(json.dumps(found._asdict()) if as_json else found.label)


def _show_hours(rows: list[HourRow], *, as_json: bool) -> None:
    recent = rows[-24:]
    if as_json:
        hours = [row.model_dump(mode="json") for row in recent]
        click.echo(json.dumps({"hours": hours, "kept": len(rows)}))
        return
    for row in recent:
        mark = "  estimated" if row.estimated else ""
        click.echo(f"{row.hour:%Y-%m-%d %H:%M}  {row.g_per_kwh:7.1f} g/kWh{mark}")
    click.echo(f"{recent[-1].zone}, {recent[-1].method}: {recent[-1].source}", err=True)
