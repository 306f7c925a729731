"""Which events are traced, decided after the gate: pure functions and a window of joules.

A head sampler cannot keep every slow or costly event, for nothing of that is known before.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from setsuden.schemas.result import Result, Status
from setsuden.schemas.spans import CLASSES

LOW, NORMAL, HIGH = CLASSES
WINDOW = 2048
"""Events of a pipeline that its quantiles are taken from."""
_RENEWED_EVERY = 256
_FIRST_RENEWALS = frozenset({32, 64, 128})
_LOW_SHARE, _HIGH_SHARE = 0.10, 0.99
CALLER_EVENTS_PER_SECOND = 100.0
"""Easy events traced because their caller had sampled them. A caller that samples everything must
not fill the spool, in which the spans of hard and failed events wait too."""


class Kept(NamedTuple):
    """Why a trace is kept, and for how many events it stands."""

    reason: str
    adjusted_count: float


class Allowance:
    """So many a second, and no more than one second's worth at once."""

    def __init__(self, per_second: float) -> None:
        self._rate = self._left = per_second
        self._at = 0.0

    def take(self, now: float) -> bool:
        """True while there is one left; ``now`` in seconds of the monotonic clock."""
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Quantiles:
    """The 10th and 99th percentile of the last 2,048 values, renewed every 256."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._place = 0
        self._bounds: tuple[float, float] | None = None

    def classify(self, value: float) -> str:
        """``low``, ``normal`` or ``high`` against those before; then one of them itself."""
        found = NORMAL
        if self._bounds is not None:
            low, high = self._bounds
            found = LOW if value < low else HIGH if value > high else NORMAL
        self._add(value)
        return found

    def _add(self, value: float) -> None:
        if len(self._values) < WINDOW:
            self._values.append(value)
        else:
            self._values[self._place % WINDOW] = value
        self._place += 1
        if self._place % _RENEWED_EVERY == 0 or self._place in _FIRST_RENEWALS:
            ordered = sorted(self._values)
            count = len(ordered)
            self._bounds = ordered[int(count * _LOW_SHARE)], ordered[int(count * _HIGH_SHARE)]


class Sampler:
    """One agent's choice of traces."""

    def __init__(self, easy_share: float, slow_ms: float) -> None:
        self._share, self._slow_ms = easy_share, slow_ms
        self._quantiles: defaultdict[str, Quantiles] = defaultdict(Quantiles)
        self._caller = Allowance(CALLER_EVENTS_PER_SECOND)
        self.declined = 0
        """Easy events whose caller had sampled them, past CALLER_EVENTS_PER_SECOND."""

    def energy_class(self, result: Result) -> str | None:
        """The event's class among its pipeline's; None when its joules are unknown."""
        joules = known_joules(result)
        return None if joules is None else self._quantiles[result.pipeline].classify(joules)

    def keep(
        self, result: Result, energy_class: str | None, sampled: bool | None, now: float
    ) -> Kept | None:
        """Whether the event is traced: as its caller's ``sampled`` flag says, if there is a caller.

        Without one (None) failed, escalated, slow and costly events always are, and of the rest a
        share by trace id. ``now`` is in seconds of the monotonic clock.
        """
        if sampled is False:
            return None  # our spans would hang under one that nobody exports
        reason = certain_reason(result, energy_class, self._slow_ms)
        if reason is not None:
            return Kept(reason, 1.0)
        if sampled:
            if self._caller.take(now):
                return Kept("caller", 1.0)
            self.declined += 1
            return None
        if int(result.trace_id[:8], 16) < self._share * 2**32:
            return Kept("share", 1 / self._share)
        return None


def certain_reason(result: Result, energy_class: str | None, slow_ms: float) -> str | None:
    """The first reason for which an event is always traced."""
    if result.status is Status.DEAD or result.status is Status.EXPIRED:
        return "failed"
    if result.decision is not None and result.decision.escalates:
        return "escalated"
    if (result.timing.total_ms or 0.0) > slow_ms:
        return "slow"
    return "costly" if energy_class == HIGH else None


def known_joules(result: Result) -> float | None:
    """The sum of what both tiers say they used; None when neither knows."""
    edge, cloud = result.energy.edge, result.energy.cloud
    if cloud is None:
        return None if edge is None else edge.joules
    parts = [part.joules for part in (edge, cloud) if part is not None and part.joules is not None]
    return sum(parts) if parts else None
