"""Who may do what on the broker.

JetStream answers to whatever reply subject a request names, with the server's own rights. In one
shared account a device could therefore aim an answer at another device's results, or at the API
subject that deletes a stream. So every principal has an account of its own: the streams are in
the account ``CORE``, and what a principal may do there is one service import for each row of
:data:`GRANTS`, what it may hear one stream import. An answer returns to the asker's account and
can reach nobody else in it. Configuration (:mod:`setsuden.services.accounts`) and documentation
follow from this table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import product
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from .base import Model, Token
from .streams import BRIDGE, BRIDGE_METRICS, ESCALATIONS, LEASES, RESULTS, SPANS, consumer_name

CORE = "CORE"
"""The account that holds the streams."""


class Role(StrEnum):
    """What a principal is for."""

    DEVICE = "device"
    APPLICATION = "application"
    WORKER = "worker"
    BRIDGE = "bridge"
    OPERATOR = "operator"
    """Is in ``CORE`` itself and may do everything: it makes the streams and serves devices."""


class SubjectUse(StrEnum):
    """How a subject is used."""

    SEND = "send"
    """Published into ``CORE``; one answer at most."""
    ASK = "ask"
    """Published into ``CORE``; any number of answers."""
    LISTEN = "listen"
    """Published in ``CORE``, heard by the principal."""
    TRACE = "trace"
    """Told by the server of the principal's own traced messages, into ``CORE``."""
    REPLY = "reply"
    """Published into the account of the application that the subject names."""
    HEAR = "hear"
    """What devices reply, heard by the application."""


class Grant(NamedTuple):
    """One row: a role, how, and a subject with ``{placeholders}`` for the principal's names."""

    role: Role
    access: SubjectUse
    subject: str


_GET = "$JS.API.DIRECT.GET"
LEAF_GET = "direct.get"
"""Stands for it between a leaf and its hub; the leaf maps one to the other."""
_NEXT, _ACK = "$JS.API.CONSUMER.MSG.NEXT", "$JS.ACK"
_RECORDS = ("res", "late")
GRANTS = (
    Grant(Role.DEVICE, SubjectUse.SEND, "esc.{region}.{pipeline}.{device}.*"),
    *(
        Grant(Role.DEVICE, SubjectUse.SEND, f"{kind}.{{region}}.{{pipeline}}.{{device}}.*")
        for kind in _RECORDS
    ),
    *(
        Grant(
            Role.DEVICE,
            SubjectUse.SEND,
            f"{_GET}.{RESULTS}.{kind}.{{region}}.{{pipeline}}.{{device}}.*",
        )
        for kind in _RECORDS
    ),
    Grant(Role.DEVICE, SubjectUse.SEND, "dead.{pipeline}.{device}"),
    Grant(Role.DEVICE, SubjectUse.SEND, "lease.{device}"),
    Grant(Role.DEVICE, SubjectUse.SEND, f"{_GET}.{LEASES}.lease.{{device}}"),
    Grant(Role.DEVICE, SubjectUse.ASK, "cloud.{device}.*"),
    Grant(Role.DEVICE, SubjectUse.SEND, "otel.spans.edge.{device}"),
    Grant(Role.DEVICE, SubjectUse.SEND, "otel.metrics.edge.{device}"),
    Grant(Role.DEVICE, SubjectUse.TRACE, "otel.hops.edge.{device}"),
    Grant(Role.DEVICE, SubjectUse.REPLY, "reply.{application}.{device}.*.*"),
    Grant(Role.DEVICE, SubjectUse.LISTEN, "notify.{device}.*"),
    *(
        Grant(Role.DEVICE, SubjectUse.LISTEN, f"push.{kind}.{{region}}.{{pipeline}}.{{device}}.*")
        for kind in _RECORDS
    ),
    Grant(Role.APPLICATION, SubjectUse.SEND, "evt.{pipeline}.{device}"),
    *(
        Grant(
            Role.APPLICATION,
            SubjectUse.SEND,
            f"{_GET}.{RESULTS}.{kind}.*.{{pipeline}}.{{device}}.*",
        )
        for kind in _RECORDS
    ),
    Grant(Role.APPLICATION, SubjectUse.TRACE, "otel.hops.app.{application}"),
    Grant(Role.APPLICATION, SubjectUse.HEAR, "reply.{application}.{device}.*.*"),
    Grant(Role.WORKER, SubjectUse.ASK, f"{_NEXT}.{ESCALATIONS}.{{consumer}}"),
    Grant(Role.WORKER, SubjectUse.SEND, f"{_ACK}.{ESCALATIONS}.{{consumer}}.>"),
    *(
        Grant(Role.WORKER, SubjectUse.SEND, f"{kind}.{{region}}.{{pipeline}}.*.*")
        for kind in _RECORDS
    ),
    *(
        Grant(Role.WORKER, SubjectUse.SEND, f"{_GET}.{RESULTS}.{kind}.{{region}}.{{pipeline}}.*.*")
        for kind in _RECORDS
    ),
    Grant(Role.WORKER, SubjectUse.SEND, "dead.{pipeline}.*"),
    Grant(Role.WORKER, SubjectUse.ASK, "cloud.{worker}.proof"),
    Grant(Role.WORKER, SubjectUse.ASK, "cloud.{worker}.lag"),
    Grant(Role.WORKER, SubjectUse.SEND, "otel.spans.cloud.*"),
    Grant(Role.WORKER, SubjectUse.SEND, "otel.metrics.cloud.*"),
    Grant(Role.WORKER, SubjectUse.TRACE, "otel.hops.cloud.{worker}"),
    *(
        Grant(Role.BRIDGE, access, subject)
        for name in (BRIDGE, BRIDGE_METRICS)
        for access, subject in (
            (SubjectUse.ASK, f"{_NEXT}.{SPANS}.{name}"),
            (SubjectUse.SEND, f"{_ACK}.{SPANS}.{name}.>"),
        )
    ),
    Grant(Role.BRIDGE, SubjectUse.ASK, "cloud.{bridge}.proof"),
)
INBOX = "_INBOX.>"
"""Where answers arrive: in an account of its own a principal may name its inbox as it likes."""


