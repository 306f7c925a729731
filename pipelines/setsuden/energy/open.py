"""A process's meter from its ``[energy]`` table: source found, baseline known, rows opened."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from setsuden.energy.attribution.attribute import UNCALIBRATED_EXPONENT
from setsuden.energy.domain import Candidate, Domain
from setsuden.energy.host.cpu import ProcessCpu, cores, reserved_share, threads_per_core
from setsuden.energy.host.system import Host
from setsuden.energy.metering.baseline import CALIBRATED_FACTOR, Baseline, observed
from setsuden.energy.metering.journal import Journal
from setsuden.energy.metering.ledger import WorkKey
from setsuden.energy.metering.meter import Meter
from setsuden.energy.metering.provisional import ProvisionalEstimator
from setsuden.energy.metering.sampler import EnergySampler
from setsuden.energy.metering.settle import MeterFacts
from setsuden.energy.options import EnergyOptions
from setsuden.energy.power_curve import stored_calibration
from setsuden.energy.sensors.detect import detect
from setsuden.energy.sensors.table import match
from setsuden.schemas.energy import Source
from setsuden.schemas.log import get_logger
from setsuden.schemas.windows import Component, Counts, DomainRow, MeterRow

log = get_logger(__name__)
_WORST_LAST = tuple(Source)
_LEAST_ABOVE_IDLE = 0.2
"""Of a core's full power, whatever a table says of its idle power."""


class Reserved(NamedTuple):
    """The machine's part whose idle power the process answers for."""

    share: float
    why: str


class Idle(NamedTuple):
    """What is known of the machine's power curve."""

    baseline: Baseline
    exponent: float
    """Bend of its dynamic power over utilisation."""


class MeterSetup(NamedTuple):
    """What a meter is opened with."""

    chosen: Candidate
    idle: Idle
    reserved: Reserved


class Identity(NamedTuple):
    """Whose meter it is."""

    component: Component
    name: str
    """Device id, worker slot or server name."""
    host_id: str
    config_sha256: str


