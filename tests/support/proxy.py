"""A TCP proxy of our own that can go silent, slow or away."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self


class Proxy:
    """Forwards one port to another.

    :meth:`blackhole` swallows both directions without closing anything, as a pulled cable does,
    :meth:`mute` only the answers; ``delay_seconds`` holds every chunk back; :meth:`reset` ends
    connections with RST.
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self.port = 0
        self._host = host
        self.delay_seconds = 0.0
        self.accepted = 0
        self.connected = asyncio.Event()
        """Set at each connection."""
        self._target = target_port
        self._there, self._back = asyncio.Event(), asyncio.Event()
        self.heal()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        place = f"[{self._host}]" if ":" in self._host else self._host
        return f"nats://{place}:{self.port}"

    def blackhole(self) -> None:
        """Forward nothing more; what is sent meanwhile arrives after :meth:`heal`."""
        self._there.clear()
        self._back.clear()

    def mute(self) -> None:
        """Forward what is said to the target, and nothing of what it answers."""
        self._back.clear()

    def heal(self) -> None:
        """Forward again."""
        self._there.set()
        self._back.set()

    def reset(self) -> None:
        """End every connection at once, unread data and all."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        self.connected.set()
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, back, self._there))
                both.create_task(self._pump(there, writer, self._back))
            self._writers.discard(back)
        except* OSError:
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        while chunk := await reader.read(65_536):
            await gate.wait()
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError("one side is gone")
