"""The search for the best energy source of this machine: every candidate, and the one chosen.

No program is started and no network is asked unless the configuration names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from setsuden.energy.domain import Candidate, Detection
from setsuden.energy.host.system import Host
from setsuden.energy.options import EnergyOptions
from setsuden.energy.sensors import perf, plug, pmic, rapl, redfish, relay
from setsuden.energy.sensors.board_probe import probe_boards
from setsuden.energy.sensors.model import probe_calibrated, probe_declared, probe_table
from setsuden.schemas.errors import ConfigError

AUTO = "auto"
NONE = Candidate("none", available=True, reason="no joules: CPU-seconds alone are told")
ON_DEMAND = frozenset({"redfish"})
"""Never chosen of itself: a controller may average over 20 minutes, too coarse for a span."""


class _Rows(NamedTuple):
    """Where the rows of one worth stand among the probes."""

    worth: str


Probe = Callable[[EnergyOptions, Host], Candidate]
PROBES: tuple[Probe | _Rows, ...] = (
    plug.probe,
    _Rows("board"),
    redfish.probe,
    _Rows("socket"),
    pmic.probe,
    rapl.probe,
    _Rows("hwmon"),
    _Rows("scmi"),
    perf.probe,
    relay.probe,
    probe_calibrated,
    probe_declared,
    probe_table,
)
"""In the order of worth: the closer to the wall and the more direct, the better."""


def detect(options: EnergyOptions, host: Host, extra: Sequence[Candidate] = ()) -> Detection:
    """What there is, best first, after ``extra``; ``energy.sensor`` chooses, else the first.

    Raises ConfigError when the configuration names a source that is not to be had here, and for a
    row of ``energy.boards`` that is wrong.
    """
    candidates = (*extra, *_probed(options, host), NONE)
    _distinct(candidates)
    return Detection(_chosen(options.sensor, candidates), candidates)


def _probed(options: EnergyOptions, host: Host) -> Iterator[Candidate]:
    rows = probe_boards(options, host)
    for probe in PROBES:
        if isinstance(probe, _Rows):
            yield from (candidate for worth, candidate in rows if worth == probe.worth)
        else:
            yield probe(options, host)


def _distinct(candidates: Sequence[Candidate]) -> None:
    names = [one.name for one in candidates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"energy.boards: {twice!r} is the name of another source",
            remedy="give the row another name",
        )


def _chosen(name: str, candidates: Sequence[Candidate]) -> Candidate:
    if name == AUTO:
        return next(one for one in candidates if one.available and one.name not in ON_DEMAND)
    named = [one for one in candidates if one.name == name]
    available = ", ".join(one.name for one in candidates if one.available)
    if not named:
        known = ", ".join(one.name for one in candidates)
        raise ConfigError(
            f"energy.sensor: there is no source {name!r}",
            remedy=f"choose one of {available}, or {AUTO} (all names: {known})",
        )
    if not named[0].available:
        raise ConfigError(
            f"energy.sensor: {name!r} cannot be used here: {named[0].reason}",
            remedy=f"{named[0].remedy}; or choose one of {available}, or {AUTO}",
        )
    return named[0]
