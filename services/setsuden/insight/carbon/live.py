"""Live intensities, asked for by a command or a timer and kept in a series: never by a request.

A report joins the series by hour later, so a device that was offline loses nothing, and a service
that is down or slow costs no event anything.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Protocol

from setsuden.process.config import read_text
from setsuden.schemas.errors import ConfigError

from .errors import IntensityError
from .series import HourRow, Series

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{4,512}")


class Adaptor(Protocol):
    """One service."""

    source: str
    """In every row; it says what is counted and under which licence."""

    def rows(self, zone: str, now: datetime) -> list[HourRow]:
        """The hours it knows of the last day; raises IntensityError."""


def fetch(adaptor: Adaptor, zone: str, now: datetime) -> Series:
    """Ask now, whatever is kept; raises IntensityError when no hour is known."""
    rows = adaptor.rows(zone, now)
    if not rows:
        raise IntensityError(f"{adaptor.source.partition(',')[0]} knows no hour of {zone!r}")
    return Series(rows)


def refresh(adaptor: Adaptor, zone: str, path: Path, now: datetime) -> Series:
    """The series of this file with the last day in it, asked for at most once an hour.

    Raises IntensityError; the file then stays as it was.
    """
    series = Series.read(path)
    if not series.asked_in(zone, adaptor.source, now):
        series.add(fetch(adaptor, zone, now))
        series.write(path)
    return series


def token_of(path: Path) -> str:
    """The token in a file, alone on its line; raises ConfigError in words without it."""
    token = read_text(path).strip()
    if _TOKEN.fullmatch(token) is None:
        raise ConfigError(f"{path} holds no token", remedy="put the token alone into the file")
    return token
