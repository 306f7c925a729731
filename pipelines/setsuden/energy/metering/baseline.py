"""The idle baseline: power of the machine when nothing runs, and how it is known."""

from __future__ import annotations

CALIBRATED_FACTOR = 1.05
"""Of a calibrated baseline: repeated idle minutes agree within 5 % (a judgement)."""
OBSERVED_FACTOR = 1.5
"""Of the least power seen so far: the machine may never have been idle (a judgement)."""
SURE_AFTER = 10
"""Windows after which the least power seen is taken for a baseline at all."""
_BELOW = 0.98
_TIMES = 3


class Baseline:
    """Idle watts in use. A minimum estimator: power below it, again and again, lowers it."""

    def __init__(self, watts: float | None, origin: str, factor: float) -> None:
        self.watts = watts
        self.origin = origin
        self.factor = factor
        self._observed = watts is None
        self._seen = 0
        self._below: list[float] = []

    @property
    def sure(self) -> bool:
        """False while it is a guess from a few windows."""
        return not self._observed or self._seen >= SURE_AFTER

    def observe(self, joules: float, seconds: float) -> float:
        """Learn from one window; the watts to use for it."""
        power = joules / seconds
        self._seen += 1
        if self.watts is None or (self._observed and power < self.watts):
            self.watts = power
        elif power < self.watts * _BELOW:
            self._below.append(power)
            if len(self._below) >= _TIMES:
                self.watts = max(self._below)
                self.origin = f"least power seen, below the one declared ({self.origin})"
                self._below.clear()
        else:
            self._below.clear()
        return self.watts


def observed() -> Baseline:
    """A baseline that nobody has measured yet."""
    origin = "least power seen since the start; `setsuden energy calibrate` measures it"
    return Baseline(None, origin, OBSERVED_FACTOR)
