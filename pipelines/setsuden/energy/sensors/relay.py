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
from contextlib import closing
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from setsuden.energy.domain import Candidate, Domain, Reading, Sensor
from setsuden.energy.host.system import Clock, Host
from setsuden.energy.options import EnergyOptions
from setsuden.schemas.base import WireModel
from setsuden.schemas.energy import Source
from setsuden.schemas.log import get_logger

log = get_logger(__name__)
NAME = "relay"
TIMEOUT_SECONDS = 0.5
"""Of one question: a living server answers in a fraction of a millisecond."""
CLOCK_SLACK_NS = 50_000_000
"""Both sides read one clock, the server while we wait; more apart than this they are two clocks."""
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
_WORST_LAST = tuple(Source)


class Question(WireModel):
    """What a client sends."""

    v: int
    ask: str


class Described(WireModel):
    """The answer to ``domains``."""

    v: Literal[1] = 1
    domains: tuple[Domain, ...]
    primary: tuple[str, ...]


class CurrentReadings(WireModel):
    """The answer to ``read``."""

    v: Literal[1] = 1
    now_ns: int
    readings: tuple[Reading, ...]


class Refused(WireModel):
    """The answer to what was not understood."""

    v: Literal[1] = 1
    error: str


class RelayServer:
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
            return _line(CurrentReadings(now_ns=self._clock.monotonic_ns(), readings=readings))
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


AnswerT = TypeVar("AnswerT", Described, CurrentReadings)


def probe(options: EnergyOptions, host: Host) -> Candidate:
    """The meter at ``energy.relay``; asked for its domains."""
    if options.relay is None:
        return Candidate(
            NAME,
            available=False,
            reason="no energy.relay is configured",
            remedy="start 'setsuden energy watch --serve PATH' with the right to read the sensor, "
            "and set energy.relay to PATH",
        )
    path = host.root.path / options.relay
    try:
        described = _described(path)
    except OSError as error:
        return Candidate(
            NAME,
            available=False,
            reason=f"the meter at {options.relay} does not answer: {error.strerror or error}",
            remedy=remedy(error),
        )
    domains = tuple(relayed(domain) for domain in described.domains)
    names = ", ".join(domain.name for domain in domains)
    return Candidate(
        NAME,
        available=True,
        reason=f"the meter at {options.relay} serves {names}",
        domains=domains,
        primary=described.primary,
        open=lambda: RelaySensor(path, described, host.clock),
        origin=f"as told by the meter at {options.relay}",
    )


def _described(path: Path) -> Described:
    """What the meter serves; raises OSError when that is nothing to attribute."""
    with closing(_Line(path)) as line:
        described = line.ask("domains", Described)
    known = {domain.id for domain in described.domains}
    if not described.primary or not known.issuperset(described.primary):
        raise OSError("it serves nothing that could be attributed")
    return described


def remedy(error: OSError) -> str:
    """What to do about a meter that does not answer."""
    if isinstance(error, PermissionError):
        return "put this process's user into the socket's group"
    return "start that meter: 'setsuden energy watch --serve PATH'"


def relayed(domain: Domain) -> Domain:
    """The domain as we may call it: never better than relayed, and a model stays a model."""
    source = max(domain.source, Source.RELAYED, key=_WORST_LAST.index)
    return replace(domain, source=source)


class RelaySensor:
    """Asks the meter for each reading; finds it again when it has come back."""

    def __init__(self, path: Path, described: Described, clock: Clock) -> None:
        self.domains = tuple(relayed(domain) for domain in described.domains)
        self._path, self._described, self._clock = path, described, clock
        self._line: _Line | None = None

    def read(self) -> list[Reading]:
        """The meter's newest readings; blocks for ``TIMEOUT_SECONDS`` at most."""
        try:
            return self._asked(self._connected())
        except OSError as error:
            self.close()
            return self._failed(str(error.strerror or error))

    def close(self) -> None:
        """Part from the meter."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _connected(self) -> _Line:
        """A line to a meter that still serves what it served at first; raises OSError."""
        if self._line is None:
            self._line = _Line(self._path)
            if self._line.ask("domains", Described) != self._described:
                raise OSError("it now serves other domains: restart this process")
        return self._line

    def _asked(self, line: _Line) -> list[Reading]:
        began_ns = self._clock.monotonic_ns()
        answer = line.ask("read", CurrentReadings)
        ended_ns = self._clock.monotonic_ns()
        if not began_ns - CLOCK_SLACK_NS <= answer.now_ns <= ended_ns + CLOCK_SLACK_NS:
            raise OSError("its clock is not ours: it runs on another host or in a time namespace")
        if [reading.domain for reading in answer.readings] != [d.id for d in self.domains]:
            raise OSError("it told other domains than it serves")
        return [checked(reading) for reading in answer.readings]

    def _failed(self, problem: str) -> list[Reading]:
        now_ns = self._clock.monotonic_ns()
        reason = f"relay: {problem}"
        return [Reading(domain.id, now_ns, None, reason) for domain in self.domains]


class _Line:
    """One connection: a line out, a line back."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_SECONDS)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def ask(self, what: str, kind: type[AnswerT]) -> AnswerT:
        """Raises OSError for no answer, and for one that is not understood."""
        self._socket.sendall(f'{{"v":{VERSION},"ask":"{what}"}}\n'.encode())
        line = self._answer()
        try:
            return kind.model_validate_json(line)
        except ValidationError:
            raise OSError(_refusal(line)) from None

    def _answer(self) -> bytes:
        answer = bytearray()
        while not answer.endswith(b"\n"):
            try:
                data = self._socket.recv(MAX_ANSWER_BYTES)
            except TimeoutError:
                raise TimeoutError("no answer in time") from None
            if not data:
                raise ConnectionError("the meter has gone")
            answer += data
            if len(answer) > MAX_ANSWER_BYTES:
                raise OSError("its answer is too long")
        return bytes(answer)


class _AnyVersion(WireModel):
    v: int


def _refusal(line: bytes) -> str:
    """Why an answer was not the one asked for, in words."""
    with_version = _parsed(line, _AnyVersion)
    if with_version is not None and with_version.v != VERSION:
        return f"it speaks version {with_version.v}, we speak {VERSION}: update the older one"
    refused = _parsed(line, Refused)
    return f"it refuses: {refused.error[:200]}" if refused else "its answer is not understood"


ModelT = TypeVar("ModelT", bound=WireModel)


def _parsed(line: bytes, kind: type[ModelT]) -> ModelT | None:
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        return None
