"""The HTTP server: uvicorn on a socket of ours, with a bound and a clock for every connection.

uvicorn's own clock runs between requests only and stops at the first byte, and its only bound,
``limit_concurrency``, turns health checks away with everybody else. A middleware cannot help: it
hears of a request when its head is complete. So each connection is uvicorn's h11 protocol with
three clocks of ours (a head to come, a body that nobody reads, an answer that is not fetched),
and when there are too many, the one that has been idle longest makes room.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from setsuden.edge_agent.config import HttpOptions
from setsuden.schemas.errors import ConfigError, RequestRefusedError
from setsuden.schemas.refusal import Refusal

from .http import HttpDoor

log = logging.getLogger(__name__)
HEAD_SECONDS = 10.0
"""From a connection's opening, or its last answer, to the end of the next request's head."""
IDLE_SECONDS = 5
"""Of those, without a byte between two requests."""
LINGER_SECONDS = 2.0
"""For the rest of a body that nobody wants, once it is answered."""
WRITE_SECONDS = 30.0
"""Without a byte taken by a client that does not fetch its answer."""
MAX_HEAD_BYTES = 32_768
SPARE_CONNECTIONS = 100
"""Beyond ``http.max_waiting``: there is always an idle one that can make room for health."""
OTHER_FILES = 64
"""Descriptors left to the rest of the agent."""
MIN_CONNECTIONS = 16
ACCEPT_LOG_SECONDS = 60.0
STOP_SECONDS = 10.0


class Connections:
    """All connections of one server: how many there may be, and which can be closed for others."""

    def __init__(self, limit: int, refused: Counter[str]) -> None:
        self.limit = limit
        self.refused = refused
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """Those nobody answers, the longest idle first."""

    def enter(self, connection: Connection) -> bool:
        """Count a new connection; False when all others are being answered."""
        while len(self._open) >= self.limit:
            if not self._idle:
                self.refused["http_connections"] += 1
                return False
            self.refused["http_idle"] += 1
            next(iter(self._idle)).abort()
        self._open.add(connection)
        return True

    def idle(self, connection: Connection) -> None:
        """Nobody answers this connection now."""
        if connection in self._open:
            self._idle.pop(connection, None)
            self._idle[connection] = None

    def busy(self, connection: Connection) -> None:
        """It is being answered."""
        self._idle.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        self._idle.pop(connection, None)
        self._open.discard(connection)


class Connection(H11Protocol):
    """One connection, with a clock for the phase it is in."""

    all: Connections
    """Set by :class:`HttpServer` in a subclass of its own."""
    _phase = ""
    _clock: asyncio.TimerHandle | None = None
    _write_clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Start waiting for a request."""
        super().connection_made(transport)
        if self.all.enter(self):
            self._watch()
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request; unread when the request they belong to is answered already."""
        if self._phase == "linger":
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """An answer is written; the next request may be read already."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every clock."""
        self._set_clock("", None)
        self.resume_writing()
        self.all.leave(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        self.all.leave(self)
        self.transport.abort()

    # -- clocks -------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Start the clock of the phase that the connection has come into."""
        if self.transport.is_closing():
            self._enter("closing", WRITE_SECONDS)
        elif self.conn.their_state is h11.IDLE:
            self._enter("head", HEAD_SECONDS)
        elif self.cycle is not None and self.cycle.response_complete:
            self._enter("linger", LINGER_SECONDS)
        else:
            self._enter("", None)

    def _enter(self, phase: str, seconds: float | None) -> None:
        if seconds is None:
            self.all.busy(self)
        elif phase != self._phase:
            self.all.idle(self)
        if phase != self._phase:
            self._set_clock(phase, seconds)

    def _set_clock(self, phase: str, seconds: float | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._phase = phase
        self._clock = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self._phase == "head" and self.conn.trailing_data[0]:
            self.all.refused["http_timeout"] += 1
            self._refuse(408, f"the head of the request took over {HEAD_SECONDS:g} s")
        else:
            self.abort()

    def pause_writing(self) -> None:
        """The client does not fetch its answer."""
        super().pause_writing()
        if self._write_clock is None:
            self._write_clock = self.loop.call_later(WRITE_SECONDS, self.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._write_clock is not None:
            self._write_clock.cancel()
            self._write_clock = None

    # -- what uvicorn would say ---------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's signature
        """What h11 cannot read is counted and not logged: anybody may send it, at any rate."""
        self.all.refused["http_malformed"] += 1
        self._refuse(400, "this is no HTTP/1.1 request, or its head is too large")

    def _refuse(self, status: int, text: str) -> None:
        """Answer in the application's place, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.abort()
                return
            self.cycle.disconnected = True  # for the application the client has hung up
            self.cycle.message_event.set()
        error = RequestRefusedError(status, text, field="request")
        body = Refusal.of(error).model_dump_json().encode()
        head = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        response = h11.Response(status_code=status, headers=head)
        try:
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer is out of place here
            self.abort()
            return
        self.transport.close()
        self._watch()

    def shutdown(self) -> None:
        """Finish the answer that is being given, and no other."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
            self._watch()
        else:
            self.cycle.keep_alive = False


class HttpServer:
    """uvicorn without its signal handlers and its loop, on a socket of ours."""

    def __init__(
        self, app: HttpDoor, options: HttpOptions, state: Path, refused: Counter[str]
    ) -> None:
        self._socket = bind(options)
        self.port = int(self._socket.getsockname()[1])
        (state / "http.port").write_text(str(self.port), encoding="ascii")
        connections = Connections(max_connections(options), refused)
        config = uvicorn.Config(
            app,
            http=type("AgentConnection", (Connection,), {"all": connections}),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=False,
            ws="none",
            loop="none",
            backlog=128,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=int(STOP_SECONDS),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        # Its warnings are of single requests: anybody may write them by the million.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._server = uvicorn.Server(config)
        self.listening = asyncio.Event()
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Serve until told to stop."""
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(AcceptErrors())
        await self._server.startup(sockets=[self._socket])
        self.listening.set()
        # uvicorn's own main loop wakes ten times a second for nothing we use.
        await self._stop.wait()
        await self._server.shutdown(sockets=[self._socket])

    def stop(self) -> None:
        """Take no more requests and finish those being answered, within bounds."""
        self._stop.set()


class AcceptErrors:
    """A loop's exception handler that says once a minute that there are no descriptors.

    asyncio says it for every place in the backlog, with a traceback, every second.
    """

    def __init__(self) -> None:
        self._next = 0.0
        self._unsaid = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle one exception of the loop."""
        error = context.get("exception")
        files = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
        if not (isinstance(error, OSError) and error.errno in files and "socket" in context):
            loop.default_exception_handler(context)
            return
        self._unsaid += 1
        if time.monotonic() >= self._next:
            detail = f"{error.strerror}; raise `ulimit -n`, or close what holds connections"
            log.warning("http_not_accepting", extra={"detail": detail, "times": self._unsaid})
            self._next, self._unsaid = time.monotonic() + ACCEPT_LOG_SECONDS, 0


def max_connections(options: HttpOptions) -> int:
    """Connections at once: enough for every request that may wait, and within ``ulimit -n``."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = options.max_waiting + SPARE_CONNECTIONS
    if soft == resource.RLIM_INFINITY:
        return wanted
    free = soft - len(list(Path("/proc/self/fd").iterdir())) - OTHER_FILES
    if free < wanted:
        log.warning("http_connections_bounded", extra={"detail": f"ulimit -n {soft}: {free}"})
    return max(MIN_CONNECTIONS, min(wanted, free))


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
        return socket.create_server(address, family=family, backlog=128, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror}",
            remedy="choose another http.host or http.port, or port 0 for a free one",
        ) from error
