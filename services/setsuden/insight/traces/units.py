"""Milliseconds, joules and times in words; text from a file made harmless for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime

UNKNOWN = "unknown"
MAX_TEXT = 200


def energy(joules: float | None) -> str:
    """Joules with a fitting prefix; a hyphen where none is stated."""
    if joules is None:
        return "-"
    if joules == 0:
        return "0 J"
    for factor, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")):
        if abs(joules) >= factor:
            return f"{joules / factor:.3g} {unit}"
    return f"{joules / 1e-9:.3g} nJ"


def between(low: float | None, high: float | None) -> str:
    """``8.1 mJ to 17.2 mJ``; empty when a bound is unknown."""
    return "" if low is None or high is None else f"{energy(low)} to {energy(high)}"


def duration(ms: float) -> str:
    """Milliseconds as a person says them."""
    if abs(ms) >= 120_000:
        return f"{ms / 60_000:,.1f} min"
    if abs(ms) >= 10_000:
        return f"{ms / 1000:,.1f} s"
    return f"{ms:,.1f} ms" if abs(ms) >= 100 else f"{ms:,.2f} ms"


def moment(ns: int) -> str:
    """A time in UTC to the millisecond; a nonsensical one as its number."""
    try:
        stamp = datetime.fromtimestamp(ns / 1e9, UTC)
    except (OverflowError, OSError, ValueError):
        return f"{ns} ns"
    return f"{stamp:%Y-%m-%d %H:%M:%S}.{stamp.microsecond // 1000:03d} UTC"


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Printable and not too long: a name from a file must not steer a terminal."""
    shown = text[: limit + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
