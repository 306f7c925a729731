"""Published wall power per core, and how far it can be off: for machines without a meter.

Rows are SPECpower_ssj2008 results (whole system, AC), retrieved 2026-03-09. Spread: a factor of 2
either way covers 91 to 96 % of 78 published points for such a model (CodeCarbon's CPU load
profiles); 1.6 for a row of the very machine and 3 for a guest whose host is unknown are judgements.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import NamedTuple

from setsuden.energy.host.cpu import cores
from setsuden.energy.host.system import SysRoot

GUEST_FACTOR = 3.0
HOST_FACTOR = 2.0
SKU_FACTOR = 1.6
"""Two results of Altra Max M128-30 on one board are 150 W and 268 W at full load."""
RETRIEVED = "SPECpower_ssj2008, retrieved 2026-03-09"
_ALTRA, _GRACE = "jep106:0a16:0001", "jep106:036b:0241"
"""``/sys/devices/soc0/soc_id`` (SMCCC); Altra and Altra Max share one."""


class Sku(NamedTuple):
    """What tells one product from others with the same cores."""

    soc_id: str
    cores: int
    megahertz: int | None = None
    """Its highest clock; None where the cores tell enough."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """Wall power per core, both threads of it included; the needle stands in ``/proc/cpuinfo``.

    Arm tells part numbers there: 0xd4f is Neoverse V2, 0xd0c Neoverse N1.
    """

    needle: str
    idle_watts_per_core: float
    watts_per_core: float
    """At full load."""
    origin: str
    sku: Sku | None = None
    """Set when the row is of this very product: the needle is not asked then."""


SKUS = (
    TableRow("", 0.67, 1.75, "Altra Q80-30, 140 W", Sku(_ALTRA, 80, 3000)),
    TableRow("", 1.14, 1.92, "Altra Q64-30, 123 W", Sku(_ALTRA, 64, 3000)),
    # Geometric means: 1.17 and 2.09, 1.10 and 1.95 W at full load in two submissions each.
    TableRow("", 0.61, 1.56, "Altra Max M128-30, 150 W and 268 W", Sku(_ALTRA, 128, 3000)),
    TableRow("", 0.56, 1.46, "2 x Altra Max M128-30, 282 W and 499 W", Sku(_ALTRA, 256, 3000)),
    TableRow("", 2.07, 4.30, "NVIDIA Grace Superchip, 144 cores, 619 W", Sku(_GRACE, 144)),
)
ROWS = (
    TableRow("AMD EPYC 9", 0.48, 2.67, "median of 91 EPYC 9xxx results"),
    TableRow("AMD EPYC", 0.48, 2.67, "median of 91 EPYC 9xxx results, taken for any EPYC"),
    TableRow("0xd4f", 2.07, 4.30, "NVIDIA Grace Superchip, 619 W, taken for any Neoverse V2"),
    TableRow("0xd0c", 0.67, 1.75, "Altra Q80-30, 80 cores, 140 W, taken for any Neoverse N1"),
    TableRow("aarch64", 0.67, 1.75, "Altra Q80-30, 80 cores, 140 W, taken for any Arm machine"),
    TableRow("", 1.31, 5.46, "median of all 393 results since 2021"),
)


class Match(NamedTuple):
    """The row for a machine, and what is not known about it."""

    row: TableRow
    factor: float
    why: str
    """Words on the factor."""

    @property
    def origin(self) -> str:
        """The row with its citation."""
        return f"{self.row.origin} ({RETRIEVED})"


def match(root: SysRoot) -> Match:
    """The row for the machine under ``root``; the widest factor where it may be a guest."""
    cpuinfo = root.text_or_none("proc/cpuinfo") or ""
    cpu = f"{cpuinfo} {platform.machine()}"
    row = next(row for row in ROWS if row.needle in cpu)
    if "hypervisor" in cpuinfo:
        return Match(row, GUEST_FACTOR, "a virtual machine: host and neighbours are unknown")
    very = next((row for row in SKUS if row.sku is not None and _is(row.sku, root)), None)
    if very is not None:
        return Match(very, SKU_FACTOR, "a published result of this very product")
    # Arm has no such flag. A machine that shows no sensor at all is a guest, or as little known.
    if not any(root.glob(f"sys/class/{kind}/*") for kind in ("powercap", "hwmon")):
        return Match(row, GUEST_FACTOR, "no sensor of any kind, so taken for a virtual machine")
    return Match(row, HOST_FACTOR, "results of other machines")


def _is(sku: Sku, root: SysRoot) -> bool:
    clock = root.text_or_none("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq") or ""
    return (
        root.text_or_none("sys/devices/soc0/soc_id") == sku.soc_id
        and cores(root) == sku.cores
        and sku.megahertz in {None, int(clock) // 1000 if clock.isdigit() else 0}
    )
