"""Live intensities, fetched by a command or a timer and kept in a series: never during a request.

A report joins the series by hour later, so a device that was offline loses nothing, and a service
that is down or slow costs no event anything.
"""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Literal, Protocol
from urllib.parse import urlencode

from pydantic import AwareDatetime, Field

from setsuden.process.config import read_text
from setsuden.schemas.base import WireModel
from setsuden.schemas.errors import ConfigError

from .intensity import IntensityError, Rate, RateMethod
from .series import HourRow, IntensitySeries, hour_of
from .web import get, read

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{4,512}")
UK_URL = "https://api.carbonintensity.org.uk"
ELECTRICITY_MAPS_URL = "https://api.electricitymaps.com"


class Adaptor(Protocol):
    """One service."""

    source: str
    """In every row; it says what is counted and under which licence."""

    def rows(self, zone: str, now: datetime) -> list[HourRow]:
        """The hours it knows of the last day; raises IntensityError."""


def fetch(adaptor: Adaptor, zone: str, now: datetime) -> IntensitySeries:
    """Ask now, whatever is kept; raises IntensityError when no hour is known."""
    rows = adaptor.rows(zone, now)
    if not rows:
        raise IntensityError(f"{adaptor.source.partition(',')[0]} knows no hour of {zone!r}")
    return IntensitySeries(rows)


def refresh(adaptor: Adaptor, zone: str, path: Path, now: datetime) -> IntensitySeries:
    """The series of this file with the last day in it, asked for at most once an hour.

    Raises IntensityError; the file then stays as it was.
    """
    series = IntensitySeries.read(path)
    if not series.asked_in(zone, adaptor.source, now):
        series.add(fetch(adaptor, zone, now))
        series.write(path)
    return series


def token_of(path: Path) -> str:
    """The token in a file, alone on its line; the message of a ConfigError never holds it."""
    token = read_text(path).strip()
    if _TOKEN.fullmatch(token) is None:
        raise ConfigError(f"{path} holds no token", remedy="put the token alone into the file")
    return token


# -- Great Britain ---------------------------------------------------------------------------


class _Figures(WireModel):
    forecast: Rate | None = None
    actual: Rate | None = None


class _HalfHour(WireModel):
    start: AwareDatetime = Field(alias="from")
    intensity: _Figures


class _HalfHours(WireModel):
    data: tuple[_HalfHour, ...] = Field(max_length=1000)


class UkCarbonIntensity:
    """UK Carbon Intensity: the last 24 hours of Great Britain, average, no key, CC BY 4.0.

    CO2 of generation only, so lower than lifecycle figures of the same hour: never put both in one
    sum. Half hours become hours. ``actual`` is null until the half hour is settled; until then the
    forecast is used and the hour is marked estimated.
    """

    source = "UK Carbon Intensity API (NESO), CO2 of generation, CC BY 4.0"

    def __init__(self, url: str = UK_URL) -> None:
        self._url = url.rstrip("/")

    def rows(self, zone: str, now: datetime) -> list[HourRow]:
        """Its last 24 hours; raises IntensityError, also for any zone but GB."""
        if zone != "GB":
            raise IntensityError(f"UK Carbon Intensity knows GB, not {zone!r}")
        until = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")
        body = get(f"{self._url}/intensity/{until}/pt24h", {"Accept": "application/json"})
        halves: defaultdict[datetime, list[_Figures]] = defaultdict(list)
        for half in read(_HalfHours, body, "UK Carbon Intensity").data:
            if half.intensity != _Figures():
                halves[hour_of(half.start)].append(half.intensity)
        return [self._row(hour, parts, now) for hour, parts in halves.items()]

    def _row(self, hour: datetime, parts: list[_Figures], now: datetime) -> HourRow:
        actual = [part.actual for part in parts if part.actual is not None]
        best = [part.forecast if part.actual is None else part.actual for part in parts]
        return HourRow(
            hour=hour,
            zone="GB",
            g_per_kwh=fmean(figure for figure in best if figure is not None),
            method=RateMethod.AVERAGE,
            estimated=len(actual) < 2,
            source=self.source,
            fetched=hour_of(now),
        )


# -- Electricity Maps ------------------------------------------------------------------------


class _Point(WireModel):
    g_per_kwh: Rate | None = Field(alias="carbonIntensity")
    datetime: AwareDatetime
    factors: Literal["lifecycle"] = Field(alias="emissionFactorType", default="lifecycle")
    estimated: bool = Field(alias="isEstimated", default=True)
    """An answer that does not say so may be one."""


class _History(WireModel):
    zone: str
    history: tuple[_Point, ...] = Field(max_length=1000)


class ElectricityMaps:
    """Electricity Maps: the last 24 hours of one zone, average, imports traced, lifecycle.

    Needs a token. Its free tier is for **non-commercial use of one zone**; other use needs a
    contract (docs.electricitymaps.com). Its figures are not open data: keep them for your own
    reports.
    """

    source = "Electricity Maps, consumption with imports, lifecycle CO2eq"

    def __init__(self, token: str, url: str = ELECTRICITY_MAPS_URL) -> None:
        self._headers = {"auth-token": token, "Accept": "application/json"}
        self._url = url.rstrip("/")

    def rows(self, zone: str, now: datetime) -> list[HourRow]:
        """Its last 24 hours, without those it does not know; raises IntensityError."""
        # Without disableCallerLookup an unknown zone is answered with that of our IP address.
        query = {"zone": zone, "emissionFactorType": "lifecycle", "disableCallerLookup": "true"}
        address = f"{self._url}/v3/carbon-intensity/history?{urlencode(query)}"
        answer = read(_History, get(address, self._headers), "Electricity Maps")
        if answer.zone != zone:
            raise IntensityError(f"Electricity Maps answered for {answer.zone!r}, not {zone!r}")
        return [
            HourRow(
                hour=point.datetime,
                zone=zone,
                g_per_kwh=point.g_per_kwh,
                method=RateMethod.AVERAGE,
                estimated=point.estimated,
                source=self.source,
                fetched=hour_of(now),
            )
            for point in answer.history
            if point.g_per_kwh is not None
        ]
