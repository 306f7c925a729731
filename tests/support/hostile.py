"""A TCP server that speaks NATS as badly as it is told to."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

GREETING: dict[str, object] = {
    "server_id": "HOSTILE",
    "version": "2.15.1",
    "max_payload": 1 << 20,
    "headers": True,
    "proto": 1,
}


def info(**changes: object) -> bytes:
    """An INFO line."""
    return b"INFO " + json.dumps(GREETING | changes).encode() + b"\r\n"


class Conversation:
    """One client's connection, seen from the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.subscribed: dict[str, int] = {}
        """Subject and number of every subscription so far."""

    async def send(self, data: bytes) -> None:
        """Send raw bytes, as far as the client takes them."""
        self.writer.write(data)
        await self.writer.drain()

    async def serve(self, *, pings: int | None = None) -> bytes:
        """Answer PING until so many were answered, or until the client goes; all that it sent."""
        received = b""
        while pings is None or pings > 0:
            line = await self.reader.readline()
            if not line:
                return received
            received += line
            if line.startswith(b"SUB "):
                subject, *_, number = line.split()[1:]
                self.subscribed[subject.decode()] = int(number)
            elif line == b"PING\r\n":
                await self.send(b"PONG\r\n")
                pings = None if pings is None else pings - 1
        return received

    async def rest(self) -> bytes:
        """All that the client sends until it goes; nothing is answered."""
        return await self.reader.read()

    def number(self, part: str) -> int:
        """The number of the subscription whose subject contains this."""
        return next(number for subject, number in self.subscribed.items() if part in subject)

    def subject(self, part: str) -> str:
        """The subject of that subscription."""
        return next(subject for subject in self.subscribed if part in subject)


Script = Callable[[Conversation], Awaitable[object]]


class HostileServer:
    """Runs ``script`` with every client, then closes."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.port = 0
        self.accepted = 0
        self.connected = asyncio.Event()
        """Set at each connection."""
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._context, limit=1 << 24
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        self.connected.set()
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self.script(Conversation(reader, writer))
            writer.close()
        except asyncio.CancelledError:  # the test is over
            writer.transport.abort()
        finally:
            self._tasks.discard(task)


async def trap(conversation: Conversation) -> None:
    """Nobody has any business here: the test looks at ``accepted``."""
    await conversation.rest()