class Principal(Model):
    """Somebody who may log in."""

    name: Token
    """User name, and the name in subjects."""
    nkey: str | None = Field(default=None, pattern="^U[A-Z2-7]{55}$")
    """Public key to log in with, instead of a password."""


class Device(Principal):
    """An agent."""

    regions: tuple[Token, ...] = Field(default=("local",), strict=False, min_length=1)
    pipelines: tuple[Token, ...] = Field(strict=False, min_length=1)
    applications: tuple[Token, ...] = Field(default=(), strict=False)
    """Whose events it answers over NATS."""
    leaf: bool = False
    """It reaches the broker through a leaf server of its site."""


class Application(Principal):
    """Submits events and reads their results."""

    devices: tuple[Token, ...] = Field(strict=False, min_length=1)
    pipelines: tuple[Token, ...] = Field(strict=False, min_length=1)


class WorkerPrincipal(Principal):
    """Teachers of some pipelines in one region."""

    region: Token = "local"  # a place, no secret
    pipelines: tuple[Token, ...] = Field(strict=False, min_length=1)


class Site(Model):
    """Everybody on one broker: ``broker.toml``."""

    devices: tuple[Device, ...] = Field(default=(), strict=False)
    applications: tuple[Application, ...] = Field(default=(), strict=False)
    workers: tuple[WorkerPrincipal, ...] = Field(default=(), strict=False)
    bridges: tuple[Principal, ...] = Field(default=(), strict=False)
    operators: tuple[Principal, ...] = Field(default=(Principal(name="operator"),), strict=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [
            one.name
            for group in (
                self.devices, self.applications, self.workers, self.bridges, self.operators
            )
            for one in group
        ]  # fmt: skip
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]!r} is given twice")
        self._named(names)
        known = {one.name for one in self.applications}
        for device in self.devices:
            for name in set(device.applications) - known:
                raise ValueError(f"devices.{device.name}: no application is called {name!r}")
        known = {one.name for one in self.devices}
        for application in self.applications:
            for name in set(application.devices) - known:
                raise ValueError(f"applications.{application.name}: no device is called {name!r}")
        return self

    def _named(self, names: list[str]) -> None:
        """Two who share a variable would share a password."""
        owners: dict[str, str] = {}
        for name in names:
            variable = password_variable(name)
            other = owners.setdefault(variable, name)
            if other != name:
                raise ValueError(f"the passwords of {other!r} and {name!r} are both ${variable}")


