"""When a window closes: pure decisions, without a clock, a sensor or a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PATIENCE_SECONDS = 10.0
"""How long a window waits for a source that cannot be read just now."""
LEAST_SECONDS = 0.1
"""A shorter window says nothing: ``/proc/stat`` ticks every 10 ms."""
SLACK_SECONDS = 10.0
"""A window waits so long for runs that began in it to end."""
LONGEST_SECONDS = 60.0
"""Of a window that a slow source makes longer."""
_LATE_FACTOR = 4.0


class OpenWindow(NamedTuple):
    """What is known of a window before it closes."""

    seconds: float
    """How long it has been open."""
    idle: bool
    """True while no run has begun in it."""
    first_run: bool
    """True when the first run after an idle stretch has just begun."""
    close_cost: float
    """CPU-seconds of closing a window."""
    read_cost: float
    """CPU-seconds of reading the source once."""
    sample_every: float | None
    """How often the source's power is worth reading inside a window; None for counters."""
    lag_seconds: float
    """How old a reading is when it is taken."""


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """How long windows are, and what the meter may cost."""

    window_seconds: float
    idle_seconds: float
    patience_seconds: float
    max_core_share: float

    def wait_seconds(self, window: OpenWindow) -> float:
        """Seconds until the source is read or the window looked at again; 0: close it now."""
        if window.first_run and window.seconds > LEAST_SECONDS:
            return 0.0  # the run's window is not to begin with the idle stretch before it
        length = self.idle_seconds if window.idle else self._busy_length(window)
        step = self.sample_seconds(window.read_cost, window.sample_every)
        return max(0.0, min(length - window.seconds, step))

    def _busy_length(self, window: OpenWindow) -> float:
        # A lagging reading covers earlier energy than the CPU time it is divided by: a window of
        # four times the lag keeps what is out of step below a quarter.
        late = min(_LATE_FACTOR * window.lag_seconds, LONGEST_SECONDS)
        return max(self.window_seconds, window.close_cost / self.max_core_share, late)

    def sample_seconds(self, read_cost: float, sample_every: float | None) -> float:
        """Seconds from one reading of power to the next; a costly source is read less often."""
        if sample_every is None:
            return LONGEST_SECONDS
        return max(sample_every, read_cost / self.max_core_share)

    def waits_for_source(self, open_seconds: float) -> bool:
        """True while a window goes on because a primary domain has no new reading."""
        return open_seconds < self.patience_seconds

    @staticmethod
    def waits_for_runs(closed_seconds_ago: float) -> bool:
        """True while a closed window is settled later, because a run in it has not ended."""
        return closed_seconds_ago < SLACK_SECONDS
