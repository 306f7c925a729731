"""Numbers as a reader sees them: three significant digits, a unit, ``none`` where none is known.

Plain text without markup. Figures that are compared share one ``Unit``, so that a column or a plot
never mixes J and kJ.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from math import floor, isfinite, log10
from typing import NamedTuple

NONE = "none"
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_EXACT = 999_999_999_999


class Unit(NamedTuple):
    """What a number is divided by, and the name of that."""

    size: float
    name: str


def fit(values: Iterable[float | None], symbol: str, *, grow: float = 10.0) -> Unit:
    """The unit that shows the greatest of these values in one to four digits.

    The prefix grows at 10,000, or at 1,000 with ``grow`` 1, and shrinks below 0.1: smaller
    neighbours stay readable in it.
    """
    most = max((abs(value) for value in values if value is not None), default=0.0)
    if most == 0:
        return Unit(1.0, symbol)
    for size, prefix in _PREFIXES:
        if most >= size * (grow if size > 1 else 0.1):
            return Unit(size, prefix + symbol)
    size, prefix = _PREFIXES[-1]
    return Unit(size, prefix + symbol)


def digits(value: float) -> str:
    """Three significant digits: ``0.0412``, ``4.12``, ``41,200``; beyond them a power of ten."""
    if value == 0 or not isfinite(value):
        return "0" if value == 0 else NONE
    sign = MINUS if value < 0 else ""
    size = float(f"{abs(value):.2e}")
    power = floor(log10(size) + 1e-9)
    if not -6 <= power < 12:
        mantissa, exponent = f"{size:.2e}".split("e")
        return f"{sign}{mantissa} {TIMES} 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return f"{sign}{size:,.{max(2 - power, 0)}f}"


def figure(value: float | None, unit: Unit) -> str:
    """``412 J``; ``none`` when the value is unknown."""
    return NONE if value is None else f"{digits(value / unit.size)} {unit.name}"


def at_least(text: str, complete: bool) -> str:
    """A figure of which a part is unknown is a lower bound; ``none`` stays so."""
    return text if complete or text == NONE else f"at least {text}"


def quantity(value: float | None, symbol: str) -> str:
    """The same in the unit that fits this value alone."""
    return figure(value, fit([value], symbol, grow=1.0))


def volume(number: float | None) -> str:
    """Bytes, below 1,000 as a whole number."""
    return f"{count(number)} B" if number is not None and number < 1000 else quantity(number, "B")


def cpu(seconds: float | None) -> str:
    """CPU time in s or parts of it; hours would look like elapsed time."""
    if seconds is not None and seconds >= 1:
        return f"{digits(seconds)} s"
    return quantity(seconds, "s")


def bounds(low: float | None, high: float | None, unit: Unit) -> str:
    """``206 to 824 J``; empty when a bound is unknown."""
    if low is None or high is None:
        return ""
    return f"{digits(low / unit.size)} to {figure(high, unit)}"


def percent(share: float | None) -> str:
    """A part of 1 as a percentage; less than 1 is never rounded up to 100 %."""
    if share is None:
        return NONE
    number = digits(100 * share)
    return "more than 99.9 %" if number == "100" and share < 1 else f"{number} %"


def count(value: float | None) -> str:
    """Whole numbers exactly, others in three digits."""
    if value is None:
        return NONE
    return f"{int(value):,}" if float(value).is_integer() and value <= _EXACT else digits(value)


def euros(value: float | None) -> str:
    """``€0.0412``."""
    if value is None:
        return NONE
    return f"{MINUS if value < 0 else ''}€{digits(abs(value))}"


def span(seconds: float | None) -> str:
    """A length of time in a unit that fits."""
    if seconds is None:
        return NONE
    for size, name, most in ((1.0, "s", 120.0), (60.0, "min", 7200.0), (3600.0, "h", 172_800.0)):
        if abs(seconds) < most:
            return f"{digits(seconds / size)} {name}"
    return f"{digits(seconds / 86_400)} days"


def moment(ns: int) -> str:
    """``2026-11-22 08:00 UTC``; a nonsensical time as its number."""
    stamp = utc(ns)
    return f"{ns} ns" if stamp is None else f"{stamp:%Y-%m-%d %H:%M} UTC"


def clock(ns: int, step_seconds: float) -> str:
    """Day and time of a point of a curve, with seconds where its steps have them."""
    stamp = utc(ns)
    if stamp is None:
        return f"{ns} ns"
    return f"{stamp:%m-%d %H:%M}" if step_seconds % 60 == 0 else f"{stamp:%m-%d %H:%M:%S}"


def period(start_ns: int, end_ns: int) -> str:
    """From and to in UTC; one day is named once."""
    start, end = utc(start_ns), utc(end_ns)
    if start is None or end is None:
        return f"{moment(start_ns)} to {moment(end_ns)}"
    form = "%H:%M UTC" if start.date() == end.date() else "%Y-%m-%d %H:%M UTC"
    return f"{start:%Y-%m-%d %H:%M} to {end.strftime(form)}"


def utc(ns: int) -> datetime | None:
    """None for a time no calendar has."""
    try:
        return datetime.fromtimestamp(ns / 1e9, UTC)
    except (OverflowError, OSError, ValueError):
        return None
