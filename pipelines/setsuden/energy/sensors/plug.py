"""A configured meter outside the machine: a smart plug, a PDU, a USB meter."""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from setsuden.energy.domain import Candidate, Domain, DomainKind
from setsuden.energy.host.system import Clock, Host
from setsuden.energy.options import EnergyOptions, PlugOptions
from setsuden.energy.protocols.background import (
    Ask,
    Background,
    Newest,
    Value,
    Work,
    polling,
    timed,
)
from setsuden.energy.protocols.numbers import number_in
from setsuden.schemas.energy import Boundary, Source

NAME = "plug"
JOULES = {"joules": 1.0, "watt_hours": 3.6e3, "kilowatt_hours": 3.6e6}
"""Of one unit of a total that only grows."""
RETRY_SECONDS = 5.0
"""Between two tries to reach a broker."""


def probe(options: EnergyOptions, host: Host) -> Candidate:
    """The meter of ``[energy.plug]``; not asked here, but a file is looked at and a topic parsed.

    Nobody answers within the time that a search may take, so a meter that is configured counts as
    there; whether it answers is seen when it is read.
    """
    plug = options.plug
    if plug is None:
        return Candidate(
            NAME,
            available=False,
            reason="no [energy.plug] is configured",
            remedy="a plug that tells its watts: set energy.plug.kind, url and field",
        )
    try:
        work = _work(plug, host)
    except (OSError, ValueError) as error:
        return Candidate(
            NAME, available=False, reason=f"{plug.kind}: {error}", remedy=_remedy(plug)
        )
    domain = _domain(plug)
    return Candidate(
        NAME,
        available=True,
        reason=f"{_place(plug)}, {plug.quantity} every {plug.seconds:g} s",
        domains=(domain,),
        primary=(domain.id,),
        open=lambda: Background(domain, work, host.clock),
        origin=f"accuracy as declared: factor {plug.factor:g}",
    )


def _remedy(plug: PlugOptions) -> str:
    if plug.kind == "file":
        return "let the meter's program write its number there, whole, by renaming a new file"
    return "correct energy.plug.url"


def _domain(plug: PlugOptions) -> Domain:
    """Watts at one moment are derived joules; a total is the meter's own integration."""
    watts = plug.quantity == "watts"
    return Domain(
        id=NAME,
        name=plug.field or NAME,
        hw_type="enclosure",
        kind=DomainKind.INSTANT_POWER if watts else DomainKind.COUNTER,
        source=Source.DERIVED if watts else Source.MEASURED,
        boundary=Boundary(plug.boundary),
        factor=plug.factor,
        interval_seconds=plug.seconds,
    )


def _place(plug: PlugOptions) -> str:
    """Where it is, without user, password and query: those hold secrets."""
    if plug.kind == "file":
        return f"file {plug.path}"
    parts = urlsplit(plug.url or "")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _work(plug: PlugOptions, host: Host) -> Work:
    """How it is listened to; raises OSError and ValueError, in words."""
    scale = JOULES.get(plug.quantity, 1.0)
    if plug.kind == "mqtt":
        return _listening(plug, scale, host.clock)
    if plug.kind == "http":
        return polling(timed(_get(plug, scale), host.clock), host.clock, plug.seconds)
    ask = _file(plug, scale, host)
    ask()
    return polling(ask, host.clock, plug.seconds)


def _get(plug: PlugOptions, scale: float) -> Callable[[], float]:
    def get() -> float:
        from setsuden.energy.protocols.web import Endpoint  # noqa: PLC0415  # 60 ms that a search need not pay

        return number_in(Endpoint(plug.url or "").get(), plug.field) * scale

    return get


def _file(plug: PlugOptions, scale: float, host: Host) -> Ask:
    """The file's time is the number's time: a file whose writer died measures nothing."""
    name = plug.path or ""

    def ask() -> Value:
        written_ns = (host.root.path / name).stat().st_mtime_ns
        number = number_in(host.root.text(name), plug.field) * scale
        age_ns = max(0, host.clock.wall_ns() - written_ns)
        return Value(host.clock.monotonic_ns() - age_ns, number)

    return ask


def _listening(plug: PlugOptions, scale: float, clock: Clock) -> Work:
    """Raises ValueError for an address that names no topic."""
    from setsuden.energy.protocols.mqtt import Topic, listen  # noqa: PLC0415  # most plugs speak HTTP

    topic = Topic.of(plug.url or "")

    def work(newest: Newest, stop: threading.Event) -> None:
        def heard(payload: bytes) -> None:
            try:
                number = number_in(payload, plug.field) * scale
            except ValueError as error:
                newest.fail(str(error))
            else:
                newest.put(Value(clock.monotonic_ns(), number))

        while not stop.is_set():
            try:
                listen(topic, heard, stop)
            except OSError as error:
                newest.fail(f"MQTT: {error}")
                clock.wait(stop, RETRY_SECONDS)

    return work
