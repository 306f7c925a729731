"""A broker with everybody's accounts, and who may do what on it, written apart from the table."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tests.support import jwt

from setsuden.link import LinkOptions
from setsuden.schemas.roles import (
    Application,
    Device,
    Principal,
    Site,
    WorkerPrincipal,
    password_variable,
)
from setsuden.services import accounts
from setsuden.testing.broker import LocalBroker

SITE = Site(
    devices=(
        Device(name="d1", regions=("r1",), pipelines=("p1",), applications=("a1",)),
        Device(
            name="d2",
            regions=("r2",),
            pipelines=("p1", "p2"),
            applications=("a1", "a2"),
            leaf=True,
        ),
    ),
    applications=(
        Application(name="a1", devices=("d1", "d2"), pipelines=("p1",)),
        Application(name="a2", devices=("d2",), pipelines=("p2",)),
    ),
    workers=(
        WorkerPrincipal(name="w1", region="r1", pipelines=("p1",)),
        WorkerPrincipal(name="w2", region="r2", pipelines=("p2",)),
    ),
    bridges=(Principal(name="b1"),),
)
LEAF = "direct.get"
"""What a device behind a leaf may say for ``$JS.API.DIRECT.GET``, which no leaf passes on."""
NAMES = ("d1", "d2", "a1", "a2", "w1", "w2", "b1", "operator")
REGIONS, PIPELINES, DEVICES = ("r1", "r2"), ("p1", "p2"), ("d1", "d2")
STREAMS = ("EVT", "ESC", "RES", "DEAD", "OTEL", "LEASE")


class RolesBroker(LocalBroker):
    """A real nats-server whose accounts were generated for :data:`SITE`."""

    def __init__(self, folder: Path, site: Site = SITE, extra: str = "") -> None:
        super().__init__(folder, accounts=accounts.configuration(site), extra=extra)
        names = [one.name for group in site.model_dump().values() for one in map(_Named, group)]
        self.environment = {password_variable(name): password(name) for name in names}
        self._files = folder / "passwords"
        self._files.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def credentials(name: str) -> dict[str, object]:
        """The same login in the words of nats-py."""
        return {"user": name, "password": password(name)}

    def login(self, name: str, **more: object) -> LinkOptions:
        """Link options of one principal."""
        file = self._files / name
        file.write_text(password(name))
        login: dict[str, object] = {"user": name, "password_file": str(file)}
        return self.options.model_copy(update=login | more)


class JwtBroker(LocalBroker):
    """The same site on a server in operator mode: accounts and users are signed JWTs."""

    def __init__(self, folder: Path, site: Site = SITE) -> None:
        operator = jwt.mint_operator()
        keys: defaultdict[str, jwt.KeyPair] = defaultdict(lambda: jwt.KeyPair("account"))
        claims = accounts.account_claims(site, lambda name: keys[name].public)
        minted = {
            name: jwt.mint_account(operator, name, every, keys=keys[name])
            for name, every in claims.items()
        }
        known = [jwt.mint_account(operator, "SYS"), *minted.values()]
        super().__init__(folder, accounts=jwt.server_config(operator, known, folder / "jwt"))
        self._users = {
            name: jwt.mint_user(minted[account], name, limits)
            for name, (account, limits) in accounts.user_claims(site).items()
        }
        self._files = folder / "creds"
        self._files.mkdir(parents=True, exist_ok=True)

    def credentials(self, name: str) -> dict[str, object]:
        """What nats-py needs for this login."""
        user = self._users[name]
        return {
            "user_jwt_cb": user.jwt.encode,
            "signature_cb": lambda nonce: base64.b64encode(user.keys.sign(nonce)),
        }

    def login(self, name: str, **more: object) -> LinkOptions:
        """Link options of one principal."""
        file = jwt.creds_file(self._files / f"{name}.creds", self._users[name])
        return self.options.model_copy(update={"credentials_file": str(file)} | more)


class _Named:
    def __init__(self, fields: dict[str, str]) -> None:
        self.name = fields["name"]


def password(name: str) -> str:
    return f"secret-of-{name}"


def places() -> Iterator[str]:
    """``region.pipeline.device.event`` of every event."""
    for region, pipeline, device in product(REGIONS, PIPELINES, DEVICES):
        yield f"{region}.{pipeline}.{device}.{device}-00000000-1"


def consumer(region: str, pipeline: str) -> str:
    return f"teacher={region}={pipeline}"


def subjects() -> list[str]:
    """Every kind of subject there is, with every name in it."""
    found = [f"{kind}.{place}" for kind in ("esc", "res", "late") for place in places()]
    found += [f"push.{kind}.{place}" for kind in ("res", "late") for place in places()]
    get = "$JS.API.DIRECT.GET"
    found += [f"{get}.RES.{kind}.{place}" for kind in ("res", "late") for place in places()]
    found += [f"{get}.ESC.esc.{place}" for place in places()]
    found += [f"{LEAF}.RES.{kind}.{place}" for kind in ("res", "late") for place in places()]
    found += [f"{LEAF}.LEASE.lease.{device}" for device in DEVICES]
    for pipeline, device in product(PIPELINES, DEVICES):
        found += [f"evt.{pipeline}.{device}", f"notify.{device}.{pipeline}"]
        found += [f"dead.{pipeline}.{device}", f"{get}.EVT.evt.{pipeline}.{device}"]
    for device in DEVICES:
        found += [f"lease.{device}", f"{get}.LEASE.lease.{device}", f"cmd.{device}.x"]
        found += [f"reply.{app}.{device}.c.t" for app in ("a1", "a2")]
    for name in (*DEVICES, "w1", "b1"):
        found += [f"cloud.{name}.{ask}" for ask in ("info", "read", "release", "proof", "lag")]
    for kind, name in product(("otel.spans", "otel.metrics"), (*DEVICES, "w1")):
        found += [f"{kind}.{tier}.{name}" for tier in ("edge", "cloud")]
    found += [hops_of(name) for name in NAMES[:-1]]
    found += ["otel.hops", "_INBOX.other.x", "$SYS.REQ.SERVER.PING", "$JS.API.INFO"]
    for region, pipeline in product(REGIONS, PIPELINES):
        name = consumer(region, pipeline)
        found += [f"$JS.API.CONSUMER.MSG.NEXT.ESC.{name}", f"$JS.API.CONSUMER.INFO.ESC.{name}"]
        found += [f"$JS.ACK.ESC.{name}.1.1.1.1.1", f"$JS.API.CONSUMER.DELETE.ESC.{name}"]
    for name in ("bridge", "bridge-metrics"):
        found += [f"$JS.API.CONSUMER.MSG.NEXT.OTEL.{name}", f"$JS.ACK.OTEL.{name}.1.1.1.1.1"]
    for stream in STREAMS:
        found += [f"$JS.API.STREAM.{verb}.{stream}" for verb in ("INFO", "PURGE", "DELETE")]
        found += [f"$JS.API.STREAM.{verb}.{stream}" for verb in ("UPDATE", "MSG.GET", "MSG.DELETE")]
        found += [f"{get}.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.x.y"]
        found += [f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.x"]
    return [*found, "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.CREATE.X"]


def hops_of(name: str) -> str:
    """Where the streams' account is told of this principal's traced messages."""
    kind = {"d": "edge", "w": "cloud", "a": "app", "b": "none"}[name[0]]
    return f"otel.hops.{kind}.{name}"


def arrives_as(name: str, subject: str) -> str:
    """What a subject that somebody may send to is called in the streams' account."""
    if subject.startswith(LEAF):
        return subject.replace(LEAF, "$JS.API.DIRECT.GET", 1)
    return hops_of(name) if subject == "otel.hops" else subject


