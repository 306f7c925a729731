"""One privileged meter of a host lets its neighbours read what only it may read.

Protocol, version 1: the other side connects to a UNIX stream socket and sends lines; each line
gets one line back. ``{"v":1,"ask":"domains"}`` is answered with every field of the domains and
which of them to attribute; ``{"v":1,"ask":"read"}`` with readings and this side's monotonic clock.
An answer to anything else is ``{"v":1,"error":"…"}``.

CLOCK_MONOTONIC is one clock for all processes of a host (without a time namespace of their own),
so the moments of readings pass through unchanged; the client checks that.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import stat
import threading
from math import isfinite
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from setsuden.energy.domain import Domain, Reading, Sensor
from setsuden.energy.roots import Clock
from setsuden.schemas.base import WireModel
from setsuden.schemas.log import get_logger

log = get_logger(__name__)
VERSION = 1
MAX_QUESTION_BYTES = 256
MAX_ANSWER_BYTES = 65_536
"""Domains of a host take some hundred bytes each."""
MAX_CLIENTS = 64
"""Processes of one host; the next one is turned away at once."""
MODE = 0o660
"""Owner and group may connect: whoever may know the host's power, which tells of its secrets
(PLATYPUS, CVE-2020-8694)."""
_STEP_SECONDS = 0.5


class Question(WireModel):
    """What a client sends."""

    v: int
    ask: str


class Described(WireModel):
    """The answer to ``domains``."""

    v: Literal[1] = 1
    domains: tuple[Domain, ...]
    primary: tuple[str, ...]


class Told(WireModel):
    """The answer to ``read``."""

    v: Literal[1] = 1
    now_ns: int
    readings: tuple[Reading, ...]


class Refused(WireModel):
    """The answer to what was not understood."""

    v: Literal[1] = 1
    error: str


class Server:
    """Serves one open sensor's readings on a UNIX socket, in a thread of its own.

    However many ask, the sensor is read at most as often as its quickest domain is worth reading.
    While a server stands, nobody else may read the sensor: it is not made for two threads.
    """

    def __init__(
        self,
        sensor: Sensor,
        domains: tuple[Domain, ...],
        primary: tuple[str, ...],
        path: Path,
        clock: Clock,
    ) -> None:
        self._sensor, self._clock, self._path = sensor, clock, path
        self._names = tuple(domain.id for domain in domains)
        self._described = _line(Described(domains=domains, primary=primary))
        self._interval_ns = round(min(domain.interval_seconds for domain in domains) * 1e9)
        self._readings: tuple[Reading, ...] = ()
        self._read_at_ns = 0
        self._clients: dict[socket.socket, bytearray] = {}
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._inode = 0
        self._stop = threading.Event()
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="energy-relay", daemon=True)

    def start(self) -> None:
        """Begin to serve; raises OSError when the path is taken or cannot be made."""
        self._listener = _bound(self._path)
        self._inode = self._path.stat().st_ino
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Stop, part from all clients, remove the socket; the sensor stays open."""
        self._stop.set()
        self._waker.close()
        if self._thread.is_alive():
            self._thread.join()
        for connection in (*self._clients, self._listener, self._wake):
            if connection is not None:
                connection.close()
        self._clients.clear()
        self._selector.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:  # a later server's socket is not ours
                self._path.unlink()

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(_STEP_SECONDS):
                found = key.fileobj
                if found is self._listener:
                    self._accept()
                elif isinstance(found, socket.socket) and found in self._clients:
                    self._hear(found)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101  # it is what called us
        try:
            client, _ = self._listener.accept()
        except OSError:  # it left while it waited
            return
        client.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            client.close()
            return
        self._clients[client] = bytearray()
        self._selector.register(client, selectors.EVENT_READ)

    def _hear(self, client: socket.socket) -> None:
        """Take what came; a client that talks too long or does not listen is let go."""
        buffer = self._clients[client]
        try:
            data = client.recv(MAX_QUESTION_BYTES)
            buffer += data
            while b"\n" in buffer:
                line, _, rest = bytes(buffer).partition(b"\n")
                buffer[:] = rest
                answer = self._answer(line)
                if client.send(answer) != len(answer):
                    raise BlockingIOError
        except OSError:
            data = b""
        if not data or len(buffer) > MAX_QUESTION_BYTES:
            self._selector.unregister(client)
            del self._clients[client]
            client.close()

    def _answer(self, line: bytes) -> bytes:
        try:
            question = Question.model_validate_json(line)
        except ValidationError:
            return _line(Refused(error="that is no question"))
        if question.v != VERSION:
            return _line(Refused(error=f"version {question.v} is not spoken here, {VERSION} is"))
        if question.ask == "domains":
            return self._described
        if question.ask == "read":
            readings = self._fresh()
            return _line(Told(now_ns=self._clock.monotonic_ns(), readings=readings))
        return _line(Refused(error="neither 'domains' nor 'read'"))

    def _fresh(self) -> tuple[Reading, ...]:
        """Readings not older than the interval."""
        now_ns = self._clock.monotonic_ns()
        if not self._readings or now_ns - self._read_at_ns >= self._interval_ns:
            self._read_at_ns = now_ns
            self._readings = self._read(now_ns)
        return self._readings

    def _read(self, now_ns: int) -> tuple[Reading, ...]:
        try:
            return tuple(checked(reading) for reading in self._sensor.read())
        except Exception as error:  # a sensor may fail in any way; others still ask
            log.exception("energy_relay_failed", detail=type(error).__name__)
            problem = f"the sensor failed: {type(error).__name__}"
            return tuple(Reading(name, now_ns, None, problem) for name in self._names)


def checked(reading: Reading) -> Reading:
    """The reading with a usable value, or a problem; both sides look."""
    value = reading.value
    if value is None or not isfinite(value) or value < 0:
        problem = reading.problem or "the sensor told no usable value"
        return Reading(reading.domain, reading.at_ns, None, problem)
    return Reading(reading.domain, reading.at_ns, value)


def _line(answer: WireModel) -> bytes:
    return answer.model_dump_json().encode() + b"\n"


def _bound(path: Path) -> socket.socket:
    """A listening socket at this path, never open to more than ``MODE`` allows."""
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), MODE)  # before it has a name: no moment in which all may
        listener.bind(str(path))
        path.chmod(MODE)  # the umask took from it
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Remove the socket that a dead server left; raises OSError for anything else there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise FileExistsError(f"another meter serves at {path}")
