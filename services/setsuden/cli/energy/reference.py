"""``docs/energy.md``: the page beside this module, with sources, factors, metrics and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setsuden.cli.reference import filled, rows
from setsuden.energy import EnergyOptions
from setsuden.energy.attribution.intervals import METHODS, WINDOW_FACTOR
from setsuden.energy.host.system import Host, SysRoot
from setsuden.energy.sensors.boards import boards
from setsuden.energy.sensors.detect import detect
from setsuden.energy.sensors.factors import FACTORS
from setsuden.schemas import metrics

_PAGE = Path(__file__).with_name("energy.md")
_VERIFIED = Path(__file__).with_name("verified.json")
"""What ``setsuden energy verify --seed 0 --json`` printed; a test runs it again."""
_NOWHERE = Path("/nonexistent")
PROTOCOLS = {
    "plug": "a meter at the wall or the supply rail (`[energy.plug]`): HTTP, a file, or MQTT "
    "(`pip install 'setsuden[mqtt]'`)",
    "redfish": "the server's management controller (`[energy.redfish]`); only when it is named",
    "pi5_pmic": "Raspberry Pi 5: the PMIC's rails through `vcgencmd`, corrected to input power",
    "rapl": "Intel and AMD CPU packages and DRAM through powercap; psys is told, not summed",
    "perf": "energy counters of a PMU: `power/energy-pkg/` on x86, A64FX's own",
    "relay": "another process that may read the sensor (`energy.relay`)",
    "calibrated": "this machine's own power curve, from `setsuden energy calibrate`",
    "declared": "`energy.watts_per_core`",
    "table": "published SPECpower results, by CPU; a factor of 1.6 for the very machine, 2 for one "
    "of its kind, 3 in a guest",
    "none": "CPU-seconds alone",
}
_PERCENT = ("_error_", "window_error", "coverage_95")


def page() -> str:
    """The whole page."""
    verified = json.loads(_VERIFIED.read_text(encoding="utf-8"))
    by_name = {figure["name"]: figure for figure in verified["figures"]}
    return filled(
        _PAGE,
        {
            "sources": rows(("source", "what it is"), _sources()),
            "factors": rows(("figure", "95 % factor", "stands on"), _factors()),
            "verify": rows(("figure", "value", "target", "what it is"), _verified(verified)),
            "steady": [_value(by_name["span_error_steady"])],
            "bursty": [_value(by_name["span_error_bursty"])],
            "metrics": rows(("metric", "unit", "Prometheus", "meaning"), _metrics()),
        },
    )


def _sources() -> Iterator[tuple[str, ...]]:
    """In the order of the search, which a machine without anything shows whole."""
    found = {board.name: f"{board.boundary}: {board.citation}" for board in boards()}
    searched = detect(EnergyOptions(), Host(root=SysRoot(_NOWHERE))).candidates
    return ((f"`{one.name}`", PROTOCOLS.get(one.name) or found[one.name]) for one in searched)


def _factors() -> Iterator[tuple[str, ...]]:
    for kin, factor in FACTORS.items():
        yield f"{kin}", f"{factor.value:g}", factor.citation
    yield "any run in a window", f"{WINDOW_FACTOR:g}", "simulation: the window's mean load"
    for method, known in METHODS.items():
        yield f"method `{method}`", f"{known.factor:g}", known.origin


def _verified(verified: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for figure in verified["figures"]:
        yield f"`{figure['name']}`", _value(figure), _target(figure), figure["of"]


def _target(figure: dict[str, Any]) -> str:
    if figure["target"] is None:
        return ""
    return f"{'at least' if figure['at_least'] else 'at most'} {figure['target']:g}"


def _value(figure: dict[str, Any]) -> str:
    percent = any(part in figure["name"] for part in _PERCENT)
    return f"{figure['value']:.1%}" if percent else f"{figure['value']:.2g}"


def _metrics() -> Iterator[tuple[str, ...]]:
    for row in metrics.METRICS:
        yield f"`{row.name}`", row.unit, f"`{row.prometheus}`", row.meaning
