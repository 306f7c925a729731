"""Durability is proven, not assumed.

A JetStream ack is not on disk by default: a power cut a second after start lost every one of
84,986 acknowledged events with the default ``sync_interval`` and none with ``always``.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

from setsuden.schemas import subjects
from setsuden.schemas.errors import ForbiddenError, LinkError, NotDurableError, UnavailableError
from setsuden.schemas.stream_service import PROOF
from setsuden.schemas.stream_service import Proof as ServiceProof

from .connection import Connection
from .credentials import principal, tls_context
from .options import LinkOptions
from .untrusted import json_object, printable, redacted

MAX_PROOF_BYTES = 4096
Proof = Callable[[Connection], Awaitable[None]]
"""Asks somebody who can read the server's monitoring; raises NotDurableError or another LinkError.

It stands in for ``monitor_url`` where that is not set: a device may not reach that port.
"""
SERVER_FLOOR = (2, 15)
MAX_VARZ_BYTES = 1 << 20
_MAX_HEAD_BYTES = 1 << 14
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
REMEDY = "set `jetstream { sync_interval: always }` in the server's configuration"


async def read_varz(options: LinkOptions) -> dict[str, object]:
    """The ``/varz`` of ``monitor_url`` within the connect timeout; raises NotDurableError.

    No redirect is followed and no proxy used: whoever answers is who was configured.
    """
    url = f"{str(options.monitor_url).rstrip('/')}/varz"
    try:
        async with asyncio.timeout(options.connect_timeout_seconds):
            body = await _get(urlsplit(url), options)
        return json_object(body, MAX_VARZ_BYTES)
    except (OSError, ValueError, ForbiddenError) as error:
        raise NotDurableError(
            f"cannot read {redacted(url)}: {_reason(error)}",
            remedy="check nats.monitor_url and the http port",
        ) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return printable(str(error))


async def _get(url: SplitResult, options: LinkOptions) -> bytes:
    """The body behind a URL; raises OSError or ValueError.

    Not http.client: its time limit counts between two bytes, so a server could hold a thread,
    and with it the end of the process, for ever.
    """
    secure = url.scheme == "https"
    context = await asyncio.to_thread(tls_context, options) if secure else None
    host, port = url.hostname or "", url.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=_MAX_HEAD_BYTES)
    try:
        place = f"[{host}]" if ":" in host else host
        request = f"GET {url.path} HTTP/1.0\r\nHost: {place}:{port}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await _check_head(reader)
        return await _body(reader)
    finally:
        writer.transport.abort()


async def _check_head(reader: asyncio.StreamReader) -> None:
    """Read on to the body; raises ValueError for anything but a 200."""
    status = _STATUS.match(await reader.readline())
    if status is None:
        raise ValueError("what answers there is no HTTP server")
    if status[1] != b"200":
        raise ValueError(f"status {status[1].decode()}")
    room = _MAX_HEAD_BYTES
    while (line := await reader.readline()).strip():
        room -= len(line)
        if room < 0:
            raise ValueError(f"its headers are over {_MAX_HEAD_BYTES} bytes")


async def _body(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while part := await reader.read(1 << 16):
        body += part
        if len(body) > MAX_VARZ_BYTES:
            raise ValueError(f"over {MAX_VARZ_BYTES} bytes")
    return bytes(body)


def check_version(version: str) -> None:
    """Raises NotDurableError below the floor: older ones lost acked writes (nats-server 8475)."""
    match = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.|-|$)", version, re.ASCII)
    numbers = (int(match[1]), int(match[2])) if match else (0, 0)
    if numbers < SERVER_FLOOR:
        raise NotDurableError(
            f"nats-server {printable(version, 32)} is older than 2.15",
            remedy="upgrade the server, or set nats.durability = 'relaxed'",
        )


def check_sync(varz: dict[str, object]) -> None:
    """Raises NotDurableError unless every acknowledged write is synced first."""
    jetstream = varz.get("jetstream")
    config = jetstream.get("config") if isinstance(jetstream, dict) else None
    if not isinstance(config, dict) or config.get("sync_always") is not True:
        raise NotDurableError(
            "the broker acknowledges before its disk has the message",
            remedy=f"{REMEDY}, or accept the loss with nats.durability = 'relaxed'",
        )


def told_by_stream_service(options: LinkOptions, name: str) -> Proof:
    """The proof that a peer without the monitoring port has: the cloud side, which has read it.

    It is asked in the name of who logs in, or else in this one.
    """

    async def proof(connection: Connection) -> None:
        login = await asyncio.to_thread(principal, options)
        subject = subjects.service(login or name, PROOF)
        try:
            answer = await connection.ask(subject, b"", options.connect_timeout_seconds)
        except UnavailableError as error:
            raise NotDurableError(
                f"nobody proves that the broker is durable ({error.message})",
                remedy="start `setsuden cloud streams --serve` on the cloud side, set "
                "nats.monitor_url (http://host:8222), or nats.durability = 'relaxed'",
            ) from error
        evidence = ServiceProof.model_validate_json(answer.data[:MAX_PROOF_BYTES])
        check_version(evidence.version)
        if not evidence.sync_always:
            raise NotDurableError("the broker acknowledges before its disk has it", remedy=REMEDY)

    return proof


async def check_strict(connection: Connection, options: LinkOptions, proof: Proof) -> None:
    """All that ``durability = "strict"`` demands of a server; raises LinkError."""
    check_version(connection.server_version)
    if options.monitor_url is not None:
        check_sync(await read_varz(options))
        return
    try:
        async with asyncio.timeout(options.connect_timeout_seconds):
            await proof(connection)
    except LinkError:
        raise
    except TimeoutError as error:
        raise UnavailableError("nobody proved in time that the broker is durable") from error
    except Exception as error:  # what a proof raises must not be taken for one
        raise NotDurableError(f"the proof of durability failed: {type(error).__name__}") from error
