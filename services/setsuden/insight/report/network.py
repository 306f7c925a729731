"""Joules of the network, from bytes on the wire and how each machine reaches the broker."""

from __future__ import annotations

from collections.abc import Sequence

from setsuden.insight.report.amounts import JOULES_PER_KWH, NOTHING, UNKNOWN
from setsuden.insight.report.assumptions import Assumptions, Rates
from setsuden.insight.report.fold import MeterSums
from setsuden.insight.report.model import Amount
from setsuden.schemas.energy import Boundary, Source
from setsuden.schemas.windows import Access, Component

BYTES_PER_GB = 1e9
NEAR = frozenset({Access.LOOPBACK, Access.LAN})
"""No figure for them exists that is worth stating; they are left out, and that is said."""


def network_of(sums: MeterSums, assumptions: Assumptions) -> Amount:
    """Joules of one machine's bytes; the broker's own side is not counted a second time."""
    if sums.meter.component is Component.BROKER or not sums.wire_bytes:
        return NOTHING
    rates = assumptions.network.get(sums.meter.access)
    if rates is None:
        return NOTHING if sums.meter.access in NEAR else UNKNOWN
    return carried(sums.wire_bytes, rates)


def carried(wire_bytes: float, rates: Rates) -> Amount:
    """Joules of so many bytes."""
    per_byte = JOULES_PER_KWH / BYTES_PER_GB
    return Amount(
        joules=wire_bytes * rates.mid * per_byte,
        low=wire_bytes * rates.low * per_byte,
        high=wire_bytes * rates.high * per_byte,
        source=Source.TABLE_MODEL,
        boundary=Boundary.LINK,
    )


def note_of(meters: Sequence[MeterSums], assumptions: Assumptions) -> str:
    """What is left out, in words; empty when nothing is."""
    left = {
        sums.meter.access: network_of(sums, assumptions)
        for sums in meters
        if sums.wire_bytes and network_of(sums, assumptions).joules is None
    }
    words = []
    near = sorted(access.value for access in left if access in NEAR)
    if near:
        words.append(f"{' and '.join(near)}: no figure exists, left out")
    if any(not found.complete for found in left.values()):
        words.append("access undeclared: unknown; [energy] access declares it")
    return "; ".join(words)
