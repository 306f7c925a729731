"""Hourly intensities in a file, so that a report can join them with windows of any past hour.

JSON lines, sorted, one row an hour and zone. One file holds averages or marginal rates, never both,
and one source a zone: their figures mean different things, and a sum over both means nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from setsuden.schemas.base import ShortText, WireModel

from .intensity import Intensity, IntensityError, Rate, RateMethod, Zone

MAX_BYTES = 64 << 20
"""Some 30 years of one zone."""


def hour_of(moment: datetime) -> datetime:
    """The UTC hour that holds this moment, which must know its time zone."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


Hour = Annotated[AwareDatetime, AfterValidator(hour_of)]


class HourRow(WireModel):
    """The intensity of one zone in one hour."""

    hour: Hour
    """Its start, UTC."""
    zone: Zone
    g_per_kwh: Rate
    method: RateMethod
    estimated: bool
    """True when the source says that it is a model or a forecast."""
    source: ShortText = Field(min_length=1)
    fetched: Hour
    """The hour it was asked in."""


class IntensitySeries:
    """A file's rows in memory."""

    def __init__(self, rows: Iterable[HourRow] = ()) -> None:
        self._rows: dict[tuple[str, datetime], HourRow] = {}
        self._sources: dict[str, str] = {}
        self._method: RateMethod | None = None
        self.add(rows)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file's rows, none when there is no file; raises IntensityError."""
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise IntensityError(f"cannot read {path}: {error.strerror}") from error
        if len(content) > MAX_BYTES:
            raise IntensityError(f"{path} is over {MAX_BYTES} bytes", remedy="begin a new file")
        return cls(_parsed(path, content))

    def add(self, rows: Iterable[HourRow]) -> None:
        """Take rows in; a later row replaces one of the same hour, an estimate never a reading.

        Raises IntensityError when they do not belong in this series.
        """
        for row in rows:
            self._check(row)
            known = self._rows.get((row.zone, row.hour))
            if known is None or known.estimated or not row.estimated:
                self._rows[row.zone, row.hour] = row

    def _check(self, row: HourRow) -> None:
        self._method = self._method or row.method
        if row.method is not self._method:
            raise IntensityError(
                f"a series of {self._method} intensities takes no {row.method} ones",
                remedy="keep them in two files",
            )
        source = self._sources.setdefault(row.zone, row.source)
        if row.source != source:
            raise IntensityError(
                f"the series has {row.zone} from {source!r}, not from {row.source!r}",
                remedy="keep sources in files of their own",
            )

    def at(self, zone: str, hour: datetime) -> Intensity | None:
        """The zone's intensity in the hour of this moment; None when it is not in the file."""
        row = self._rows.get((zone, hour_of(hour)))
        if row is None:
            return None
        return Intensity(
            row.g_per_kwh, row.hour.year, row.zone, row.method, row.estimated, row.source
        )

    def asked_in(self, zone: str, source: str, moment: datetime) -> bool:
        """True when this source was already asked for the zone in the hour of this moment."""
        hour = hour_of(moment)
        return any(
            row.zone == zone and row.source == source and row.fetched == hour for row in self
        )

    def write(self, path: Path) -> None:
        """Replace the file in one step, so that nobody reads half of it; raises IntensityError."""
        text = "".join(f"{row.model_dump_json()}\n" for row in self)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, text)
        except OSError as error:
            raise IntensityError(f"cannot write {path}: {error.strerror}") from error

    def __iter__(self) -> Iterator[HourRow]:
        """Rows by hour, then zone."""
        return iter(sorted(self._rows.values(), key=lambda row: (row.hour, row.zone)))

    def __len__(self) -> int:
        return len(self._rows)


def _parsed(path: Path, content: bytes) -> Iterator[HourRow]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield HourRow.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            reason = f"{field}: {first['msg']}" if field else first["msg"]
            raise IntensityError(f"{path}:{number}: {reason}") from error


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, 0o644)  # public figures: the reader may be another user
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
