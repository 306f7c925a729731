"""A run in memory: every meter's sums, its joules, and what is assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum
from pathlib import Path

from setsuden.insight.report.assumptions import Assumptions
from setsuden.insight.report.fold import MeterSums, fold
from setsuden.insight.report.meters import Joules, joules_of
from setsuden.insight.report.model import Amount, Events, Part
from setsuden.insight.report.network import network_of
from setsuden.insight.report.read import Reader, Span
from setsuden.schemas.windows import Component

PARTS = {
    Part.EDGE: Component.EDGE,
    Part.BROKER: Component.BROKER,
    Part.CLOUD: Component.CLOUD,
}
"""The parts that have machines."""


@dataclass(frozen=True, slots=True)
class Metered:
    """One meter's sums and what they amount to."""

    sums: MeterSums
    joules: Joules
    network: Amount

    @property
    def part(self) -> Part:
        """Whose joules."""
        return Part(self.sums.meter.component.value)


@dataclass(frozen=True)
class Run:
    """Everything a report is computed from."""

    name: str
    reader: Reader
    meters: tuple[Metered, ...]
    assumptions: Assumptions

    def of(self, part: Part) -> list[Metered]:
        """The meters of one component."""
        return [one for one in self.meters if one.part is part]

    def total(self, name: str, part: Part | None = None) -> int:
        """Sum of one of the counts, over the edge unless a component is named."""
        return sum(one.sums.counts[name] for one in self.of(part or Part.EDGE))

    @cached_property
    def events(self) -> Events:
        """What became of the events."""
        edge = ("local", "cloud", "expired", "dead", "escalated")
        wire = ("bytes_up", "bytes_down", "packets")
        return Events(
            **{name: self.total(name) for name in edge},
            answered=self.total("answered", Part.CLOUD),
            messages=self.total("messages", Part.BROKER),
            **{name: self.total(name) + self.total(name, Part.CLOUD) for name in wire},
        )

    @cached_property
    def inferences(self) -> int:
        """Events with a final result on the devices."""
        found = self.events
        return found.local + found.cloud + found.expired + found.dead

    @cached_property
    def wire_bytes(self) -> int:
        """Both ways, headers included."""
        return sum(one.sums.wire_bytes for one in self.meters if one.part is not Part.BROKER)

    @property
    def start_ns(self) -> int:
        """Start of the first window."""
        return min(min(one.sums.timeline.start_ns) for one in self.meters)

    @property
    def end_ns(self) -> int:
        """End of the last window."""
        return max(
            start + round(seconds * 1e9)
            for one in self.meters
            for start, seconds in zip(
                one.sums.timeline.start_ns, one.sums.timeline.seconds, strict=True
            )
        )


def folded(folders: Sequence[Path], span: Span) -> tuple[Reader, list[MeterSums]]:
    """The rows of these folders as sums; raises RowsError."""
    reader = Reader(span)
    return reader, fold(reader.read(folders))


def run_of(name: str, reader: Reader, meters: Sequence[MeterSums], assumptions: Assumptions) -> Run:
    """The run with its joules."""
    found = tuple(Metered(sums, joules_of(sums), network_of(sums, assumptions)) for sums in meters)
    return Run(name, reader, found, assumptions)


def seconds_of(meters: Sequence[Metered]) -> float:
    """Time under these meters."""
    return fsum(one.sums.seconds.value for one in meters)
