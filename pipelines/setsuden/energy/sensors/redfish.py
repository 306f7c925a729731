"""The server's management controller over Redfish: the whole machine, but seconds late.

Never chosen by itself: its figure may be a mean over many minutes (20 were seen), too coarse for a
request and good for calibration and totals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from setsuden.energy.domain import Candidate, Domain, DomainKind
from setsuden.energy.host.system import Host
from setsuden.energy.options import EnergyOptions, RedfishOptions
from setsuden.energy.protocols.background import Background, polling, timed
from setsuden.energy.protocols.numbers import number_of, object_in
from setsuden.schemas.energy import Boundary, Source

NAME = "redfish"
TIMEOUT_SECONDS = 10.0
"""A busy controller takes seconds for TLS alone."""
SUBSYSTEMS = frozenset({"CPU", "GPU", "Memory", "Accelerator", "Fan", "StorageDevice"})
"""``PhysicalContext`` of entries that are parts of the machine: not the whole, and never summed
with it."""


class Power(NamedTuple):
    """What one answer says."""

    watts: float
    interval_minutes: float | None
    """Over which the controller forms its means; None when it does not say."""


def probe(options: EnergyOptions, host: Host) -> Candidate:
    """The controller of ``[energy.redfish]``; asked here only when it is chosen by name."""
    redfish = options.redfish
    if redfish is None:
        return Candidate(
            NAME,
            available=False,
            reason="no [energy.redfish] is configured",
            remedy="set energy.redfish.url to the chassis' Power resource of the controller",
        )
    try:
        ask = asking(redfish, host)
    except OSError as error:
        return Candidate(
            NAME,
            available=False,
            reason=f"the password file cannot be read: {error.strerror or error}",
            remedy="correct energy.redfish.password_file, or let this user read it",
        )
    domain = _domain(redfish)
    watts = timed(lambda: ask().watts, host.clock)
    return Candidate(
        NAME,
        available=True,
        reason=_reason(redfish, ask if options.sensor == NAME else None),
        domains=(domain,),
        primary=(domain.id,),
        open=lambda: Background(domain, polling(watts, host.clock, redfish.seconds), host.clock),
        origin=f"accuracy as declared: factor {redfish.factor:g}",
    )


def asking(redfish: RedfishOptions, host: Host) -> Callable[[], Power]:
    """Something that asks the controller once.

    Raises OSError when the password file cannot be read; what it gives raises OSError and
    ValueError, in words.
    """
    password = None
    if redfish.password_file is not None:
        password = host.root.text(redfish.password_file)

    def ask() -> Power:
        from setsuden.energy.protocols.web import Endpoint  # noqa: PLC0415  # 60 ms that a search need not pay

        endpoint = Endpoint(
            redfish.url,
            user=redfish.user,
            password=password,
            insecure=redfish.insecure,
            timeout_seconds=TIMEOUT_SECONDS,
        )
        return power(endpoint.get())

    return ask


def power(answer: bytes | str) -> Power:
    """Watts of the whole machine (DMTF DSP2046); raises ValueError when it does not tell them.

    ``PowerControl`` of a Power resource, or ``PowerWatts`` of an EnvironmentMetrics resource,
    which newer controllers have instead.
    """
    resource = object_in(answer)
    if isinstance(reading := resource.get("PowerWatts"), dict):
        return Power(number_of(reading.get("Reading"), "PowerWatts.Reading"), None)
    entry = _whole(resource.get("PowerControl"))
    watts = number_of(entry.get("PowerConsumedWatts"), "PowerConsumedWatts")
    return Power(watts, _interval(entry.get("PowerMetrics")))


def _interval(metrics: object) -> float | None:
    """Minutes; some controllers tell fractions (0.0833 for 5 s), some nothing."""
    try:
        minutes = number_of(metrics.get("IntervalInMin"), "") if isinstance(metrics, dict) else 0
    except ValueError:
        return None
    return minutes or None


def _whole(entries: object) -> dict[str, object]:
    """The first entry with a figure that is no part: later ones repeat parts of the first."""
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or entry.get("PhysicalContext") in SUBSYSTEMS:
            continue
        if entry.get("PowerConsumedWatts") is not None:
            return entry
    raise ValueError("the controller tells no PowerConsumedWatts")


def _domain(redfish: RedfishOptions) -> Domain:
    return Domain(
        id=NAME,
        name="PowerConsumedWatts",
        hw_type="enclosure",
        kind=DomainKind.INSTANT_POWER,
        source=Source.DERIVED,
        boundary=Boundary.WALL_AC,
        factor=redfish.factor,
        interval_seconds=redfish.seconds,
    )


def _reason(redfish: RedfishOptions, ask: Callable[[], Power] | None) -> str:
    place = f"controller at {urlsplit(redfish.url).hostname}"
    if ask is None:
        return (
            f"{place}, not asked yet; its means may span many minutes, so it is used only when "
            "energy.sensor names it"
        )
    try:
        answer = ask()
    except (OSError, ValueError) as error:
        return f"{place} gives no figure now: {error}"
    if answer.interval_minutes is None:
        return f"{place} says {answer.watts:g} W"
    return f"{place} says {answer.watts:g} W; its means span {answer.interval_minutes:g} min"
