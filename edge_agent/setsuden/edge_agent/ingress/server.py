"""The HTTP server: uvicorn's protocol on a socket of ours, which is accepted from with care."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from setsuden.edge_agent.config import HttpOptions
from setsuden.schemas.errors import ConfigError
from setsuden.schemas.log import get_logger

from .connection import Connections, HttpConnection
from .http import HttpIngress

log = get_logger(__name__)
IDLE_SECONDS = 5
"""Between two requests, without a byte."""
MAX_HEAD_BYTES = 32_768
SPARE_CONNECTIONS = 100
"""Beyond ``http.max_waiting``: there is always an idle one that can make room for health."""
OTHER_FILES = 64
"""Descriptors left to the rest of the agent."""
MIN_CONNECTIONS = 8
BACKLOG = 1024
ACCEPTED_AT_ONCE = 16
ACCEPT_PAUSE_SECONDS = 0.2
ACCEPT_LOG_SECONDS = 60.0
STOP_SECONDS = 10.0


class HttpServer:
    """uvicorn's HTTP on a socket of ours, without its signal handlers and its loop."""

    def __init__(
        self, app: HttpIngress, options: HttpOptions, state: Path, refused: Counter[str]
    ) -> None:
        self._app = app
        self._socket = bind(options)
        self.port = int(self._socket.getsockname()[1])
        _tell_port(state / "http.port", self.port)
        self._connections = Connections(max_connections(options), refused)
        app.fit(self._connections.limit)
        self._config = uvicorn.Config(
            app,
            http=HttpConnection,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            loop="none",
            timeout_keep_alive=IDLE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        # Its warnings are of single requests: anybody may write them by the million.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._server_state = ServerState()
        self._taking: set[asyncio.Task[Any]] = set()
        self._silent_until = 0.0
        self.listening = asyncio.Event()
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Serve until told to stop, then finish what is being answered, within bounds."""
        loop = asyncio.get_running_loop()
        self._config.load()
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self._accept)
        self.listening.set()
        try:
            await self._stop.wait()
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()
        await self._finish()

    def stop(self) -> None:
        """Take no more requests, and let nobody wait for the cloud any longer."""
        self._app.stop()
        self._stop.set()

    def _accept(self) -> None:
        """Take some connections: asyncio's own server takes a hundred before it looks at one."""
        loop = asyncio.get_running_loop()
        for _ in range(min(ACCEPTED_AT_ONCE, 1 + self._connections.limit // 16)):
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._no_descriptors(error)
                return
            connection.setblocking(False)
            task = loop.create_task(loop.connect_accepted_socket(self._connection, connection))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)

    def _connection(self) -> HttpConnection:
        return HttpConnection(self._config, self._server_state, {}, self._connections)

    def _no_descriptors(self, error: OSError) -> None:
        """Make room, wait, and say it once a minute: the next try is as vain, and the next."""
        loop = asyncio.get_running_loop()
        self._connections.make_room()
        loop.remove_reader(self._socket)
        loop.call_later(ACCEPT_PAUSE_SECONDS, self._accept_again)
        if loop.time() >= self._silent_until:
            self._silent_until = loop.time() + ACCEPT_LOG_SECONDS
            detail = f"{error.strerror}: raise `ulimit -n`"
            log.warning("http_not_accepting", detail=detail)

    def _accept_again(self) -> None:
        if not self._stop.is_set():
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    async def _finish(self) -> None:
        for connection in self._connections.all():
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._connections.ended()
        for connection in self._connections.all():
            connection.abort()


def _tell_port(path: Path, port: int) -> None:
    """Leave the port where a program of this device finds it; the agent serves without it, too."""
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        fresh.write_text(str(port), encoding="ascii")
        fresh.replace(path)
    except OSError as error:
        log.warning("http_port_unwritten", detail=str(error))


def max_connections(options: HttpOptions) -> int:
    """Connections at once: enough for every request that may wait, and within ``ulimit -n``."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = options.max_waiting + SPARE_CONNECTIONS
    if soft == resource.RLIM_INFINITY:
        return wanted
    free = soft - len(list(Path("/proc/self/fd").iterdir())) - OTHER_FILES
    bound = max(MIN_CONNECTIONS, min(wanted, free))
    if bound < wanted:
        log.info("http_connections_bounded", detail=f"{bound}, by ulimit -n {soft}")
    return bound


def bind(options: HttpOptions) -> socket.socket:
    """A listening socket; raises ConfigError."""
    host = options.host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(
            host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        found.sort(key=lambda row: row[0] != socket.AF_INET)  # localhost is 127.0.0.1
        family, _, _, _, address = found[0]
        both = family is socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror}",
            remedy="choose another http.host or http.port, or port 0 for a free one",
        ) from error
