"""From rows of boards to candidates: which of them this machine has, and what is read of each."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from setsuden.energy.domain import Candidate, Domain, DomainKind
from setsuden.energy.host.system import Host
from setsuden.energy.options import EnergyOptions
from setsuden.energy.sensors.boards import Board, BoardFigure, Channel, Condition, boards
from setsuden.energy.sensors.factors import FACTORS, ErrorClass, accuracy_factor
from setsuden.energy.sensors.files import (
    FileChannel,
    FileCondition,
    FileSensor,
    Number,
    number_in,
    permission_remedy,
    why,
)
from setsuden.energy.sensors.sysfs_cache import SysfsCache
from setsuden.schemas.energy import Source


class Named(NamedTuple):
    """A channel as far as its place among others matters."""

    id: str
    name: str
    folder: str


def match(pattern: str, name: str) -> str | None:
    """What the first ``*`` stands for in ``name``; None where the pattern is not its."""
    shape = re.escape(pattern).replace(r"\*", "(.*)", 1).replace(r"\*", ".*")
    found = re.fullmatch(shape, name)
    if found is None:
        return None
    return found[1] if found.re.groups else ""


def sums(board: Board, found: Sequence[Named]) -> list[list[str]]:
    """Ids of channels that can be summed, the best sum first."""
    everything = [one.id for one in found]
    if board.primary == "single":
        return [everything] if len(found) == 1 else []
    if board.primary == "all":
        return [everything]
    if board.primary == "outermost":
        inner = parents(board, found)
        return [[one for one in everything if one not in inner]]
    return [ids for names in board.primary if (ids := _of_names(names, found))]


def _of_names(patterns: Sequence[str], found: Sequence[Named]) -> list[str]:
    """The channels of these names; none where one name has no channel."""
    groups = [
        [one.id for one in found if match(pattern, one.name) is not None] for pattern in patterns
    ]
    return [one for group in groups for one in group] if all(groups) else []


def parents(board: Board, found: Sequence[Named]) -> dict[str, str]:
    """The channel that holds each inner one, by id."""
    if board.primary == "outermost":
        return _by_folder(found)
    names = {one.name: one.id for one in found}
    outers = ((one.id, _outer(board, one.name, names)) for one in found)
    return {inner: outer for inner, outer in outers if outer not in {None, inner} and outer}


def _outer(board: Board, name: str, names: dict[str, str]) -> str | None:
    matched = ((match(inner, name), outer) for inner, outer in board.within)
    wanted = (outer.replace("*", star) for star, outer in matched if star is not None)
    return next((names[outer] for outer in wanted if outer in names), None)


def _by_folder(found: Sequence[Named]) -> dict[str, str]:
    """A zone ``x:0:1`` lies within ``x:0``, as powercap names them."""
    ids = {one.folder: one.id for one in found}
    return {one.id: outer for one in found if (outer := _zone_above(one.folder, ids))}


def _zone_above(folder: str, ids: dict[str, str]) -> str | None:
    while ":" in folder:
        folder = folder.rpartition(":")[0]
        if folder in ids:
            return ids[folder]
    return None


SECONDS = {DomainKind.COUNTER: 1.0, DomainKind.AVERAGE_POWER: 0.2, DomainKind.INSTANT_POWER: 0.1}
"""How often each kind is worth reading."""
_LONGEST_SECONDS = 1.0
_WHOLE = 0.9
"""Part of the time between two readings that an average must cover to be all of it."""
_PASSING = frozenset({errno.EAGAIN, errno.EBUSY})
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_OFF = frozenset({errno.ENODATA, errno.ENODEV})


def probe_boards(options: EnergyOptions, host: Host) -> list[tuple[str, Candidate]]:
    """The worth and candidate of each row, in the rows' order; raises ConfigError for a bad row."""
    files = SysfsCache(host.root)
    return [
        (board.worth, Search(board, files, host).candidate()) for board in boards(options.boards)
    ]


@dataclass(frozen=True, slots=True)
class Found:
    """One channel of a board on this machine."""

    named: Named
    number: int | None
    channel: Channel

    def file(self, name: str) -> str:
        """The row's file name with this channel's number."""
        return name if self.number is None else name.replace("*", str(self.number))


@dataclass(frozen=True, slots=True)
class ProbeFailure:
    """Why a channel cannot be read."""

    reason: str
    denied: str = ""
    """The file, where it is for want of permission."""
    off: bool = False
    """True where the device says that it measures nothing there."""


