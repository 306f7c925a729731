"""Which events are one event that was sent more than once: they have the same key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Known = TypeVar("Known")


class Sorted(NamedTuple, Generic[Item, Known]):
    """A batch by what is known of its keys."""

    fresh: list[Item]
    """Nothing with this key was accepted, and nothing is being decided."""
    repeats: list[tuple[Item, Known]]
    """Accepted before, with what is known of it."""


class Repeats(Generic[Item]):
    """Keys that are being decided, each with those that were sent again meanwhile."""

    def __init__(self) -> None:
        self._deciding: dict[str, list[Item]] = {}
        """The first with its key, and those that wait for it."""

    def sort(
        self, items: Sequence[Item], keys: Sequence[str], known: Mapping[str, Known]
    ) -> Sorted[Item, Known]:
        """Fresh items, which are being decided from here on, and repeats of accepted ones.

        The others wait for the first with their key, until :meth:`settle`.
        """
        fresh: list[Item] = []
        repeats: list[tuple[Item, Known]] = []
        deciding = self._deciding
        for item, key in zip(items, keys, strict=True):
            before = known.get(key)
            if before is not None:
                repeats.append((item, before))
            elif key in deciding:
                deciding[key].append(item)
            else:
                deciding[key] = [item]
                fresh.append(item)
        return Sorted(fresh, repeats)

    def settle(self, item: Item, key: str) -> list[Item]:
        """A fresh item is decided, or is not decided after all: those that waited for it."""
        group = self._deciding.get(key)
        if group is None or group[0] is not item:
            return []
        del self._deciding[key]
        return group[1:]
