"""Sensors that are files: an energy counter or a power figure, opened once and read again.

A channel is a product of numbers in files: one for a counter or for power, two for volts times
amperes. That is all there is to it; what differs between boards is in their rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, prod

from setsuden.energy.domain import Domain, DomainKind, Reading
from setsuden.energy.host.system import Clock, FileHandle, Host, SysRoot

NOISE_WATTS = 0.5
"""A rail that is off reads a little below 0 (an idle Jetson one -0.39 W); so much is called 0."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a file, in units of ``scale``."""

    file: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class FileCondition:
    """A file that must say one of these texts for a reading to mean anything."""

    file: str
    says: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileChannel:
    """One domain and the files it is read from."""

    domain: Domain
    numbers: tuple[Number, ...]
    gates: tuple[FileCondition, ...] = ()
    signed: bool = False
    """True where the sign says nothing."""
    invalid: tuple[int, ...] = ()
    """Raw numbers that mean that there is no value."""

    @property
    def files(self) -> tuple[str, ...]:
        """All that must be readable."""
        return (*(gate.file for gate in self.gates), *(part.file for part in self.numbers))

    def objection(self, file: str, text: str) -> str:
        """Why this text of one of its files is no good; empty when it is."""
        for gate in self.gates:
            if gate.file == file and text not in gate.says:
                return _unsaid(gate, text)
        try:
            if any(number.file == file for number in self.numbers):
                number_in(file, text, self.invalid)
        except ValueError as error:
            return str(error)
        return ""


class FileSensor:
    """Channels with their files open."""

    def __init__(self, channels: Sequence[FileChannel], host: Host) -> None:
        """Opens every file; raises OSError, and then none stays open."""
        self.domains = tuple(channel.domain for channel in channels)
        self._clock: Clock = host.clock
        self._handles: list[FileHandle] = []
        self._channels: list[_OpenChannel] = []
        try:
            for channel in channels:
                self._channels.append(_OpenChannel(channel, self._opened(channel, host.root)))
        except OSError:
            self.close()
            raise

    def _opened(self, channel: FileChannel, root: SysRoot) -> list[FileHandle]:
        opened = []
        for file in channel.files:
            opened.append(root.open(file))
            self._handles.append(opened[-1])
        return opened

    def read(self) -> list[Reading]:
        """One reading of each domain; a failed one says why."""
        return [channel.reading(self._clock) for channel in self._channels]

    def close(self) -> None:
        """Let the files go; a reading after it says so."""
        for channel in self._channels:
            channel.handles = None
        while self._handles:
            self._handles.pop().close()


class _OpenChannel:
    def __init__(self, channel: FileChannel, handles: list[FileHandle]) -> None:
        self._channel = channel
        self.handles: list[FileHandle] | None = handles

    def reading(self, clock: Clock) -> Reading:
        domain = self._channel.domain
        try:
            value = self._value()
        except OSError as error:
            return Reading(domain.id, clock.monotonic_ns(), None, why(error))
        except ValueError as error:
            return Reading(domain.id, clock.monotonic_ns(), None, str(error))
        return Reading(domain.id, clock.monotonic_ns(), value)

    def _value(self) -> float:
        channel = self._channel
        if self.handles is None:
            raise ValueError("closed")
        gates = len(channel.gates)
        for gate, handle in zip(channel.gates, self.handles[:gates], strict=True):
            text = handle.text()
            if text not in gate.says:
                raise ValueError(_unsaid(gate, text))
        parts = zip(channel.numbers, self.handles[gates:], strict=True)
        value = prod(
            number_in(part.file, handle.text(), channel.invalid) * part.scale
            for part, handle in parts
        )
        return _upright(value, channel)


def _unsaid(gate: FileCondition, text: str) -> str:
    return f"/{gate.file} says {text[:40]!r}, not {' or '.join(gate.says)}"


def _upright(value: float, channel: FileChannel) -> float:
    """The value, 0 or more; raises ValueError for what is truly negative."""
    if channel.signed:
        return abs(value)
    if value >= 0:
        return value
    if channel.domain.kind is not DomainKind.COUNTER and value >= -NOISE_WATTS:
        return 0.0
    raise ValueError(f"/{channel.numbers[-1].file} is negative: is the sensor wired backwards?")


def number_in(file: str, text: str, invalid: Sequence[int] = ()) -> float:
    """The number that the file says; raises ValueError for anything else.

    An empty text is what a device that has gone leaves behind.
    """
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"/{file} says {text[:40]!r}, no number") from None
    if not isfinite(value) or value in invalid:
        raise ValueError(f"/{file} says {text[:40]!r}, which means none")
    return value


def why(error: OSError) -> str:
    """An OSError in words."""
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__


def permission_remedy(pattern: str, *, perf: bool = False) -> str:
    """Ways to let this process read files of ``pattern``, from ``/``, the best first.

    Never ``chmod a+r``: energy counters tell secrets of other processes on a shared machine
    (PLATYPUS, CVE-2020-8694), which is why Linux 5.10 closed them.
    """
    rule = f"`z /{pattern} 0440 root power` in /etc/tmpfiles.d/power.conf"
    ways = [
        f"let a group read it by a udev or systemd-tmpfiles rule, e.g. {rule}, and join the group",
        "or run `setsuden energy watch --serve SOCKET` as root and set energy.relay to its socket",
    ]
    if perf:
        ways.append("or grant CAP_PERFMON and let perf read it (energy.sensor = 'perf')")
    return "; ".join(ways)