class Search:
    """One row, on one machine."""

    def __init__(self, board: Board, files: SysfsCache, host: Host) -> None:
        self._board = board
        self._files = files
        self._host = host

    def candidate(self) -> Candidate:
        """What the row finds. Each channel is read once, to know that it can be."""
        found = self.found()
        if not found:
            return self._refused(f"none in /{self._board.folder}", self._board.remedy)
        failures = self._failures(found)
        denied = next((failure.denied for failure in failures.values() if failure.denied), "")
        if denied:
            return self._refused(f"may not read /{denied}", permission_remedy(denied))
        readable = [one for one in found if one.named.id not in failures]
        for ids in sums(self._board, [one.named for one in self._countable(found, failures)]):
            # A part that cannot be read is no reason to sum the others: half a machine would
            # pass for the whole.
            if ids and not failures.keys() & set(ids):
                return self._available(readable, ids, failures)
        return self._no_sum(found, failures)

    def _countable(
        self, found: Sequence[Found], failures: dict[str, ProbeFailure]
    ) -> Sequence[Found]:
        """Without what is switched off, where one alone is looked for."""
        if self._board.primary != "single":
            return found
        off = {identity for identity, failure in failures.items() if failure.off}
        return [one for one in found if one.named.id not in off]

    def _refused(self, reason: str, remedy: str) -> Candidate:
        return Candidate(self._board.name, False, reason, remedy, origin=self._origin)

    @property
    def _origin(self) -> str:
        return f"row {self._board.name}: {self._board.citation}"

    def _no_sum(self, found: Sequence[Found], failures: dict[str, ProbeFailure]) -> Candidate:
        if failures:
            reasons = sorted({failure.reason for failure in failures.values()})
            return self._refused("; ".join(reasons), self._board.remedy)
        names = ", ".join(sorted(f"{one.named.name} ({one.named.id})" for one in found))
        return self._refused(
            f"which of these figures add up is not known: {names}",
            "say so in a row of your own, like the row "
            f"{self._board.name!r} of boards.toml, and name its file in energy.boards",
        )

    def _available(
        self, readable: Sequence[Found], ids: Sequence[str], failures: dict[str, ProbeFailure]
    ) -> Candidate:
        above = parents(self._board, [one.named for one in readable])
        channels = tuple(self._channel(one, above.get(one.named.id)) for one in readable)
        return Candidate(
            self._board.name,
            available=True,
            reason="; ".join(self._reasons(readable, ids, failures)),
            domains=tuple(channel.domain for channel in channels),
            primary=tuple(ids),
            open=partial(FileSensor, channels, self._host),
            origin=self._origin,
        )

    # -- what there is ------------------------------------------------------------------------

    def found(self) -> list[Found]:
        """Every channel that meets the row's conditions, whether or not it can be read."""
        folders = (
            folder
            for folder in self._files.glob(self._board.folder)
            if all(self._says(condition, folder) for condition in self._board.only_if)
        )
        return [one for folder in folders for one in self._in(folder) if not self._excluded(one)]

    def _in(self, folder: str) -> list[Found]:
        """For each number the first channel of the row whose files are there."""
        chosen: dict[int | None, Found] = {}
        for channel in self._board.channels:
            for number in self._numbers(channel, folder):
                one = Found(self._named(folder, number, channel), number, channel)
                if number not in chosen and self._complete(one):
                    chosen[number] = one
        return list(chosen.values())

    def _complete(self, one: Found) -> bool:
        return len(self._numbers_of(one)) == len(one.channel.figures)

    def _numbers(self, channel: Channel, folder: str) -> Iterable[int | None]:
        pattern = channel.figures[0].file
        if "*" not in pattern:
            return [None]
        numbers = {int(name[1]) for name in self._files.matching(folder, pattern)}
        return sorted(numbers & set(channel.numbers) if channel.numbers else numbers)

    def _named(self, folder: str, number: int | None, channel: Channel) -> Named:
        place = self._files.device(folder)
        identity = f"{self._board.name}:{place}"
        name, file = folder.rsplit("/", 1)[1], self._board.label
        if number is not None:
            identity = f"{identity}:{number}"
            name = channel.figures[0].file.replace("*", str(number)).rpartition("_")[0]
        label = file and self._files.says(folder, file.replace("*", str(number)))
        return Named(identity, label or name, folder)

    def _excluded(self, one: Found) -> bool:
        if any(match(pattern, one.named.name) is not None for pattern in self._board.skip):
            return True
        return any(self._says(condition, one.named.folder, one) for condition in self._board.unless)

    def _says(self, condition: Condition, folder: str, one: Found | None = None) -> bool:
        file = condition.file if one is None else one.file(condition.file)
        return self._files.says(folder, file) in condition.says

    # -- what is read -------------------------------------------------------------------------

    def _channel(self, one: Found, parent: str | None = None) -> FileChannel:
        return FileChannel(
            self._domain(one, parent),
            self._numbers_of(one),
            self._gates_of(one),
            self._board.signed,
            self._board.invalid,
        )

    def _numbers_of(self, one: Found) -> tuple[Number, ...]:
        placed = ((self._place(one, figure.file), figure.scale) for figure in one.channel.figures)
        return tuple(Number(file, scale) for file, scale in placed if file is not None)

    def _gates_of(self, one: Found) -> tuple[FileCondition, ...]:
        asked = self._board.only_while
        placed = ((self._place(one, condition.file), condition.says) for condition in asked)
        return tuple(FileCondition(file, says) for file, says in placed if file is not None)

    def _place(self, one: Found, name: str) -> str | None:
        return self._files.place(one.named.folder, one.file(name))

    def _domain(self, one: Found, parent: str | None) -> Domain:
        board = self._board
        kind = DomainKind.COUNTER if one.channel.energy else DomainKind(board.kind)
        return Domain(
            id=one.named.id,
            name=one.named.name,
            hw_type=board.hw_type,
            kind=kind,
            source=self._source(one, kind),
            boundary=board.boundary,
            factor=self._factor(one),
            parent=parent,
            max_joules=board.wrap_joules if kind is DomainKind.COUNTER else None,
            max_watts=board.max_watts,
            interval_seconds=self._seconds(one, kind),
        )

    def _source(self, one: Found, kind: DomainKind) -> Source:
        """Measured where the device itself counts or averages all the time; else derived."""
        whole = one.channel.power is not None and not self._gap(one, kind)
        return Source.MEASURED if kind is DomainKind.COUNTER or whole else Source.DERIVED

    def _gap(self, one: Found, kind: DomainKind) -> bool:
        """True where time between two readings is in neither."""
        averaged = self._averaged(one)
        return averaged is None or averaged < self._seconds(one, kind) * _WHOLE

    def _seconds(self, one: Found, kind: DomainKind) -> float:
        seconds = self._board.seconds or SECONDS[kind]
        averaged = self._averaged(one)
        if kind is not DomainKind.AVERAGE_POWER or averaged is None:
            return seconds
        return min(max(seconds, averaged), max(seconds, _LONGEST_SECONDS))

    def _averaged(self, one: Found) -> float | None:
        """Seconds over which its power is averaged; None when no file says so."""
        figure = self._board.averaging
        return None if figure is None else self._figure(one, figure)

    def _figure(self, one: Found, figure: BoardFigure) -> float | None:
        text = self._files.says(one.named.folder, one.file(figure.file))
        try:
            return number_in(figure.file, text or "") * figure.scale
        except ValueError:
            return None

    def _factor(self, one: Found) -> float:
        factor = self._board.factor
        default = FACTORS[factor].value if isinstance(factor, ErrorClass) else factor
        if self._board.accuracy is None:
            return default
        text = self._files.says(one.named.folder, one.file(self._board.accuracy)) or ""
        try:
            return accuracy_factor(float(text.rstrip("% "))) or default
        except ValueError:
            return default

    def _failures(self, found: Sequence[Found]) -> dict[str, ProbeFailure]:
        tried = ((one.named.id, self._failure(self._channel(one))) for one in found)
        return {identity: failure for identity, failure in tried if failure is not None}

    def _failure(self, channel: FileChannel) -> ProbeFailure | None:
        """Why the channel cannot be read now; None when it can, or when it is only busy."""
        for file in channel.files:
            try:
                text = self._host.root.text(file)
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                denied = file if error.errno in _DENIED else ""
                return ProbeFailure(f"/{file}: {why(error)}", denied, error.errno in _OFF)
            problem = channel.objection(file, text)
            if problem:
                return ProbeFailure(problem)
        return None

    # -- words --------------------------------------------------------------------------------

    def _reasons(
        self, readable: Sequence[Found], ids: Sequence[str], failures: dict[str, ProbeFailure]
    ) -> list[str]:
        summed = [one for one in readable if one.named.id in ids]
        names = " + ".join(one.named.name for one in summed)
        devices = ", ".join(dict.fromkeys(self._files.device(one.named.folder) for one in summed))
        return [
            f"reads {names} of {devices}",
            *self._told(summed),
            *dict.fromkeys(text for one in summed if (text := self._averages(one))),
            *(f"not read: {failure.reason}" for failure in failures.values()),
        ]

    def _told(self, summed: Sequence[Found]) -> list[str]:
        """What a person should check, because nobody else can."""
        folders = dict.fromkeys(one.named.folder for one in summed)
        asked = (
            (file, self._files.says(folder, file))
            for folder in folders
            for file in self._board.tell
        )
        return [f"{file} is {text}" for file, text in asked if text]

    def _averages(self, one: Found) -> str:
        kind = DomainKind.COUNTER if one.channel.energy else DomainKind(self._board.kind)
        averaged = self._averaged(one)
        if kind is DomainKind.COUNTER or averaged is None or not self._gap(one, kind):
            return ""
        seconds = self._seconds(one, kind)
        return f"averages over {averaged:g} s and is read every {seconds:g} s: the rest is not seen"
