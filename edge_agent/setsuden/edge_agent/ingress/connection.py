"""Connections over HTTP: a bound on all of them, and a clock for each.

uvicorn's own clock runs between requests only and stops at the first byte, and its only bound,
``limit_concurrency``, turns health checks away with everybody else. A middleware cannot help: it
hears of a request when its head is complete. So each connection is uvicorn's h11 protocol with
three clocks of ours (a head to come, an answer before its request has ended, an answer that is not
fetched), and when there are too many, the one that has been idle longest makes room.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from setsuden.schemas.errors import RequestRefusedError
from setsuden.schemas.refusal import Refusal

HEAD_SECONDS = 10.0
"""From a connection's opening, or its last answer, to the end of the next request's head."""
LINGER_SECONDS = 2.0
"""To fetch the answer to a request whose body goes on and is not read any more."""
WRITE_SECONDS = 30.0
"""Without a byte taken by a client that does not fetch its answer."""


class Connections:
    """All connections of one server: how many there may be, and which can be closed for others."""

    def __init__(self, limit: int, refused: Counter[str]) -> None:
        self.limit = limit
        self.refused = refused
        self._open: set[HttpConnection] = set()
        self._idle: dict[HttpConnection, None] = {}
        """Those nobody answers, the longest idle first."""
        self._none = asyncio.Event()

    def enter(self, connection: HttpConnection) -> bool:
        """Count a new connection; False when all others are being answered."""
        while len(self._open) >= self.limit:
            if not self.make_room():
                self.refused["http_connections"] += 1
                return False
        self._open.add(connection)
        return True

    def make_room(self) -> bool:
        """Close the connection that has been idle longest; False when none is."""
        if not self._idle:
            return False
        self.refused["http_idle"] += 1
        next(iter(self._idle)).abort()
        return True

    def idle(self, connection: HttpConnection) -> None:
        """Nobody answers this connection now."""
        if connection in self._open:
            self._idle[connection] = None

    def busy(self, connection: HttpConnection) -> None:
        """It is being answered."""
        self._idle.pop(connection, None)

    def leave(self, connection: HttpConnection) -> None:
        """It is gone."""
        self._idle.pop(connection, None)
        self._open.discard(connection)
        if not self._open:
            self._none.set()

    def all(self) -> list[HttpConnection]:
        """Those that are open."""
        return list(self._open)

    async def ended(self) -> None:
        """Return when none is open; for when no more are let in."""
        while self._open:
            self._none.clear()
            await self._none.wait()


class HttpConnection(H11Protocol):
    """One connection, with a clock for the phase it is in."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._all = connections
        self._phase = ""
        self._clock: asyncio.TimerHandle | None = None
        self._write_clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Start waiting for a request."""
        super().connection_made(transport)
        if self._all.enter(self):
            self._watch()
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
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
        self._all.leave(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        self._all.leave(self)
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
            self.flow.pause_reading()
        else:
            self._enter("", None)

    def _enter(self, phase: str, seconds: float | None) -> None:
        if phase != self._phase:
            self._all.busy(self)
            if seconds is not None:
                self._all.idle(self)
            self._set_clock(phase, seconds)

    def _set_clock(self, phase: str, seconds: float | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._phase = phase
        self._clock = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self._phase == "head" and self.conn.trailing_data[0]:
            self._all.refused["http_timeout"] += 1
            self._refuse(408, f"the head of the request took over {HEAD_SECONDS:g} s")
        else:
            self.abort()

    def pause_writing(self) -> None:
        """The client does not fetch its answer: its connection may be closed for another's."""
        super().pause_writing()
        self._all.idle(self)
        if self._write_clock is None:
            self._write_clock = self.loop.call_later(WRITE_SECONDS, self.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if not self._phase:
            self._all.busy(self)
        if self._write_clock is not None:
            self._write_clock.cancel()
            self._write_clock = None

    # -- what uvicorn would say ---------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's signature
        """What h11 cannot read is counted and not logged: anybody may send it, at any rate."""
        self._all.refused["http_malformed"] += 1
        self._refuse(400, "this is no HTTP/1.1 request, or its head is too large")

    def _refuse(self, status: int, text: str) -> None:
        """Answer in the application's place, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.abort()
                return
            self.cycle.disconnected = True  # for the application the client has hung up
            self.cycle.message_event.set()
        error = RequestRefusedError(text, http_status=status, field="request")
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