def fingerprint(config: BaseModel) -> str:
    """SHA-256 of a configuration, as it is after all defaults."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def resolved(
    options: EnergyOptions, base: Path, state: Path, own: Path | None = None
) -> EnergyOptions:
    """The options with paths that hold from any working folder.

    ``base`` is the configuration's folder; ``own`` holds the rows where several processes share
    the state folder.
    """
    changes: dict[str, object] = {
        "calibration": str(state / options.calibration),
        "rows": str((own or state) / options.rows),
        "boards": tuple(str(base / board) for board in options.boards),
    }
    if options.relay is not None:
        changes["relay"] = str(base / options.relay)
    if options.plug is not None and options.plug.path is not None:
        path = str(base / options.plug.path)
        changes["plug"] = options.plug.model_copy(update={"path": path})
    if options.redfish is not None and options.redfish.password_file is not None:
        path = str(base / options.redfish.password_file)
        changes["redfish"] = options.redfish.model_copy(update={"password_file": path})
    return options.model_copy(update=changes)


def open_meter(
    options: EnergyOptions,
    identity: Identity,
    *,
    host: Host | None = None,
    counts: Callable[[], Counts] = Counts,
    process: ProcessCpu | None = None,
    reserved: float | None = None,
    amortised: WorkKey | None = None,
) -> Meter:
    """A meter that is ready to start; ``options`` are resolved. Raises ConfigError.

    ``reserved`` is the machine's part that somebody else reserved for this process.
    """
    host = host or Host()
    chosen = detect(options, host).chosen
    log.info("energy_source", source=chosen.name, detail=chosen.reason)
    part = _reserved(options, reserved, host)
    idle = _idle(options, chosen, host)
    row = _meter_row(options, identity, MeterSetup(chosen, idle, part), host)
    facts = MeterFacts(
        row.meter,
        row.source,
        row.boundary,
        row.factor or 1.0,
        row.idle_factor or 1.0,
        part.share,
        row.exponent,
        amortised,
    )
    return Meter(
        host,
        sampler=EnergySampler(chosen),
        baseline=idle.baseline,
        facts=facts,
        journal=Journal(Path(options.rows), row, options.rows_max_bytes),
        estimator=_first_estimator(options, chosen, facts, host),
        window_seconds=options.window_seconds,
        max_core_share=options.max_core_share,
        idle_seconds=options.idle_window_seconds,
        process=process,
        counts=counts,
    )


def _reserved(options: EnergyOptions, reserved: float | None, host: Host) -> Reserved:
    if options.reserved_share is not None:
        return Reserved(options.reserved_share, "energy.reserved_share")
    if reserved is not None:
        return Reserved(min(1.0, reserved), "by whoever schedules it")
    return Reserved(*reserved_share(host))


def _idle(options: EnergyOptions, chosen: Candidate, host: Host) -> Idle:
    """From a calibration by this very source, else what the source knows, else the least seen."""
    lookup = stored_calibration(options, host)
    read = lookup.calibration
    if read is not None and chosen.name in {read.meter, "calibrated"}:
        base = Baseline(read.idle_watts, lookup.reason, CALIBRATED_FACTOR)
        return Idle(base, read.exponent)
    if chosen.idle_watts is not None:
        # Such a model is a straight line, and its baseline is off by the model's own factor.
        return Idle(Baseline(chosen.idle_watts, chosen.origin, 1.0), 1.0)
    return Idle(observed(), UNCALIBRATED_EXPONENT)


def _first_estimator(
    options: EnergyOptions, chosen: Candidate, facts: MeterFacts, host: Host
) -> ProvisionalEstimator:
    """For answers before the first window has closed: the table's watts of a core above idle."""
    if not chosen.domains:
        return ProvisionalEstimator(None, 0.0, facts)
    known = match(host.root).row.watts_per_core / threads_per_core(host.root)
    watts, idle = options.watts_per_core or known, chosen.idle_watts or 0.0
    above = watts - idle / cores(host.root)
    return ProvisionalEstimator(max(above, _LEAST_ABOVE_IDLE * watts), idle, facts)


def _meter_row(
    options: EnergyOptions, identity: Identity, setup: MeterSetup, host: Host
) -> MeterRow:
    chosen, base = setup.chosen, setup.idle.baseline
    primary = [domain for domain in chosen.domains if domain.id in chosen.primary]
    boundaries = {domain.boundary for domain in primary}
    return MeterRow(
        meter=f"{identity.component}-{random.getrandbits(48):012x}",
        component=identity.component,
        name=identity.name,
        host_id=identity.host_id,
        site=options.site,
        access=options.access,
        cores=cores(host.root),
        reserved_share=setup.reserved.share,
        reserved_why=setup.reserved.why,
        sensor=chosen.name,
        origin=chosen.origin or chosen.reason,
        domains=tuple(_domain_row(domain, chosen) for domain in chosen.domains),
        source=max((d.source for d in primary), key=_WORST_LAST.index, default=Source.NONE),
        boundary=boundaries.pop() if len(boundaries) == 1 else None,
        factor=max((domain.factor for domain in primary), default=None),
        idle_factor=base.factor if primary else None,
        idle_origin=base.origin,
        exponent=setup.idle.exponent,
        window_seconds=options.window_seconds,
        software=f"setsuden {version('setsuden')}",
        config_sha256=identity.config_sha256,
        started_ns=host.clock.wall_ns(),
    )


def _domain_row(domain: Domain, chosen: Candidate) -> DomainRow:
    return DomainRow(
        id=domain.id,
        name=domain.name,
        hw_type=domain.hw_type,
        kind=domain.kind.value,
        source=domain.source,
        boundary=domain.boundary,
        factor=domain.factor,
        parent=domain.parent,
        primary=domain.id in chosen.primary,
    )
