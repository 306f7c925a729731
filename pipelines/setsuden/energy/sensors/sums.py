"""Which channels of a board add up, and which hold others: names alone decide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from setsuden.energy.sensors.boards import Board


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
