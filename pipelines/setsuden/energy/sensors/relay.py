"""Readings of a meter on the same host that may read what we may not; see ``energy.relay``."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from setsuden.energy.domain import Candidate, Domain, Reading
from setsuden.energy.host.system import Clock, Host
from setsuden.energy.options import EnergyOptions
from setsuden.energy.protocols.relay import (
    MAX_ANSWER_BYTES,
    VERSION,
    Described,
    Refused,
    Told,
    checked,
)
from setsuden.schemas.base import WireModel
from setsuden.schemas.energy import Source

NAME = "relay"
TIMEOUT_SECONDS = 0.5
"""Of one question: a living server answers in a fraction of a millisecond."""
CLOCK_SLACK_NS = 50_000_000
"""Both sides read one clock, the server while we wait; more apart than this they are two clocks."""
_WORST_LAST = tuple(Source)

AnswerT = TypeVar("AnswerT", Described, Told)


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
        told = line.ask("read", Told)
        ended_ns = self._clock.monotonic_ns()
        if not began_ns - CLOCK_SLACK_NS <= told.now_ns <= ended_ns + CLOCK_SLACK_NS:
            raise OSError("its clock is not ours: it runs on another host or in a time namespace")
        if [reading.domain for reading in told.readings] != [d.id for d in self.domains]:
            raise OSError("it told other domains than it serves")
        return [checked(reading) for reading in told.readings]

    def _failed(self, problem: str) -> list[Reading]:
        now_ns = self._clock.monotonic_ns()
        words = f"relay: {problem}"
        return [Reading(domain.id, now_ns, None, words) for domain in self.domains]


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
