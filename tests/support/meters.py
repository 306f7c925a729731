"""Meters for tests: the real thing, on this machine, with declared watts."""

from __future__ import annotations

from math import fsum
from pathlib import Path

from setsuden.energy import EnergyOptions, Meter
from setsuden.energy.metering.journal import SUFFIX
from setsuden.energy.open import Identity, open_meter
from setsuden.schemas.windows import Component, WindowRow

WATTS = 10.0
OPTIONS = EnergyOptions(
    sensor="declared", watts_per_core=WATTS, idle_watts_per_core=2.0, window_seconds=0.2
)


def windows(folder: Path) -> list[WindowRow]:
    """Every window row that any meter below the folder wrote."""
    lines = (
        line
        for path in sorted(folder.rglob(f"*{SUFFIX}"))
        for line in path.read_text(encoding="utf-8").splitlines()[1:]
    )
    return [WindowRow.model_validate_json(line) for line in lines]


def request_joules(folder: Path) -> float:
    """The request buckets of all windows together."""
    rows = windows(folder)
    return fsum((row.request_dynamic or 0.0) + (row.request_idle or 0.0) for row in rows)


def meter(folder: Path, component: Component = Component.EDGE) -> Meter:
    """A meter whose rows go below ``folder``; not started."""
    options = OPTIONS.model_copy(update={"rows": str(folder / "energy")})
    return open_meter(options, Identity(component, "test", "host", "0" * 64))
