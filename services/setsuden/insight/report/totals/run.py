"""A run in memory: every meter's sums, its joules, and the assumptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum

from setsuden.insight.report.assumptions import Assumptions
from setsuden.insight.report.model import Amount, Events, Part
from setsuden.insight.report.rows.read import RowsReader
from setsuden.insight.report.rows.sums import MeterSums
from setsuden.insight.report.totals.meters import MeterJoules, joules_of, network_of
from setsuden.schemas.windows import Component, MeterRow

MACHINE_PARTS = tuple(Part(component.value) for component in Component)
"""The parts of a report that have machines: all but the network."""


@dataclass(frozen=True, slots=True)
class MeterTotals:
    """One meter's sums and the joules they amount to."""

    sums: MeterSums
    joules: MeterJoules
    network: Amount

    @property
    def row(self) -> MeterRow:
        """What is the same in all its windows."""
        return self.sums.row

    @property
    def part(self) -> Part:
        """The part of the report that its joules belong to."""
        return Part(self.row.component.value)


@dataclass(frozen=True)
class RunTotals:
    """Everything a report is computed from."""

    name: str
    reader: RowsReader
    meters: tuple[MeterTotals, ...]
    assumptions: Assumptions

    def of(self, part: Part) -> list[MeterTotals]:
        """The meters of one component."""
        return [meter for meter in self.meters if meter.part is part]

    def total(self, name: str, part: Part = Part.EDGE) -> int:
        """Sum of one of the counts over a component."""
        return sum(meter.sums.counts[name] for meter in self.of(part))

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
        events = self.events
        return events.local + events.cloud + events.expired + events.dead

    @cached_property
    def wire_bytes(self) -> int:
        """Both ways, headers included."""
        return sum(meter.sums.wire_bytes for meter in self.meters if meter.part is not Part.BROKER)

    @property
    def start_ns(self) -> int:
        """Start of the first window."""
        return min(min(meter.sums.timeline.start_ns) for meter in self.meters)

    @property
    def end_ns(self) -> int:
        """End of the last window."""
        return max(
            start + round(seconds * 1e9)
            for meter in self.meters
            for start, seconds in zip(
                meter.sums.timeline.start_ns, meter.sums.timeline.seconds, strict=True
            )
        )


def totals_of(
    name: str, reader: RowsReader, meters: Sequence[MeterSums], assumptions: Assumptions
) -> RunTotals:
    """The run with its joules; ``reader`` has read all of it."""
    totals = tuple(
        MeterTotals(sums, joules_of(sums), network_of(sums, assumptions)) for sums in meters
    )
    return RunTotals(name, reader, totals, assumptions)


def seconds_of(meters: Sequence[MeterTotals]) -> float:
    """Time under these meters."""
    return fsum(meter.sums.seconds.value for meter in meters)
