"""How far the events of a stream are accepted, and when they must be read again.

An event that is stored elsewhere may be deferred: it is safe there. Nothing that was read after it
may be accepted before it, so everything of the same reading is deferred with it, and the stream is
read again from the cursor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class StreamPlace(NamedTuple):
    """Where one event lies in the broker's stream."""

    created: str
    """The stream's own birth: a new stream of the same name begins again."""
    pipeline: str
    sequence: int


class Cursor(NamedTuple):
    """How far the events of one stream were accepted."""

    created: str
    positions: Mapping[str, int]
    """Last accepted sequence by pipeline: each subject is a line of its own."""

    def past(self, place: StreamPlace) -> Cursor:
        """The cursor with this event behind it."""
        if place.created != self.created:
            return Cursor(place.created, {place.pipeline: place.sequence})
        if place.sequence <= self.positions.get(place.pipeline, 0):
            return self
        return Cursor(self.created, {**self.positions, place.pipeline: place.sequence})


class Positions:
    """The cursor, and the reading that events must belong to."""

    def __init__(self, cursor: Cursor | None) -> None:
        self.cursor = cursor or Cursor("", {})
        self.reading = 1
        """Counts how often the stream was read from the cursor on."""
        self.deferring = False
        """True from the first deferred event until the stream is read again."""

    def is_stale(self, place: StreamPlace | None, reading: int) -> bool:
        """True for a stored event that is read again."""
        return place is not None and reading != self.reading

    def move(self, places: list[StreamPlace], stops: Mapping[str, int]) -> Cursor | None:
        """The cursor past these events, short of the first of each pipeline that is not decided.

        None where it does not move.
        """
        before = self.cursor
        for place in places:
            stop = stops.get(place.pipeline)
            if stop is None or place.sequence < stop:
                self.cursor = self.cursor.past(place)
        return None if self.cursor is before else self.cursor

    def defer(self) -> None:
        """What was read and is not accepted yet is read again."""
        self.reading += 1
        self.deferring = True

    def go_back(self, durable: Cursor | None) -> None:
        """The disk refused what was accepted: only what is durable counts."""
        self.defer()
        self.cursor = durable or Cursor("", {})

    def resume(self) -> Cursor:
        """Where the next reading begins."""
        self.deferring = False
        return self.cursor