def may_send(name: str, subject: str) -> bool:  # noqa: PLR0911  # one line for each principal
    """What the documents promise, written a second time and not from the table."""
    tokens = subject.split(".")
    if subject == "otel.hops":
        return name != "b1"  # the server tells of a message in its sender's name
    match name:
        case "operator":
            return True
        case "d1":
            return _device_may(tokens, "d1", ("r1",), ("p1",), ("a1",))
        case "d2":
            if subject.startswith(LEAF):  # it is behind a leaf
                tokens = arrives_as(name, subject).split(".")
            return _device_may(tokens, "d2", ("r2",), ("p1", "p2"), ("a1", "a2"))
        case "a1":
            return _application_may(tokens, ("d1", "d2"), ("p1",))
        case "a2":
            return _application_may(tokens, ("d2",), ("p2",))
        case "w1":
            return _worker_may(subject, "w1", "r1", "p1")
        case "w2":
            return _worker_may(subject, "w2", "r2", "p2")
    return subject == "cloud.b1.proof" or any(
        subject == f"$JS.API.CONSUMER.MSG.NEXT.OTEL.{one}"
        or subject.startswith(f"$JS.ACK.OTEL.{one}.")
        for one in ("bridge", "bridge-metrics")
    )


def _device_may(  # noqa: PLR0911  # one line for each kind of subject
    tokens: list[str],
    device: str,
    regions: tuple[str, ...],
    pipelines: tuple[str, ...],
    applications: tuple[str, ...],
) -> bool:
    if tokens[:4] == ["$JS", "API", "DIRECT", "GET"] and len(tokens) > 5:
        stream, *tokens = tokens[4:]
        if stream == "LEASE":
            return tokens == ["lease", device]
        return stream == "RES" and _record_of(tokens, device, regions, pipelines)
    match tokens:
        case ["esc", region, pipeline, name, _]:
            return region in regions and pipeline in pipelines and name == device
        case ["dead", pipeline, name]:
            return pipeline in pipelines and name == device
        case ["lease", name] | ["cloud", name, _] | ["otel", "spans" | "metrics", "edge", name]:
            return name == device
        case ["reply", application, name, _, _]:
            return application in applications and name == device
    return _record_of(tokens, device, regions, pipelines)