def password_variable(name: str) -> str:
    """The environment variable with a principal's password: ``dev-1`` has ``$DEV_1_PASSWORD``."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper()) + "_PASSWORD"


class Use(NamedTuple):
    """One subject that one principal may use, and how."""

    access: SubjectUse
    subject: str
    alias: str = ""
    """What it is called in the principal's own account, where that is not the same."""

    @property
    def local(self) -> str:
        """The subject as the principal uses it."""
        return self.alias or self.subject


def uses_of(role: Role, names: Mapping[str, tuple[str, ...]]) -> list[Use]:
    """The subjects of a role, one for each combination of the principal's names."""
    uses: list[Use] = []
    for grant in GRANTS:
        if grant.role is not role:
            continue
        wanted = [name for name in names if f"{{{name}}}" in grant.subject]
        for values in product(*(names[name] for name in wanted)):
            subject = grant.subject.format(**dict(zip(wanted, values, strict=True)))
            uses.append(Use(grant.access, subject))
    return list(dict.fromkeys(uses))


def uses_of_device(device: Device) -> list[Use]:
    """What this device may do."""
    uses = uses_of(
        Role.DEVICE,
        {
            "device": (device.name,),
            "region": device.regions,
            "pipeline": device.pipelines,
            "application": device.applications,
        },
    )
    if device.leaf:
        # No JetStream API crosses to a leaf: nats-server denies $JS.API.> on every such link.
        gets = [use.subject for use in uses if use.subject.startswith(_GET)]
        uses += [Use(SubjectUse.SEND, get, LEAF_GET + get.removeprefix(_GET)) for get in gets]
    return uses


def uses_of_application(application: Application) -> list[Use]:
    """What this application may do."""
    return uses_of(
        Role.APPLICATION,
        {
            "application": (application.name,),
            "device": application.devices,
            "pipeline": application.pipelines,
        },
    )


def uses_of_worker(worker: WorkerPrincipal) -> list[Use]:
    """What this worker may do."""
    return uses_of(
        Role.WORKER,
        {
            "worker": (worker.name,),
            "region": (worker.region,),
            "pipeline": worker.pipelines,
            "consumer": tuple(consumer_name(worker.region, name) for name in worker.pipelines),
        },
    )


def uses_of_bridge(bridge: Principal) -> list[Use]:
    """What this bridge may do."""
    return uses_of(Role.BRIDGE, {"bridge": (bridge.name,)})


def principals(site: Site) -> Iterator[tuple[Role, Principal, list[Use]]]:
    """Everybody with an account of their own, and what they may do."""
    for device in site.devices:
        yield Role.DEVICE, device, uses_of_device(device)
    for application in site.applications:
        yield Role.APPLICATION, application, uses_of_application(application)
    for worker in site.workers:
        yield Role.WORKER, worker, uses_of_worker(worker)
    for bridge in site.bridges:
        yield Role.BRIDGE, bridge, uses_of_bridge(bridge)


def exports() -> list[Use]:
    """What ``CORE`` offers: the table with a wildcard for every name."""
    wildcards = dict.fromkeys(
        ("device", "region", "pipeline", "application", "worker", "bridge", "consumer"), ("*",)
    )
    offered = [
        use
        for role in (Role.DEVICE, Role.APPLICATION, Role.WORKER, Role.BRIDGE)
        for use in uses_of(role, wildcards)
        if use.access not in {SubjectUse.REPLY, SubjectUse.HEAR}
    ]
    unique = list(dict.fromkeys(offered))
    return [use for use in unique if not any(_covers(other, use) for other in unique)]


def _covers(wide: Use, narrow: Use) -> bool:
    """True for another, wider subject used in the same way."""
    if wide == narrow or wide.access is not narrow.access:
        return False
    pattern, tokens = wide.subject.split("."), narrow.subject.split(".")
    return len(pattern) == len(tokens) and all(
        want in {"*", token} for want, token in zip(pattern, tokens, strict=True)
    )
