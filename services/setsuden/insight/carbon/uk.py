"""UK Carbon Intensity: the last 24 hours of Great Britain, average, no key, CC BY 4.0.

CO2 of generation only, so lower than lifecycle figures of the same hour: never put both in one sum.
Half hours become hours. ``actual`` is null until the half hour is settled; then the forecast stands
in and the hour is marked estimated.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from statistics import fmean

from pydantic import AwareDatetime, Field

from setsuden.schemas.base import WireModel

from .errors import IntensityError
from .intensity import Rate, RateMethod
from .series import HourRow, hour_of
from .web import get, read

URL = "https://api.carbonintensity.org.uk"


class _Figures(WireModel):
    forecast: Rate | None = None
    actual: Rate | None = None


class _HalfHour(WireModel):
    start: AwareDatetime = Field(alias="from")
    intensity: _Figures


class _Answer(WireModel):
    data: tuple[_HalfHour, ...] = Field(max_length=1000)


class UkCarbonIntensity:
    """The service of Great Britain's system operator."""

    source = "UK Carbon Intensity API (NESO), CO2 of generation, CC BY 4.0"

    def __init__(self, url: str = URL) -> None:
        self._url = url.rstrip("/")

    def rows(self, zone: str, now: datetime) -> list[HourRow]:
        """Its last 24 hours; raises IntensityError, also for any zone but GB."""
        if zone != "GB":
            raise IntensityError(f"UK Carbon Intensity knows GB, not {zone!r}")
        until = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")
        body = get(f"{self._url}/intensity/{until}/pt24h", {"Accept": "application/json"})
        halves: defaultdict[datetime, list[_Figures]] = defaultdict(list)
        for half in read(_Answer, body, "UK Carbon Intensity").data:
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