def _record_of(
    tokens: list[str], device: str, regions: tuple[str, ...], pipelines: tuple[str, ...]
) -> bool:
    match tokens:
        case ["res" | "late", region, pipeline, name, _]:
            return region in regions and pipeline in pipelines and name == device
    return False


def _application_may(
    tokens: list[str], devices: tuple[str, ...], pipelines: tuple[str, ...]
) -> bool:
    match tokens:
        case ["evt", pipeline, device]:
            return pipeline in pipelines and device in devices
        case ["$JS", "API", "DIRECT", "GET", "RES", "res" | "late", _, pipeline, device, _]:
            return pipeline in pipelines and device in devices
    return False


def _worker_may(subject: str, name: str, region: str, pipeline: str) -> bool:
    mine = consumer(region, pipeline)
    if subject == f"$JS.API.CONSUMER.MSG.NEXT.ESC.{mine}":
        return True
    if subject in {f"cloud.{name}.proof", f"cloud.{name}.lag"}:
        return True
    if subject.startswith(f"$JS.ACK.ESC.{mine}."):
        return True
    if subject.startswith(("otel.spans.cloud.", "otel.metrics.cloud.", f"dead.{pipeline}.")):
        return True
    record = subject.removeprefix("$JS.API.DIRECT.GET.RES.")
    return record.startswith((f"res.{region}.{pipeline}.", f"late.{region}.{pipeline}."))


def may_hear(name: str, subject: str) -> bool:
    """Published in the streams' own account: who hears it."""
    match [name, *subject.split(".")]:
        case ["operator", *_]:
            return True
        case ["d1", "notify", "d1", _]:
            return True
        case ["d2", "notify", "d2", _]:
            return True
        case ["d1", "push", "res" | "late", "r1", "p1", "d1", _]:
            return True
        case ["d2", "push", "res" | "late", "r2", "p1" | "p2", "d2", _]:
            return True
    return False
