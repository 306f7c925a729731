"""Raspberry Pi 5: volts and amperes of the power chip's rails, by ``vcgencmd pmic_read_adc``."""

from __future__ import annotations

import re
from math import fsum
from typing import NamedTuple

from setsuden.energy.domain import Candidate, Domain, DomainKind, Reading
from setsuden.energy.host.system import Host
from setsuden.energy.options import EnergyOptions
from setsuden.schemas.energy import Boundary, Source

NAME = "pi5_pmic"
COMMAND = ("vcgencmd", "pmic_read_adc")
TIMEOUT_SECONDS = 1.0
INTERVAL_SECONDS = 1.0
"""Each reading starts a process, and the firmware converts one rail after another."""
LEAST_SECONDS = 0.9
"""Between two runs: a little less than the interval, or jitter would skip every second one."""
SLOPE, OFFSET_WATTS = 1.1451, 0.5879
"""From the rails' sum to the board's input power: pitop documentation, Power tab. Another published
fit, 1.1327 and 0.6444 W (RPi5-power), is 1 % lower at 10 W."""
FACTOR = 1.1
"""Our judgement: two fits that agree to 2 %, boards that differ, and no published accuracy of the
converter. Calibrate against a plug to know better."""
_LINE = re.compile(r"^\s*(\S+)_([VA])\b[^=\n]*=\s*([0-9.]+)[VA]\s*$", re.MULTILINE)
_RAILS, _BOARD = "pi5_pmic:rails", "pi5_pmic:board"


class PmicBoard(NamedTuple):
    """A model that has this power chip."""

    model: str
    """How ``proc/device-tree/model`` begins."""
    corrected: bool
    """The published correction was made on this board."""


BOARDS = (
    PmicBoard("Raspberry Pi 5 ", corrected=True),
    PmicBoard("Raspberry Pi Compute Module 5", corrected=False),  # carriers differ
    PmicBoard("Raspberry Pi 500", corrected=False),
)


def probe(options: EnergyOptions, host: Host) -> Candidate:
    """Rails, and on a Pi 5 the board's input; runs the command once."""
    del options
    model = (host.root.text_or_none("proc/device-tree/model") or "").strip("\0 \n")
    board = next((row for row in BOARDS if f"{model} ".startswith(row.model)), None)
    if board is None:
        return _absent(model)
    try:
        names = frozenset(rails(host.runner.run(COMMAND, TIMEOUT_SECONDS)))
    except (OSError, ValueError) as error:
        return Candidate(
            NAME,
            available=False,
            reason=f"{model}: {error}",
            remedy="install vcgencmd (raspi-utils) and put this user into the group video",
        )
    domains = _domains(board)
    return Candidate(
        NAME,
        available=True,
        reason=f"{model}: {len(names)} rails",
        domains=domains,
        primary=(domains[0].id,),
        open=lambda: Pmic(domains, names, host),
        origin=_origin(board),
    )


def _absent(model: str) -> Candidate:
    if model.startswith("Raspberry Pi"):
        return Candidate(
            NAME,
            available=False,
            reason=f"{model} has no current sensor",
            remedy="a plug that tells its watts, or an INA226 on the supply rail",
        )
    return Candidate(
        NAME,
        available=False,
        reason="this is no Raspberry Pi 5",
        remedy="nothing to do: this source exists on that board only",
    )


def _domains(board: PmicBoard) -> tuple[Domain, ...]:
    whole = Domain(
        id=_BOARD,
        name="board input, corrected",
        hw_type="enclosure",
        kind=DomainKind.INSTANT_POWER,
        source=Source.DERIVED,
        boundary=Boundary.BOARD_DC,
        factor=FACTOR,
        interval_seconds=INTERVAL_SECONDS,
    )
    sum_of_rails = Domain(
        id=_RAILS,
        name="sum of rails",
        hw_type="cpu",
        kind=DomainKind.INSTANT_POWER,
        source=Source.DERIVED,
        boundary=Boundary.MODULE,
        factor=FACTOR,
        parent=_BOARD if board.corrected else None,
        interval_seconds=INTERVAL_SECONDS,
    )
    return (whole, sum_of_rails) if board.corrected else (sum_of_rails,)


def _origin(board: PmicBoard) -> str:
    if not board.corrected:
        return "sum of volts times amperes; the published correction was made on a Pi 5"
    return (
        f"sum of volts times amperes x {SLOPE} + {OFFSET_WATTS} W (pitop documentation, Power "
        "tab); what USB devices and HATs draw at 5 V is not in it"
    )


def rails(printed: str) -> dict[str, float]:
    """Watts by rail, from what the command prints; raises ValueError when there is no pair.

    A name with volts alone (``EXT5V``, ``BATT``) is an input whose current nobody measures.
    """
    values: dict[tuple[str, str], float] = {}
    for name, unit, number in _LINE.findall(printed):
        values[name, unit] = float(number)
    found = {
        name: amperes * values[name, "V"]
        for (name, unit), amperes in values.items()
        if unit == "A" and (name, "V") in values
    }
    if not found:
        raise ValueError(f"{COMMAND[0]} printed no rail with volts and amperes")
    return found


class Pmic:
    """The rails, read at most once a second whoever asks."""

    def __init__(self, domains: tuple[Domain, ...], names: frozenset[str], host: Host) -> None:
        self.domains = domains
        self._names, self._host = names, host
        self._last: list[Reading] = []

    def read(self) -> list[Reading]:
        """Watts now, or those of less than a second ago with their own time."""
        now_ns = self._host.clock.monotonic_ns()
        if not self._last or now_ns - self._last[0].at_ns >= LEAST_SECONDS * 1e9:
            self._last = self._fresh(now_ns)
        return list(self._last)

    def close(self) -> None:
        """Nothing is held open."""

    def _fresh(self, began_ns: int) -> list[Reading]:
        try:
            watts = self._watts()
        except (OSError, ValueError) as error:
            return [Reading(domain.id, began_ns, None, str(error)) for domain in self.domains]
        at_ns = (began_ns + self._host.clock.monotonic_ns()) // 2
        return [Reading(domain.id, at_ns, _of(domain, watts)) for domain in self.domains]

    def _watts(self) -> float:
        """The rails' sum; raises OSError and ValueError, also when one of them is missing."""
        found = rails(self._host.runner.run(COMMAND, TIMEOUT_SECONDS))
        if missing := self._names - found.keys():  # a smaller sum would look like an idle chip
            raise ValueError(f"no value for {', '.join(sorted(missing))}")
        return fsum(found[name] for name in self._names)


def _of(domain: Domain, watts: float) -> float:
    return watts * SLOPE + OFFSET_WATTS if domain.id == _BOARD else watts
