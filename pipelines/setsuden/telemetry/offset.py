"""How far a device's span timeline is from the cloud's clock, and how sure that is.

The four-timestamp estimate of NTP (RFC 5905 §8) with one server timestamp: the cloud's moment lies
somewhere between question and answer, so its middle is off by half the round trip at most.
"""

from __future__ import annotations

from typing import NamedTuple

SAMPLES = 8
DRIFT = 1e-4
"""Two clocks drift apart by no more than this: 100 ppm, twice what cheap crystals are sold with."""


class Offset(NamedTuple):
    """Cloud minus device, nanoseconds."""

    offset_ns: int
    error_ns: int
    """Bound of the error."""

    @property
    def corrects(self) -> bool:
        """True when moving spans by it makes them righter than leaving them."""
        return abs(self.offset_ns) > self.error_ns


class _Sample(NamedTuple):
    at_ns: int
    offset_ns: int
    error_ns: int

    def error_at(self, now_ns: int) -> int:
        return self.error_ns + int(abs(now_ns - self.at_ns) * DRIFT)


class OffsetEstimator:
    """Keeps the last 8 questions and trusts the one with the shortest round trip."""

    def __init__(self) -> None:
        self._samples: tuple[_Sample, ...] = ()  # replaced whole: another thread may read it

    def add(self, asked_ns: int, cloud_ns: int, answered_ns: int) -> None:
        """One question's three moments: asked and answered on our timeline, between them theirs."""
        if answered_ns < asked_ns:
            return
        fresh = _Sample(
            asked_ns,  # the cloud may have looked at its clock as early as that
            cloud_ns - (asked_ns + answered_ns) // 2,
            (answered_ns - asked_ns + 1) // 2,
        )
        if any(_disagree(old, fresh) for old in self._samples):
            # A clock was set, or the device slept: what was measured before is void.
            self._samples = ()
        self._samples = (*self._samples, fresh)[-SAMPLES:]

    def at(self, now_ns: int) -> Offset | None:
        """The best estimate at a moment of our timeline; None before the first answer."""
        samples = self._samples
        if not samples:
            return None
        best = min(samples, key=lambda sample: sample.error_at(now_ns))
        return Offset(best.offset_ns, best.error_at(now_ns))


def _disagree(old: _Sample, fresh: _Sample) -> bool:
    allowed = old.error_at(fresh.at_ns) + fresh.error_ns
    return abs(old.offset_ns - fresh.offset_ns) > allowed
