"""Electricity Maps: the last 24 hours of one zone, average, imports traced, over the whole life.

Needs a token. Its free tier is for **non-commercial use of one zone**; other use needs a contract
(docs.electricitymaps.com). Its figures are not open data: keep them for your own reports.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from urllib.parse import urlencode

from pydantic import AwareDatetime, Field

from setsuden.schemas.base import WireModel

from .errors import IntensityError
from .intensity import Rate, RateMethod
from .series import HourRow, hour_of
from .web import get, read

URL = "https://api.electricitymaps.com"


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
    """The service, with this token."""

    source = "Electricity Maps, consumption with imports, lifecycle CO2eq"

    def __init__(self, token: str, url: str = URL) -> None:
        self._headers = {"auth-token": token, "Accept": "application/json"}
        self._url = url.rstrip("/")

    def rows(self, zone: str, now: datetime) -> list[HourRow]:
        """Its last 24 hours, without those it does not know; raises IntensityError."""
        # Without disableCallerLookup an unknown zone is answered with that of our IP address.
        query = {"zone": zone, "emissionFactorType": "lifecycle", "disableCallerLookup": "true"}
        address = f"{self._url}/v3/carbon-intensity/history?{urlencode(query)}"
        found = read(_History, get(address, self._headers), "Electricity Maps")
        if found.zone != zone:
            raise IntensityError(f"Electricity Maps answered for {found.zone!r}, not {zone!r}")
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
            for point in found.history
            if point.g_per_kwh is not None
        ]
