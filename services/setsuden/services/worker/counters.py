"""What one worker has done, in plain numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Only ever grow."""

    taken: int = 0
    """Deliveries."""
    answered: int = 0
    """Events for which the teacher gave an answer."""
    stored: int = 0
    """Final results stored by this worker."""
    already: int = 0
    """Compare-and-sets lost to a record that was there."""
    late: int = 0
    """Answers stored as the second one."""
    dead: int = 0
    """Dead letters."""
    nak: int = 0
    """Deliveries given back."""
    refused: int = 0
    """Times the broker did not store a result; it was kept."""
    failed_runs: int = 0
    """Inferences of one event that gave no answer."""
    duplicate: int = 0
    """Deliveries of what was in hand already."""
    batches: int = 0
    """Inferences run here."""
    isolated: int = 0
    """Inferences run in a child process."""
    cpu_seconds: float = 0.0
    """CPU time of all inferences."""

    def as_dict(self) -> dict[str, int | float]:
        """For status answers and the log."""
        return asdict(self)
