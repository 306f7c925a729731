"""Rows of data that describe boards: where their figures stand, in what unit, and what overlaps.

Ours are in ``boards.toml`` beside this module; a person adds a board with a file of
``energy.boards``. A row there replaces ours of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from setsuden.energy.sensors.factors import ErrorClass
from setsuden.process.config import Document, load_toml, validate
from setsuden.schemas.base import Model, ShortText, Token
from setsuden.schemas.energy import Boundary
from setsuden.schemas.errors import ConfigError

SHIPPED = Path(__file__).with_name("boards.toml")
Loose = Field(strict=False)
"""TOML has lists where the model has tuples, and texts where it has enums."""
FileName = str
"""Relative to the row's folder, or to ``device`` in it, where drivers of old hang their files;
``*`` stands for the channel's number."""

UNITS = {
    "J": 1.0,
    "uJ": 1e-6,
    "W": 1.0,
    "mW": 1e-3,
    "uW": 1e-6,
    "V": 1.0,
    "mV": 1e-3,
    "uV": 1e-6,
    "A": 1.0,
    "mA": 1e-3,
    "uA": 1e-6,
    "s": 1.0,
    "ms": 1e-3,
}
"""What one of each is in J, W, V, A or s."""
_QUANTITY = {"energy": "J", "power": "W", "volts": "V", "amperes": "A"}


class BoardFigure(Model):
    """A number in a file."""

    file: FileName = Field(pattern="^[^/]")
    unit: Literal["J", "uJ", "W", "mW", "uW", "V", "mV", "uV", "A", "mA", "uA", "s", "ms"]

    @property
    def scale(self) -> float:
        """What one of the file's units is in J, W, V, A or s."""
        return UNITS[self.unit]


class Condition(Model):
    """A file that says one of these texts; a file that is not there says none."""

    file: FileName
    says: tuple[str, ...] = Field(min_length=1, strict=False)


class Channel(Model):
    """One way to read a figure: a counter of energy, or power, or volts times amperes."""

    energy: BoardFigure | None = None
    power: BoardFigure | None = None
    volts: BoardFigure | None = None
    amperes: BoardFigure | None = None
    numbers: tuple[int, ...] = Field(default=(), strict=False)
    """The channels there are; empty for all that are found."""

    @property
    def figures(self) -> tuple[BoardFigure, ...]:
        """What is multiplied."""
        found = (self.energy, self.power, self.volts, self.amperes)
        return tuple(figure for figure in found if figure is not None)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = {name for name in _QUANTITY if getattr(self, name) is not None}
        if given not in ({"energy"}, {"power"}, {"volts", "amperes"}):
            raise ValueError("give energy, or power, or volts and amperes")
        for name in given:
            if not getattr(self, name).unit.endswith(_QUANTITY[name]):
                raise ValueError(f"{name} is given in {_QUANTITY[name]}, mind its unit")
        return self


class Board(Model):
    """One row: a kind of device, found by its files."""

    name: Token
    """What ``energy.sensor`` names it by."""
    citation: ShortText
    """Where its files are documented."""
    remedy: str
    """What to do where it is not found."""
    worth: Literal["board", "socket", "hwmon", "scmi"]
    """Its place among the sources: a total of the board or host comes before its sockets."""
    boundary: Annotated[Boundary, Loose]
    hw_type: str = "enclosure"
    kind: Literal["average_power", "instant_power"] = "instant_power"
    """What its power is; a counter needs no telling."""
    factor: Annotated[float, Field(ge=1)] | Annotated[ErrorClass, Loose]
    """95 % factor, or the name of one that is shared."""
    folder: str = Field(pattern="^[^/]")
    """Glob of the folders that hold its files, relative to ``/``."""
    only_if: tuple[Condition, ...] = Field(default=(), strict=False)
    """All hold, else the folder or channel is another device's."""
    unless: tuple[Condition, ...] = Field(default=(), strict=False)
    """None holds, else the same."""
    only_while: tuple[Condition, ...] = Field(default=(), strict=False)
    """Asked at every reading: where one does not hold there is no value."""
    channels: tuple[Channel, ...] = Field(min_length=1, strict=False)
    """In order of worth: the first whose files are there is read."""
    label: FileName | None = None
    """File with the channel's name."""
    skip: tuple[str, ...] = Field(default=(), strict=False)
    """Glob patterns of channel names to ignore."""
    within: tuple[Annotated[tuple[str, str], Loose], ...] = Field(default=(), strict=False)
    """Pairs of names, inner and outer: the outer figure already holds the inner one. What ``*``
    stands for is the same in both."""
    primary: (
        Literal["single", "all", "outermost"]
        | Annotated[tuple[Annotated[tuple[str, ...], Loose], ...], Loose]
    ) = "single"
    """Which channels are summed. Lists of names: the first list of which every name is there.
    ``single``: there must be one alone. ``all``: none overlaps. ``outermost``: folders
    ``x:0:1`` lie within ``x:0``."""
    accuracy: FileName | None = None
    """File with the accuracy in percent."""
    averaging: BoardFigure | None = None
    """File with the time over which power is averaged."""
    wrap_joules: float | None = Field(default=None, gt=0)
    """Where its counter goes back to 0."""
    max_watts: float | None = Field(default=None, gt=0)
    """Rated power of one channel."""
    signed: bool = False
    """True where drivers disagree about the sign."""
    invalid: tuple[int, ...] = Field(default=(), strict=False)
    """Numbers in its files that mean that there is no value."""
    tell: tuple[FileName, ...] = Field(default=(), strict=False)
    """Files that a person should see: a wrong shunt resistor scales everything."""
    seconds: float | None = Field(default=None, ge=0.05, le=60)
    """How often it is worth reading; by default as its kind."""


class BoardFile(Model):
    """A file of rows."""

    board: tuple[Board, ...] = Field(min_length=1, strict=False)


def boards(files: Sequence[str] = ()) -> tuple[Board, ...]:
    """Rows of the person's files, then ours; raises ConfigError with file, line, row and field.

    Theirs come first among rows of the same worth: whoever wrote one knows the board.
    """
    known: dict[str, str] = {}
    added: list[Board] = []
    for file in files:
        for board in _read(Path(file)):
            if board.name in known:
                raise ConfigError(f"{file}: board {board.name!r} is in {known[board.name]} too")
            known[board.name] = file
            added.append(board)
    return (*added, *(board for board in _shipped() if board.name not in known))


@lru_cache(maxsize=1)
def _shipped() -> tuple[Board, ...]:
    return _read(SHIPPED)


def _read(path: Path) -> tuple[Board, ...]:
    document = load_toml(path)
    try:
        return validate(BoardFile, document).board
    except ConfigError as error:
        raise ConfigError(_with_names(document, error.message)) from error


def _with_names(document: Document, message: str) -> str:
    """``board.2`` of a message as ``board.2 (ina226)``: rows are known by name, not number."""
    rows = document.data.get("board")
    for index, row in enumerate(rows if isinstance(rows, list) else ()):
        name = row.get("name") if isinstance(row, dict) else None
        if isinstance(name, str):
            named = f"board.{index} ({name})".replace("\\", r"\\")
            message = re.sub(rf"\bboard\.{index}\b", named, message)
    return message
